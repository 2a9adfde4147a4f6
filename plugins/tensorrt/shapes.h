// Checks on the shapes that a plugin is given. Sizes that are not known yet are -1 and fit everything.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include <NvInferRuntime.h>

namespace maskline {

constexpr int64_t kAnySize = -1;

// Throws std::invalid_argument, with `expected` ("[N, A, 4]") in its sentence, unless `dims` has these sizes.
void expect_shape(char const* input, char const* expected, nvinfer1::Dims const& dims,
    std::initializer_list<int64_t> sizes);

// `size` as a kernel takes it. Throws std::invalid_argument where it is beyond that.
int32_t to_int32(int64_t size);

}  // namespace maskline

#include "tensorrt/shapes.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace maskline {

namespace {

using nvinfer1::Dims;

std::string text_of(Dims const& dims)
{
    std::string text = "[";
    for (int32_t i = 0; i < dims.nbDims; ++i) {
        text += (i == 0 ? "" : ", ") + (dims.d[i] < 0 ? std::string("?") : std::to_string(dims.d[i]));
    }
    return text + "]";
}

bool fits(int64_t size, int64_t expected)
{
    return size < 0 || expected < 0 || size == expected;
}

}  // namespace

void expect_shape(char const* input, char const* expected, Dims const& dims, std::initializer_list<int64_t> sizes)
{
    bool const same_rank = dims.nbDims == static_cast<int32_t>(sizes.size());
    if (!same_rank || !std::equal(sizes.begin(), sizes.end(), dims.d, fits)) {
        throw std::invalid_argument(std::string(input) + " must be " + expected + ", not " + text_of(dims));
    }
}

int32_t to_int32(int64_t size)
{
    if (size > std::numeric_limits<int32_t>::max()) {
        throw std::invalid_argument("a size of " + std::to_string(size) + " is beyond 32 bits");
    }
    return static_cast<int32_t>(size);
}

}  // namespace maskline

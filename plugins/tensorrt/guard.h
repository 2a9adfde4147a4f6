// The border to TensorRT: no exception crosses it.
#pragma once

#include <cstdint>
#include <exception>

#include "tensorrt/logging.h"

namespace maskline {

constexpr int32_t kOk = 0;
constexpr int32_t kFailed = -1;

// What `body` returns; where it throws, the reason is logged under `operation` and the answer is `failure`.
template <typename Result, typename Body>
Result guarded(char const* operation, Result failure, Body&& body) noexcept
{
    try {
        return body();
    } catch (std::exception const& error) {
        log_error(operation, error.what());
    } catch (...) {
        log_error(operation, "an unknown exception");
    }
    return failure;
}

}  // namespace maskline

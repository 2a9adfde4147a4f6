// What the plugins have to say goes where TensorRT's own messages go.
#pragma once

#include <NvInferRuntime.h>

namespace maskline {

// The finder that TensorRT hands to a plugin library as it loads it.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Logs "operation: message" as an error: to the logger of the calling engine, else to TensorRT's global one, else to
// stderr.
void log_error(char const* operation, char const* message) noexcept;

}  // namespace maskline

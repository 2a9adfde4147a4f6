// The plugins of this library, for TensorRT and for plugins/registration.cpp.
#pragma once

#include <NvInferRuntime.h>

#define MASKLINE_EXPORT __attribute__((visibility("default")))

extern "C" {

// The creators of the library's plugins; their number goes to `count`. TensorRT looks for this name.
MASKLINE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) noexcept;

// TensorRT looks for this name as well.
MASKLINE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

// Raised with every change of the operators' inputs, outputs or attributes. plugins/loader.py has the same number.
MASKLINE_EXPORT int32_t maskline_plugins_operators_version() noexcept;

// Of the headers compiled against: major * 10000 + minor * 100 + patch.
MASKLINE_EXPORT int32_t maskline_plugins_tensorrt_version() noexcept;

}  // extern "C"

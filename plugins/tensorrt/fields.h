// A plugin's attributes, as TensorRT hands them over: from the ONNX node at build time, from the plan at run time.
#pragma once

#include <cstdint>
#include <string>

#include <NvInferRuntime.h>

namespace maskline {

// Reads attributes by name. Every function throws std::invalid_argument with a sentence that names the attribute.
class FieldReader
{
public:
    explicit FieldReader(nvinfer1::PluginFieldCollection const* fields);

    // At least `least`.
    int32_t integer(char const* name, int32_t least) const;

    // As `integer`; `absent` where there is no such attribute.
    int32_t integer_or(char const* name, int32_t least, int32_t absent) const;

    // 0 or 1.
    int32_t flag(char const* name) const;

    // Any number but NaN.
    float real(char const* name) const;

    std::string text(char const* name) const;

private:
    bool has(char const* name) const;
    nvinfer1::PluginField const& find(char const* name, nvinfer1::PluginFieldType type) const;

    nvinfer1::PluginFieldCollection const& fields_;
};

// Attributes of a plan. They point to the values given, which have to outlive them.
nvinfer1::PluginField integer_field(char const* name, int32_t const& value);
nvinfer1::PluginField real_field(char const* name, float const& value);
nvinfer1::PluginField text_field(char const* name, std::string const& value);

}  // namespace maskline

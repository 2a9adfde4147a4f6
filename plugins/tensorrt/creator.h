// Makes plugins of one kind, at build time and from a plan.
#pragma once

#include <vector>

#include "tensorrt/fields.h"
#include "tensorrt/guard.h"
#include "tensorrt/plugin.h"

namespace maskline {

// `OurPlugin` has kName, Attributes (with defaults), read(FieldReader) -> Attributes and a constructor that takes them.
template <typename OurPlugin>
class Creator final : public nvinfer1::IPluginCreatorV3One
{
public:
    nvinfer1::AsciiChar const* getPluginName() const noexcept override { return OurPlugin::kName; }

    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return kPluginVersion; }

    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return kPluginNamespace; }

    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &names_; }

    nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const*, nvinfer1::PluginFieldCollection const* fields,
        nvinfer1::TensorRTPhase) noexcept override
    {
        return guarded<nvinfer1::IPluginV3*>(
            OurPlugin::kName, nullptr, [fields] { return new OurPlugin(OurPlugin::read(FieldReader(fields))); });
    }

private:
    // TensorRT takes names and types from these; the values are not read.
    OurPlugin const pattern_{typename OurPlugin::Attributes{}};
    std::vector<nvinfer1::PluginField> const fields_ = pattern_.fields();
    nvinfer1::PluginFieldCollection const names_{static_cast<int32_t>(fields_.size()), fields_.data()};
};

}  // namespace maskline

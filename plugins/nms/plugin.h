// MaskRcnnNms as a TensorRT plugin; the README beside this file has its inputs, output and attributes.
#pragma once

#include "nms/kernel.h"
#include "tensorrt/fields.h"
#include "tensorrt/plugin.h"

namespace maskline {

class NmsPlugin final : public Plugin
{
public:
    using Attributes = NmsSettings;

    static constexpr char const* kName = "MaskRcnnNms";

    static Attributes read(FieldReader const& fields);

    explicit NmsPlugin(Attributes const& attributes);

    nvinfer1::AsciiChar const* getPluginName() const noexcept override;
    std::vector<nvinfer1::PluginField> fields() const override;

protected:
    std::unique_ptr<Plugin> copy() const override;
    void check_inputs(std::vector<nvinfer1::Dims> const& inputs) const override;
    nvinfer1::DimsExprs output_shape(
        nvinfer1::DimsExprs const* inputs, int32_t input_count, nvinfer1::IExprBuilder& builder) const override;
    nvinfer1::DataType output_type(nvinfer1::DataType const* input_types) const override;
    bool supports(
        int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors, int32_t input_count) const override;
    size_t workspace_bytes(nvinfer1::DynamicPluginTensorDesc const* inputs) const override;
    cudaError_t launch(nvinfer1::PluginTensorDesc const* descriptions, int32_t input_count, void const* const* inputs,
        void* output, void* workspace, cudaStream_t stream) const override;

private:
    NmsSettings settings_;
};

}  // namespace maskline

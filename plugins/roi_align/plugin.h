// PyramidRoiAlign as a TensorRT plugin; the README beside this file has its inputs, output and attributes.
#pragma once

#include <string>

#include "roi_align/kernel.h"
#include "tensorrt/fields.h"
#include "tensorrt/plugin.h"

namespace maskline {

struct RoiAlignAttributes {
    int32_t output_size = 1;
    int32_t sampling_ratio = 0;
    int32_t aligned = 0;
    int32_t crop_and_resize = 0;
    std::string level_rule = "floor";
};

class RoiAlignPlugin final : public Plugin
{
public:
    using Attributes = RoiAlignAttributes;

    static constexpr char const* kName = "PyramidRoiAlign";

    static Attributes read(FieldReader const& fields);

    // Throws std::invalid_argument for a level rule that it does not know.
    explicit RoiAlignPlugin(Attributes const& attributes);

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
    Attributes attributes_;  // as they stand on the node and in the plan
    RoiAlignSettings settings_;
};

}  // namespace maskline

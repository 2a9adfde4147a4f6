// What our plugins have in common as TensorRT's IPluginV3: one output, attributes as fields, no state but these, and
// functions that may throw behind an interface that may not.
#pragma once

#include <memory>
#include <vector>

#include <NvInferRuntime.h>

#include "tensorrt/guard.h"

namespace maskline {

constexpr char const* kPluginNamespace = "maskrcnn";
constexpr char const* kPluginVersion = "1";

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime
{
public:
    // IPluginV3
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;
    nvinfer1::IPluginV3* clone() noexcept final;

    // IPluginV3OneCore; getPluginName is the derived class's
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept final;
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept final;

    // IPluginV3OneBuild
    int32_t getNbOutputs() const noexcept final;
    int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t outputs,
        nvinfer1::DataType const* input_types, int32_t inputs) const noexcept final;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count,
        nvinfer1::DimsExprs const* shape_inputs, int32_t shape_input_count, nvinfer1::DimsExprs* outputs,
        int32_t output_count, nvinfer1::IExprBuilder& builder) noexcept final;
    bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors, int32_t inputs,
        int32_t outputs) noexcept final;
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t input_count,
        nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t output_count) noexcept final;
    size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t input_count,
        nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t output_count) const noexcept final;

    // IPluginV3OneRuntime
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, int32_t input_count,
        nvinfer1::PluginTensorDesc const* outputs, int32_t output_count) noexcept final;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* input_descriptions,
        nvinfer1::PluginTensorDesc const* output_descriptions, void const* const* inputs, void* const* outputs,
        void* workspace, cudaStream_t stream) noexcept final;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept final;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept final;

    // The attributes, as fields that point into this plugin.
    virtual std::vector<nvinfer1::PluginField> fields() const = 0;

protected:
    virtual std::unique_ptr<Plugin> copy() const = 0;

    // Throws std::invalid_argument where number, ranks or sizes of the inputs do not fit; unknown sizes are -1.
    virtual void check_inputs(std::vector<nvinfer1::Dims> const& inputs) const = 0;

    // After `check_inputs` had nothing to say.
    virtual nvinfer1::DimsExprs output_shape(
        nvinfer1::DimsExprs const* inputs, int32_t input_count, nvinfer1::IExprBuilder& builder) const = 0;

    virtual nvinfer1::DataType output_type(nvinfer1::DataType const* input_types) const = 0;

    // Whether tensor `position` (inputs, then the output) can be as described, given those before it.
    virtual bool supports(
        int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors, int32_t input_count) const = 0;

    virtual size_t workspace_bytes(nvinfer1::DynamicPluginTensorDesc const* inputs) const = 0;

    virtual cudaError_t launch(nvinfer1::PluginTensorDesc const* descriptions, int32_t input_count,
        void const* const* inputs, void* output, void* workspace, cudaStream_t stream) const = 0;

private:
    int32_t input_count_ = 0;  // of the latest configuration; `enqueue` is not told
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace maskline

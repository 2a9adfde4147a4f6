#include "tensorrt/plugin.h"

#include <stdexcept>
#include <string>

#include <cuda_runtime.h>

namespace maskline {

using namespace nvinfer1;

namespace {

// Sizes that only run time tells become -1.
Dims known_dims(DimsExprs const& expressions)
{
    Dims dims{};
    dims.nbDims = expressions.nbDims;
    for (int32_t i = 0; i < expressions.nbDims; ++i) {
        IDimensionExpr const& size = *expressions.d[i];
        dims.d[i] = size.isConstant() ? size.getConstantValue() : -1;
    }
    return dims;
}

Dims known_dims(DynamicPluginTensorDesc const& tensor)
{
    return tensor.desc.dims;
}

Dims known_dims(PluginTensorDesc const& tensor)
{
    return tensor.dims;
}

template <typename Tensor>
std::vector<Dims> known_dims(Tensor const* tensors, int32_t count)
{
    std::vector<Dims> dims;
    for (int32_t i = 0; i < count; ++i) {
        dims.push_back(known_dims(tensors[i]));
    }
    return dims;
}

}  // namespace

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept
{
    switch (type) {
        case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
        case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

IPluginV3* Plugin::clone() noexcept
{
    return guarded<IPluginV3*>(getPluginName(), nullptr, [&] {
        std::unique_ptr<Plugin> twin = copy();
        twin->input_count_ = input_count_;
        return twin.release();
    });
}

AsciiChar const* Plugin::getPluginVersion() const noexcept
{
    return kPluginVersion;
}

AsciiChar const* Plugin::getPluginNamespace() const noexcept
{
    return kPluginNamespace;
}

int32_t Plugin::getNbOutputs() const noexcept
{
    return 1;
}

int32_t Plugin::getOutputDataTypes(
    DataType* output_types, int32_t, DataType const* input_types, int32_t inputs) const noexcept
{
    return guarded(getPluginName(), kFailed, [&] {
        if (inputs == 0) {
            throw std::invalid_argument("there are no inputs");
        }
        output_types[0] = output_type(input_types);
        return kOk;
    });
}

int32_t Plugin::getOutputShapes(DimsExprs const* inputs, int32_t input_count, DimsExprs const*, int32_t,
    DimsExprs* outputs, int32_t, IExprBuilder& builder) noexcept
{
    return guarded(getPluginName(), kFailed, [&] {
        check_inputs(known_dims(inputs, input_count));
        outputs[0] = output_shape(inputs, input_count, builder);
        return kOk;
    });
}

bool Plugin::supportsFormatCombination(
    int32_t position, DynamicPluginTensorDesc const* tensors, int32_t inputs, int32_t) noexcept
{
    return guarded(getPluginName(), false, [&] { return supports(position, tensors, inputs); });
}

int32_t Plugin::configurePlugin(
    DynamicPluginTensorDesc const* inputs, int32_t input_count, DynamicPluginTensorDesc const*, int32_t) noexcept
{
    return guarded(getPluginName(), kFailed, [&] {
        check_inputs(known_dims(inputs, input_count));
        input_count_ = input_count;
        return kOk;
    });
}

size_t Plugin::getWorkspaceSize(
    DynamicPluginTensorDesc const* inputs, int32_t, DynamicPluginTensorDesc const*, int32_t) const noexcept
{
    return guarded<size_t>(getPluginName(), 0, [&] { return workspace_bytes(inputs); });
}

int32_t Plugin::onShapeChange(
    PluginTensorDesc const* inputs, int32_t input_count, PluginTensorDesc const*, int32_t) noexcept
{
    return guarded(getPluginName(), kFailed, [&] {
        check_inputs(known_dims(inputs, input_count));
        input_count_ = input_count;
        return kOk;
    });
}

int32_t Plugin::enqueue(PluginTensorDesc const* input_descriptions, PluginTensorDesc const*, void const* const* inputs,
    void* const* outputs, void* workspace, cudaStream_t stream) noexcept
{
    return guarded<int32_t>(getPluginName(), cudaErrorUnknown, [&] {
        cudaError_t const status = launch(input_descriptions, input_count_, inputs, outputs[0], workspace, stream);
        if (status != cudaSuccess) {
            log_error(getPluginName(), cudaGetErrorString(status));
        }
        return static_cast<int32_t>(status);
    });
}

IPluginV3* Plugin::attachToContext(IPluginResourceContext*) noexcept
{
    return clone();
}

PluginFieldCollection const* Plugin::getFieldsToSerialize() noexcept
{
    return guarded<PluginFieldCollection const*>(getPluginName(), nullptr, [&] {
        fields_ = fields();
        collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
        return &collection_;
    });
}

}  // namespace maskline

#include "nms/plugin.h"

#include <stdexcept>

#include "tensorrt/shapes.h"

namespace maskline {

using namespace nvinfer1;

namespace {

constexpr size_t kInputs = 3;
constexpr int64_t kMaxImages = 65535;  // of a grid of CUDA

float overlap_threshold(FieldReader const& fields)
{
    float const threshold = fields.real("iou_threshold");
    if (threshold < 0.0F || threshold > 1.0F) {
        throw std::invalid_argument(
            "attribute iou_threshold must be between 0 and 1, not " + std::to_string(threshold));
    }
    return threshold;
}

}  // namespace

NmsSettings NmsPlugin::read(FieldReader const& fields)
{
    NmsSettings settings{};
    settings.iou_threshold = overlap_threshold(fields);
    settings.score_threshold = fields.real("score_threshold");
    settings.max_output = fields.integer("max_output", 1);
    settings.pre_nms_topk = fields.integer_or("pre_nms_topk", 0, 0);
    return settings;
}

NmsPlugin::NmsPlugin(NmsSettings const& attributes) : settings_(attributes) {}

AsciiChar const* NmsPlugin::getPluginName() const noexcept
{
    return kName;
}

std::vector<PluginField> NmsPlugin::fields() const
{
    return {
        real_field("iou_threshold", settings_.iou_threshold),
        real_field("score_threshold", settings_.score_threshold),
        integer_field("max_output", settings_.max_output),
        integer_field("pre_nms_topk", settings_.pre_nms_topk),
    };
}

std::unique_ptr<Plugin> NmsPlugin::copy() const
{
    return std::make_unique<NmsPlugin>(settings_);
}

void NmsPlugin::check_inputs(std::vector<Dims> const& inputs) const
{
    if (inputs.size() != kInputs) {
        throw std::invalid_argument(
            "takes boxes, scores and groups, not " + std::to_string(inputs.size()) + " inputs");
    }
    expect_shape("boxes", "[N, A, 4]", inputs[0], {kAnySize, kAnySize, 4});
    int64_t const images = inputs[0].d[0];
    if (images > kMaxImages) {
        throw std::invalid_argument(
            "takes at most " + std::to_string(kMaxImages) + " images, not " + std::to_string(images));
    }
    int64_t const boxes = inputs[0].d[1];
    expect_shape("scores", "[N, A] as the boxes", inputs[1], {images, boxes});
    expect_shape("groups", "[N, A] as the boxes", inputs[2], {images, boxes});
}

DimsExprs NmsPlugin::output_shape(DimsExprs const* inputs, int32_t, IExprBuilder& builder) const
{
    IDimensionExpr const& rows = *builder.constant(settings_.max_output);
    DimsExprs shape{};
    shape.nbDims = 2;
    shape.d[0] = builder.operation(DimensionOperation::kPROD, *inputs[0].d[0], rows);
    shape.d[1] = builder.constant(2);
    return shape;
}

DataType NmsPlugin::output_type(DataType const*) const
{
    return DataType::kINT64;
}

bool NmsPlugin::supports(int32_t position, DynamicPluginTensorDesc const* tensors, int32_t) const
{
    constexpr int32_t kFirstInteger = 2;  // groups and kept; boxes and scores are floats
    DataType const type = position < kFirstInteger ? DataType::kFLOAT : DataType::kINT64;
    PluginTensorDesc const& tensor = tensors[position].desc;
    return tensor.type == type && tensor.format == TensorFormat::kLINEAR;
}

size_t NmsPlugin::workspace_bytes(DynamicPluginTensorDesc const* inputs) const
{
    Dims const& most = inputs[0].max;
    return nms_workspace_bytes(to_int32(most.d[0]), to_int32(most.d[1]), settings_);
}

cudaError_t NmsPlugin::launch(PluginTensorDesc const* descriptions, int32_t, void const* const* inputs, void* output,
    void* workspace, cudaStream_t stream) const
{
    int32_t const images = to_int32(descriptions[0].dims.d[0]);
    if (images == 0) {
        return cudaSuccess;
    }
    return nms(images, to_int32(descriptions[0].dims.d[1]), settings_, static_cast<float const*>(inputs[0]),
        static_cast<float const*>(inputs[1]), static_cast<int64_t const*>(inputs[2]), static_cast<int64_t*>(output),
        workspace, stream);
}

}  // namespace maskline

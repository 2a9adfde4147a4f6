#include "roi_align/plugin.h"

#include <stdexcept>

#include "tensorrt/shapes.h"

namespace maskline {

using namespace nvinfer1;

namespace {

constexpr int32_t kInputsAfterLevels = 2;  // boxes, image_index

LevelRule level_rule(std::string const& name)
{
    if (name == "floor") {
        return LevelRule::kFloor;
    }
    if (name == "round") {
        return LevelRule::kRound;
    }
    throw std::invalid_argument("attribute level_rule must be floor or round, not " + name);
}

RoiAlignSettings settings_of(RoiAlignAttributes const& attributes)
{
    RoiAlignSettings settings{};
    settings.output_size = attributes.output_size;
    settings.sampling_ratio = attributes.sampling_ratio;
    settings.aligned = attributes.aligned != 0;
    settings.crop_and_resize = attributes.crop_and_resize != 0;
    settings.level_rule = level_rule(attributes.level_rule);
    return settings;
}

bool is_features(PluginTensorDesc const& tensor)
{
    return (tensor.type == DataType::kFLOAT && tensor.format == TensorFormat::kLINEAR)
        || (tensor.type == DataType::kHALF && tensor.format == TensorFormat::kHWC8);
}

Pyramid pyramid_of(PluginTensorDesc const* descriptions, void const* const* inputs, int32_t levels)
{
    Pyramid pyramid{};
    pyramid.level_count = levels;
    pyramid.images = to_int32(descriptions[0].dims.d[0]);
    pyramid.channels = to_int32(descriptions[0].dims.d[1]);
    pyramid.layout = descriptions[0].type == DataType::kHALF ? FeatureLayout::kChannelsLastHalf
                                                             : FeatureLayout::kLinearFloat;
    for (int32_t level = 0; level < levels; ++level) {
        pyramid.features[level] = inputs[level];
        pyramid.heights[level] = to_int32(descriptions[level].dims.d[2]);
        pyramid.widths[level] = to_int32(descriptions[level].dims.d[3]);
    }
    return pyramid;
}

}  // namespace

RoiAlignAttributes RoiAlignPlugin::read(FieldReader const& fields)
{
    Attributes attributes;
    attributes.sampling_ratio = fields.integer("sampling_ratio", 0);
    attributes.aligned = fields.flag("aligned");
    attributes.crop_and_resize = fields.flag("crop_and_resize");
    // The samples of a crop lie on both its borders.
    attributes.output_size = fields.integer("output_size", attributes.crop_and_resize == 0 ? 1 : 2);
    attributes.level_rule = fields.text("level_rule");
    return attributes;
}

RoiAlignPlugin::RoiAlignPlugin(Attributes const& attributes)
    : attributes_(attributes), settings_(settings_of(attributes))
{
}

AsciiChar const* RoiAlignPlugin::getPluginName() const noexcept
{
    return kName;
}

std::vector<PluginField> RoiAlignPlugin::fields() const
{
    return {
        integer_field("output_size", attributes_.output_size),
        integer_field("sampling_ratio", attributes_.sampling_ratio),
        integer_field("aligned", attributes_.aligned),
        integer_field("crop_and_resize", attributes_.crop_and_resize),
        text_field("level_rule", attributes_.level_rule),
    };
}

std::unique_ptr<Plugin> RoiAlignPlugin::copy() const
{
    return std::make_unique<RoiAlignPlugin>(attributes_);
}

void RoiAlignPlugin::check_inputs(std::vector<Dims> const& inputs) const
{
    int32_t const levels = static_cast<int32_t>(inputs.size()) - kInputsAfterLevels;
    if (levels < 1 || levels > kMaxLevels) {
        throw std::invalid_argument("takes 1 to " + std::to_string(kMaxLevels)
            + " levels, then boxes and image_index, not " + std::to_string(inputs.size()) + " inputs");
    }
    expect_shape("the first level", "[N, C, H, W]", inputs[0], {kAnySize, kAnySize, kAnySize, kAnySize});
    int64_t const images = inputs[0].d[0];
    int64_t const channels = inputs[0].d[1];
    for (int32_t level = 1; level < levels; ++level) {
        expect_shape("every level", "[N, C, H, W] with N and C of the first", inputs[level],
            {images, channels, kAnySize, kAnySize});
    }
    expect_shape("boxes", "[R, 4]", inputs[levels], {kAnySize, 4});
    expect_shape("image_index", "[R] as the boxes", inputs[levels + 1], {inputs[levels].d[0]});
}

DimsExprs RoiAlignPlugin::output_shape(DimsExprs const* inputs, int32_t input_count, IExprBuilder& builder) const
{
    DimsExprs const& boxes = inputs[input_count - kInputsAfterLevels];
    DimsExprs shape{};
    shape.nbDims = 4;
    shape.d[0] = boxes.d[0];
    shape.d[1] = inputs[0].d[1];
    shape.d[2] = builder.constant(settings_.output_size);
    shape.d[3] = builder.constant(settings_.output_size);
    return shape;
}

DataType RoiAlignPlugin::output_type(DataType const* input_types) const
{
    return input_types[0];
}

bool RoiAlignPlugin::supports(int32_t position, DynamicPluginTensorDesc const* tensors, int32_t input_count) const
{
    PluginTensorDesc const& tensor = tensors[position].desc;
    int32_t const boxes = input_count - kInputsAfterLevels;
    if (position == boxes || position == boxes + 1) {
        DataType const type = position == boxes ? DataType::kFLOAT : DataType::kINT64;
        return tensor.type == type && tensor.format == TensorFormat::kLINEAR;
    }
    // Levels and output are alike; the decision falls with the first level.
    PluginTensorDesc const& first = tensors[0].desc;
    return is_features(tensor) && tensor.type == first.type;
}

size_t RoiAlignPlugin::workspace_bytes(DynamicPluginTensorDesc const*) const
{
    return 0;
}

cudaError_t RoiAlignPlugin::launch(PluginTensorDesc const* descriptions, int32_t input_count,
    void const* const* inputs, void* output, void*, cudaStream_t stream) const
{
    int32_t const levels = input_count - kInputsAfterLevels;
    if (levels < 1) {
        throw std::logic_error("was run before its shapes were told");
    }
    int32_t const rois = to_int32(descriptions[levels].dims.d[0]);
    if (rois == 0) {
        return cudaSuccess;
    }
    return pyramid_roi_align(pyramid_of(descriptions, inputs, levels), settings_, rois,
        static_cast<float const*>(inputs[levels]), static_cast<int64_t const*>(inputs[levels + 1]), output, stream);
}

}  // namespace maskline

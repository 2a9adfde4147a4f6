// Uses the plugin library as TensorRT does, without TensorRT: makes plugins from fields, clones and serialises them,
// changes shapes, asks for formats, runs them. What they log, and what comes of each step, goes to stdout, a line each.
// Argument: the plugin library.
#include <cstdio>
#include <string>
#include <vector>

#include <NvInferRuntime.h>
#include <dlfcn.h>

using namespace nvinfer1;

namespace {

class PrintingLogger : public ILogger
{
public:
    void log(Severity, AsciiChar const* message) noexcept override { std::printf("log %s\n", message); }
};

class Finder : public ILoggerFinder
{
public:
    ILogger* findLogger() override { return &logger_; }

private:
    PrintingLogger logger_;
};

struct Attributes {
    float iou = 0.25F, score = 0.5F;
    int32_t output = 4, topk = 6000, size = 14, sampling = 2, flag = 1;
    std::string rule = "round";

    std::vector<PluginField> of(std::string const& plugin) const
    {
        auto integer = [](char const* name, int32_t const& value) {
            return PluginField(name, &value, PluginFieldType::kINT32, 1);
        };
        if (plugin == "MaskRcnnNms") {
            return {PluginField("iou_threshold", &iou, PluginFieldType::kFLOAT32, 1),
                PluginField("score_threshold", &score, PluginFieldType::kFLOAT32, 1), integer("max_output", output),
                integer("pre_nms_topk", topk)};
        }
        return {integer("output_size", size), integer("sampling_ratio", sampling), integer("aligned", flag),
            integer("crop_and_resize", flag),
            PluginField("level_rule", rule.data(), PluginFieldType::kCHAR, static_cast<int32_t>(rule.size()))};
    }
};

IPluginV3OneRuntime& runtime_of(IPluginV3& plugin)
{
    return *static_cast<IPluginV3OneRuntime*>(plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

IPluginV3OneBuild& build_of(IPluginV3& plugin)
{
    return *static_cast<IPluginV3OneBuild*>(plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
}

void print_fields(char const* step, IPluginV3& plugin)
{
    PluginFieldCollection const& fields = *runtime_of(plugin).getFieldsToSerialize();
    std::printf("%s", step);
    for (int32_t i = 0; i < fields.nbFields; ++i) {
        PluginField const& field = fields.fields[i];
        switch (field.type) {
            case PluginFieldType::kINT32:
                std::printf(" %s=%d", field.name, *static_cast<int32_t const*>(field.data));
                break;
            case PluginFieldType::kFLOAT32:
                std::printf(" %s=%g", field.name, *static_cast<float const*>(field.data));
                break;
            default: std::printf(" %s=%.*s", field.name, field.length, static_cast<char const*>(field.data));
        }
    }
    std::printf("\n");
}

PluginTensorDesc tensor(DataType type, TensorFormat format, std::vector<int64_t> const& sizes)
{
    PluginTensorDesc result{};
    result.type = type;
    result.format = format;
    result.dims.nbDims = static_cast<int32_t>(sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i) {
        result.dims.d[i] = sizes[i];
    }
    return result;
}

using Tensors = std::vector<PluginTensorDesc>;

Tensors nms_inputs(int64_t images, int64_t scores)
{
    return {tensor(DataType::kFLOAT, TensorFormat::kLINEAR, {images, 5, 4}),
        tensor(DataType::kFLOAT, TensorFormat::kLINEAR, {images, scores}),
        tensor(DataType::kINT64, TensorFormat::kLINEAR, {images, 5})};
}

Tensors roi_align_inputs(DataType type, TensorFormat format, int64_t rois)
{
    return {tensor(type, format, {2, 8, 16, 16}), tensor(type, format, {2, 8, 8, 8}),
        tensor(DataType::kFLOAT, TensorFormat::kLINEAR, {rois, 4}),
        tensor(DataType::kINT64, TensorFormat::kLINEAR, {rois})};
}

void run(char const* step, IPluginV3& plugin, Tensors const& inputs)
{
    IPluginV3OneRuntime& runtime = runtime_of(plugin);
    PluginTensorDesc const output{};
    int32_t const changed = runtime.onShapeChange(inputs.data(), static_cast<int32_t>(inputs.size()), &output, 1);
    std::printf("%s shapes %s\n", step, changed == 0 ? "taken" : "refused");
    if (changed != 0) {
        return;
    }
    std::vector<void const*> const nothing(inputs.size(), nullptr);
    void* const no_output = nullptr;
    int32_t const status = runtime.enqueue(inputs.data(), &output, nothing.data(), &no_output, nullptr, nullptr);
    std::printf("%s ran %s\n", step, status == 0 ? "well" : "with an error");
}

// Whether the builder could have these tensors, asked one after the other as it does.
void print_formats(char const* step, IPluginV3& plugin, Tensors const& tensors)
{
    std::vector<DynamicPluginTensorDesc> all(tensors.size());
    bool taken = true;
    for (size_t i = 0; i < tensors.size() && taken; ++i) {
        all[i].desc = tensors[i];
        taken = build_of(plugin).supportsFormatCombination(
            static_cast<int32_t>(i), all.data(), static_cast<int32_t>(tensors.size()) - 1, 1);
    }
    std::printf("%s %s\n", step, taken ? "taken" : "refused");
}

void print_roi_align_formats(IPluginV3& plugin)
{
    struct {
        char const* step;
        DataType type;
        TensorFormat format;
        DataType output;
    } const cases[] = {
        {"float linear", DataType::kFLOAT, TensorFormat::kLINEAR, DataType::kFLOAT},
        {"half hwc8", DataType::kHALF, TensorFormat::kHWC8, DataType::kHALF},
        {"half linear", DataType::kHALF, TensorFormat::kLINEAR, DataType::kHALF},
        {"float hwc8", DataType::kFLOAT, TensorFormat::kHWC8, DataType::kFLOAT},
        {"half in, float out", DataType::kHALF, TensorFormat::kHWC8, DataType::kFLOAT},
    };
    for (auto const& asked : cases) {
        Tensors tensors = roi_align_inputs(asked.type, asked.format, 3);
        tensors.push_back(tensor(asked.output, asked.format, {3, 8, 14, 14}));
        print_formats(asked.step, plugin, tensors);
    }
}

IPluginV3* print_round_trip(IPluginCreatorV3One& creator)
{
    std::string const name = creator.getPluginName();
    Attributes const attributes;
    std::vector<PluginField> const given = attributes.of(name);
    PluginFieldCollection const fields{static_cast<int32_t>(given.size()), given.data()};
    IPluginV3* const made = creator.createPlugin("layer", &fields, TensorRTPhase::kBUILD);
    print_fields(("made " + name).c_str(), *made);
    IPluginV3* const again
        = creator.createPlugin("layer", runtime_of(*made).getFieldsToSerialize(), TensorRTPhase::kRUNTIME);
    IPluginV3* const clone = made->clone();
    delete made;
    print_fields(("deserialised " + name).c_str(), *again);
    print_fields(("cloned " + name).c_str(), *clone);
    delete again;
    IPluginV3* const attached = runtime_of(*clone).attachToContext(nullptr);
    delete clone;
    print_fields(("attached " + name).c_str(), *attached);
    return attached;
}

}  // namespace

int main(int, char** arguments)
{
    void* const library = dlopen(arguments[1], RTLD_NOW);
    using GetCreators = IPluginCreatorInterface* const*(int32_t&);
    using SetLoggerFinder = void(ILoggerFinder*);
    Finder finder;
    reinterpret_cast<SetLoggerFinder*>(dlsym(library, "setLoggerFinder"))(&finder);
    int32_t count = 0;
    IPluginCreatorInterface* const* const creators
        = reinterpret_cast<GetCreators*>(dlsym(library, "getCreators"))(count);
    IPluginV3* const nms = print_round_trip(static_cast<IPluginCreatorV3One&>(*creators[0]));
    IPluginV3* const align = print_round_trip(static_cast<IPluginCreatorV3One&>(*creators[1]));
    static_cast<IPluginCreatorV3One&>(*creators[0]).createPlugin("layer", nullptr, TensorRTPhase::kBUILD);
    print_roi_align_formats(*align);
    run("nms of other scores", *nms, nms_inputs(2, 6));
    run("nms of no images", *nms, nms_inputs(0, 5));
    run("nms without a device", *nms, nms_inputs(2, 5));
    run("roi align of no rois", *align, roi_align_inputs(DataType::kHALF, TensorFormat::kHWC8, 0));
    run("roi align without a device", *align, roi_align_inputs(DataType::kHALF, TensorFormat::kHWC8, 3));
    delete nms;
    delete align;
}

#include "library.h"

#include <iterator>

#include "nms/plugin.h"
#include "roi_align/plugin.h"
#include "tensorrt/creator.h"

namespace {

constexpr int32_t kOperatorsVersion = 1;
constexpr int32_t kTensorRtVersion = NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;

static_assert(kTensorRtVersion >= 100700, "Maskline's plugins need the headers of TensorRT 10.7 or newer");

}  // namespace

nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) noexcept
{
    static maskline::Creator<maskline::NmsPlugin> nms;
    static maskline::Creator<maskline::RoiAlignPlugin> roi_align;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&nms, &roi_align};
    count = static_cast<int32_t>(std::size(creators));
    return creators;
}

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept
{
    maskline::set_logger_finder(finder);
}

int32_t maskline_plugins_operators_version() noexcept
{
    return kOperatorsVersion;
}

int32_t maskline_plugins_tensorrt_version() noexcept
{
    return kTensorRtVersion;
}

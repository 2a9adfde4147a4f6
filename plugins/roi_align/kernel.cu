// One launch makes all RoIs of all levels. A block works on one RoI, and a thread on eight channels of one bin at a
// time: their taps are computed once, and the sums are in float32.
#include "kernel.h"

#include "geometry.cuh"
#include "layouts.cuh"

namespace maskline {
namespace roi_align {
namespace {

constexpr int kThreads = 224;                 // 7 warps, so that 7x7 and 14x14 bins of 256 channels come out even
constexpr int kItemsPerBlock = 7 * kThreads;  // a RoI with more of them is shared by several blocks

// Adds `kCount` samples side by side, the loads of all before the first sum.
template <int kSamples, int kCount, typename Layout>
__device__ void add_samples(
    Layout const& features, Tap const& y, Axis const& x_axis, int32_t column, int32_t first, float (&sum)[kChannels])
{
    Tap x[kCount];
    typename Layout::Word words[kCount][4];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        x[i] = tap<kSamples>(x_axis, column, first + i);
        words[i][0] = features.load(y.low + x[i].low);
        words[i][1] = features.load(y.low + x[i].high);
        words[i][2] = features.load(y.high + x[i].low);
        words[i][3] = features.load(y.high + x[i].high);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        if (!x[i].is_inside()) {
            continue;
        }
        Layout::add(words[i][0], y.low_weight * x[i].low_weight, sum);
        Layout::add(words[i][1], y.low_weight * x[i].high_weight, sum);
        Layout::add(words[i][2], y.high_weight * x[i].low_weight, sum);
        Layout::add(words[i][3], y.high_weight * x[i].high_weight, sum);
    }
}

template <int kSamples, typename Layout>
__device__ void add_bin(
    Layout const& features, Roi const& roi, int32_t row, int32_t column, bool adaptive, float (&sum)[kChannels])
{
    constexpr int kCount = kSamples > 0 && kSamples <= Layout::kSamplesTogether ? kSamples : 1;
    Range const down = samples_on_map<kSamples>(roi.y, row, adaptive);
    Range const across = samples_on_map<kSamples>(roi.x, column, adaptive);
#pragma unroll(kCount)
    for (int32_t i = down.begin; i < down.end; ++i) {
        Tap const y = tap<kSamples>(roi.y, row, i);
        if (!y.is_inside()) {
            continue;
        }
#pragma unroll(Layout::kSamplesTogether)
        for (int32_t j = across.begin; j < across.end; j += kCount) {
            add_samples<kSamples, kCount>(features, y, roi.x, column, j, sum);
        }
    }
}

// RoIAlign with `kSamples` samples a bin and axis; 0: what the task says, or as many as the RoI's side asks for.
template <typename Layout, int kSamples>
__global__ void __launch_bounds__(kThreads, Layout::kBlocksPerProcessor) kernel(__grid_constant__ Task const task)
{
    int32_t const row = blockIdx.x;
    Roi const roi = locate(task, row, Layout::pixel_stride(task));
    int32_t const size = task.settings.output_size;
    int32_t const bins = size * size;
    bool const adaptive = task.settings.sampling_ratio <= 0;
    float const share = 1.0f / fmaxf(static_cast<float>(roi.x.samples) * roi.y.samples, 1.0f);
    int32_t const begin = blockIdx.y * kItemsPerBlock;
    int32_t const end = min(begin + kItemsPerBlock, bins * task.channel_blocks);
    for (int32_t index = begin + threadIdx.x; index < end; index += kThreads) {
        Item const item = Layout::item(task, index, bins);
        Layout const features(task, roi, item.channel_block);
        float sum[kChannels] = {};
        add_bin<kSamples>(features, roi, item.bin / size, item.bin % size, adaptive, sum);
#pragma unroll
        for (float& value : sum) {
            value *= share;
        }
        Layout::store(task, row, item, bins, sum);
    }
}

template <typename Layout, int kSamples>
cudaError_t launch(Task const& task, int32_t rois, cudaStream_t stream)
{
    int64_t const items = int64_t{task.settings.output_size} * task.settings.output_size * task.channel_blocks;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(rois, static_cast<unsigned>((items + kItemsPerBlock - 1) / kItemsPerBlock));
    config.blockDim = dim3(kThreads);
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel<Layout, kSamples>, task);
}

template <typename Layout>
cudaError_t launch(Task const& task, int32_t rois, cudaStream_t stream)
{
    switch (task.settings.crop_and_resize ? 1 : task.settings.sampling_ratio) {
    case 1: return launch<Layout, 1>(task, rois, stream);
    case 2: return launch<Layout, 2>(task, rois, stream);
    default: return launch<Layout, 0>(task, rois, stream);
    }
}

Task task_of(Pyramid const& pyramid, RoiAlignSettings const& settings)
{
    constexpr float kFloorArea = 112.0f * 112.0f;  // half of it where levels are rounded: sqrt(2) less in side
    float const width = 4 * pyramid.widths[0], height = 4 * pyramid.heights[0];
    Task task{};
    task.pyramid = pyramid;
    task.settings = settings;
    task.channel_blocks = (pyramid.channels + kChannels - 1) / kChannels;
    // In corner coordinates a box is a part of (W - 1) x (H - 1), and its level goes by that part of W x H.
    task.area_scale = settings.crop_and_resize ? width / (width - 1) * (height / (height - 1)) : 1.0f;
    task.second_level = settings.level_rule == LevelRule::kFloor ? kFloorArea : kFloorArea / 2;
    return task;
}

}  // namespace
}  // namespace roi_align

cudaError_t pyramid_roi_align(Pyramid const& pyramid, RoiAlignSettings const& settings, int32_t rois,
    float const* boxes, int64_t const* image_index, void* output, cudaStream_t stream)
{
    if (rois == 0) {
        return cudaSuccess;  // a launch of no block is an error
    }
    roi_align::Task task = roi_align::task_of(pyramid, settings);
    task.boxes = reinterpret_cast<float4 const*>(boxes);
    task.image_index = image_index;
    task.output = output;
    return pyramid.layout == FeatureLayout::kLinearFloat
        ? roi_align::launch<roi_align::LinearFloat>(task, rois, stream)
        : roi_align::launch<roi_align::ChannelsLastHalf>(task, rois, stream);
}

}  // namespace maskline

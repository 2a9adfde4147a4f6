// RoIAlign over a feature pyramid, every RoI on the one level that fits its size, on a stream. Knows nothing of
// TensorRT.
//
// Shapes: N images, C channels, R RoIs, P output side, Hl x Wl level l, whose stride is 4 * 2^l canvas pixels.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace maskline {

constexpr int32_t kMaxLevels = 8;

enum class FeatureLayout : int32_t {
    kLinearFloat,       // float32, [N, C, H, W]
    kChannelsLastHalf,  // float16, [N, H, W, C rounded up to a multiple of 8], 16-byte aligned (TensorRT's kHWC8)
};

enum class LevelRule : int32_t {
    kFloor,  // level floor(log2(sqrt(area) / 112)) of the pyramid, as torchvision and detectron2
    kRound,  // the same with round instead of floor, as Matterport
};

struct Pyramid {
    void const* features[kMaxLevels];
    int32_t heights[kMaxLevels];
    int32_t widths[kMaxLevels];
    int32_t level_count;
    int32_t images;  // N
    int32_t channels;
    FeatureLayout layout;
};

struct RoiAlignSettings {
    int32_t output_size;     // P; of crop_and_resize at least 2
    int32_t sampling_ratio;  // samples a bin and axis; 0: ceil(side of the RoI on its level / P)
    bool aligned;            // shift by half a pixel of the level and allow RoIs below one pixel
    bool crop_and_resize;    // TensorFlow's operator: see the README beside this file
    LevelRule level_rule;
};

// RoI features [R, C, P, P] in the layout and type of the pyramid, from boxes [R, 4] (float32 x1, y1, x2, y2 in canvas
// pixels, 16-byte aligned) of the images image_index [R]. The canvas is 4 times the pyramid's first level.
//
// Boxes and image_index may hold anything. A box with a NaN, one that reaches farther than 2^20 canvas pixels from the
// origin and one of an image that is none of 0..N-1 give zeros; of any other only the samples on the map are visited,
// so that one far too large takes no longer than the map. Channels that pad C in the channels-last layout are averaged like the others: what they hold
// in the result comes from what they hold in the features.
//
// All pointers but `pyramid` are on the device. Returns what the launch returned; faults of the kernel come with the
// stream.
cudaError_t pyramid_roi_align(Pyramid const& pyramid, RoiAlignSettings const& settings, int32_t rois,
    float const* boxes, int64_t const* image_index, void* output, cudaStream_t stream);

}  // namespace maskline

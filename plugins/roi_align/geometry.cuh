// Where the samples of a RoI lie. Positions are computed in the order of ONNX Runtime's and torchvision's arithmetic, so
// that they agree to the last bit when this is compiled with -fmad=false; what may be fused is written as fmaf.
#pragma once

#include "kernel.h"

namespace maskline::roi_align {

constexpr float kCropMargin = 1e-3f;  // pixels by which rounding may put a sample of a crop outside the map
constexpr float kFarthest = 1 << 20;  // canvas pixels; a box that reaches farther, or is NaN, gives zeros

struct Task {
    Pyramid pyramid;
    RoiAlignSettings settings;
    float4 const* boxes;
    int64_t const* image_index;
    void* output;
    int32_t channel_blocks;  // C / 8, rounded up
    float area_scale;        // from a box's area to the one that its level goes by
    float second_level;      // the area at which a RoI leaves the first level; at four times that the second, and so on
};

// One axis of a RoI, in pixels of its feature map. Sample s of bin i lies at start + i * bin + (s + phase) * bin / S.
struct Axis {
    float start;
    float bin;
    float phase;
    float margin;     // a sample farther than this outside the map is zero
    int32_t samples;  // S, of a bin; 0 or less: none
    int32_t pixels;   // of the map
    int32_t stride;   // from a pixel to the next, in what a layout loads at once
};

struct Roi {
    Axis x;
    Axis y;
    int32_t level;
    int64_t image;
};

// The two pixels about a sample on one axis, as offsets in what a layout loads at once, and their weights.
struct Tap {
    int32_t low;
    int32_t high;
    float low_weight;
    float high_weight;

    // Whether the sample is on the map, where the weights sum to one. What is not must not be added with a weight of
    // zero: the pixel may be infinite.
    __device__ bool is_inside() const { return low_weight + high_weight > 0.0f; }
};

struct Range {
    int32_t begin;
    int32_t end;
};

inline __device__ bool is_near(float4 box)
{
    return fabsf(box.x) <= kFarthest && fabsf(box.y) <= kFarthest && fabsf(box.z) <= kFarthest
        && fabsf(box.w) <= kFarthest;
}

inline __device__ int32_t level_of(Task const& task, float4 box)
{
    float const area = (box.z - box.x) * (box.w - box.y) * task.area_scale;
    int32_t level = 0;
    for (float limit = task.second_level; level + 1 < task.pyramid.level_count && area >= limit; limit *= 4.0f) {
        ++level;
    }
    return level;
}

// RoIAlign: bins side by side from `low` to `high`, in canvas pixels.
inline __device__ Axis align_axis(RoiAlignSettings const& settings, float low, float high, int32_t level)
{
    float const scale = 0.25f / (1 << level);
    float const shift = settings.aligned ? 0.5f : 0.0f;
    Axis axis{};
    axis.start = low * scale - shift;
    float const side = high * scale - shift - axis.start;
    axis.bin = (settings.aligned ? side : fmaxf(side, 1.0f)) / settings.output_size;
    axis.phase = 0.5f;
    axis.margin = 1.0f;
    axis.samples = settings.sampling_ratio > 0 ? settings.sampling_ratio : static_cast<int32_t>(ceilf(axis.bin));
    return axis;
}

// TensorFlow's crop_and_resize: single samples from `low` to `high`, both included.
inline __device__ Axis crop_axis(
    RoiAlignSettings const& settings, float low, float high, int32_t canvas, int32_t pixels)
{
    float const scale = pixels - 1;
    float const begin = low / (canvas - 1);
    Axis axis{};
    axis.start = begin * scale;
    axis.bin = (high / (canvas - 1) - begin) * scale / (settings.output_size - 1);
    axis.margin = kCropMargin;
    axis.samples = 1;
    return axis;
}

inline __device__ Axis axis_of(
    Task const& task, float low, float high, int32_t level, int32_t const (&pixels)[kMaxLevels])
{
    Axis axis = task.settings.crop_and_resize ? crop_axis(task.settings, low, high, 4 * pixels[0], pixels[level])
                                              : align_axis(task.settings, low, high, level);
    axis.pixels = pixels[level];
    return axis;
}

// The RoI of a row of boxes; `pixel_stride` is what a layout loads at once, counted from a pixel to the next.
inline __device__ Roi locate(Task const& task, int32_t row, int32_t pixel_stride)
{
    float4 box = __ldg(task.boxes + row);
    int64_t const image = __ldg(task.image_index + row);
    bool const is_known = image >= 0 && image < task.pyramid.images;
    if (!is_known || !is_near(box)) {
        box = make_float4(-kFarthest, -kFarthest, -kFarthest, -kFarthest);  // none of its samples is on a map
    }
    int32_t const level = level_of(task, box);
    Axis x = axis_of(task, box.x, box.z, level, task.pyramid.widths);
    Axis y = axis_of(task, box.y, box.w, level, task.pyramid.heights);
    x.stride = pixel_stride;
    y.stride = pixel_stride * x.pixels;
    return {x, y, level, is_known ? image : 0};
}

// The samples of a bin that can be on the map, and one more at each end for rounding. Adaptive ones are at least half a
// pixel apart where there are several, so that the map bounds their number, however far the RoI reaches.
template <int kSamples>
__device__ Range samples_on_map(Axis const& axis, int32_t bin, bool adaptive)
{
    if (kSamples > 0 || !adaptive) {
        return {0, kSamples > 0 ? kSamples : axis.samples};
    }
    float const from = axis.start + bin * axis.bin;
    float const density = axis.samples / axis.bin;
    float const begin = floorf((-axis.margin - from) * density) - 1.0f;
    float const end = ceilf((axis.pixels - from) * density) + 1.0f;
    float const samples = axis.samples;
    return {static_cast<int32_t>(fminf(fmaxf(begin, 0.0f), samples)),
        static_cast<int32_t>(fminf(fmaxf(end, 0.0f), samples))};
}

// numerator / divisor, correctly rounded, where `inverse` is 1 / divisor: a product and its correction. The operator is
// a call, and loads do not pass a call to go out together.
inline __device__ float quotient(float numerator, float divisor, float inverse)
{
    float const product = numerator * inverse;
    return fmaf(fmaf(-product, divisor, numerator), inverse, product);
}

template <int kSamples>
__device__ Tap tap(Axis const& axis, int32_t bin, int32_t sample)
{
    float const samples = kSamples > 0 ? kSamples : axis.samples;
    float const last = axis.pixels - 1;
    float const offset = quotient((sample + axis.phase) * axis.bin, samples, 1.0f / samples);
    float const exact = axis.start + bin * axis.bin + offset;
    bool const inside = exact >= -axis.margin && exact <= last + axis.margin;
    float const position = fminf(fmaxf(exact, 0.0f), last);
    int32_t const low = static_cast<int32_t>(position);
    float const part = position - low;
    return {low * axis.stride, min(low + 1, axis.pixels - 1) * axis.stride, inside ? 1.0f - part : 0.0f,
        inside ? part : 0.0f};
}

}  // namespace maskline::roi_align

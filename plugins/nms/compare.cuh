// Which boxes overlap too much. Every operation is rounded for itself and in the order of ONNX Runtime's
// NonMaxSuppression, so that boxes whose overlap is just at the threshold fare as there.
#pragma once

#include "nms/task.h"

namespace maskline {
namespace suppression {

// Corners in order: x_min, y_min, x_max, y_max.
__device__ inline float4 ordered_corners(float4 box)
{
    return make_float4(fminf(box.x, box.z), fminf(box.y, box.w), fmaxf(box.x, box.z), fmaxf(box.y, box.w));
}

__device__ inline float area(float4 box)
{
    return __fmul_rn(__fsub_rn(box.z, box.x), __fsub_rn(box.w, box.y));
}

// Whether the IoU of two boxes with their corners in order is above the threshold. A box without an area has none.
__device__ inline bool overlap(float4 a, float4 b, float threshold)
{
    float4 const common = make_float4(fmaxf(a.x, b.x), fmaxf(a.y, b.y), fminf(a.z, b.z), fminf(a.w, b.w));
    if (common.z <= common.x || common.w <= common.y) {
        return false;
    }
    float const intersection = area(common);
    float const area_a = area(a);
    float const area_b = area(b);
    float const united = __fsub_rn(__fadd_rn(area_a, area_b), intersection);
    if (intersection <= 0.0F || area_a <= 0.0F || area_b <= 0.0F || united <= 0.0F) {
        return false;
    }
    return __fdiv_rn(intersection, united) > threshold;
}

// Which of a word's candidates overlap the later candidate `column` of the round.
__device__ inline void compare_in_round(Task const& task, int32_t image, int32_t word, int32_t column)
{
    int32_t const begin = word * kWordBits;
    if (begin > column) {
        return;
    }
    size_t const round = static_cast<size_t>(image) * task.round;
    float4 const* const boxes = task.round_boxes + round;
    int64_t const* const groups = task.round_groups + round;
    float4 const box = boxes[column];
    int64_t const group = groups[column];
    int32_t const rows = min(kWordBits, column - begin);
    Word overlaps = 0;
    for (int32_t row = 0; row < rows; ++row) {
        bool const hit = groups[begin + row] == group
            && overlap(boxes[begin + row], box, task.settings.iou_threshold);
        overlaps |= static_cast<Word>(hit) << row;
    }
    task.overlaps[(round / kWordBits + word) * task.round + column] = overlaps;
}

// Whether one of 64 boxes, kept in earlier rounds, suppresses the candidate `column` of the round.
__device__ inline void compare_with_kept(Task const& task, int32_t image, int32_t word, int32_t column)
{
    size_t const inputs = static_cast<size_t>(image) * task.boxes_per_image;
    size_t const round = static_cast<size_t>(image) * task.round;
    int64_t const* const kept = task.kept + static_cast<size_t>(image) * task.settings.max_output * 2;
    float4 const box = task.round_boxes[round + column];
    int64_t const group = task.round_groups[round + column];
    int32_t const begin = word * kWordBits;
    int32_t const end = min(begin + kWordBits, task.progress[image].kept);
    for (int32_t row = begin; row < end; ++row) {
        size_t const index = inputs + kept[2 * static_cast<size_t>(row) + 1];
        if (task.groups[index] == group
            && overlap(ordered_corners(task.boxes[index]), box, task.settings.iou_threshold)) {
            atomicOr(&task.suppressed[(round + column) / 32], 1U << (column % 32));
            return;
        }
    }
}

// Compares the candidate `column` with 64 others: the words of the round come first, then those of the kept boxes.
__device__ inline void compare(Task const& task, int32_t image, int32_t word, int32_t column)
{
    if (column >= task.progress[image].in_round) {
        return;
    }
    int32_t const words = task.round / kWordBits;
    if (word < words) {
        compare_in_round(task, image, word, column);
    } else {
        compare_with_kept(task, image, word - words, column);
    }
}

}  // namespace suppression
}  // namespace maskline

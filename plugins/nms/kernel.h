// Non-maximum suppression by group over a batch, on a stream. Knows nothing of TensorRT.
//
// Shapes: N images (at most 65,535), A boxes an image, K = max_output rows an image.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

namespace maskline {

struct NmsSettings {
    float iou_threshold;      // a box falls when its IoU with a kept box of its own group is above this
    float score_threshold;    // only scores above this take part
    int32_t max_output;       // K: boxes kept of an image, and rows of the result for it
    int32_t pre_nms_topk;     // only so many of an image's best scores take part, ties by the lower index; 0: all
};

// Device memory that `nms` needs for N = images and A = boxes.
size_t nms_workspace_bytes(int32_t images, int32_t boxes, NmsSettings const& settings);

// Greedy suppression of boxes [N, A, 4] (x1, y1, x2, y2; 16-byte aligned) by scores [N, A] within equal groups [N, A].
//
// Writes kept [N * K, 2] rows (image, index): by image, then by falling score, equal scores by the lower index; rows
// that are left over are (image, -1). The same inputs give the same rows. All pointers are on the device; `workspace`
// is aligned to 16 bytes. Returns what a launch returned; faults of the kernels themselves come with the stream.
cudaError_t nms(int32_t images, int32_t boxes_per_image, NmsSettings const& settings, float const* boxes,
    float const* scores, int64_t const* groups, int64_t* kept, void* workspace, cudaStream_t stream);

}  // namespace maskline

// The kernel as plain C functions, for callers without a C++ compiler: the tests (emulated, on a CPU) and
// benchmarks/gpu (on a GPU) call them through ctypes. `maskline_nms` returns a cudaError_t.
#include "nms/kernel.h"

extern "C" {

size_t maskline_nms_workspace_bytes(int32_t images, int32_t boxes, maskline::NmsSettings const* settings)
{
    return maskline::nms_workspace_bytes(images, boxes, *settings);
}

int maskline_nms(int32_t images, int32_t boxes_per_image, maskline::NmsSettings const* settings, float const* boxes,
    float const* scores, int64_t const* groups, int64_t* kept, void* workspace, void* stream)
{
    return maskline::nms(images, boxes_per_image, *settings, boxes, scores, groups, kept, workspace,
        static_cast<cudaStream_t>(stream));
}

}  // extern "C"

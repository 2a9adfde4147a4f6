// The kernel as a plain C function, for callers without a C++ compiler: the tests (emulated, on a CPU) and
// benchmarks/gpu (on a GPU) call it through ctypes. It returns a cudaError_t.
#include "roi_align/kernel.h"

extern "C" {

int maskline_pyramid_roi_align(maskline::Pyramid const* pyramid, maskline::RoiAlignSettings const* settings,
    int32_t rois, float const* boxes, int64_t const* image_index, void* output, void* stream)
{
    return maskline::pyramid_roi_align(
        *pyramid, *settings, rois, boxes, image_index, output, static_cast<cudaStream_t>(stream));
}

}  // extern "C"

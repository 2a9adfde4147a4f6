// Kernels with one mistake each, which the emulation must find, and CUDA's conversions of halves.
#include <cuda_fp16.h>

#include "common.cuh"

using maskline::dynamic_shared;

namespace {

enum Mistake : int {
    kNone,
    kEndsEarly,        // a thread ends while the others wait for it
    kTwoBarriers,      // threads wait for each other in two places
    kOutsideMask,      // a lane votes with others and is not in the mask
    kPastShared,       // a write behind the shared memory that was asked for
    kNoBarrier,        // reads what another thread may not have written yet
};

constexpr int kThreads = 96;

// Turns the values of the block around.
__global__ void turn_around(int* values, int mistake)
{
    int* const shared = dynamic_shared<int>();
    int const thread = threadIdx.x;
    if (mistake == kEndsEarly && thread == 3) {
        return;
    }
    shared[mistake == kPastShared ? thread + 1 : thread] = values[thread];
    if (mistake == kTwoBarriers && thread < 32) {
        __syncthreads();
    } else if (mistake != kNoBarrier) {
        __syncthreads();
    }
    __syncwarp(mistake == kOutsideMask ? 1U : ~0U);
    values[thread] = shared[kThreads - 1 - thread];
}

cudaError_t launch(int* values, int mistake, size_t shared_bytes, int threads)
{
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(1);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    return cudaLaunchKernelEx(&config, turn_around, values, mistake);
}

}  // namespace

extern "C" {

int turn_around_with(int* values, int mistake)
{
    return launch(values, mistake, kThreads * sizeof(int), kThreads);
}

int launch_with(size_t shared_bytes, int threads)
{
    return launch(nullptr, kNone, shared_bytes, threads);
}

float from_half(uint16_t bits)
{
    return __half2float(__half{bits});
}

uint16_t to_half(float value)
{
    return __float2half_rn(value).bits;
}

}  // extern "C"

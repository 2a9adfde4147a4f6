// What the kernels share.
#pragma once

#include <cuda_runtime.h>

namespace maskline {

// The block's shared memory, as many bytes as the launch asks for; nothing is in it at first.
template <typename T> __device__ __forceinline__ T* dynamic_shared()
{
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    return reinterpret_cast<T*>(shared_bytes);
}

}  // namespace maskline

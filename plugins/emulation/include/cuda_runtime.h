// Stands in for CUDA's header of this name, so that g++ alone compiles the unmodified kernels for a CPU. It holds what
// they use of CUDA and no more; a name that is missing here stops the build and can be added.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
// Of shared memory there is one array, declared extern and as large as the launch asks. An array of fixed size inside a
// kernel does not compile: it would have neither poison nor canaries.
#define __shared__ __thread

#include "../grid.h"

// The names are CUDA's.
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(
    cudaLaunchConfig_t const* config, void (*kernel)(Parameters...), Arguments&&... arguments)
{
    return emulation::launch(config->gridDim, config->blockDim, config->dynamicSmemBytes,
        [&] { kernel(static_cast<Parameters>(arguments)...); });
}

inline cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t = nullptr)
{
    std::memset(pointer, value, bytes);
    return cudaSuccess;
}

// Threads of a block run one at a time, so that an atomic operation is a plain one.
template <typename T> T atomicAdd(T* at, std::type_identity_t<T> value) { T old = *at; *at += value; return old; }
template <typename T> T atomicOr(T* at, std::type_identity_t<T> value) { T old = *at; *at |= value; return old; }

using Where = std::source_location;

inline void __syncthreads(Where where = Where::current()) { emulation::wait_for_block(where); }

inline void __syncwarp(unsigned mask = ~0U, Where where = Where::current())
{
    emulation::exchange(mask, 0, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, Where where = Where::current())
{
    uint64_t const* of_lane = emulation::exchange(mask, predicate != 0, where);
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
        ballot |= (mask >> lane & 1U) != 0 && of_lane[lane] != 0 ? 1U << lane : 0U;
    }
    return ballot;
}

template <typename T> T __shfl_sync(unsigned mask, T value, int lane, int width = 32, Where where = Where::current())
{
    return emulation::value_of_lane(mask, value, emulation::first_lane(width) + (lane & (width - 1)), where);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, Where where = Where::current())
{
    int const source = emulation::own_lane() - static_cast<int>(delta);
    bool const inside = source >= emulation::first_lane(width);
    return emulation::value_of_lane(mask, value, inside ? source : emulation::own_lane(), where);
}

inline int __popcll(unsigned long long bits) { return std::popcount(bits); }
inline int __clzll(long long bits) { return std::countl_zero(static_cast<unsigned long long>(bits)); }

inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }

template <typename T> T __ldg(T const* at) { return *at; }
template <typename T> constexpr T min(T a, T b) { return b < a ? b : a; }
template <typename T> constexpr T max(T a, T b) { return a < b ? b : a; }

// The order of the candidates, and a radix search for the best of them.
#pragma once

#include "nms/task.h"

namespace maskline {
namespace suppression {

constexpr int32_t kWarp = 32;
constexpr int32_t kWarps = 32;
constexpr int32_t kThreads = kWarp * kWarps;  // of every block but those that compare boxes
constexpr uint32_t kAllLanes = ~0U;
constexpr Key kLastKey = ~Key{0};  // no candidate's

static_assert(kBins == 2 * kThreads, "a thread looks after two bins");

__device__ inline Key key_of(float score, int32_t index)
{
    uint32_t const bits = __float_as_uint(score == 0.0F ? 0.0F : score);  // -0.0 and 0.0 are one score
    bool const negative = bits >> 31 != 0;
    uint32_t const falling = negative ? bits : ~bits & 0x7FFFFFFFU;
    return Key{falling} << 32 | static_cast<uint32_t>(index);
}

__device__ inline int32_t index_of(Key key)
{
    return static_cast<int32_t>(key & 0xFFFFFFFFU);
}

// The digit of a pass; the first is the highest.
__device__ inline int32_t digit(Key key, int32_t pass)
{
    return static_cast<int32_t>(key << (kDigitBits * pass) >> (64 - kDigitBits));
}

__device__ inline Key with_digit(Key prefix, int32_t digit, int32_t pass)
{
    return prefix | static_cast<Key>(digit) << (64 - kDigitBits) >> (kDigitBits * pass);
}

// All ones below the first `digits` digits.
__device__ inline Key rest(int32_t digits)
{
    return digits < kPasses ? kLastKey >> (kDigitBits * digits) : 0;
}

__device__ inline bool begins_with(Key key, Key prefix, int32_t digits)
{
    return ((key ^ prefix) & ~rest(digits)) == 0;
}

struct Sum {
    int32_t before;  // of the values of the threads before this one
    int32_t total;   // of all threads of the block
};

__device__ inline int32_t warp_sum_up_to(int32_t value)
{
    int32_t const lane = threadIdx.x % kWarp;
    for (int32_t distance = 1; distance < kWarp; distance *= 2) {
        int32_t const other = __shfl_up_sync(kAllLanes, value, distance);
        value += lane >= distance ? other : 0;
    }
    return value;
}

// For all threads of a block of kThreads.
__device__ inline Sum block_sum(int32_t value, int32_t* of_warps)
{
    int32_t const warp = threadIdx.x / kWarp;
    int32_t const lane = threadIdx.x % kWarp;
    int32_t const in_warp = warp_sum_up_to(value);
    if (lane == kWarp - 1) {
        of_warps[warp] = in_warp;
    }
    __syncthreads();
    int32_t const up_to_warp = warp_sum_up_to(of_warps[lane]);
    int32_t const total = __shfl_sync(kAllLanes, up_to_warp, kWarps - 1);
    int32_t const before_warp = __shfl_sync(kAllLanes, up_to_warp - of_warps[lane], warp);
    __syncthreads();  // `of_warps` is free again
    return {before_warp + in_warp - value, total};
}

struct SelectMemory {
    uint32_t histogram[kBins];  // of a digit
    int32_t of_warps[kWarps];
    Search found;
    int32_t position;
};

// For all threads of a block of kThreads.
__device__ inline void clear(uint32_t* histogram)
{
    for (int32_t bin = threadIdx.x; bin < kBins; bin += kThreads) {
        histogram[bin] = 0;
    }
    __syncthreads();
}

// The search with one more digit, from how often each digit comes among the keys that begin with the prefix. For all
// threads of a block of kThreads.
__device__ inline Search narrowed(Search search, uint32_t const* histogram, int32_t pass, SelectMemory& memory)
{
    int32_t const bin = 2 * threadIdx.x;
    int32_t const counts[2] = {static_cast<int32_t>(histogram[bin]), static_cast<int32_t>(histogram[bin + 1])};
    Sum const sum = block_sum(counts[0] + counts[1], memory.of_warps);
    if (sum.total <= search.wanted) {
        return {search.prefix | rest(pass), 0};
    }
    int32_t const wanted = search.wanted - sum.before;
    if (wanted > 0 && wanted <= counts[0] + counts[1]) {
        int32_t const second = wanted > counts[0] ? 1 : 0;
        int32_t const left = second != 0 ? wanted - counts[0] : wanted;
        Key const prefix = with_digit(search.prefix, bin + second, pass);
        memory.found = left == counts[second] ? Search{prefix | rest(pass + 1), 0} : Search{prefix, left};
    }
    __syncthreads();
    return memory.found;
}

}  // namespace suppression
}  // namespace maskline

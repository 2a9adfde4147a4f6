// The candidates of a round: the next best of an image, in order.
//
// A function whose comment says "block" is for all threads of a block of kThreads.
#pragma once

#include "nms/compare.cuh"
#include "nms/select.cuh"
#include "nms/task.h"

namespace maskline {
namespace suppression {

static_assert(kRound == 2 * kThreads, "the sort has a pair of keys for each thread");

struct SortMemory {
    SelectMemory select;
    Key keys[kRound];
};

__device__ inline int32_t candidates_of(Task const& task, int32_t image)
{
    return task.progress[image].candidates;
}

__device__ inline bool is_complete(Task const& task, int32_t image)
{
    Progress const& progress = task.progress[image];
    return progress.done == progress.candidates || progress.kept == task.settings.max_output;
}

// Block: counts the digits of the image's keys after `last` that begin with the prefix.
__device__ inline void count_digits(
    Task const& task, int32_t image, Key last, Key prefix, int32_t pass, uint32_t* histogram)
{
    Key const* const keys = task.keys + static_cast<size_t>(image) * task.candidates;
    int32_t const count = candidates_of(task, image);
    clear(histogram);
    for (int32_t i = threadIdx.x; i < count; i += kThreads) {
        Key const key = keys[i];
        if (key > last && begins_with(key, prefix, pass)) {
            atomicAdd(&histogram[digit(key, pass)], 1U);
        }
    }
    __syncthreads();
}

// Block: the largest key of the next round.
__device__ inline Key end_of_round(Task const& task, int32_t image, SelectMemory& memory)
{
    Progress const& progress = task.progress[image];
    if (progress.candidates - progress.done <= task.round) {
        return kLastKey;
    }
    Search search{0, task.round};
    for (int32_t pass = 0; search.wanted > 0; ++pass) {
        count_digits(task, image, progress.last, search.prefix, pass, memory.histogram);
        search = narrowed(search, memory.histogram, pass, memory);
    }
    return search.prefix;
}

// Block: collects the keys after `last` up to `end`, in no order, and returns how many they are.
__device__ inline int32_t gather(Task const& task, int32_t image, Key last, Key end, SortMemory& memory)
{
    Key const* const keys = task.keys + static_cast<size_t>(image) * task.candidates;
    int32_t const count = candidates_of(task, image);
    int32_t& position = memory.select.position;
    if (threadIdx.x == 0) {
        position = 0;
    }
    __syncthreads();
    for (int32_t i = threadIdx.x; i < count; i += kThreads) {
        Key const key = keys[i];
        if (key > last && key <= end) {
            memory.keys[atomicAdd(&position, 1)] = key;
        }
    }
    __syncthreads();
    return position;
}

// Between two steps of the sort. A warp's 32 pairs lie in 64 keys of its own while the stride is at most 32.
__device__ inline void wait_for_keys(int32_t stride, int32_t next_stride)
{
    if (max(stride, next_stride) > kWarp) {
        __syncthreads();
    } else {
        __syncwarp();
    }
}

// Block: sorts the first `count` keys, and fills up to a power of two behind them.
__device__ inline void sort_keys(Key* keys, int32_t count)
{
    int32_t size = kWordBits;
    while (size < count) {
        size *= 2;
    }
    for (int32_t i = count + threadIdx.x; i < size; i += kThreads) {
        keys[i] = kLastKey;
    }
    __syncthreads();
    int32_t const pair = threadIdx.x;
    for (int32_t run = 2; run <= size; run *= 2) {  // bitonic: runs of twice the length, rising and falling by turns
        for (int32_t stride = run / 2; stride > 0; stride /= 2) {
            int32_t const low = 2 * pair - (pair & (stride - 1));
            int32_t const high = low + stride;
            bool const rising = (low & run) == 0;
            if (high < size && (keys[low] > keys[high]) == rising) {
                Key const key = keys[low];
                keys[low] = keys[high];
                keys[high] = key;
            }
            wait_for_keys(stride, stride > 1 ? stride / 2 : run);
        }
    }
    __syncthreads();
}

// Block: the round's candidates, from their sorted keys, to where `compare` reads them.
__device__ inline void store_round(Task const& task, int32_t image, Key const* keys, int32_t count)
{
    size_t const boxes = static_cast<size_t>(image) * task.boxes_per_image;
    size_t const round = static_cast<size_t>(image) * task.round;
    for (int32_t i = threadIdx.x; i < count; i += kThreads) {
        int32_t const index = index_of(keys[i]);
        task.round_indices[round + i] = index;
        task.round_boxes[round + i] = ordered_corners(task.boxes[boxes + index]);
        task.round_groups[round + i] = task.groups[boxes + index];
    }
    for (int32_t i = threadIdx.x; i < task.round / 32; i += kThreads) {
        task.suppressed[round / 32 + i] = 0;
    }
}

// Block: begins the image's next round, unless it is complete.
__device__ inline void begin_round(Task const& task, int32_t image, SortMemory& memory)
{
    if (is_complete(task, image)) {
        return;
    }
    Key const last = task.progress[image].last;
    Key const end = end_of_round(task, image, memory.select);
    int32_t const count = gather(task, image, last, end, memory);
    sort_keys(memory.keys, count);
    store_round(task, image, memory.keys, count);
    if (threadIdx.x == 0) {
        Progress& progress = task.progress[image];
        progress.last = memory.keys[count - 1];
        progress.done += count;
        progress.in_round = count;
    }
}

}  // namespace suppression
}  // namespace maskline

// Runs a CUDA kernel on the CPU: every CUDA thread of a block is a fiber, all on one thread of the operating system.
//
// Blocks run one after another and the threads of a block in turns, both in an order that the seed decides; a thread
// runs until it waits for others or ends. What depends on that order, on shared memory that nobody wrote or on a
// barrier that not all threads reach shows up as another result or as a fault, not on a GPU years later. Speed and
// faults of the memory model, such as between blocks that would run at the same time, it does not show.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "types.h"

namespace emulation {

using Where = std::source_location;

constexpr unsigned kWarp = 32;

// The kernel's call with its arguments, for whichever thread is current.
using Body = void (*)(void const* arguments);

// Runs the whole grid before it returns. Refuses what a GPU refuses: sizes of zero or beyond CUDA's limits, and more
// shared memory than the 48 KiB that every GPU gives without being asked. A fault inside the kernel is
// cudaErrorLaunchFailure.
cudaError_t run_grid(dim3 grid, dim3 block, size_t shared_bytes, Body body, void const* arguments);

template <typename Call>
cudaError_t launch(dim3 grid, dim3 block, size_t shared_bytes, Call const& call)
{
    return run_grid(
        grid, block, shared_bytes, [](void const* self) { (*static_cast<Call const*>(self))(); }, &call);
}

void wait_for_block(Where where);

// Waits for the lanes of `mask`, then has what each lane gave. Valid until the thread's next exchange.
uint64_t const* exchange(unsigned mask, uint64_t value, Where where);

int own_lane();

inline int first_lane(int width)
{
    return own_lane() & ~(width - 1);
}

template <typename T> T value_of_lane(unsigned mask, T value, int lane, Where where)
{
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
    uint64_t given = 0;
    std::memcpy(&given, &value, sizeof(T));
    uint64_t const* of_lane = exchange(mask, given, where);
    std::memcpy(&value, of_lane + lane, sizeof(T));
    return value;
}

}  // namespace emulation

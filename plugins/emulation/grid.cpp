#include "grid.h"

#include <algorithm>
#include <string>

#include "block.h"
#include "shuffle.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace maskline {

// The array behind `dynamic_shared` in plugins/common.cuh; what a launch does not ask for are canaries.
constexpr size_t kMostShared = 48 * 1024;
constexpr size_t kCanaries = 256;
alignas(16) __thread unsigned char shared_bytes[kMostShared + kCanaries];

}  // namespace maskline

namespace emulation {

namespace {

using maskline::shared_bytes;

constexpr unsigned kMostThreads = 1024;
constexpr size_t kMostBlocks = 0x7FFFFFFF;
constexpr unsigned kMostAlong = 65535;  // y and z
constexpr unsigned char kCanary = 0xC5;

std::string last_fault;

bool fits(dim3 grid, dim3 block_size)
{
    size_t const threads = size_t{block_size.x} * block_size.y * block_size.z;
    size_t const blocks = size_t{grid.x} * grid.y * grid.z;
    return threads > 0 && threads <= kMostThreads && block_size.z <= 64 && blocks > 0 && blocks <= kMostBlocks
        && grid.y <= kMostAlong && grid.z <= kMostAlong;
}

void poison_shared(size_t bytes)
{
    for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
        uint64_t const noise = random_bits();
        std::memcpy(shared_bytes + at, &noise, sizeof(noise));
    }
    std::memset(shared_bytes + bytes, kCanary, sizeof(shared_bytes) - bytes);
}

bool is_overrun(size_t bytes)
{
    return std::any_of(shared_bytes + bytes, shared_bytes + sizeof(shared_bytes),
        [](unsigned char byte) { return byte != kCanary; });
}

// What went wrong in the block, or nothing.
std::string run_block(size_t shared, Body body, void const* arguments)
{
    poison_shared(shared);
    dim3 const& size = blockDim;
    std::string const fault = block.run(size.x * size.y * size.z, body, arguments);
    if (fault.empty() && is_overrun(shared)) {
        return "wrote past the " + std::to_string(shared) + " bytes of shared memory asked for";
    }
    return fault;
}

void make_current(unsigned number)
{
    dim3 const& grid = gridDim;
    blockIdx = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
}

std::string run_blocks(size_t shared, Body body, void const* arguments)
{
    dim3 const& grid = gridDim;
    for (unsigned const number : shuffled(grid.x * grid.y * grid.z)) {
        make_current(number);
        std::string const fault = run_block(shared, body, arguments);
        if (!fault.empty()) {
            uint3 const& at = blockIdx;
            return "block (" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z)
                + "): " + fault;
        }
    }
    return "";
}

}  // namespace

cudaError_t run_grid(dim3 grid, dim3 block_size, size_t shared, Body body, void const* arguments)
{
    if (!fits(grid, block_size)) {
        return cudaErrorInvalidConfiguration;
    }
    if (shared > maskline::kMostShared) {
        return cudaErrorInvalidValue;
    }
    gridDim = grid;
    blockDim = block_size;
    last_fault = run_blocks(shared, body, arguments);
    return last_fault.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

}  // namespace emulation

extern "C" {

// Decides the orders of all launches that follow.
void maskline_emulation_seed(uint64_t seed)
{
    emulation::random_state = seed * 2 + 1;
}

// What went wrong inside the last kernel; empty when nothing did.
char const* maskline_emulation_fault()
{
    return emulation::last_fault.c_str();
}

}  // extern "C"

// The greedy choice within a round.
//
// A function whose comment says "block" is for all threads of a block of kThreads.
#pragma once

#include "nms/select.cuh"
#include "nms/task.h"

namespace maskline {
namespace suppression {

struct ResolveMemory {
    Word kept[kRound / kWordBits];
    uint32_t suppressed[2];  // of the word at hand, by earlier words; halves, as a warp votes them
};

// The candidates of `word` that overlap the round's candidate `column`; none for a column beyond the round.
__device__ inline Word overlaps_of(Task const& task, int32_t image, int32_t word, int32_t column)
{
    size_t const words = static_cast<size_t>(image) * (task.round / kWordBits);
    bool const exists = column < task.progress[image].in_round;
    return exists ? task.overlaps[(words + word) * task.round + column] : 0;
}

// Block: the candidates of `word` that kept ones of earlier words suppress, to memory.suppressed.
__device__ inline void vote_suppressed(Task const& task, int32_t image, int32_t word, ResolveMemory& memory)
{
    int32_t const lane = threadIdx.x % kWarp;
    for (int32_t item = threadIdx.x / kWarp; item < 2 * word; item += kWarps) {
        int32_t const half = item % 2;
        int32_t const earlier = item / 2;
        int32_t const column = word * kWordBits + half * kWarp + lane;
        bool const falls = (overlaps_of(task, image, earlier, column) & memory.kept[earlier]) != 0;
        uint32_t const votes = __ballot_sync(kAllLanes, falls);
        if (lane == 0 && votes != 0) {
            atomicOr(&memory.suppressed[half], votes);
        }
    }
}

// For a whole warp: those of the `free` candidates of a word that no kept one of the same word suppresses.
//
// It starts with all of them and takes away what the present ones suppress. Each turn settles at least one more for
// good, mostly many, so that it ends at the greedy answer after a few turns instead of 64 steps.
__device__ inline Word settle(Task const& task, int32_t image, int32_t word, Word free)
{
    int32_t const column = word * kWordBits + threadIdx.x % kWarp;
    Word const low = overlaps_of(task, image, word, column);
    Word const high = overlaps_of(task, image, word, column + kWarp);
    Word kept = free;
    for (;;) {
        Word const low_votes = __ballot_sync(kAllLanes, (low & kept) != 0);
        Word const high_votes = __ballot_sync(kAllLanes, (high & kept) != 0);
        Word const next = free & ~(low_votes | high_votes << kWarp);
        if (next == kept) {
            return kept;
        }
        kept = next;
    }
}

// The candidates of `word` that there are among `count` of a round.
__device__ inline Word existing(int32_t word, int32_t count)
{
    int32_t const bits = count - word * kWordBits;
    return bits >= kWordBits ? ~Word{0} : (Word{1} << bits) - 1;
}

// The lowest `most` bits of those that are set.
__device__ inline Word first_bits(Word bits, int32_t most)
{
    while (__popcll(bits) > most) {
        bits &= ~(Word{1} << (63 - __clzll(static_cast<long long>(bits))));
    }
    return bits;
}

// Block: appends the kept candidates of `word` to the image's rows, from row `first`.
__device__ inline void append(Task const& task, int32_t image, int32_t word, Word kept, int32_t first)
{
    int32_t const bit = threadIdx.x;
    if (bit >= kWordBits || (kept >> bit & 1U) == 0) {
        return;
    }
    int32_t const before = __popcll(kept & ((Word{1} << bit) - 1));
    size_t const row = static_cast<size_t>(image) * task.settings.max_output + first + before;
    size_t const candidate = static_cast<size_t>(image) * task.round + word * kWordBits + bit;
    task.kept[2 * row] = image;
    task.kept[2 * row + 1] = task.round_indices[candidate];
}

// Block: which of the round's candidates are kept, to memory.kept and the image's rows. Returns how many rows it has.
__device__ inline int32_t resolve_words(Task const& task, int32_t image, ResolveMemory& memory)
{
    Progress const progress = task.progress[image];
    uint32_t const* const suppressed = task.suppressed + static_cast<size_t>(image) * (task.round / kWarp);
    int32_t const words = words_of(progress.in_round);
    int32_t kept = progress.kept;
    for (int32_t word = 0; word < words && kept < task.settings.max_output; ++word) {
        if (threadIdx.x < 2) {
            memory.suppressed[threadIdx.x] = suppressed[2 * word + threadIdx.x];
        }
        __syncthreads();
        vote_suppressed(task, image, word, memory);
        __syncthreads();
        if (threadIdx.x < kWarp) {
            Word const fallen = memory.suppressed[0] | static_cast<Word>(memory.suppressed[1]) << kWarp;
            Word const free = existing(word, progress.in_round) & ~fallen;
            Word const settled = first_bits(settle(task, image, word, free), task.settings.max_output - kept);
            if (threadIdx.x == 0) {
                memory.kept[word] = settled;
            }
        }
        __syncthreads();
        append(task, image, word, memory.kept[word], kept);
        kept += __popcll(memory.kept[word]);
    }
    return kept;
}

// Block: ends the image's round, if it is in one.
__device__ inline void resolve(Task const& task, int32_t image, ResolveMemory& memory)
{
    int32_t const kept = resolve_words(task, image, memory);
    __syncthreads();
    if (threadIdx.x == 0) {
        task.progress[image].kept = kept;
        task.progress[image].in_round = 0;
    }
    __syncthreads();
}

}  // namespace suppression
}  // namespace maskline

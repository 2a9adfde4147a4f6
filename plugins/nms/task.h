// What the kernels of one suppression share: sizes, inputs and where things lie in the workspace.
#pragma once

#include <algorithm>

#include "nms/kernel.h"

namespace maskline {
namespace suppression {

constexpr int32_t kWordBits = 64;
constexpr int32_t kRound = 2048;    // candidates that a round compares with each other
constexpr int32_t kDigitBits = 11;
constexpr int32_t kBins = 1 << kDigitBits;
constexpr int32_t kPasses = 6;      // digits of a key

// A candidate's place in the order: rises as scores fall, equal scores by the lower index, which is the low half.
using Key = unsigned long long;
// 64 candidates, one a bit.
using Word = unsigned long long;

// How far an image has come; all zero at first.
struct Progress {
    Key last;            // of the candidates that have had their round
    int32_t candidates;  // in all
    int32_t done;        // candidates that have had their round or are in it
    int32_t in_round;
    int32_t kept;
};

// A search for the `wanted` lowest keys, one digit after another.
struct Search {
    Key prefix;      // the digits found, at the top; once found, all keys up to this one are wanted
    int32_t wanted;  // of the keys that begin with them; 0: found
};

struct Task {
    int32_t images;
    int32_t boxes_per_image;
    int32_t candidates;  // most that an image can have
    int32_t round;       // candidates of a round, a multiple of kWordBits
    bool limited;        // whether boxes may be more than candidates
    NmsSettings settings;

    float4 const* boxes;
    float const* scores;
    int64_t const* groups;
    int64_t* kept;

    // Workspace. Zero at first:
    Progress* progress;    // [images]
    uint32_t* histograms;  // [images, kPasses, kBins] when limited
    // Written before it is read:
    Search* searches;         // [images, kPasses] when limited
    Key* keys;                // [images, candidates], in no order
    float4* round_boxes;      // [images, round], in order, as are the next two
    int64_t* round_groups;
    int32_t* round_indices;
    uint32_t* suppressed;     // [images, round / 32] bits: by boxes kept in an earlier round
    Word* overlaps;           // [images, round / 64, round]: which of a word's candidates overlap a later one

    size_t zero_bytes;   // of the workspace, from its beginning
    size_t total_bytes;  // of the workspace
};

// Words that hold `count` bits.
__host__ __device__ inline int32_t words_of(int32_t count)
{
    return (count + kWordBits - 1) / kWordBits;
}

class Layout
{
public:
    explicit Layout(void* workspace) : begin_(reinterpret_cast<uintptr_t>(workspace)) {}

    template <typename T> T* place(size_t count)
    {
        constexpr size_t kAlignment = 16;
        uintptr_t const at = begin_ + bytes_;
        bytes_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
        return reinterpret_cast<T*>(at);
    }

    size_t bytes() const { return bytes_; }

private:
    uintptr_t begin_;
    size_t bytes_ = 0;
};

inline void lay_out(Task& task, void* workspace)
{
    size_t const images = task.images;
    size_t const in_round = images * task.round;
    size_t const searches = task.limited ? images * kPasses : 0;
    Layout layout(workspace);
    task.progress = layout.place<Progress>(images);
    task.histograms = layout.place<uint32_t>(searches * kBins);
    task.zero_bytes = layout.bytes();
    task.searches = layout.place<Search>(searches);
    task.keys = layout.place<Key>(images * task.candidates);
    task.round_boxes = layout.place<float4>(in_round);
    task.round_groups = layout.place<int64_t>(in_round);
    task.round_indices = layout.place<int32_t>(in_round);
    task.suppressed = layout.place<uint32_t>(in_round / 32);
    task.overlaps = layout.place<Word>(in_round * (task.round / kWordBits));
    task.total_bytes = layout.bytes();
}

// Lays the workspace out; without one, only to know its size.
inline Task make_task(int32_t images, int32_t boxes_per_image, NmsSettings const& settings, void* workspace)
{
    Task task{};
    task.images = images;
    task.boxes_per_image = boxes_per_image;
    task.settings = settings;
    int32_t const limit = settings.pre_nms_topk;
    task.limited = limit > 0 && limit < boxes_per_image;
    task.candidates = task.limited ? limit : boxes_per_image;
    task.round = words_of(std::min(task.candidates, kRound)) * kWordBits;
    lay_out(task, workspace);
    return task;
}

}  // namespace suppression
}  // namespace maskline

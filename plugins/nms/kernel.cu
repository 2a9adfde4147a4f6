// Greedy suppression in rounds of the next best candidates, so that neither memory nor work grows with the square of
// their number, and what comes after the last row wanted costs next to nothing.
//
// collect    many blocks: the candidates of all images, as keys; with a limit, a radix search finds it before
// advance    a block an image: resolves the round that was compared, then selects and sorts the next
// compare    many blocks: which candidates of the round overlap, and which fall to rows kept before
// finish     a block an image: resolves the last of these, goes on alone if there are still more, fills the rows up
//
// The host launches a fixed sequence, whatever the data are, and never waits: it can be captured in a graph.
#include "nms/kernel.h"

#include <algorithm>

#include "common.cuh"
#include "nms/compare.cuh"
#include "nms/resolve.cuh"
#include "nms/select.cuh"
#include "nms/sort.cuh"
#include "nms/task.h"

namespace maskline {

namespace suppression {

namespace {

constexpr int32_t kWideRounds = 3;     // rounds that many blocks compare: 6144 candidates; more are rarely looked at
constexpr int32_t kCompareThreads = 256;
constexpr int32_t kScoresPerThread = 4;
constexpr int32_t kScoresPerBlock = kScoresPerThread * kThreads;

union RoundMemory {
    SortMemory sort;
    ResolveMemory resolve;
};

// The key of a score that takes part, kLastKey for others.
__device__ Key key_at(Task const& task, int32_t image, int64_t index)
{
    if (index >= task.boxes_per_image) {
        return kLastKey;
    }
    float const score = task.scores[static_cast<size_t>(image) * task.boxes_per_image + index];
    return score > task.settings.score_threshold ? key_of(score, static_cast<int32_t>(index)) : kLastKey;
}

__device__ bool takes_part(Key key, Key end)
{
    return key != kLastKey && key <= end;
}

// Block: the search for the image's limit, as it stands before `pass`.
__device__ Search search_before(Task const& task, int32_t image, int32_t pass, SelectMemory& memory)
{
    if (pass == 0) {
        return {0, task.candidates};
    }
    size_t const previous = static_cast<size_t>(image) * kPasses + pass - 1;
    Search const search = task.searches[previous];
    return search.wanted == 0 ? search : narrowed(search, task.histograms + previous * kBins, pass - 1, memory);
}

// Counts a digit of the keys that the search for the limit has not yet told apart.
__global__ void __launch_bounds__(kThreads, 1) count_scores(__grid_constant__ Task const task, int32_t pass)
{
    SelectMemory& memory = *dynamic_shared<SelectMemory>();
    int32_t const image = blockIdx.y;
    size_t const slot = static_cast<size_t>(image) * kPasses + pass;
    Search const search = search_before(task, image, pass, memory);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        task.searches[slot] = search;
    }
    if (search.wanted == 0) {
        return;
    }
    clear(memory.histogram);
    for (int32_t i = 0; i < kScoresPerThread; ++i) {
        int64_t const index = static_cast<int64_t>(blockIdx.x) * kScoresPerBlock + i * kThreads + threadIdx.x;
        Key const key = key_at(task, image, index);
        if (key != kLastKey && begins_with(key, search.prefix, pass)) {
            atomicAdd(&memory.histogram[digit(key, pass)], 1U);
        }
    }
    __syncthreads();
    for (int32_t bin = threadIdx.x; bin < kBins; bin += kThreads) {
        if (memory.histogram[bin] != 0) {
            atomicAdd(&task.histograms[slot * kBins + bin], memory.histogram[bin]);
        }
    }
}

// Block: room for `total` more of the image's candidates; where it begins.
__device__ int32_t reserve(Task const& task, int32_t image, int32_t total, int32_t& position)
{
    if (threadIdx.x == 0) {
        position = atomicAdd(&task.progress[image].candidates, total);
    }
    __syncthreads();
    return position;
}

// Writes the keys of all scores that take part and are within the limit, in no order.
__global__ void __launch_bounds__(kThreads, 1) collect(__grid_constant__ Task const task)
{
    SelectMemory& memory = *dynamic_shared<SelectMemory>();
    int32_t const image = blockIdx.y;
    Key const end = task.limited ? search_before(task, image, kPasses, memory).prefix : kLastKey;
    Key keys[kScoresPerThread];
    int32_t count = 0;
#pragma unroll
    for (int32_t i = 0; i < kScoresPerThread; ++i) {
        int64_t const index = static_cast<int64_t>(blockIdx.x) * kScoresPerBlock + i * kThreads + threadIdx.x;
        keys[i] = key_at(task, image, index);
        count += takes_part(keys[i], end) ? 1 : 0;
    }
    Sum const sum = block_sum(count, memory.of_warps);
    int32_t position = reserve(task, image, sum.total, memory.position) + sum.before;
#pragma unroll
    for (int32_t i = 0; i < kScoresPerThread; ++i) {
        if (takes_part(keys[i], end)) {
            task.keys[static_cast<size_t>(image) * task.candidates + position++] = keys[i];
        }
    }
}

__global__ void __launch_bounds__(kThreads, 1) advance(__grid_constant__ Task const task)
{
    RoundMemory& memory = *dynamic_shared<RoundMemory>();
    int32_t const image = blockIdx.x;
    resolve(task, image, memory.resolve);
    begin_round(task, image, memory.sort);
}

__global__ void __launch_bounds__(kCompareThreads) compare_round(__grid_constant__ Task const task)
{
    int32_t const column = blockIdx.y * kCompareThreads + threadIdx.x;
    compare(task, blockIdx.z, blockIdx.x, column);
}

// Block: a round of one block alone.
__device__ void round_alone(Task const& task, int32_t image, RoundMemory& memory)
{
    begin_round(task, image, memory.sort);
    __syncthreads();
    int32_t const words = task.round / kWordBits + words_of(task.progress[image].kept);
    int32_t const columns = task.progress[image].in_round;
    for (int32_t word = 0; word < words; ++word) {
        for (int32_t column = threadIdx.x; column < columns; column += kThreads) {
            compare(task, image, word, column);
        }
    }
    __syncthreads();
    resolve(task, image, memory.resolve);
}

// Block: rows (image, -1) after the image's own.
__device__ void fill_rows(Task const& task, int32_t image)
{
    size_t const first = static_cast<size_t>(image) * task.settings.max_output;
    for (int64_t row = task.progress[image].kept + threadIdx.x; row < task.settings.max_output; row += kThreads) {
        task.kept[2 * (first + row)] = image;
        task.kept[2 * (first + row) + 1] = -1;
    }
}

__global__ void __launch_bounds__(kThreads, 1) finish(__grid_constant__ Task const task)
{
    RoundMemory& memory = *dynamic_shared<RoundMemory>();
    int32_t const image = blockIdx.x;
    resolve(task, image, memory.resolve);
    while (!is_complete(task, image)) {
        round_alone(task, image, memory);
    }
    fill_rows(task, image);
}

// Launches kernels one after another, until one is refused.
class Launcher
{
public:
    explicit Launcher(cudaStream_t stream) : stream_(stream) {}

    template <typename... Parameters, typename... Arguments>
    void launch(void (*kernel)(Parameters...), dim3 grid, int32_t threads, size_t shared_bytes, Arguments... arguments)
    {
        if (status_ != cudaSuccess) {
            return;
        }
        cudaLaunchConfig_t config{};
        config.gridDim = grid;
        config.blockDim = dim3(threads);
        config.dynamicSmemBytes = shared_bytes;
        config.stream = stream_;
        status_ = cudaLaunchKernelEx(&config, kernel, arguments...);
    }

    cudaError_t status() const { return status_; }

private:
    cudaStream_t stream_;
    cudaError_t status_ = cudaSuccess;
};

void launch_collect(Launcher& launcher, Task const& task)
{
    dim3 const grid((task.boxes_per_image - 1) / kScoresPerBlock + 1, task.images);
    for (int32_t pass = 0; task.limited && pass < kPasses; ++pass) {
        launcher.launch(count_scores, grid, kThreads, sizeof(SelectMemory), task, pass);
    }
    launcher.launch(collect, grid, kThreads, sizeof(SelectMemory), task);
}

void launch_round(Launcher& launcher, Task const& task, int32_t round)
{
    int32_t const kept = std::min(task.settings.max_output, round * task.round);  // at most, by now
    dim3 const grid(task.round / kWordBits + words_of(kept), (task.round - 1) / kCompareThreads + 1, task.images);
    launcher.launch(advance, dim3(task.images), kThreads, sizeof(RoundMemory), task);
    launcher.launch(compare_round, grid, kCompareThreads, 0, task);
}

cudaError_t launch_all(Task const& task, cudaStream_t stream)
{
    Launcher launcher(stream);
    if (task.candidates > 0) {
        launch_collect(launcher, task);
    }
    for (int32_t round = 0; round < kWideRounds && round * task.round < task.candidates; ++round) {
        launch_round(launcher, task, round);
    }
    launcher.launch(finish, dim3(task.images), kThreads, sizeof(RoundMemory), task);
    return launcher.status();
}

}  // namespace

}  // namespace suppression

size_t nms_workspace_bytes(int32_t images, int32_t boxes, NmsSettings const& settings)
{
    return suppression::make_task(images, boxes, settings, nullptr).total_bytes;
}

cudaError_t nms(int32_t images, int32_t boxes_per_image, NmsSettings const& settings, float const* boxes,
    float const* scores, int64_t const* groups, int64_t* kept, void* workspace, cudaStream_t stream)
{
    if (images == 0) {
        return cudaSuccess;
    }
    suppression::Task task = suppression::make_task(images, boxes_per_image, settings, workspace);
    task.boxes = reinterpret_cast<float4 const*>(boxes);
    task.scores = scores;
    task.groups = groups;
    task.kept = kept;
    cudaError_t const cleared = cudaMemsetAsync(workspace, 0, task.zero_bytes, stream);
    return cleared == cudaSuccess ? suppression::launch_all(task, stream) : cleared;
}

}  // namespace maskline

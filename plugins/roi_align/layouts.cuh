// How eight channels of a pixel are loaded, and of a bin stored. A layout also says which work item of a RoI, of the
// B = P * P bins by blocks of eight channels, each thread takes, so that neighbours load and store side by side.
#pragma once

#include <cstring>

#include <cuda_fp16.h>

#include "geometry.cuh"

namespace maskline::roi_align {

constexpr int kChannels = 8;  // of a work item: 16 bytes of float16

struct Item {
    int32_t bin;
    int32_t channel_block;
};

// float16 [N, H, W, C]: eight channels are one word. Those that pad C to a multiple of eight are treated as the others.
struct ChannelsLastHalf {
    using Word = uint4;

    static constexpr int kSamplesTogether = 2;     // whose loads go out before the first is waited for: 8 words
    static constexpr int kBlocksPerProcessor = 4;  // which leaves a thread 72 registers

    Word const* first;  // these channels of the image's first pixel

    __device__ ChannelsLastHalf(Task const& task, Roi const& roi, int32_t channel_block)
    {
        int64_t const pixels = int64_t{roi.x.pixels} * roi.y.pixels;
        first = static_cast<Word const*>(task.pyramid.features[roi.level])
            + roi.image * pixels * task.channel_blocks + channel_block;
    }

    static __device__ int32_t pixel_stride(Task const& task) { return task.channel_blocks; }

    static __device__ Item item(Task const& task, int32_t index, int32_t)
    {
        return {index / task.channel_blocks, index % task.channel_blocks};
    }

    __device__ Word load(int32_t offset) const { return __ldg(first + offset); }

    static __device__ void add(Word const& word, float weight, float (&sum)[kChannels])
    {
        __half2 pairs[kChannels / 2];
        memcpy(pairs, &word, sizeof(word));
#pragma unroll
        for (int i = 0; i < kChannels / 2; ++i) {
            float2 const pair = __half22float2(pairs[i]);
            sum[2 * i] = fmaf(weight, pair.x, sum[2 * i]);
            sum[2 * i + 1] = fmaf(weight, pair.y, sum[2 * i + 1]);
        }
    }

    static __device__ void store(
        Task const& task, int32_t row, Item item, int32_t bins, float const (&values)[kChannels])
    {
        __half2 pairs[kChannels / 2];
#pragma unroll
        for (int i = 0; i < kChannels / 2; ++i) {
            pairs[i] = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
        }
        Word word;
        memcpy(&word, pairs, sizeof(word));
        int64_t const pixel = int64_t{row} * bins + item.bin;
        static_cast<Word*>(task.output)[pixel * task.channel_blocks + item.channel_block] = word;
    }
};

// float32 [N, C, H, W]: eight channels are a value of each of eight planes, or of fewer at the end of C.
struct LinearFloat {
    struct Word {
        float values[kChannels];
    };

    static constexpr int kSamplesTogether = 1;
    static constexpr int kBlocksPerProcessor = 2;  // which leaves a thread 128 registers

    float const* first;  // the first of the planes
    int64_t plane;       // pixels
    int32_t planes;

    __device__ LinearFloat(Task const& task, Roi const& roi, int32_t channel_block)
        : plane(int64_t{roi.x.pixels} * roi.y.pixels), planes(task.pyramid.channels - channel_block * kChannels)
    {
        int64_t const channel = roi.image * task.pyramid.channels + channel_block * kChannels;
        first = static_cast<float const*>(task.pyramid.features[roi.level]) + channel * plane;
    }

    static __device__ int32_t pixel_stride(Task const&) { return 1; }

    static __device__ Item item(Task const&, int32_t index, int32_t bins) { return {index % bins, index / bins}; }

    __device__ Word load(int32_t offset) const
    {
        Word word;
        float const* value = first + offset;
#pragma unroll
        for (int i = 0; i < kChannels; ++i, value += plane) {
            word.values[i] = i < planes ? __ldg(value) : 0.0f;
        }
        return word;
    }

    static __device__ void add(Word const& word, float weight, float (&sum)[kChannels])
    {
#pragma unroll
        for (int i = 0; i < kChannels; ++i) {
            sum[i] = fmaf(weight, word.values[i], sum[i]);
        }
    }

    static __device__ void store(
        Task const& task, int32_t row, Item item, int32_t bins, float const (&values)[kChannels])
    {
        int32_t const channel = item.channel_block * kChannels;
        int64_t const plane = int64_t{row} * task.pyramid.channels + channel;
        float* value = static_cast<float*>(task.output) + plane * bins + item.bin;
#pragma unroll
        for (int i = 0; i < kChannels; ++i, value += bins) {
            if (channel + i < task.pyramid.channels) {
                *value = values[i];
            }
        }
    }
};

}  // namespace maskline::roi_align

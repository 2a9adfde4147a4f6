// Stands in for CUDA's header of this name: half precision stored as 16 bits, converted as IEEE 754 says, round to
// nearest even.
#pragma once

#include <bit>
#include <cstdint>

#include "cuda_runtime.h"

// The names are CUDA's.
struct __half { uint16_t bits; };
struct __align__(4) __half2 { __half x, y; };

inline float __half2float(__half value)
{
    constexpr float kRebias = 0x1p112F;  // a half's exponent bits, read as a float's, are 2^112 too small
    constexpr uint32_t kInfinity = 0x7F800000U;
    uint32_t const magnitude = (value.bits & 0x7FFFU) << 13;
    uint32_t const rebiased = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * kRebias);
    bool const finite = (value.bits & 0x7C00U) != 0x7C00U;
    uint32_t const sign = (value.bits & 0x8000U) << 16;
    return std::bit_cast<float>(sign | (finite ? rebiased : magnitude | kInfinity));
}

inline __half __float2half_rn(float value)
{
    constexpr float kOverflow = 65520.0F;     // from here the nearest half is infinity
    constexpr float kSmallestNormal = 0x1p-14F;
    constexpr uint32_t kRebias = 112U << 23;  // between the two exponents' biases
    uint32_t const bits = std::bit_cast<uint32_t>(value);
    uint16_t const sign = static_cast<uint16_t>(bits >> 16 & 0x8000U);
    uint32_t const magnitude = bits & 0x7FFFFFFFU;
    float const size = std::bit_cast<float>(magnitude);
    if (size != size) {
        return {static_cast<uint16_t>(sign | 0x7FFFU)};
    }
    if (size >= kOverflow) {
        return {static_cast<uint16_t>(sign | 0x7C00U)};
    }
    if (size < kSmallestNormal) {
        // In [0.5, 1) a float's last bit is worth 2^-24, which is a subnormal half's: the addition rounds.
        return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(size + 0.5F) - std::bit_cast<uint32_t>(0.5F)))};
    }
    uint32_t const even = magnitude >> 13 & 1U;
    return {static_cast<uint16_t>(sign | (magnitude - kRebias + 0xFFFU + even) >> 13)};
}

inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 value) { return {__half2float(value.x), __half2float(value.y)}; }

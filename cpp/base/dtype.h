// Element types of weights, activations and caches, and the bf16 conversion that all parts share.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/hd.h"

namespace specrt {

enum class DType : uint32_t { f32 = 0, bf16 = 1 };

constexpr bool is_valid(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }
constexpr size_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }
constexpr const char* name_of(DType dtype) { return dtype == DType::f32 ? "f32" : "bf16"; }

using bf16_bits = uint16_t;  // the upper half of an IEEE float32

SPECRT_HD inline float to_float(bf16_bits bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Round to nearest even; NaN stays NaN.
SPECRT_HD inline bf16_bits to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16_bits>((bits >> 16) | 0x40u);
  return static_cast<bf16_bits>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace specrt

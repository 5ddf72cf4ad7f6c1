// Weights in tiles, and what the contract of cuda/chains.h says of their products, by plain loops.
#pragma once

#include <random>

#include "step_rig.h"

namespace specrt::cuda {

inline constexpr bf16_bits kNaNBits = 0x7fc0;

inline std::vector<bf16_bits> random_bf16(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<bf16_bits> values(n);
  for (bf16_bits& v : values) v = to_bf16(normal(random));
  return values;
}

inline std::vector<float> random_f32(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

// A weight (m,k), row-major on the host and in tiles on the device.
struct Matrix {
  Matrix(Rig& rig, int32_t m_, int32_t k_, int32_t pair_stride_ = 8)
      : m(m_),
        k(k_),
        pair_stride(pair_stride_),
        values(random_bf16(static_cast<size_t>(m * k), static_cast<uint32_t>(m * 131 + k))),
        tiles(rig, packed()) {}

  // Written from the text of Layout::tiles16x32, one element after another.
  std::vector<bf16_bits> packed() const {
    const int32_t panels = (m + 15) / 16, blocks = (k + 31) / 32;
    std::vector<bf16_bits> out(static_cast<size_t>(panels) * blocks * 512, 0);
    for (int32_t output = 0; output < m; ++output) {
      const int32_t group = output / (2 * pair_stride), inside = output % (2 * pair_stride);
      const int32_t half = inside / pair_stride, place = inside % pair_stride;
      const int32_t panel = group * (pair_stride / 8) + place / 8;
      for (int32_t col = 0; col < k; ++col) {
        const int32_t lane = 4 * (place % 8) + col % 32 / 8;
        const int32_t at = ((panel * blocks + col / 32) * 2 + half) * 256 + lane * 8 + col % 8;
        out[static_cast<size_t>(at)] = values[static_cast<size_t>(output * k + col)];
      }
    }
    return out;
  }

  Weight weight() const {
    return {.data = reinterpret_cast<const std::byte*>(tiles.data()),
            .dtype = DType::bf16,
            .layout = Layout::tiles16x32,
            .rows = m,
            .cols = k,
            .pair_stride = pair_stride};
  }

  int32_t m, k, pair_stride;
  std::vector<bf16_bits> values;
  DeviceArray<bf16_bits> tiles;
};

// Column of its block of 32 that term `term` of mma `which` multiplies: lane t's words 2 which and
// 2 which + 1 are the terms 2 t.. and 2 t + 8.. .
inline int32_t column_of(int32_t which, int32_t term) {
  return term % 8 / 2 * 8 + 4 * which + term / 8 * 2 + term % 2;
}

// One chain: mma after mma, the emulator's default order inside.
inline float chain(const Matrix& w, const bf16_bits* x, int32_t output, int32_t begin,
                   int32_t end) {
  float sum = 0;
  for (int32_t at = 32 * begin; at < 32 * end; at += 32) {
    for (int32_t which = 0; which < 2; ++which) {
      for (int32_t term = 0; term < 16; ++term) {
        const int32_t col = at + column_of(which, term);
        if (col >= w.k) continue;
        const float a = to_float(w.values[static_cast<size_t>(output * w.k + col)]);
        sum += a * to_float(x[col]);
      }
    }
  }
  return sum;
}

inline float product(const Matrix& w, const bf16_bits* x, int32_t output) {
  const int32_t blocks = (w.k + 31) / 32;
  float c[8];
  for (int32_t i = 0; i < 8; ++i) c[i] = chain(w, x, output, i * blocks / 8, (i + 1) * blocks / 8);
  return ((c[0] + c[1]) + (c[2] + c[3])) + ((c[4] + c[5]) + (c[6] + c[7]));
}

}  // namespace specrt::cuda

// The numbers of attention: how the logical positions of a row are cut into splits and tiles, how a
// tile becomes a partial result (m, l, o), and how partial results are folded. A row is the left
// fold of its splits, a split the left fold of its tiles, both ascending from (-inf, 0, 0), and the
// result is o / l. Nothing else adds these numbers, so no schedule can change a bit.
#pragma once

#include <cstdint>
#include <limits>

#include "base/hd.h"
#include "cuda/ptx.h"

namespace specrt::cuda {

// ---- Splits at fixed positions -----------------------------------------------------------------

inline constexpr int32_t kTile = 64;  // logical positions of a tile; tiles are aligned at 0

// Splits are of 128 positions below 1024, 256 below 4096, 512 below 16384, and 1024 above: 8 + 12 +
// 24 + ... splits.

// The first position of a split; the end of the one before it.
SPECRT_HD inline int32_t split_begin(int32_t split) {
  if (split < 8) return split * 128;
  if (split < 20) return 1024 + (split - 8) * 256;
  if (split < 44) return 4096 + (split - 20) * 512;
  return 16384 + (split - 44) * 1024;
}

// The split that holds a position.
SPECRT_HD inline int32_t split_of(int32_t position) {
  if (position < 1024) return position / 128;
  if (position < 4096) return 8 + (position - 1024) / 256;
  if (position < 16384) return 20 + (position - 4096) / 512;
  return 44 + (position - 16384) / 1024;
}

// Splits that hold the positions [0, positions), of which there is at least one.
SPECRT_HD inline int32_t split_count(int32_t positions) { return split_of(positions - 1) + 1; }

// ---- A tile ------------------------------------------------------------------------------------
// Warp collectives on fragments of mma_m16n8k16: 16 pairs of a row and a head, 64 positions. Lane
// 4i + t holds pairs i and i + 8; its values [n][c] belong to pair i + 8 (c / 2), and to position
// (or component of o) 8n + 2t + c % 2.

inline constexpr float kLog2e = 1.44269504f;

inline constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Scores of the pairs with kTiles x 8 positions: one chain of mma over ascending components for
// each. load_queries(k, a) and load_keys(n, k, b) get components [32 k, 32 k + 32).
template <int kDim, int kTiles, typename LoadQueries, typename LoadKeys>
__device__ __forceinline__ void chain_scores(float (&s)[kTile / 8][4], LoadQueries&& load_queries,
                                             LoadKeys&& load_keys) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) s[n][c] = 0.0f;
  }
#pragma unroll
  for (int k = 0; k < kDim / 32; ++k) {
    uint32_t a[2][4];
    load_queries(k, a);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      uint32_t b[4];
      load_keys(n, k, b);
      mma_m16n8k16(s[n], a[0], {b[0], b[1]});
      mma_m16n8k16(s[n], a[1], {b[2], b[3]});
    }
  }
}

// A lane's sum (or maximum) to that of its pair.
template <typename Combine>
__device__ __forceinline__ float over_pair(float lane_value, Combine&& combine) {
  lane_value = combine(lane_value, shfl_xor(lane_value, 1));
  return combine(lane_value, shfl_xor(lane_value, 2));
}

// Scores in base 2, -inf where masked, become weights; m and l of the lane's two pairs.
__device__ __forceinline__ void soften(float (&s)[kTile / 8][4], float (&m)[2], float (&l)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = kMasked;
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
      most = fmaxf(most, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    }
    m[half] = over_pair(most, [](float a, float b) { return fmaxf(a, b); });
    const float shift = m[half] == kMasked ? 0.0f : m[half];
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int c = 2 * half; c < 2 * half + 2; ++c) {
        s[n][c] = ex2(__fsub_rn(s[n][c], shift));
        sum = __fadd_rn(sum, s[n][c]);
      }
    }
    l[half] = over_pair(sum, [](float a, float b) { return __fadd_rn(a, b); });
  }
}

// Weights rounded to bf16, as the A operand of four mma of 16 positions each.
__device__ __forceinline__ void pack_weights(const float (&s)[kTile / 8][4],
                                             uint32_t (&p)[kTile / 16][4]) {
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) {
    p[n / 2][n % 2 * 2] = pack_bf16x2(s[n][0], s[n][1]);
    p[n / 2][n % 2 * 2 + 1] = pack_bf16x2(s[n][2], s[n][3]);
  }
}

// 8 components of o: one chain of mma over ascending positions. load(j, b) gets the values of
// positions [32 j, 32 j + 32).
template <typename Load>
__device__ __forceinline__ void chain_values(float (&o)[4], const uint32_t (&p)[kTile / 16][4],
                                             Load&& load) {
#pragma unroll
  for (int j = 0; j < kTile / 32; ++j) {
    uint32_t b[4];
    load(j, b);
    mma_m16n8k16(o, p[2 * j], {b[0], b[1]});
    mma_m16n8k16(o, p[2 * j + 1], {b[2], b[3]});
  }
}

// ---- Folding -----------------------------------------------------------------------------------

// How (m, l, o) takes up (m', l', o'): both are scaled to the larger maximum. An operand with
// l' = 0 saw no position and changes nothing, not even the sign of a zero.
struct Fold {
  bool empty;
  float own;
  float other;
};

// Starts a fold: m becomes the maximum; then fold() every l and o.
__device__ __forceinline__ Fold begin_fold(float& m, float other_m, float other_l) {
  if (other_l == 0.0f) return {true, 1.0f, 0.0f};
  const float most = fmaxf(m, other_m);
  const Fold fold{false, ex2(__fsub_rn(m, most)), ex2(__fsub_rn(other_m, most))};
  m = most;
  return fold;
}

__device__ __forceinline__ void fold_into(float& x, float other, const Fold& fold) {
  if (!fold.empty) x = __fmaf_rn(x, fold.own, __fmul_rn(other, fold.other));
}

}  // namespace specrt::cuda

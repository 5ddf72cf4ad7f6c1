// The values of one row that a block chooses from, their order, and their weights.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cuda/block.cuh"
#include "cuda/ptx.h"

namespace specrt::cuda {

inline constexpr int32_t kIdBits = 22;
inline constexpr int32_t kMaxVocab = 1 << kIdBits;

// A value and its token as one number: the larger value is better, then the lower id. No two tokens
// have the same key.
__device__ __forceinline__ Word key_of(float value, int32_t id) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 equals 0
  const uint32_t order = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return Word{order} << kIdBits | static_cast<uint32_t>(kMaxVocab - 1 - id);
}
__device__ __forceinline__ int32_t id_of(Word key) {
  return kMaxVocab - 1 - static_cast<int32_t>(key & (kMaxVocab - 1));
}
__device__ __forceinline__ float value_of(Word key) {
  const auto order = static_cast<uint32_t>(key >> kIdBits);
  return __uint_as_float(order >> 31 != 0 ? order & 0x7fffffffu : ~order);
}

// logit / temperature of every token; 1 leaves a logit as it is. NaN counts as -infinity.
struct Values {
  const float* logits;  // (v), 16-byte aligned, readable up to a whole line
  int32_t vocab;
  float temperature;
  const int32_t* panels = nullptr;  // of 16 tokens, the only ones that are visited; null: all
  int32_t panel_count = 0;
};

// A logit at a temperature.
__device__ __forceinline__ float heated(float logit, float temperature) {
  const float x = logit / temperature;
  return x == x ? x : -std::numeric_limits<float>::infinity();
}

// visit(quad, value) for this thread's share of the row: tokens 4 quad .. 4 quad + 3, of which
// those below `vocab` exist.
template <typename Visit>
__device__ __forceinline__ void each_quad(const Values& values, Visit&& visit) {
  const bool all = values.panels == nullptr;
  const int32_t quads = all ? (values.vocab + 3) / 4 : 4 * values.panel_count;
  for (int32_t at = threadIdx.x; at < quads; at += blockDim.x) {
    const int32_t quad = all ? at : 4 * values.panels[at / 4] + at % 4;
    const uint4 words = ld_cg16(values.logits + 4 * quad);
    float value[4] = {__uint_as_float(words.x), __uint_as_float(words.y), __uint_as_float(words.z),
                      __uint_as_float(words.w)};
    for (float& x : value) x = heated(x, values.temperature);
    visit(quad, value);
  }
}

// visit(id, value) for the tokens of this thread that exist.
template <typename Visit>
__device__ __forceinline__ void each_token(const Values& values, Visit&& visit) {
  each_quad(values, [&](int32_t quad, const float(&value)[4]) {
    for (int32_t j = 0; j < 4; ++j) {
      if (4 * quad + j < values.vocab) visit(4 * quad + j, value[j]);
    }
  });
}

// The best key below `bound` among this thread's tokens; 0: none.
__device__ __forceinline__ Word best_below(const Values& values, Word bound) {
  Word best = 0;
  each_token(values, [&](int32_t id, float value) {
    const Word key = key_of(value, id);
    if (key < bound && key > best) best = key;
  });
  return best;
}

inline constexpr Word kNoBound = ~Word{0};

// exp(value - largest); also right for infinities of either sign.
__device__ __forceinline__ double weight(float value, float largest) {
  return value == largest ? 1.0 : std::exp(static_cast<double>(value) - largest);
}

// Weights as integers, so that their sums are exact and the same in every order. The largest weight
// is `unit`, as large as lets those of a whole vocabulary add up to less than 2^63.
struct Masses {
  float largest;
  double unit;

  __device__ Masses(float largest_, int32_t vocab)
      : largest(largest_),
        unit(static_cast<double>(Word{1} << (63 - std::bit_width(static_cast<uint32_t>(vocab))))) {}

  __device__ Word operator()(float value) const {
    return static_cast<Word>(weight(value, largest) * unit + 0.5);
  }
};

}  // namespace specrt::cuda

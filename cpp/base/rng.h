// Counter-based randomness: the same (seed, position, purpose, token) gives the same value on every
// backend, in any order, with no state. Only multiplications, additions and one division are used
// (no fused operations), so CPU and CUDA agree bit for bit.
// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10).
#pragma once

#include <bit>
#include <cstdint>

#include "base/hd.h"

namespace specrt {

enum class Purpose : uint32_t { token = 0, draft = 1, accept = 2, residual = 3 };

struct Bits4 {
  uint32_t word[4];
};

SPECRT_HD inline Bits4 philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Natural logarithm of a positive normal float: split off the exponent, then the odd series of
// log((1+s)/(1-s)) with a mantissa in [sqrt(1/2), sqrt(2)). Relative error below 3e-7.
SPECRT_HD inline float portable_log(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const int32_t shifted = static_cast<int32_t>(bits - 0x3f3504f3u);  // sqrt(1/2)
  const int32_t exponent = shifted >> 23;
  const float m = std::bit_cast<float>(bits - (static_cast<uint32_t>(exponent) << 23));
  const float s = (m - 1.0f) / (m + 1.0f);
  const float z = s * s;
  float p = 0.22222222f;  // 2/9
  p = p * z + 0.28571429f;
  p = p * z + 0.4f;
  p = p * z + 0.66666667f;
  p = p * z;
  const float log_m = 2.0f * s + s * p;
  return static_cast<float>(exponent) * 0.69314718f + log_m;
}

// Standard Gumbel value from 32 random bits: r = (bits + 1/2) / 2^32, -log(-log1p(-r)).
// This form keeps full resolution where the value is large and is never infinite in float32.
SPECRT_HD inline float gumbel_from_bits(uint32_t bits) {
  float r = static_cast<float>(bits >> 8) * 5.9604644775390625e-8f +
            (static_cast<float>(bits & 0xffu) + 0.5f) * 2.3283064365386963e-10f;
  r = r < 0.99999994f ? r : 0.99999994f;
  const float u = 1.0f - r;
  const float d = 1.0f - u;  // exact; equals r but for the rounding of u
  const float corrected = -portable_log(u) * (r / (d > 0.0f ? d : 1.0f));
  const float e = d > 0.0f ? corrected : r;
  return -portable_log(e);
}

// Gumbel noise of `token` for the choice of the token at `position`.
SPECRT_HD inline float token_gumbel(uint64_t seed, uint32_t position, Purpose purpose,
                                    uint32_t token, uint32_t anchor) {
  const Bits4 bits = philox(seed, position, static_cast<uint32_t>(purpose), token / 4, anchor);
  return gumbel_from_bits(bits.word[token % 4]);
}

}  // namespace specrt

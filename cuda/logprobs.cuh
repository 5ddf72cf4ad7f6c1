// Log-probabilities of one row by one block, as the model gave them.
#pragma once

#include "cuda/values.cuh"
#include "device/cells.h"

namespace specrt::cuda {

// out[0]: `token`; out[1 .. most]: the likeliest, by logprob, then by id. The sum is one of masses,
// so no order matters; it is within 2^-28 of the exact one for 2^17 tokens. As on the CPU, all are
// NaN where the largest logit is infinite.
__device__ __forceinline__ void log_probabilities(const float* logits, int32_t vocab, int32_t token,
                                                  int32_t most, TokenLogprob* out,
                                                  BlockShared& shared) {
  const Values values{logits, vocab, 1.0f};
  Word mine = best_below(values, kNoBound);
  Word best = block_max(mine, shared);
  const float largest = value_of(best);
  const Masses masses(largest, vocab);
  Word own = 0;
  each_token(values, [&](int32_t, float value) { own += masses(value); });
  const double sum = static_cast<double>(block_prefix(own, shared).total) / masses.unit;
  const double normaliser =
      std::isinf(largest) ? std::numeric_limits<double>::quiet_NaN() : largest + std::log(sum);
  const auto entry = [&](int32_t id, float value) {
    return TokenLogprob{id, static_cast<float>(value - normaliser)};
  };
  if (threadIdx.x == 0) {
    const float logit = __uint_as_float(ld_cg4(logits + token));
    out[0] = entry(token, logit == logit ? logit : -std::numeric_limits<float>::infinity());
  }
  for (int32_t i = 1; i <= most; ++i) {
    if (i > 1) best = block_max(mine, shared);
    if (threadIdx.x == 0) out[i] = entry(id_of(best), value_of(best));
    if (mine == best) mine = best_below(values, best);  // one thread
  }
}

}  // namespace specrt::cuda

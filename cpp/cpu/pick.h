// The choice of one token from one row of logits: filters, keyed Gumbel noise, argmax.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace specrt::cpu {

// argmax over the tokens that the filters keep of logit / temperature + G(seed, position, token);
// at temperature 0 the largest logit. Ties go to the lowest id; NaN counts as -infinity. Filters in
// order: top_k (ties: lower id), top_p (smallest prefix that reaches it), min_p (relative to the
// largest).
int32_t pick(const Kernels& kernels, const float* logits, int32_t vocab, const Cells& cells,
             int32_t position);

// Probabilities (v,) of the tokens at that temperature, which is positive, behind the same filters.
void probabilities(const float* logits, int32_t vocab, const Cells& cells, float* out);

}  // namespace specrt::cpu

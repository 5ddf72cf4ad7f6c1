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

// Candidates for the token at `position`, `count` of them, best first: what `pick` chooses, then
// others of the likeliest by logit, with the noise of their position; of a smaller vocabulary all,
// and the first again. `scratch` (v,) is
// written.
void pick_several(const Kernels& kernels, const float* logits, int32_t vocab, const Cells& cells,
                  int32_t position, int32_t count, float* scratch, int32_t* out);

// Probabilities (v,) of the tokens at that temperature, which is positive, behind the same filters.
void probabilities(const float* logits, int32_t vocab, const Cells& cells, float* out);

}  // namespace specrt::cpu

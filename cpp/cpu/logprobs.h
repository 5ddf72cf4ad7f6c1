// Log-probabilities of committed tokens and of the likeliest ones.
#pragma once

#include <cstdint>

#include "device/cells.h"

namespace specrt::cpu {

// out[0] = `token`, out[1 .. most] = the `most` likeliest tokens, by logprob, then by id.
// logits (v,); most < vocab. A function of the row alone.
void log_probabilities(const float* logits, int32_t vocab, int32_t token, int32_t most,
                       TokenLogprob* out);

}  // namespace specrt::cpu

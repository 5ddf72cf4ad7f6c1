// Logits of given tokens: for scoring text, and for comparing engines with a reference.
#pragma once

#include <span>
#include <vector>

#include "decode/lane.h"

namespace specrt {

// Logits (tokens, vocab) of the lane's first sequence, fed in steps of `rows` tokens, row i being
// the distribution of token i + 1. The values do not depend on `rows`. The sequence must not be
// generating. Throws an argument error for an unknown token, too many, or rows out of [1, 64].
std::vector<float> read_logits(Lane& lane, std::span<const int32_t> tokens, int32_t rows);

// The same of a drafter that reads features of `target`: the target is fed first. Mask tokens at
// the end stand for tokens to be drafted. Row i comes from pair i - 1; row 0 has none and is 0.
std::vector<float> read_pair_logits(Lane& target, Lane& drafter, std::span<const int32_t> tokens,
                                    int32_t rows);

// Logits (1 + streams, vocab) of a lane that drafts with streams: of the token behind `tokens`,
// then of each stream of the last one.
std::vector<float> read_stream_logits(Lane& lane, std::span<const int32_t> tokens);

}  // namespace specrt

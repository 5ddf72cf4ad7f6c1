// The draft-then-verify loop: draft, append, feed, judge, commit. With no drafter, or a draft
// length of 0, a round is one autoregressive step.
#pragma once

#include "decode/loop.h"

namespace specrt {

class Lockstep final : public Loop {
 public:
  using Loop::Loop;

  Bounds bounds(int32_t draft_tokens) const override;
  Event enqueue_round(int32_t draft_tokens, int32_t positions) override;
};

}  // namespace specrt

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
  Event enqueue_tree_round(const TreeShape& shape, int32_t positions) override;
  Event enqueue_streamed_round(const StreamingShape& shape, Pruning pruning,
                               int32_t positions) override;

 private:
  void upload(const StreamingShape& shape);

  Buffer shape_;   // the one that the recorded work reads, on the device
  Buffer staged_;  // the last ones that were uploaded, for the host to write
  StreamingShape uploaded_{};
  size_t uploads_ = 0;
};

}  // namespace specrt

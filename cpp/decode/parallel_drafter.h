// Drafts with a model that fills mask tokens: all tokens of a draft come from one step.
// ParallelSpec (arXiv 2410.05589), in the layout of PARD (arXiv 2504.18583).
#pragma once

#include "decode/lane_drafter.h"

namespace specrt {

class ParallelDrafter : public LaneDrafter {
 public:
  // The model of `lane` has a mask token; of its logits the first `vocab` are the target's tokens.
  ParallelDrafter(Lane& lane, int32_t vocab) : LaneDrafter(lane), vocab_(vocab) {}

  int32_t slack(int32_t capacity) const override;
  Branching branching() const override { return Branching::by_depth; }
  void enqueue_draft(const DraftRequest& request) override;

 private:
  void enqueue_picks(size_t s, int32_t first_row, const DraftRequest& request);

  int32_t vocab_;
};

}  // namespace specrt

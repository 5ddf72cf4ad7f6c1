// Drafts with a model that fills mask tokens: all tokens of a draft come from one step.
// ParallelSpec (arXiv 2410.05589), section 3; the same layout as PARD (arXiv 2504.18583).
#pragma once

#include "decode/drafter.h"
#include "decode/lane.h"

namespace specrt {

class ParallelDrafter : public Drafter {
 public:
  // The model of `lane` has a mask token; of its logits the first `vocab` are the target's tokens.
  ParallelDrafter(Lane& lane, int32_t vocab) : lane_(lane), vocab_(vocab) {}

  Stream& stream() const override { return lane_.stream(); }
  Backend& backend() const override { return lane_.backend(); }
  const StepClock* clock() const override { return lane_.clock(); }
  int32_t window() const override { return lane_.model().context(); }
  int32_t slack(int32_t capacity) const override;
  int32_t catch_up_rows() const override;
  void enqueue_catch_up(int32_t positions) override;
  void enqueue_draft(const DraftRequest& request) override;

 private:
  Lane& lane_;
  int32_t vocab_;
};

}  // namespace specrt

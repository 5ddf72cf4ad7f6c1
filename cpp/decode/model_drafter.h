// Drafts with a small autoregressive model: one step for each token (Leviathan et al. 2023), or for
// each depth of a tree.
#pragma once

#include "decode/lane_drafter.h"

namespace specrt {

class ModelDrafter : public LaneDrafter {
 public:
  using LaneDrafter::LaneDrafter;

  int32_t slack(int32_t capacity) const override;
  Branching branching() const override { return Branching::by_row; }
  void enqueue_draft(const DraftRequest& request) override;

 private:
  void enqueue_chain(const DraftRequest& request);
  void enqueue_tree(const DraftRequest& request);
  void enqueue_step(int32_t rows, int32_t positions, int32_t index);
  void enqueue_candidates(const DraftRequest& request, int32_t rows, int32_t depth);
};

}  // namespace specrt

// Drafts with a small autoregressive model: one step for each token (Leviathan et al. 2023).
#pragma once

#include "decode/lane_drafter.h"

namespace specrt {

class ModelDrafter : public LaneDrafter {
 public:
  using LaneDrafter::LaneDrafter;

  int32_t slack(int32_t capacity) const override;
  void enqueue_draft(const DraftRequest& request) override;

 private:
  void enqueue_step(int32_t rows, int32_t positions, int32_t index);
};

}  // namespace specrt

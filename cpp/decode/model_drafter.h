// Drafts with a small autoregressive model: one step for each token (Leviathan et al. 2023).
#pragma once

#include "decode/drafter.h"
#include "decode/lane.h"

namespace specrt {

class ModelDrafter final : public Drafter {
 public:
  explicit ModelDrafter(Lane& lane) : lane_(lane) {}

  Stream& stream() const override { return lane_.stream(); }
  Backend& backend() const override { return lane_.backend(); }
  const StepClock* clock() const override { return lane_.clock(); }
  int32_t window() const override { return lane_.model().context(); }
  int32_t slack(int32_t capacity) const override;
  int32_t catch_up_rows() const override;
  void enqueue_catch_up(int32_t positions) override;
  void enqueue_draft(const DraftRequest& request) override;

 private:
  void enqueue_step(int32_t rows, int32_t positions, int32_t index);

  Lane& lane_;
};

}  // namespace specrt

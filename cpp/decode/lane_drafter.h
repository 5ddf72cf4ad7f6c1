// What drafters with a model of their own share: a lane, whose cache they keep up to date.
#pragma once

#include "decode/drafter.h"
#include "decode/lane.h"

namespace specrt {

class LaneDrafter : public Drafter {
 public:
  explicit LaneDrafter(Lane& lane) : lane_(lane) {}

  Stream& stream() const override { return lane_.stream(); }
  Backend& backend() const override { return lane_.backend(); }
  const StepClock* clock() const override { return lane_.clock(); }
  int32_t window() const override { return lane_.model().context(); }
  int32_t token_shift() const override { return lane_.model().token_shift(); }
  int32_t catch_up_rows() const override { return lane_.most_rows(); }
  void enqueue_catch_up(int32_t positions) override { lane_.enqueue_catch_up(positions); }

 protected:
  // The first op of a draft: plans the lane's first step, which feeds at most `catch_up_rows`
  // tokens that the cache lacks.
  void begin_draft(const DraftRequest& request, int32_t catch_up_rows, Drafting drafting);

  // Tokens that a draft of `capacity` can find unfed: those that a round commits, and the one
  // behind them. Where features follow the target, also a tail: what was fed of it is not kept.
  int32_t unfed(int32_t capacity) const {
    return capacity + 2 + (token_shift() > 0 ? capacity : 0);
  }

  Lane& lane_;
};

}  // namespace specrt

#include "decode/pearl.h"

#include <algorithm>

namespace specrt {

// What survives a round is its draft; without pre-verify, behind a committed token. The first round
// of a sequence has that token alone, for which there is room, whatever the one before did last.
int32_t Pearl::most_tail() const {
  const int32_t unjudged = phases_ == Phases::post_verify_only ? 1 : 0;
  return std::max(1, last_draft_ + unjudged);
}

Loop::Bounds Pearl::bounds(int32_t draft_tokens) const {
  return {.commits = most_tail(), .reach = most_tail() - 1 + draft_tokens};
}

Event Pearl::enqueue_round(int32_t draft_tokens, int32_t positions) {
  if (draft_tokens > 0) launch_draft({.capacity = draft_tokens, .positions = positions});
  const Key step{Part::step, row_class(most_tail()), context_class(positions)};
  launch_target(step, [&] { enqueue_step(step.size, step.positions, TailSource::committed); });
  join_draft();
  launch_target({Part::judge, step.size}, [&] { enqueue_judges(step.size); });
  last_draft_ = draft_tokens;
  return target_.stream().record();
}

}  // namespace specrt

#include "decode/lockstep.h"

namespace specrt {
namespace {

constexpr int32_t kBonusRows = 1;  // behind the draft, for the token after a draft that holds

}  // namespace

Loop::Bounds Lockstep::bounds(int32_t draft_tokens) const {
  return {.commits = draft_tokens + kBonusRows, .reach = draft_tokens};
}

Event Lockstep::enqueue_round(int32_t draft_tokens, int32_t positions) {
  if (draft_tokens > 0) launch_draft(draft_tokens, kBonusRows, positions);
  join_draft();
  const Key key{Part::step_and_judge, row_class(draft_tokens + kBonusRows),
                context_class(positions)};
  launch_target(key, [&] {
    enqueue_step(key.size, key.positions, TailSource::appended);
    enqueue_judges(key.size);
  });
  return target_.stream().record();
}

}  // namespace specrt

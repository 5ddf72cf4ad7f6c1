// PEARL (arXiv 2408.11850): draft and verify at the same time. While the target feeds the tail, the
// drafter writes the next draft behind it; then one verdict judges the tail and the first token of
// that draft.
//
//   draft stream:   wait for the last commit | draft            |
//   target stream:                           | feed the tail    | wait for the draft | judge,
//   commit
//
// The paper's pre-verify is a tail of one token: the row that it feeds judges the first drafted
// token. Its post-verify is a longer tail: all that was drafted in the round before. If everything
// holds, the draft becomes the next tail, without a bonus token; if something is refused, the draft
// is dropped with it. A round without a draft gives the bonus token instead, so a draft length of 0
// is one autoregressive step.
//
// For studies, one phase alone. Without post-verify, a round that verifies a draft makes none, so
// it ends with the bonus token. Without pre-verify, a draft behind a single token joins the tail as
// it is: its round commits nothing, and its step of the target is wasted.
#pragma once

#include "decode/loop.h"

namespace specrt {

class Pearl final : public Loop {
 public:
  // The sequences begin with the same `phases`.
  Pearl(Lane& target, Drafter* drafter, Phases phases = Phases::both)
      : Loop(target, drafter), phases_(phases) {}

  Bounds bounds(int32_t draft_tokens) const override;
  Event enqueue_round(int32_t draft_tokens, int32_t positions) override;

 private:
  int32_t most_tail() const;

  Phases phases_;
  int32_t last_draft_ = 0;  // tokens that the round before drafted at most: the tail, if they held
};

}  // namespace specrt

// The draft-then-verify loop: draft, append, feed, judge, commit. With no drafter, or a draft
// length of 0, a round is one autoregressive step.
#pragma once

#include <map>
#include <memory>

#include "decode/drafter.h"
#include "decode/lane.h"

namespace specrt {

class Lockstep {
 public:
  // `drafter` may be null; it serves the same sequences as `target`.
  Lockstep(Lane& target, Drafter* drafter) : target_(target), drafter_(drafter) {}

  // Prompt tokens [begin, end) of sequence s for the target; with `last`, the round of the prompt:
  // its last row is judged with nothing drafted and committed like any round.
  void enqueue_prompt_chunk(size_t s, int32_t begin, int32_t end);
  void enqueue_prompt_verdict(size_t s, int32_t begin, int32_t end);

  // One step of the drafter over tokens that it has not fed (Drafter::enqueue_catch_up).
  void enqueue_catch_up();

  // One round of every sequence with at most `draft_tokens` drafted tokens. Recorded on first use.
  // The event covers the commit.
  Event enqueue_round(int32_t draft_tokens);

  // Recordings made so far: one for each draft length used.
  size_t recordings() const { return recorded_.size(); }

 private:
  struct Recorded {
    std::unique_ptr<RecordedWork> draft;  // null without a draft
    std::unique_ptr<RecordedWork> target;
  };

  const Recorded& recorded(int32_t draft_tokens);
  void enqueue_target(int32_t draft_tokens);
  void enqueue_judge(size_t s, int32_t first_row);

  void launch_draft(RecordedWork& work);

  Lane& target_;
  Drafter* drafter_;
  std::unique_ptr<RecordedWork> catch_up_;
  std::map<int32_t, Recorded> recorded_;
};

}  // namespace specrt

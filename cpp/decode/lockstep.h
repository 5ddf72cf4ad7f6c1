// The draft-then-verify loop: draft, append, feed, judge, commit. With no drafter, or a draft
// length of 0, a round is one autoregressive step.
#pragma once

#include <map>
#include <memory>
#include <utility>

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

  // One step of the drafter over tokens that it has not fed (Drafter::enqueue_catch_up), all of
  // them below `positions`.
  void enqueue_catch_up(int32_t positions);

  // One round of every sequence with at most `draft_tokens` drafted tokens, all of which lie below
  // `positions`. The event covers the commit. Recorded on first use: a draft for each length, a
  // target for each class of row counts, both for each class of contexts.
  Event enqueue_round(int32_t draft_tokens, int32_t positions);

  // Recordings made so far.
  size_t recordings() const;

 private:
  // Length of the draft, or rows of the target step, and the positions recorded for.
  using Key = std::pair<int32_t, int32_t>;
  using Recordings = std::map<Key, std::unique_ptr<RecordedWork>>;

  RecordedWork& recorded_target(int32_t draft_tokens, int32_t positions);
  RecordedWork& recorded_draft(int32_t draft_tokens, int32_t positions);
  RecordedWork& recorded_catch_up(int32_t positions);
  int32_t context_class(int32_t positions) const;
  void enqueue_target(int32_t rows, int32_t positions);
  void enqueue_judge(size_t s, int32_t first_row);
  void launch_draft(RecordedWork& work);

  Lane& target_;
  Drafter* drafter_;
  Recordings targets_;
  Recordings drafts_;  // length 0: catching up
};

}  // namespace specrt

#include "decode/lockstep.h"

#include "base/error.h"

namespace specrt {

void Lockstep::enqueue_prompt_chunk(size_t s, int32_t begin, int32_t end) {
  target_.enqueue_prompt_chunk(s, begin, end - begin, Head::none);
}

void Lockstep::enqueue_prompt_verdict(size_t s, int32_t begin, int32_t end) {
  target_.enqueue_prompt_chunk(s, begin, end - begin, Head::last);
  enqueue_judge(s, 0);
}

void Lockstep::enqueue_judge(size_t s, int32_t first_row) {
  target_.backend().judge(target_.stream(), {.sequence = target_.sequence(s).cells(),
                                             .span = target_.span(s),
                                             .logits = target_.model().logits(),
                                             .first_row = first_row,
                                             .vocab = target_.model().vocab()});
}

void Lockstep::enqueue_target(int32_t draft_tokens) {
  const int32_t rows = 1 + draft_tokens;
  for (size_t s = 0; s < target_.size(); ++s) {
    target_.backend().feed_tail(target_.stream(), {.sequence = target_.sequence(s).cells(),
                                                   .span = target_.span(s),
                                                   .source = TailSource::appended});
  }
  target_.enqueue_step(rows, Head::all);
  for (size_t s = 0; s < target_.size(); ++s) {
    enqueue_judge(s, static_cast<int32_t>(s) * rows);
  }
}

const Lockstep::Recorded& Lockstep::recorded(int32_t draft_tokens) {
  const auto found = recorded_.find(draft_tokens);
  if (found != recorded_.end()) return found->second;
  Recorded made;
  if (draft_tokens > 0) {
    made.draft = drafter_->backend().record(drafter_->stream(), [&] {
      drafter_->enqueue_draft({.capacity = draft_tokens, .bonus_rows = 1});
    });
  }
  made.target = target_.backend().record(target_.stream(), [&] { enqueue_target(draft_tokens); });
  return recorded_.emplace(draft_tokens, std::move(made)).first->second;
}

Event Lockstep::enqueue_round(int32_t draft_tokens) {
  SPECRT_CHECK(draft_tokens >= 0 && (draft_tokens == 0 || drafter_ != nullptr), "cannot draft ",
               draft_tokens, " tokens without a drafter");
  const Recorded& round = recorded(draft_tokens);
  if (round.draft) launch_draft(*round.draft);
  round.target->launch(target_.stream());
  return target_.stream().record();
}

void Lockstep::enqueue_catch_up() {
  SPECRT_CHECK(drafter_ != nullptr, "nothing can catch up without a drafter");
  if (!catch_up_) {
    catch_up_ =
        drafter_->backend().record(drafter_->stream(), [&] { drafter_->enqueue_catch_up(); });
  }
  launch_draft(*catch_up_);
}

// Between the target's rounds: after the last commit, before the next step.
void Lockstep::launch_draft(RecordedWork& work) {
  const bool joined = &drafter_->stream() != &target_.stream();
  if (joined) drafter_->stream().wait(target_.stream().record());
  work.launch(drafter_->stream());
  if (joined) target_.stream().wait(drafter_->stream().record());
}

}  // namespace specrt

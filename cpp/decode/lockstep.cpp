#include "decode/lockstep.h"

#include <algorithm>

#include "base/error.h"

namespace specrt {
namespace {

// Recorded steps have room for these many rows, times a power of two, and for caches of these many
// positions. Rows and positions that do not exist cost little, recordings take time and memory.
constexpr int32_t kFewestRows = 8;
constexpr int32_t kContextClasses[] = {2048, 8192, 32768, 131072};

}  // namespace

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
                                             .vocab = target_.model().vocab(),
                                             .scratch = target_.model().pick_scratch()});
}

void Lockstep::enqueue_target(int32_t rows, int32_t positions) {
  for (size_t s = 0; s < target_.size(); ++s) {
    target_.backend().feed_tail(target_.stream(), {.sequence = target_.sequence(s).cells(),
                                                   .span = target_.span(s),
                                                   .source = TailSource::appended});
  }
  target_.enqueue_step(rows, positions, Head::all);
  for (size_t s = 0; s < target_.size(); ++s) {
    enqueue_judge(s, static_cast<int32_t>(s) * rows);
  }
}

int32_t Lockstep::context_class(int32_t positions) const {
  const int32_t context = target_.model().context();
  for (const int32_t most : kContextClasses) {
    if (positions <= most) return std::min(most, context);
  }
  return context;
}

RecordedWork& Lockstep::recorded_target(int32_t draft_tokens, int32_t positions) {
  const int32_t most = kMaxStepRows / static_cast<int32_t>(target_.size());
  SPECRT_CHECK(draft_tokens < most, "a step of ", target_.size(), " sequences cannot verify ",
               draft_tokens, " drafted tokens of each");
  int32_t rows = kFewestRows;
  while (rows < 1 + draft_tokens) rows *= 2;
  const Key key{std::min(rows, most), context_class(positions)};
  std::unique_ptr<RecordedWork>& work = targets_[key];
  if (!work) {
    work =
        target_.backend().record(target_.stream(), [&] { enqueue_target(key.first, key.second); });
  }
  return *work;
}

RecordedWork& Lockstep::recorded_draft(int32_t draft_tokens, int32_t positions) {
  const Key key{draft_tokens, context_class(positions)};
  std::unique_ptr<RecordedWork>& work = drafts_[key];
  if (!work) {
    work = drafter_->backend().record(drafter_->stream(), [&] {
      drafter_->enqueue_draft({.capacity = draft_tokens, .bonus_rows = 1, .positions = key.second});
    });
  }
  return *work;
}

RecordedWork& Lockstep::recorded_catch_up(int32_t positions) {
  const Key key{0, context_class(positions)};
  std::unique_ptr<RecordedWork>& work = drafts_[key];
  if (!work) {
    work = drafter_->backend().record(drafter_->stream(),
                                      [&] { drafter_->enqueue_catch_up(key.second); });
  }
  return *work;
}

size_t Lockstep::recordings() const { return targets_.size() + drafts_.size(); }

Event Lockstep::enqueue_round(int32_t draft_tokens, int32_t positions) {
  SPECRT_CHECK(draft_tokens >= 0 && (draft_tokens == 0 || drafter_ != nullptr), "cannot draft ",
               draft_tokens, " tokens without a drafter");
  RecordedWork& target = recorded_target(draft_tokens, positions);
  if (draft_tokens > 0) launch_draft(recorded_draft(draft_tokens, positions));
  target.launch(target_.stream());
  return target_.stream().record();
}

void Lockstep::enqueue_catch_up(int32_t positions) {
  SPECRT_CHECK(drafter_ != nullptr, "nothing can catch up without a drafter");
  launch_draft(recorded_catch_up(positions));
}

// Between the target's rounds: after the last commit, before the next step.
void Lockstep::launch_draft(RecordedWork& work) {
  const bool joined = &drafter_->stream() != &target_.stream();
  if (joined) drafter_->stream().wait(target_.stream().record());
  work.launch(drafter_->stream());
  if (joined) target_.stream().wait(drafter_->stream().record());
}

}  // namespace specrt

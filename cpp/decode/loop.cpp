#include "decode/loop.h"

#include <algorithm>

#include "base/error.h"

namespace specrt {
namespace {

// Recorded steps have room for these many rows, times a power of two, and for caches of these many
// positions. Rows and positions that do not exist cost little, recordings take time and memory.
constexpr int32_t kFewestRows = 8;
constexpr int32_t kContextClasses[] = {2048, 8192, 32768, 131072};

}  // namespace

void Loop::enqueue_prompt_chunk(size_t s, int32_t begin, int32_t end) {
  target_.enqueue_prompt_chunk(s, begin, end - begin, Head::none);
}

void Loop::enqueue_prompt_verdict(size_t s, int32_t begin, int32_t end) {
  target_.enqueue_prompt_chunk(s, begin, end - begin, Head::last);
  join_draft();
  enqueue_judge(s, 0, nullptr);
  if (target_.streams() > 0) target_.enqueue_candidates(s, 0);
}

Event Loop::enqueue_tree_round(const TreeShape&, int32_t) {
  fail_argument("this loop or drafter has no trees of drafts");
}

Event Loop::enqueue_streamed_round(const StreamingShape&, Pruning, int32_t) {
  fail_argument("this loop does not draft with the target's streams");
}

void Loop::enqueue_judge(size_t s, int32_t first_row, const TreeShape* tree) {
  target_.backend().judge(target_.stream(), {.sequence = target_.sequence(s).cells(),
                                             .span = target_.span(s),
                                             .logits = target_.model().logits(),
                                             .first_row = first_row,
                                             .vocab = target_.model().vocab(),
                                             .scratch = target_.model().pick_scratch(),
                                             .tree = tree});
}

void Loop::enqueue_judges(int32_t rows, const TreeShape* tree) {
  for (size_t s = 0; s < target_.size(); ++s) {
    enqueue_judge(s, static_cast<int32_t>(s) * rows, tree);
  }
}

void Loop::enqueue_step(int32_t rows, int32_t positions, TailSource source) {
  for (size_t s = 0; s < target_.size(); ++s) {
    target_.backend().feed_tail(
        target_.stream(),
        {.sequence = target_.sequence(s).cells(), .span = target_.span(s), .source = source});
  }
  target_.enqueue_step(rows, positions, Head::all);
}

int32_t Loop::context_class(int32_t positions) const {
  const int32_t context = target_.model().context();
  for (const int32_t most : kContextClasses) {
    if (positions <= most) return std::min(most, context);
  }
  return context;
}

int32_t Loop::row_class(int32_t rows) const {
  const int32_t most = target_.most_rows();
  SPECRT_CHECK(rows <= most, "a step of ", target_.size(), " sequences cannot verify ", rows,
               " rows of each");
  int32_t size = kFewestRows;
  while (size < rows) size *= 2;
  return std::min(size, most);
}

RecordedWork& Loop::recorded(const Key& key, Backend& backend, Stream& stream,
                             const std::function<void()>& enqueue) {
  std::unique_ptr<RecordedWork>& work = recordings_[key];
  if (!work) work = backend.record(stream, enqueue);
  return *work;
}

void Loop::launch_target(const Key& key, const std::function<void()>& enqueue) {
  recorded(key, target_.backend(), target_.stream(), enqueue).launch(target_.stream());
}

void Loop::launch_on_draft_stream(const Key& key, const std::function<void()>& enqueue) {
  SPECRT_CHECK(drafter_ != nullptr, "nothing drafts or catches up without a drafter");
  Stream& stream = drafter_->stream();
  RecordedWork& work = recorded(key, drafter_->backend(), stream, enqueue);
  if (&stream != &target_.stream()) {
    stream.wait(target_.stream().record());
    draft_is_ahead_ = true;
  }
  work.launch(stream);
}

void Loop::launch_draft(const DraftRequest& request) {
  DraftRequest recorded = request;
  recorded.positions = context_class(request.positions);
  const Part part = request.tree == nullptr ? Part::draft : Part::draft_tree;
  launch_on_draft_stream({part, request.capacity, recorded.positions, request.tree_rows},
                         [&] { drafter_->enqueue_draft(recorded); });
}

void Loop::enqueue_catch_up(int32_t positions) {
  const Key key{Part::catch_up, 0, context_class(positions)};
  launch_on_draft_stream(key, [&] { drafter_->enqueue_catch_up(key.positions); });
}

void Loop::join_draft() {
  if (!draft_is_ahead_) return;
  target_.stream().wait(drafter_->stream().record());
  draft_is_ahead_ = false;
}

}  // namespace specrt

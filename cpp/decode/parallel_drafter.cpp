#include "decode/parallel_drafter.h"

#include <algorithm>

#include "base/error.h"

namespace specrt {
namespace {

// Tokens that the step can feed before its masks, at least. Rows that do not exist cost nothing.
constexpr int32_t kFewestFed = 8;

}  // namespace

// A round commits up to capacity + 1 tokens, all of which are fed as what they are, because the
// masks that stood for them leave nothing behind.
int32_t ParallelDrafter::slack(int32_t capacity) const {
  const int32_t room = catch_up_rows() - (capacity - 1);
  const int32_t fed = std::min(std::max(kFewestFed, unfed(capacity)), room);
  SPECRT_CHECK(fed >= capacity + 1, "a step of ", catch_up_rows(), " rows cannot draft ", capacity,
               " tokens at once; at most ", catch_up_rows() / 2, " are possible");
  return fed;
}

void ParallelDrafter::enqueue_draft(const DraftRequest& request) {
  const int32_t fed = slack(request.capacity);
  begin_draft(request, fed, Drafting::at_once);
  const int32_t rows = fed + request.capacity - 1;
  lane_.enqueue_step(rows, request.positions, Head::drafts);
  for (size_t s = 0; s < lane_.size(); ++s) {
    enqueue_picks(s, static_cast<int32_t>(s) * rows, request);
  }
}

void ParallelDrafter::enqueue_picks(size_t s, int32_t first_row, const DraftRequest& request) {
  RowsView logits = lane_.model().logits();
  logits.cols = vocab_;
  PickScratch scratch = lane_.model().pick_scratch();
  if (vocab_ != lane_.model().vocab()) scratch.best = nullptr;  // the mask may be the best
  if (request.tree != nullptr) {
    backend().pick_candidates(stream(), {.sequence = lane_.sequence(s).cells(),
                                         .span = lane_.span(s),
                                         .logits = logits,
                                         .first_row = first_row,
                                         .vocab = vocab_,
                                         .lists = request.capacity,
                                         .scratch = scratch});
    return;
  }
  for (int32_t index = 0; index < request.capacity; ++index) {
    backend().pick_draft(stream(), {.sequence = lane_.sequence(s).cells(),
                                    .span = lane_.span(s),
                                    .logits = logits,
                                    .first_row = first_row,
                                    .vocab = vocab_,
                                    .index = index,
                                    .drafting = Drafting::at_once,
                                    .scratch = scratch});
  }
}

}  // namespace specrt

#include "decode/model_drafter.h"

#include <algorithm>

namespace specrt {
namespace {

// Rows of the first draft step at least. The rows that do not exist cost nothing.
constexpr int32_t kFewestRows = 8;

}  // namespace

// One round commits up to capacity + 1 tokens; where something else drafted them before this model,
// it has fed none of them yet.
int32_t ModelDrafter::slack(int32_t capacity) const {
  return std::min(std::max(kFewestRows, capacity + 2), catch_up_rows());
}

void ModelDrafter::enqueue_draft(const DraftRequest& request) {
  const int32_t rows = slack(request.capacity);
  begin_draft(request, rows, Drafting::one_by_one);
  enqueue_step(rows, request.positions, 0);
  for (int32_t index = 1; index < request.capacity; ++index) {
    enqueue_step(1, request.positions, index);
  }
}

void ModelDrafter::enqueue_step(int32_t rows, int32_t positions, int32_t index) {
  lane_.enqueue_step(rows, positions, Head::last);
  for (size_t s = 0; s < lane_.size(); ++s) {
    backend().pick_draft(stream(), {.sequence = lane_.sequence(s).cells(),
                                    .span = lane_.span(s),
                                    .logits = lane_.model().logits(),
                                    .first_row = static_cast<int32_t>(s) * rows,
                                    .vocab = lane_.model().vocab(),
                                    .index = index,
                                    .token_shift = token_shift(),
                                    .scratch = lane_.model().pick_scratch()});
  }
}

}  // namespace specrt

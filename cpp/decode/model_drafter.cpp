#include "decode/model_drafter.h"

namespace specrt {
namespace {

// Rows of the first draft step: two after a fully accepted draft, more where rounds without a draft
// left the drafter behind. The rows that do not exist cost nothing.
constexpr int32_t kCatchUpRows = 8;

}  // namespace

void ModelDrafter::enqueue_prompt_chunk(size_t s, int32_t begin, int32_t count) {
  lane_.enqueue_prompt_chunk(s, begin, count, Head::none);
}

void ModelDrafter::enqueue_draft(const DraftRequest& request) {
  for (size_t s = 0; s < lane_.size(); ++s) {
    backend().begin_draft(stream(), {.sequence = lane_.sequence(s).cells(),
                                     .span = lane_.span(s),
                                     .plan = {.capacity = request.capacity,
                                              .bonus_rows = request.bonus_rows,
                                              .window = window(),
                                              .catch_up_rows = kCatchUpRows,
                                              .order = request.order}});
  }
  enqueue_step(kCatchUpRows, 0);
  for (int32_t index = 1; index < request.capacity; ++index) enqueue_step(1, index);
}

void ModelDrafter::enqueue_step(int32_t rows, int32_t index) {
  lane_.enqueue_step(rows, Head::last);
  for (size_t s = 0; s < lane_.size(); ++s) {
    backend().pick_draft(stream(), {.sequence = lane_.sequence(s).cells(),
                                    .span = lane_.span(s),
                                    .logits = lane_.model().logits(),
                                    .first_row = static_cast<int32_t>(s) * rows,
                                    .vocab = lane_.model().vocab(),
                                    .index = index});
  }
}

}  // namespace specrt

#include "decode/model_drafter.h"

#include <algorithm>

namespace specrt {
namespace {

// Rows of the first draft step at least. The rows that do not exist cost nothing.
constexpr int32_t kFewestRows = 8;

}  // namespace

// Where something else drafted the tokens that a round commits, this model has fed none of them.
int32_t ModelDrafter::slack(int32_t capacity) const {
  return std::min(std::max(kFewestRows, unfed(capacity)), catch_up_rows());
}

void ModelDrafter::enqueue_draft(const DraftRequest& request) {
  if (request.tree == nullptr) {
    enqueue_chain(request);
  } else {
    enqueue_tree(request);
  }
}

void ModelDrafter::enqueue_chain(const DraftRequest& request) {
  const int32_t rows = slack(request.capacity);
  begin_draft(request, rows, Drafting::one_by_one);
  enqueue_step(rows, request.positions, 0);
  for (int32_t index = 1; index < request.capacity; ++index) {
    enqueue_step(1, request.positions, index);
  }
}

// The first step feeds what the cache lacks, with the row of the committed token last; the others
// feed the rows behind it, whose keys and values lie behind its own as those of the target's tree.
// Leaves are not fed.
void ModelDrafter::enqueue_tree(const DraftRequest& request) {
  const int32_t rows = slack(request.capacity);
  begin_draft(request, rows, Drafting::by_depth);
  lane_.enqueue_step(rows, request.positions, Head::last);
  enqueue_candidates(request, rows, 0);
  for (int32_t depth = 1; depth < request.capacity; ++depth) {
    lane_.enqueue_depth_step(request.tree_rows, request.positions, request.tree, depth);
    enqueue_candidates(request, request.tree_rows, depth);
  }
}

void ModelDrafter::enqueue_candidates(const DraftRequest& request, int32_t rows, int32_t depth) {
  for (size_t s = 0; s < lane_.size(); ++s) {
    backend().pick_candidates(stream(), {.sequence = lane_.sequence(s).cells(),
                                         .span = lane_.span(s),
                                         .logits = lane_.model().logits(),
                                         .first_row = static_cast<int32_t>(s) * rows,
                                         .vocab = lane_.model().vocab(),
                                         .lists = depth == 0 ? 1 : rows,
                                         .scratch = lane_.model().pick_scratch(),
                                         .tree = request.tree,
                                         .depth = depth,
                                         .token_shift = token_shift()});
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

#include "decode/lockstep.h"

#include <cstring>

#include "base/error.h"
#include "decode/state_memory.h"

namespace specrt {
namespace {

constexpr int32_t kBonusRows = 1;  // behind the draft, for the token after a draft that holds

}  // namespace

Loop::Bounds Lockstep::bounds(int32_t draft_tokens) const {
  return {.commits = draft_tokens + kBonusRows, .reach = draft_tokens};
}

Event Lockstep::enqueue_round(int32_t draft_tokens, int32_t positions) {
  if (draft_tokens > 0) {
    launch_draft({.capacity = draft_tokens, .bonus_rows = kBonusRows, .positions = positions});
  }
  join_draft();
  const Key key{Part::step_and_judge, row_class(draft_tokens + kBonusRows),
                context_class(positions)};
  launch_target(key, [&] {
    enqueue_step(key.size, key.positions, TailSource::appended);
    enqueue_judges(key.size);
  });
  return target_.stream().record();
}

// Each upload has a place of its own in host memory until the round that reads it is behind the
// verdicts that were read, which the rounds in flight bound.
void Lockstep::upload(const StreamingShape& shape) {
  constexpr size_t kPlaces = kMaxRunAhead + 2;
  Backend& backend = target_.backend();
  if (shape_.data() == nullptr) {
    const bool alone = drafter_ == nullptr || &drafter_->backend() == &backend;
    const size_t bytes = sizeof(StreamingShape);
    shape_ = alloc_state(backend, bytes, alone ? StateMemory::device : StateMemory::shared);
    staged_ = alloc_state(backend, sizeof(StreamingShape) * kPlaces, StateMemory::shared);
  }
  if (uploads_ > 0 && std::memcmp(&uploaded_, &shape, sizeof(shape)) == 0) return;
  uploaded_ = shape;
  StreamingShape* place = staged_.as<StreamingShape>() + uploads_++ % kPlaces;
  *place = shape;
  backend.copy_to_device(target_.stream(), {.device = shape_.data(),
                                            .host = reinterpret_cast<const std::byte*>(place),
                                            .bytes = sizeof(StreamingShape)});
}

Event Lockstep::enqueue_tree_round(const TreeShape& shape, int32_t positions) {
  const Branching branching = drafter_ == nullptr ? Branching::none : drafter_->branching();
  SPECRT_CHECK(branching != Branching::none && shape.rows >= 2, "a tree of ", shape.rows,
               " rows without a drafter that branches");
  StreamingShape round{.tree = shape};
  round.tree.branching = branching;
  upload(round);
  const TreeShape* uploaded = &shape_.as<StreamingShape>()->tree;
  const int32_t depth = shape.depth[shape.rows - 1];
  launch_draft({.capacity = depth,
                .bonus_rows = kBonusRows,
                .positions = positions,
                .tree = uploaded,
                .tree_rows = branching == Branching::by_row ? row_class(shape.begin[depth]) : 0});
  join_draft();
  const Key key{Part::tree, row_class(shape.rows), context_class(positions)};
  launch_target(key, [&] {
    target_.enqueue_tree_step(key.size, key.positions, uploaded);
    enqueue_judges(key.size, uploaded);
    target_.enqueue_move();
  });
  return target_.stream().record();
}

Event Lockstep::enqueue_streamed_round(const StreamingShape& shape, Pruning pruning,
                                       int32_t positions) {
  const int32_t kept = pruning == Pruning::off ? shape.tree.rows : shape.kept;
  SPECRT_CHECK(shape.streams <= target_.streams() && kept >= 1 && kept <= shape.kept, "a tree of ",
               shape.tree.rows, " rows, of which ", shape.kept, " are kept, with ", shape.streams,
               " streams where the target has ", target_.streams());
  upload(shape);
  const Key key{pruning == Pruning::off ? Part::streamed : Part::streamed_pruned,
                row_class(shape.tree.rows), context_class(positions),
                row_class(kept * (1 + shape.streams))};
  launch_target(key, [&] {
    target_.enqueue_streamed_step({.shape = shape_.as<StreamingShape>(),
                                   .capacity = key.size,
                                   .stream_capacity = key.more_rows,
                                   .pruning = pruning},
                                  key.positions);
    for (size_t s = 0; s < target_.size(); ++s) {
      enqueue_judge(s, static_cast<int32_t>(s) * key.more_rows, target_.kept_shape(s));
    }
    target_.enqueue_move();
    for (size_t s = 0; s < target_.size(); ++s) {
      target_.enqueue_candidates(s, static_cast<int32_t>(s) * key.more_rows);
    }
  });
  return target_.stream().record();
}

}  // namespace specrt

#include "decode/lockstep.h"

#include <cstring>

#include "base/error.h"

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
void Lockstep::upload(const TreeShape& shape) {
  constexpr size_t kPlaces = kMaxRunAhead + 2;
  Backend& backend = target_.backend();
  if (shape_.data() == nullptr) {
    shape_ = backend.alloc(sizeof(TreeShape));
    staged_ = backend.alloc_shared(sizeof(TreeShape) * kPlaces);
  }
  if (uploads_ > 0 && std::memcmp(&uploaded_, &shape, sizeof(shape)) == 0) return;
  uploaded_ = shape;
  TreeShape* place = staged_.as<TreeShape>() + uploads_++ % kPlaces;
  *place = shape;
  backend.copy_to_device(target_.stream(), {.device = shape_.data(),
                                            .host = reinterpret_cast<const std::byte*>(place),
                                            .bytes = sizeof(TreeShape)});
}

Event Lockstep::enqueue_tree_round(const TreeShape& shape, int32_t positions) {
  SPECRT_CHECK(drafter_ != nullptr && drafter_->can_branch() && shape.rows >= 2, "a tree of ",
               shape.rows, " rows without a drafter that branches");
  launch_draft({.capacity = shape.depth[shape.rows - 1],
                .bonus_rows = kBonusRows,
                .positions = positions,
                .branching = Branching::tree});
  join_draft();
  upload(shape);
  const Key key{Part::tree, row_class(shape.rows), context_class(positions)};
  launch_target(key, [&] {
    const TreeShape* uploaded = shape_.as<TreeShape>();
    target_.enqueue_tree_step(key.size, key.positions, uploaded);
    enqueue_judges(key.size, uploaded);
    target_.enqueue_move();
  });
  return target_.stream().record();
}

}  // namespace specrt

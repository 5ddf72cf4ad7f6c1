// Where pick_candidates finds its rows; the same for all backends.
#pragma once

#include "device/ops.h"

namespace specrt {

// The lists of candidates that an op makes. List `first + i` comes from row `row + i` of the step
// and is for position `position + i * stride`.
struct CandidateLists {
  int32_t count = 0;
  int32_t first = 0;
  int32_t row = 0;
  int32_t position = 0;
  int32_t stride = 1;
};

SPECRT_HD inline CandidateLists candidate_lists(const PickCandidatesArgs& args) {
  const Cells& s = *args.sequence.cells;
  CandidateLists lists;
  if (args.streams != nullptr) {
    lists.count = min_i32(args.lists, streamed_levels(s, *args.streams));
    if (lists.count == 0) return lists;
    lists.row = candidate_row(*args.sequence.tree, *args.streams, 0);
    lists.position = s.committed;
    return lists;
  }
  lists.position = draft_position(s, args.depth);
  if (args.tree == nullptr) {
    lists.count = min_i32(args.lists, s.snap_count);
    lists.row = draft_row(s, *args.span, 0, Drafting::at_once);
    return lists;
  }
  lists.count = drafts(s, args.depth) ? args.tree->parents[args.depth] : 0;
  lists.first = args.tree->begin[args.depth];
  lists.row = args.depth == 0 ? args.span->rows - 1 : lists.first;
  lists.stride = 0;
  return lists;
}

}  // namespace specrt

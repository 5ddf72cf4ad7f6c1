// A tree of drafted tokens, verified in one step: several candidates for a position, each of which
// may have several behind it. Where the drafter's scores at a depth do not depend on the token
// before, the tree is a set of paths of ranks (Medusa, arXiv 2401.10774): a node carries the
// rank-th best candidate of its depth. The committed token that is not yet fed is row 0.
#pragma once

#include "device/rules.h"

namespace specrt {

// Rows of a tree, those of a depth together, so that a tree that is cut at a depth is its first
// rows. Device memory that the host writes between rounds; its tokens follow from candidates.
struct TreeShape {
  int32_t rows = 1;
  int32_t parent[kMaxStepRows] = {};  // row; of row 0 itself
  int32_t depth[kMaxStepRows] = {};   // tokens behind row 0
  int32_t rank[kMaxStepRows] = {};    // among the candidates of its depth, from 0
  uint64_t sees[kMaxStepRows] = {1};  // the path to the row, as in Segment
};

// A sequence's tree of this round, in device memory.
struct TreeCells {
  Cell<int32_t> candidate[kMaxTreeDepth][kTreeWidth];  // best first, for depth 1 + index
  Cell<int32_t> levels;                                // depths that have candidates
  Cell<int32_t> token[kMaxStepRows];                   // of each row
  Cell<int32_t> path[kMaxStepRows];  // rows whose tokens are committed, row 0 first; by walk_tree
  Cell<int32_t> path_length;
};

// Puts the candidates of a depth into the tree. Those of other depths may be chosen at the same
// time, so none reads tokens from E on. The best of a drafter's also go to where masks stood among
// the tokens.
SPECRT_HD inline void keep_candidates(TreeCells& tree, int32_t depth,
                                      const int32_t (&best)[kTreeWidth]) {
  for (int32_t rank = 0; rank < kTreeWidth; ++rank) tree.candidate[depth][rank] = best[rank];
}

// Whose the candidates of a tree are.
enum class Candidates : int32_t {
  drafted,   // a drafter's, of this round
  streamed,  // those of the target's streams, made by the round before (device/streaming.h)
};

// Gives the rows of the tree their tokens and plans the target's step. Takes the place of
// append_draft and feed_tail, in a round that begins with a tail of one token.
SPECRT_HD inline void grow_tree(Cells& s, const Cell<int32_t>* tok, TreeCells& tree,
                                const TreeShape& shape, StepSpan& span, Candidates candidates) {
  span.base = s.committed - 1;
  span.rows = 0;
  if (!running(s)) return;
  const int32_t levels = candidates == Candidates::streamed ? static_cast<int32_t>(tree.levels)
                                                            : min_i32(s.drafted, kMaxTreeDepth);
  tree.levels = levels;
  tree.token[0] = static_cast<int32_t>(tok[s.committed - 1]);
  int32_t rows = 1;
  for (; rows < shape.rows && shape.depth[rows] <= levels; ++rows) {
    tree.token[rows] =
        static_cast<int32_t>(tree.candidate[shape.depth[rows] - 1][shape.rank[rows]]);
  }
  s.appended = rows - 1;
  s.drafted = 0;
  span.rows = rows;
}

// The row behind `row` that carries `token`, or -1. Of equal candidates the first wins.
SPECRT_HD inline int32_t find_child(const TreeCells& tree, const TreeShape& shape, int32_t rows,
                                    int32_t row, int32_t token) {
  for (int32_t i = row + 1; i < rows; ++i) {
    if (shape.parent[i] == row && tree.token[i] == token) return i;
  }
  return -1;
}

// Rank of a token among the candidates of a depth (from 0); kTreeWidth: none of them.
SPECRT_HD inline int32_t rank_of(const TreeCells& tree, int32_t depth, int32_t token) {
  int32_t rank = 0;
  while (rank < kTreeWidth && tree.candidate[depth][rank] != token) ++rank;
  return rank;
}

struct StoreCell {
  SPECRT_HD void operator()(Cell<int32_t>& cell, int32_t value) const { cell = value; }
};

// Rule `exact` on a tree of `rows` fed rows: as walk_chain, but for the way that the target's
// tokens take. They are put into `tok` as they are found, so that `pick` may read all before
// `position`. Threads that pick together walk together; `store` lets one of them write.
template <typename Pick, typename Store = StoreCell>
SPECRT_HD inline Verdict walk_tree(const Cells& s, Cell<int32_t>* tok, TreeCells& tree,
                                   const TreeShape& shape, int32_t rows, Pick&& pick,
                                   const Store& store = {}) {
  Verdict v;
  const int32_t committed = s.committed, limit = s.limit, levels = tree.levels;
  const int32_t deepest = shape.depth[rows - 1];  // that was drafted; candidates may go on
  for (int32_t row = 0;;) {
    store(tree.path[v.count], row);
    const int32_t position = committed + v.count;
    const int32_t y = pick(row, position);
    const int32_t child = find_child(tree, shape, rows, row, y);
    if (v.count < levels) v.ranks[v.ranked++] = rank_of(tree, v.count, y);
    v.judged += v.count < deepest ? 1 : 0;
    v.accepted += child >= 0 ? 1 : 0;
    v.tokens[v.count++] = y;
    store(tok[position], y);
    if (is_eos(s, y)) v.stop = Stop::eos;
    if (v.stop == Stop::running && position + 1 == limit) v.stop = Stop::limit;
    if (v.stop != Stop::running || child < 0) break;
    row = child;
  }
  store(tree.path_length, v.count);
  return v;
}

}  // namespace specrt

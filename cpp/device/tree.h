// A tree of drafted tokens, verified in one step: several candidates for a position, each of which
// may have several behind it. Where the drafter's scores at a depth do not depend on the token
// before, the tree is a set of paths of ranks (Medusa, arXiv 2401.10774): a node carries the
// rank-th best candidate of its depth. Else it is drafted depth by depth, and a node carries the
// rank-th best candidate behind its parent (EAGLE, arXiv 2401.15077). The committed token that is
// not yet fed is row 0.
#pragma once

#include "device/rules.h"

namespace specrt {

// What the candidates for a place depend on.
enum class Branching : int32_t {
  none,      // there is one for each, drafts are chains
  by_depth,  // its depth alone
  by_row,    // the tokens before it; each row with children has candidates of its own
};

// Rows of a tree, those of a depth together, so that a tree that is cut at a depth is its first
// rows; of a depth, those with children come first. Device memory that the host writes between
// rounds; its tokens follow from candidates.
struct TreeShape {
  int32_t rows = 1;
  Branching branching = Branching::by_depth;
  int32_t parent[kMaxStepRows] = {};        // row; of row 0 itself
  int32_t depth[kMaxStepRows] = {};         // tokens behind row 0
  int32_t rank[kMaxStepRows] = {};          // among the candidates behind its parent, from 0
  uint64_t sees[kMaxStepRows] = {1};        // the path to the row, as in Segment
  int32_t begin[kMaxTreeDepth + 2] = {};    // first row of each depth; behind the last: rows
  int32_t parents[kMaxTreeDepth + 1] = {};  // rows of each depth that have children
};

// Which of the lists of candidates has those behind a row; -1: none.
SPECRT_HD inline int32_t list_behind(const TreeShape& shape, int32_t row) {
  const int32_t depth = shape.depth[row];
  if (shape.branching != Branching::by_row) return depth;
  return row - shape.begin[depth] < shape.parents[depth] ? row : -1;
}

// A sequence's tree of this round, in device memory.
struct TreeCells {
  Cell<int32_t> candidate[kMaxStepRows][kTreeWidth];  // best first; lists as in list_behind
  Cell<int32_t> levels;                               // depths that have candidates
  Cell<int32_t> token[kMaxStepRows];                  // of each row
  Cell<int32_t> path[kMaxStepRows];  // rows whose tokens are committed, row 0 first; by walk_tree
  Cell<int32_t> path_length;
};

// Puts a list of candidates into the tree. Others may be chosen at the same time, so none reads
// tokens from E on. The best of masks also go to where these stood among the tokens.
SPECRT_HD inline void keep_candidates(TreeCells& tree, int32_t list,
                                      const int32_t (&best)[kTreeWidth]) {
  for (int32_t rank = 0; rank < kTreeWidth; ++rank) tree.candidate[list][rank] = best[rank];
}

// Gives the children of a row, which the drafter feeds next, their tokens.
SPECRT_HD inline void place_children(TreeCells& tree, const TreeShape& shape, int32_t row) {
  const int32_t depth = shape.depth[row], end = shape.begin[depth + 2];
  for (int32_t child = shape.begin[depth + 1]; child < end; ++child) {
    if (shape.parent[child] != row) continue;
    tree.token[child] = static_cast<int32_t>(tree.candidate[row][shape.rank[child]]);
  }
}

// Behind the first step of a draft made depth by depth, which fed row 0 last: the span of the steps
// that feed the rows with children, each those of a depth.
SPECRT_HD inline void begin_depths(const Cells& s, const TreeShape& shape, StepSpan& span,
                                   int32_t token_shift) {
  span.base = draft_position(s, 0) - 1 - token_shift;
  span.rows = drafts(s, 1) ? shape.begin[min_i32(s.snap_count, kMaxTreeDepth)] : 0;
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
    const int32_t list = list_behind(shape, shape.parent[rows]);
    tree.token[rows] = static_cast<int32_t>(tree.candidate[list][shape.rank[rows]]);
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

// Rank of a token among the candidates of a list (from 0); kTreeWidth: none of them.
SPECRT_HD inline int32_t rank_of(const TreeCells& tree, int32_t list, int32_t token) {
  int32_t rank = 0;
  while (rank < kTreeWidth && tree.candidate[list][rank] != token) ++rank;
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
    const int32_t list = list_behind(shape, row);
    if (v.count < levels && list >= 0) v.ranks[v.ranked++] = rank_of(tree, list, y);
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

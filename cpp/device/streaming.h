// Speculative Streaming (arXiv 2402.11131): in its last layers a step of the target has streams,
// rows that stand for the tokens behind those that it feeds. Stream j of a row predicts the token j
// places behind the one that the row itself predicts, and sees what the row sees, the row, and the
// streams before it. The layers below have the rows of the tree alone; between the two, rows may be
// pruned that the layers so far hold for unlikely. Main rows do not see streams, so their bits do
// not depend on them.
#pragma once

#include "device/tree.h"

namespace specrt {

// What the host fixes for a round; device memory that it writes between rounds.
struct StreamingShape {
  TreeShape tree;           // of the candidates that this step verifies
  int32_t streams = 0;      // behind each row; kept * (1 + streams) <= kMaxStepRows
  int32_t kept = 1;         // rows of the tree that reach the last layers at most, row 0 included
  float least_score = 0.f;  // what those have at least, where rows are scored
};

// Where streams stand for positions of rotary embedding.
enum class StreamPositions : int32_t {
  same = 0,     // that of the row that they belong to
  shifted = 1,  // stream j is j behind it, as the token that it stands for
};

// A sequence's rows of the last layers: main rows first, then the streams of those from `first` on,
// all of a row together. Device memory.
struct StreamingCells {
  StepSpan span;                     // base of the step, and all rows
  Cell<int32_t> kept;                // main rows
  Cell<int32_t> first;               // main row that is the first to have streams
  Cell<int32_t> streams;             // of each of these
  Cell<int32_t> from[kMaxStepRows];  // row of the layers below, of each main row
  TreeShape shape;                   // of the main rows; depth and sees of streams too
  float score[kMaxStepRows];         // of the rows of the layers below, while streams are planned
};

// The main row that a row belongs to, itself for a main row.
SPECRT_HD inline int32_t main_row(const StreamingCells& cells, int32_t row) {
  const int32_t kept = cells.kept, streams = cells.streams;
  return row < kept ? row : cells.first + (row - kept) / streams;
}

// Which stream a row is, from 0; only of rows behind the main rows.
SPECRT_HD inline int32_t stream_of(const StreamingCells& cells, int32_t row) {
  const int32_t kept = cells.kept, streams = cells.streams;
  return (row - kept) % streams;
}

// The first stream of a main row.
SPECRT_HD inline int32_t stream_row(const StreamingCells& cells, int32_t row) {
  return cells.kept + (row - cells.first) * cells.streams;
}

// Behind main rows that have their shape: how many rows their streams have.
SPECRT_HD inline void count_streams(StreamingCells& cells, int32_t base, int32_t first,
                                    int32_t streams) {
  const int32_t kept = cells.shape.rows;
  cells.kept = kept;
  cells.first = first;
  cells.streams = streams;
  cells.span.base = base;
  cells.span.rows = kept + (kept - first) * streams;
}

// Then the shape of one of these: it sees what its main row sees, and that row's streams up to it.
SPECRT_HD inline void place_stream(StreamingCells& cells, int32_t row, StreamPositions positions) {
  const int32_t main = main_row(cells, row), stream = stream_of(cells, row);
  const uint64_t before = (uint64_t{1} << (row - stream)) - 1, up_to = (uint64_t{2} << row) - 1;
  cells.shape.sees[row] = cells.shape.sees[main] | (up_to & ~before);
  cells.shape.depth[row] =
      cells.shape.depth[main] + (positions == StreamPositions::shifted ? stream + 1 : 0);
}

// The shape of all of them.
SPECRT_HD inline void place_streams(StreamingCells& cells, StreamPositions positions) {
  const int32_t rows = cells.span.rows;
  for (int32_t row = cells.kept; row < rows; ++row) place_stream(cells, row, positions);
}

// The last piece of a prompt: a chain, with streams behind its last row, which is where the walk
// over a round's tree would have ended.
SPECRT_HD inline void plan_prompt_streams(const StepSpan& span, TreeCells& tree,
                                          StreamingCells& cells, int32_t streams,
                                          StreamPositions positions) {
  const int32_t rows = span.rows;
  cells.shape.rows = rows;
  for (int32_t row = 0; row < rows; ++row) {
    cells.from[row] = row;
    cells.shape.depth[row] = row;
    cells.shape.sees[row] = (uint64_t{2} << row) - 1;
  }
  tree.path[0] = rows - 1;
  tree.path_length = 1;
  count_streams(cells, span.base, rows - 1, streams);
  place_streams(cells, positions);
}

// Whether row i is among the `most` rows of `n` that have the highest scores. Of equal ones the
// first counts as higher, so that no row is kept without its parent, whose score is no lower.
SPECRT_HD inline bool is_among_best(const float* scores, int32_t n, int32_t i, int32_t most) {
  int32_t better = 0;
  for (int32_t j = 0; j < n; ++j) {
    better += scores[j] > scores[i] || (scores[j] == scores[i] && j < i) ? 1 : 0;
  }
  return better < most;
}

// The score of each row's token behind its parent, in (0, 1] or NaN for unknown, becomes that of
// the whole way to it.
SPECRT_HD inline void score_ways(const TreeShape& tree, int32_t rows, float* scores) {
  if (rows > 0) scores[0] = 1.f;
  for (int32_t row = 1; row < rows; ++row) {
    const float way = scores[tree.parent[row]] * scores[row];
    scores[row] = way > 0.f ? way : 0.f;  // NaN is no score
  }
}

// Whether a row of the fed tree goes on to the last layers. Without scores the first rows do.
SPECRT_HD inline bool goes_on(const StreamingShape& shape, int32_t rows, int32_t row,
                              const float* scores) {
  const int32_t most = min_i32(shape.kept, kMaxStepRows / (1 + shape.streams));
  if (row == 0) return true;
  if (scores == nullptr) return row < most;
  return scores[row] >= shape.least_score && is_among_best(scores, rows, row, most);
}

// Makes the rows of the fed tree whose bits are set in `kept` the main rows of the last layers, and
// counts their streams. The tokens of the tree become theirs.
SPECRT_HD inline void keep_rows(const StreamingShape& shape, const StepSpan& span, TreeCells& tree,
                                StreamingCells& cells, uint64_t kept) {
  int32_t count = 0;
  int32_t row_of[kMaxStepRows];
  for (int32_t row = 0; row < span.rows; ++row) {
    if ((kept >> row & 1) == 0) continue;
    const int32_t parent = row == 0 ? 0 : row_of[shape.tree.parent[row]];
    row_of[row] = count;
    cells.from[count] = row;
    cells.shape.parent[count] = parent;
    cells.shape.depth[count] = shape.tree.depth[row];
    cells.shape.rank[count] = shape.tree.rank[row];
    cells.shape.sees[count] = (row == 0 ? 0 : cells.shape.sees[parent]) | uint64_t{1} << count;
    tree.token[count] = static_cast<int32_t>(tree.token[row]);
    ++count;
  }
  cells.shape.rows = count;
  count_streams(cells, span.base, 0, count == 0 ? 0 : shape.streams);
}

// Keeps rows of the fed tree for the last layers and gives them streams. `scores`, or null, as
// score_ways has them, which it then does.
SPECRT_HD inline void plan_tree_streams(const StreamingShape& shape, const StepSpan& span,
                                        TreeCells& tree, StreamingCells& cells,
                                        StreamPositions positions, float* scores) {
  const int32_t rows = span.rows;
  if (scores != nullptr) score_ways(shape.tree, rows, scores);
  uint64_t kept = 0;
  for (int32_t row = 0; row < rows; ++row) {
    if (goes_on(shape, rows, row, scores)) kept |= uint64_t{1} << row;
  }
  keep_rows(shape, span, tree, cells, kept);
  place_streams(cells, positions);
}

// Behind the verdict: how many depths the next tree can have, and so get candidates.
SPECRT_HD inline int32_t streamed_levels(const Cells& s, const StreamingCells& cells) {
  if (!running(s)) return 0;
  return max_i32(0, min_i32(cells.streams, s.limit - s.committed - 1));
}

// Behind the verdict: the row whose logits are those of the candidates for depth 1 + `depth`.
SPECRT_HD inline int32_t candidate_row(const TreeCells& tree, const StreamingCells& cells,
                                       int32_t depth) {
  return stream_row(cells, tree.path[tree.path_length - 1]) + depth;
}

}  // namespace specrt

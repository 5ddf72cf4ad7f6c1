// Which rows a step has, of which sequences, and which of them an op runs over.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "device/cells.h"
#include "device/rules.h"
#include "device/streaming.h"
#include "device/tree.h"

namespace specrt {

inline constexpr int32_t kMaxSegments = 8;
inline constexpr int32_t kMaxPromptRows = 4 * kMaxStepRows;  // of Backend::prompt_rows()

// The streams that a segment has in the last layers; without cells: none.
struct SegmentStreams {
  StreamingCells* cells = nullptr;
  TreeCells* tree = nullptr;              // of the same sequence
  const StreamingShape* shape = nullptr;  // of a tree; null: the last piece of a prompt
};

// The rows that one sequence has in a step.
struct Segment {
  const StepSpan* span = nullptr;
  const Cell<int32_t>* tok = nullptr;  // row i feeds tok[base + depth]
  std::byte* kv = nullptr;             // this sequence's cache of the model, all layers
  // The target's hidden states of this sequence, FeatureRows; null: none are kept.
  std::byte* features = nullptr;
  int32_t ahead = 1;  // places from a row to the token that it predicts; 2: rows are pairs
  // How its tokens are chosen, for a head that prepares the choice, and what is committed, for ops
  // on features; null: the step has neither.
  const Cells* cells = nullptr;
  // Trees: row i sees the new rows whose bit is set in sees[i] (itself included, parents first) and
  // stands at position base + depth[i], but always in KV slot base + i. Null for a chain.
  const uint64_t* sees = nullptr;  // (capacity,)
  const int32_t* depth = nullptr;  // (capacity,)
  // Token of each row; null: tok, by position.
  const Cell<int32_t>* row_tokens = nullptr;  // (capacity,)
  const TreeShape* tree = nullptr;            // of a drafter, whose rows are fed depth by depth
  SegmentStreams streams{};
};

enum class RowSelect : int32_t {
  all,
  last,     // only the last existing row of every segment, with its streams
  drafts,   // only those of a draft made at once, the last snap_count ones; segments have cells
  draft,    // of these only the one that drafts token `StepRows::draft` behind the committed ones
  parents,  // only those of depth `StepRows::depth` that have children; segments have a tree
  streams,  // only streams
};

// What a step with streams does between the layers without and those with them.
enum class Pruning : int32_t {
  off,     // as many rows of the tree go on as may
  scored,  // those go on that the layers so far hold for likeliest
};

// Row i of segment s is row s * capacity + i of every activation. A long piece of a prompt is
// several segments of one sequence, each of which sees the positions before it in the cache.
struct StepRows {
  std::array<Segment, kMaxSegments> segments{};
  int32_t segment_count = 0;
  // Rows recorded per segment, at most kMaxStepRows; those of a prompt at most
  // Backend::prompt_rows() in all segments, others kMaxStepRows.
  int32_t capacity = 0;
  RowSelect select = RowSelect::all;
  int32_t draft = 0;  // of RowSelect::draft, from 0
  int32_t depth = 0;  // of RowSelect::parents
  // Every position of the step lies below it, so that work over the cache can be sized before the
  // cells are known.
  int32_t positions = 0;
  // Of a step in which segments have streams: rows per segment in the layers that have them.
  int32_t stream_capacity = 0;
  Pruning pruning = Pruning::off;
};

// The same step in the layers that have streams. Segments without streams keep their rows.
inline StepRows with_streams(const StepRows& step) {
  StepRows rows = step;
  if (step.stream_capacity > 0) rows.capacity = step.stream_capacity;
  for (Segment& segment : rows.segments) {
    StreamingCells* cells = segment.streams.cells;
    if (cells == nullptr) continue;
    segment.span = &cells->span;
    segment.sees = cells->shape.sees;
    segment.depth = cells->shape.depth;
    segment.row_tokens = nullptr;
  }
  return rows;
}

// The existing rows of segment s as [begin, end) within the segment.
struct RowRange {
  int32_t begin;
  int32_t end;
};

SPECRT_HD inline RowRange rows_of(const StepRows& step, int32_t s) {
  const Segment& segment = step.segments.data()[s];
  const int32_t rows = min_i32(segment.span->rows, step.capacity);
  if (rows <= 0) return {0, 0};
  const StreamingCells* streams = segment.streams.cells;
  switch (step.select) {
    case RowSelect::all:
      return {0, rows};
    case RowSelect::last:
      return {streams == nullptr ? rows - 1 : max_i32(0, streams->kept - 1), rows};
    case RowSelect::drafts:
      return {max_i32(0, rows - segment.cells->snap_count), rows};
    case RowSelect::draft: {
      const int32_t first = max_i32(0, rows - segment.cells->snap_count);
      const int32_t row =
          first + step.draft - (segment.cells->snap_begin - segment.cells->committed);
      return row < first ? RowRange{rows, rows}
                         : RowRange{min_i32(rows, row), min_i32(rows, row + 1)};
    }
    case RowSelect::parents: {
      const int32_t begin = segment.tree->begin[step.depth];
      const int32_t end = begin + segment.tree->parents[step.depth];
      return {min_i32(rows, begin), min_i32(rows, end)};
    }
    case RowSelect::streams:
      return {streams == nullptr ? rows : min_i32(streams->kept, rows), rows};
  }
  return {0, 0};
}

// The slot of what a drafter kept in place of the features of row i: the one behind its parent's.
SPECRT_HD inline int32_t estimate_slot(const Segment& segment, int32_t i) {
  return segment.span->base + (segment.tree == nullptr ? i : 1 + segment.tree->parent[i]);
}

}  // namespace specrt

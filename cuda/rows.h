// The rows of a step as kernels see them: which exist, and where they stand. Row r of an activation
// is row r % capacity of segment r / capacity.
#pragma once

#include "device/ops.h"

namespace specrt::cuda {

struct Row {
  bool exists;
  int32_t segment;
  int32_t index;     // within the segment
  int32_t position;  // base + depth
  int32_t slot;      // base + index
  int32_t base;
  uint64_t sees;  // new rows that this row sees, bit j standing for slot base + j
};

SPECRT_HD inline int32_t row_count(const StepRows& rows) {
  return rows.segment_count * rows.capacity;
}

// Row `index` of a segment, one of those that exist.
SPECRT_HD inline Row row_of(const StepRows& rows, int32_t s, int32_t index) {
  const Segment& segment = rows.segments.data()[s];
  const uint64_t own = uint64_t{1} << index;
  Row row{};
  row.exists = true;
  row.segment = s;
  row.index = index;
  row.base = segment.span->base;
  row.slot = row.base + index;
  row.position = row.base + (segment.depth != nullptr ? segment.depth[index] : index);
  row.sees = segment.sees != nullptr ? segment.sees[index] : own | (own - 1);
  return row;
}

SPECRT_HD inline Row row_at(const StepRows& rows, int32_t r) {
  const int32_t segment = r / rows.capacity, index = r % rows.capacity;
  if (r >= row_count(rows)) return Row{};
  const RowRange range = rows_of(rows, segment);
  return index >= range.begin && index < range.end ? row_of(rows, segment, index) : Row{};
}

// The position of the token that a row's logits are about: the next one, of a pair the one behind
// it, or of a stream the one that many places further on.
SPECRT_HD inline int32_t predicted_position(const StepRows& rows, const Row& row) {
  const StreamingCells* streams = rows.segments.data()[row.segment].streams.cells;
  const int32_t ahead = rows.segments.data()[row.segment].ahead;
  if (streams == nullptr || row.index < streams->kept) return row.position + ahead;
  const int32_t main = main_row(*streams, row.index);
  return row.base + streams->shape.depth[main] + stream_of(*streams, row.index) + 2;
}

}  // namespace specrt::cuda

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

SPECRT_HD inline Row row_at(const StepRows& rows, int32_t r) {
  Row row{};
  if (r >= row_count(rows)) return row;
  row.segment = r / rows.capacity;
  row.index = r % rows.capacity;
  const RowRange range = rows_of(rows, row.segment);
  row.exists = row.index >= range.begin && row.index < range.end;
  if (!row.exists) return row;
  const Segment& segment = rows.segments.data()[row.segment];
  const uint64_t own = uint64_t{1} << row.index;
  row.base = segment.span->base;
  row.slot = row.base + row.index;
  row.position = row.base + (segment.depth != nullptr ? segment.depth[row.index] : row.index);
  row.sees = segment.sees != nullptr ? segment.sees[row.index] : own | (own - 1);
  return row;
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

// Activation rows on their way to the tensor cores: a ring in the registers of a warp.
#pragma once

#include "cuda/chains.h"
#include "cuda/rows.h"

namespace specrt::cuda {

inline constexpr int32_t kTileRows = 8;  // activation rows of an mma
inline constexpr int32_t kNoRow = -1;

// Segments up to the last one that has streams.
SPECRT_HD inline int32_t streamed_segments(const StepRows& rows) {
  int32_t count = rows.segment_count;
  while (count > 0 && rows.segments.data()[count - 1].streams.cells == nullptr) --count;
  return count;
}

// Whether a segment has one row at most.
SPECRT_HD inline bool has_single_rows(const StepRows& rows) {
  return rows.select == RowSelect::last && streamed_segments(rows) == 0;
}

// Slots for the rows that a step can have: one a segment where it has one at most, else one a row.
SPECRT_HD inline int32_t slot_count(const StepRows& rows) {
  if (has_single_rows(rows)) return rows.segment_count;
  if (rows.select == RowSelect::streams) return streamed_segments(rows) * rows.capacity;
  return row_count(rows);
}

// The activation row in slot `slot` of the row tiles, or kNoRow.
__device__ inline int32_t row_in_slot(const StepRows& rows, int32_t slot) {
  if (slot >= slot_count(rows)) return kNoRow;
  if (!has_single_rows(rows)) return row_at(rows, slot).exists ? slot : kNoRow;
  const RowRange range = rows_of(rows, slot);
  return range.begin < range.end ? slot * rows.capacity + range.begin : kNoRow;
}

// The first `count` of 8 bf16 values; the others, which may be anything, become zero.
__device__ __forceinline__ uint4 first_values(const uint4& v, int32_t count) {
  const auto word = [count](uint32_t pair, int32_t begin) {
    if (count >= begin + 2) return pair;
    return count == begin + 1 ? pair & 0xffffu : 0u;
  };
  return {word(v.x, 0), word(v.y, 2), word(v.z, 4), word(v.w, 6)};
}

// The columns of one chain of up to 8 kRowTiles rows, block after block; the B operands of its mma.
// A ring of kRing blocks: block i is at [i % kRing].
template <int kRowTiles, int kRing>
class RowStream {
 public:
  // `row_of` has the row in each slot of the row tiles, in shared memory.
  __device__ RowStream(const RowsView& x, const BlockRange& chain, const int32_t* row_of)
      : x_(x), chain_(chain), row_of_(row_of + lane_index() / 4) {}

  // Loads the first blocks.
  __device__ __forceinline__ void fill() {
    next_ = x_.data + chain_.begin * kBlockBytes + lane_index() % 4 * sizeof(uint4);
#pragma unroll
    for (int u = 0; u < kRing; ++u) load(u, chain_.end - chain_.begin - u);
  }

  __device__ __forceinline__ const uint4& at(int u, int j) const { return ring_[u][j]; }

  // Loads the block after those that have been loaded, of which there are `left`, into place u.
  // Rows are padded to whole blocks (kRowAlignment), so that only values need a limit.
  __device__ __forceinline__ void load(int u, int32_t left) {
    if (left <= 0) return;
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) {
      const int32_t row = row_of_[kTileRows * j];
      ring_[u][j] = {};
      if (row != kNoRow) ring_[u][j] = ld_cg16(next_ + row * x_.stride);
    }
    next_ += kBlockBytes;
    const int32_t last = x_.cols - (chain_.end - 1) * kTileCols;  // columns, if the rows end here
    if (left > 1 || last > kTileCols) return;
    const int32_t values = last - 8 * static_cast<int32_t>(lane_index() % 4);
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) ring_[u][j] = first_values(ring_[u][j], values);
  }

 private:
  static constexpr int32_t kBlockBytes = kTileCols * static_cast<int32_t>(sizeof(bf16_bits));

  const RowsView& x_;
  BlockRange chain_;
  const int32_t* row_of_;  // of this lane in the first tile
  const std::byte* next_ = nullptr;
  uint4 ring_[kRing][kRowTiles];
};

}  // namespace specrt::cuda

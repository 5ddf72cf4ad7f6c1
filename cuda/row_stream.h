// Activation rows on their way to the tensor cores: a ring in the registers of a warp.
#pragma once

#include "cuda/chains.h"
#include "cuda/rows.h"

namespace specrt::cuda {

inline constexpr int32_t kTileRows = 8;  // activation rows of an mma
inline constexpr int32_t kNoRow = -1;

// Rows that a step can have; of RowSelect::last, one a segment.
SPECRT_HD inline int32_t slot_count(const StepRows& rows) {
  return rows.select == RowSelect::last ? rows.segment_count : row_count(rows);
}

// The activation row in slot `slot` of the row tiles, or kNoRow.
__device__ inline int32_t row_in_slot(const StepRows& rows, int32_t slot) {
  if (slot >= slot_count(rows)) return kNoRow;
  if (rows.select != RowSelect::last) return row_at(rows, slot).exists ? slot : kNoRow;
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
  __device__ RowStream(const RowsView& x, const BlockRange& chain, const int32_t* row_of)
      : blocks_(chain.end - chain.begin),
        last_values_(8),
        x_(x.data + chain.begin * kBlockBytes + lane_index() % 4 * sizeof(uint4)) {
    const int32_t all = column_blocks(x.cols);
    if (chain.end == all) {
      last_values_ = x.cols - (all - 1) * kTileCols - 8 * static_cast<int32_t>(lane_index() % 4);
    }
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) {
      const int32_t row = row_of[kTileRows * j + static_cast<int32_t>(lane_index() / 4)];
      offset_[j] = row == kNoRow ? kNoRow : row * static_cast<int32_t>(x.stride);
    }
  }

  // Loads the first blocks.
  __device__ __forceinline__ void fill() {
    next_ = x_;
#pragma unroll
    for (int u = 0; u < kRing; ++u) load(u, blocks_ - u);
  }

  __device__ __forceinline__ const uint4& at(int u, int j) const { return ring_[u][j]; }

  // Loads the block after those that have been loaded, of which there are `left`, into place u.
  // Rows are padded to whole blocks (kRowAlignment), so that only values need a limit.
  __device__ __forceinline__ void load(int u, int32_t left) {
    if (left <= 0) return;
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) {
      ring_[u][j] = {};
      if (offset_[j] != kNoRow) ring_[u][j] = ld_cg16(next_ + offset_[j]);
    }
    next_ += kBlockBytes;
    if (left > 1) return;
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) ring_[u][j] = first_values(ring_[u][j], last_values_);
  }

 private:
  static constexpr int32_t kBlockBytes = kTileCols * static_cast<int32_t>(sizeof(bf16_bits));

  int32_t blocks_;       // of the chain
  int32_t last_values_;  // of this lane in the chain's last block; 8 or more: all
  const std::byte* x_;   // of the chain in row 0
  const std::byte* next_ = nullptr;
  int32_t offset_[kRowTiles];  // bytes from row 0, or kNoRow
  uint4 ring_[kRing][kRowTiles];
};

}  // namespace specrt::cuda

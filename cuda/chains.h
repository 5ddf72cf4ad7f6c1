// The one order in which a product of a packed weight and activations is summed, so that its bits
// depend on nothing but the row: neither on the rows beside it nor on tiles, blocks or the grid.
//   The blocks of 32 columns are cut into 8 chains, the same for every schedule. A chain takes its
//   blocks ascending, each by two mma.m16n8k16, from accumulators of zero.
//   y = ((c0 + c1) + (c2 + c3)) + ((c4 + c5) + (c6 + c7)), each sum rounded to f32.
// Nothing else may add these numbers.
#pragma once

#include "base/hd.h"
#include "base/view.h"
#include "cuda/ptx.h"

namespace specrt::cuda {

inline constexpr int32_t kChains = 8;

// Blocks of 32 columns.
struct BlockRange {
  int32_t begin;
  int32_t end;
};

SPECRT_HD inline int32_t column_blocks(int32_t cols) { return (cols + kTileCols - 1) / kTileCols; }

// The blocks of chain `chain` of `blocks` blocks; empty where there are fewer blocks than chains.
SPECRT_HD inline BlockRange chain_blocks(int32_t blocks, int32_t chain) {
  return {chain * blocks / kChains, (chain + 1) * blocks / kChains};
}

// A lane's part of a tile of weights: half 0 and half 1 (Layout::tiles16x32).
struct TileWords {
  uint4 low;
  uint4 high;
};

// Warp collective: one block of a chain. Lane 4 i + t gives its words of the tile and columns
// 8 t .. 8 t + 7 of activation row i; sum has the layout of mma_m16n8k16's d (panel row, row).
__device__ __forceinline__ void add_block(float (&sum)[4], const TileWords& w, const uint4& x) {
  mma_m16n8k16(sum, {w.low.x, w.high.x, w.low.y, w.high.y}, {x.x, x.y});
  mma_m16n8k16(sum, {w.low.z, w.high.z, w.low.w, w.high.w}, {x.z, x.w});
}

// Two neighbouring subtrees of equal size: chains 2 j and 2 j + 1, or sums of such.
__device__ __forceinline__ float join_chains(float even, float odd) { return __fadd_rn(even, odd); }

// The four pairs of chains.
__device__ __forceinline__ float join_pairs(float p0, float p1, float p2, float p3) {
  return join_chains(join_chains(p0, p1), join_chains(p2, p3));
}

}  // namespace specrt::cuda

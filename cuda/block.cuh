// Maxima and sums over the threads of a block. Integers only, so that no order matters. Every
// thread of the block calls them together; each leaves a barrier behind it.
#pragma once

#include <cstdint>

#include "cuda/ptx.h"

namespace specrt::cuda {

using Word = unsigned long long;  // what the 64-bit atomics take

struct BlockShared {
  Word warps[32];
};

__device__ __forceinline__ Word block_max(Word value, BlockShared& shared) {
  for (unsigned mask = 16; mask > 0; mask /= 2) {
    const Word other = shfl_xor(value, mask);
    value = other > value ? other : value;
  }
  if (lane_index() == 0) shared.warps[warp_index()] = value;
  sync_block();
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) {
    const Word other = shared.warps[warp];
    value = other > value ? other : value;
  }
  sync_block();
  return value;
}

struct Prefix {
  Word before;  // sum of the values of the threads before this one
  Word total;
};

// Sum of the values of the lanes up to this one. All lanes of the warp call it together.
__device__ __forceinline__ Word warp_prefix(Word value) {
  for (unsigned delta = 1; delta < 32; delta *= 2) {
    const Word below = shfl_up(value, delta);
    if (lane_index() >= delta) value += below;
  }
  return value;
}

__device__ __forceinline__ Prefix block_prefix(Word value, BlockShared& shared) {
  const Word upto = warp_prefix(value);
  if (lane_index() == 31) shared.warps[warp_index()] = upto;
  sync_block();
  Prefix prefix{upto - value, 0};
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) {
    const Word sum = shared.warps[warp];
    if (warp < warp_index()) prefix.before += sum;
    prefix.total += sum;
  }
  sync_block();
  return prefix;
}

}  // namespace specrt::cuda

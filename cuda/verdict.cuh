// How kernels that judge come to one verdict: each block looks at a row, the last one commits.
#pragma once

#include "cuda/pick_scratch.h"
#include "cuda/ptx.h"

namespace specrt::cuda {

// Whether all other blocks have arrived here before; what they wrote is seen then.
__device__ __forceinline__ bool is_last_block(PickHead& head) {
  SPECRT_SHARED(uint32_t, before);
  sync_block();
  if (threadIdx.x == 0) {
    threadfence();
    before = add_acq_rel_gpu(&head.arrived, 1);
    if (before + 1 == gridDim.x) head.arrived = 0;
  }
  sync_block();
  return before + 1 == gridDim.x;
}

}  // namespace specrt::cuda

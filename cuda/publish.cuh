// Publishes an entry in memory that the host reads, as StoreRelease of device/rules.h does there.
#pragma once

#include "cuda/ptx.h"

namespace specrt::cuda {

struct PublishToHost {
  __device__ void operator()(uint32_t* word, uint32_t value) const { st_release_sys(word, value); }
};

}  // namespace specrt::cuda

// How a product is cut into tiles and blocks: for speed only, its bits are fixed by chains.h.
#pragma once

#include <cuda_runtime.h>

#include "device/ops.h"

namespace specrt::cuda {

struct LinearSchedule {
  int32_t row_tiles;  // of 8 rows: 1, 2, 4 or 8, enough for all rows
  int32_t panels;     // of 16 outputs that a block takes at once: 1 or 2
  int32_t blocks;     // at most as many as there are panels
};

LinearSchedule linear_schedule(const LinearArgs& args, int32_t multiprocessors);

// linear() of kernels.h with a given schedule.
void linear(cudaStream_t stream, const LinearArgs& args, const LinearSchedule& schedule);

}  // namespace specrt::cuda

// How a product is cut into tiles and blocks: for speed only, its bits are fixed by chains.h.
#pragma once

#include <cuda_runtime.h>

#include "device/ops.h"

namespace specrt::cuda {

struct LinearSchedule {
  int32_t row_tiles;  // of 8 rows, enough for all rows: 1, 2, 4, 8; of a prompt 16 or 32 too
  int32_t panels;     // of 16 outputs that a block takes at once: 1, 2 or 4; above 8 row tiles 4
  int32_t blocks;     // at most as many as there are panels
};

// The panels [begin, end) of a block, in groups that a warp takes at once: as few as can be, and as
// equal as can be, since a slot that is not full moves fewer bytes in the same time.
class PanelGroups {
 public:
  SPECRT_HD PanelGroups(int32_t begin, int32_t end, int32_t most) : end_(end) {
    const int32_t panels = end - begin, groups = (panels + most - 1) / most;
    size_ = groups > 0 ? panels / groups : 0;
    smaller_ = begin + (panels - groups * size_) * (size_ + 1);
  }

  SPECRT_HD int32_t end() const { return end_; }
  // Panels of the group that begins with `panel`; 0 at the end.
  SPECRT_HD int32_t size(int32_t panel) const {
    if (panel >= end_) return 0;
    return panel < smaller_ ? size_ + 1 : size_;
  }

 private:
  int32_t end_;
  int32_t size_;
  int32_t smaller_;  // where groups of size_ begin; those before have one panel more
};

inline constexpr int32_t kMostStepTiles = 8;  // row tiles of a step that has no long prompt
inline constexpr int32_t kPromptPanels = 4;   // that a block takes at once above so many

// What the kernels get.
struct LinearJob {
  LinearArgs args;
  int32_t panels;  // of the weight
};

inline int32_t panel_count(const Weight& w) { return (w.rows + kPanelRows - 1) / kPanelRows; }

LinearSchedule linear_schedule(const LinearArgs& args, int32_t multiprocessors);

// linear() of kernels.h with a given schedule.
void linear(cudaStream_t stream, const LinearArgs& args, const LinearSchedule& schedule);

// The same for more than kMostStepTiles row tiles.
void linear_prompt(cudaStream_t stream, const LinearArgs& args, const LinearSchedule& schedule);

}  // namespace specrt::cuda

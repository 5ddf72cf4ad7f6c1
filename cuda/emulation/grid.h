// A kernel while it runs: some of its blocks at a time, in random order, interleaved at random.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/emulation/block.h"

namespace specrt::emulation {

// What kernels need and leave for the next one.
struct Workshop {
  LanePool lanes;
  std::vector<std::unique_ptr<SharedMemory>> shared;
  Random random{1};
};

class Grid {
 public:
  Grid(std::shared_ptr<const Kernel> kernel, Workshop& workshop);

  // Before this, pdl_wait holds.
  void predecessor_finished() { predecessor_done_ = true; }

  // Takes at most `steps` steps. Throws DeviceError.
  Progress run(int steps);

 private:
  void admit();
  uint3 index_of(uint32_t number) const;

  std::shared_ptr<const Kernel> kernel_;
  Workshop& workshop_;
  bool predecessor_done_ = false;
  std::vector<uint32_t> waiting_;  // numbers of blocks that have not begun, last first
  std::vector<std::unique_ptr<Block>> resident_;
  size_t limit_;
  int64_t spins_ = 0;
};

}  // namespace specrt::emulation

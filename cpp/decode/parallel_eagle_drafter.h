// Drafts with a model that fills mask tokens and reads the target's hidden states: P-EAGLE, the
// EAGLE form of ParallelSpec (arXiv 2410.05589). Row p of its model is a pair, the features of
// position p with token p + 1; masks have a feature of their own.
#pragma once

#include "decode/parallel_drafter.h"

namespace specrt {

class ParallelEagleDrafter final : public ParallelDrafter {
 public:
  // The model of `lane` reads the features that the model of `target` keeps; both lanes serve the
  // same sequences. Throws specrt::Error if the two do not belong together.
  ParallelEagleDrafter(Lane& lane, const Lane& target);
};

}  // namespace specrt

// Drafts from hidden states of the target, all tokens from one step: P-EAGLE, the EAGLE form of
// ParallelSpec (arXiv 2410.05589), its Medusa form, and Medusa's heads (arXiv 2401.10774). Row p of
// its model is a pair, the features of position p with token p + 1; rows of masks stand behind.
#pragma once

#include "decode/parallel_drafter.h"

namespace specrt {

// Makes the model of `lane` read the features that the model of `target` keeps; both lanes serve
// the same sequences. Throws specrt::Error if the two do not belong together.
void read_features(Lane& lane, const Lane& target);

class FeatureDrafter final : public ParallelDrafter {
 public:
  // As read_features.
  FeatureDrafter(Lane& lane, const Lane& target);

  int32_t slack(int32_t capacity) const override;
};

}  // namespace specrt

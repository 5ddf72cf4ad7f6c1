// Drafts token by token, or a tree depth by depth, from hidden states of the target (EAGLE, arXiv
// 2401.15077): row p of its model is a pair, the features of position p with token p + 1, and gives
// an estimate of those of p + 1 besides the next token. Behind the committed tokens estimates stand
// for features.
#pragma once

#include "decode/feature_drafter.h"
#include "decode/model_drafter.h"

namespace specrt {

class EagleDrafter final : public ModelDrafter {
 public:
  // As read_features.
  EagleDrafter(Lane& lane, const Lane& target) : ModelDrafter(lane) { read_features(lane, target); }
};

}  // namespace specrt

// Which tree of drafts to verify in the next round: the one that gives most tokens for its time, by
// the ranks that the target's tokens had among the candidates of late, and by what steps cost.
#pragma once

#include <span>

#include "decode/draft_tree.h"
#include "specrt/types.h"

namespace specrt {

class TreePlanner {
 public:
  // Without costs of the target, trees have as many nodes as they may.
  TreePlanner(StepCosts costs, const TreeLimits& limits);

  void observe(std::span<const int32_t> ranks) { ranks_.observe(ranks); }

  // At least one node behind the row of the committed token.
  TreeShape plan() const;

  // Tokens that a round with this tree commits on average, by the ranks of late.
  double expected_tokens(const TreeShape& shape) const;

  // Time of a round with this tree for each token that it commits; 0 without costs.
  double ms_per_token(const TreeShape& shape) const;

 private:
  double round_ms(int32_t rows, std::span<const int32_t> parents, double tokens) const;
  double draft_ms(std::span<const int32_t> parents, double tokens) const;

  StepCosts costs_;
  TreeLimits limits_;
  CandidateRanks ranks_;
};

}  // namespace specrt

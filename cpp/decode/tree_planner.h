// Which tree of drafts to verify in the next round: the one that gives most tokens for its time, by
// the ranks that the target's tokens had among the candidates of late, and by what steps cost.
#pragma once

#include <array>
#include <span>

#include "device/tree.h"
#include "specrt/types.h"

namespace specrt {

struct TreeLimits {
  int32_t depth = 0;  // at most kMaxTreeDepth
  int32_t nodes = 0;  // drafted tokens, at most kMaxStepRows - 1
};

class TreePlanner {
 public:
  // Without costs of the target, trees have as many nodes as they may.
  TreePlanner(StepCosts costs, const TreeLimits& limits);

  // Where the first tokens of a round stood among the candidates, as in LogEntry::ranks.
  void observe(std::span<const int32_t> ranks);

  // At least one node behind the row of the committed token.
  TreeShape plan() const;

  // Tokens that a round with this tree commits on average, by the ranks of late.
  double expected_tokens(const TreeShape& shape) const;

  // Time of a round with this tree for each token that it commits; 0 without costs.
  double ms_per_token(const TreeShape& shape) const;

 private:
  // How often each rank was the right one at a depth, older rounds counting less.
  using Ranks = std::array<double, kTreeWidth + 1>;
  using Chances = std::array<std::array<double, kTreeWidth>, kMaxTreeDepth>;

  Chances chances() const;
  double round_ms(int32_t rows, int32_t depth, double tokens) const;

  StepCosts costs_;
  TreeLimits limits_;
  std::array<Ranks, kMaxTreeDepth> seen_{};
};

}  // namespace specrt

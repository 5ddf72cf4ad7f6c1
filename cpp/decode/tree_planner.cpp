#include "decode/tree_planner.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "decode/step_curve.h"

namespace specrt {

TreePlanner::TreePlanner(StepCosts costs, const TreeLimits& limits)
    : costs_(std::move(costs)), limits_(limits) {
  limits_.depth = std::min(limits_.depth, kMaxTreeDepth);
  if (limits_.depth < 1 || limits_.nodes < 1 || limits_.nodes >= kMaxStepRows) {
    fail_argument("a tree of drafts has 1 to ", kMaxStepRows - 1, " nodes, not ", limits_.nodes);
  }
  check_curve(costs_.target);
  check_curve(costs_.draft);
}

// The draft feeds the tokens of the round before, and masks for all but its last depth.
double TreePlanner::round_ms(int32_t rows, int32_t depth, double tokens) const {
  const double target = step_ms(costs_.target, rows);
  if (costs_.draft.empty()) return target;
  return target + step_ms(costs_.draft, static_cast<int32_t>(std::lround(tokens)) + depth - 1);
}

TreeShape TreePlanner::plan() const {
  const std::vector<DraftNode> nodes = likeliest_nodes(ranks_.chances(), limits_);
  if (costs_.target.empty()) return shape_of(nodes);
  size_t best = 2;
  double most = 0, tokens = 1;
  int32_t depth = 0;
  for (size_t rows = 2; rows <= nodes.size(); ++rows) {
    tokens += nodes[rows - 1].chance;
    depth = std::max(depth, nodes[rows - 1].depth);
    const double ms = round_ms(static_cast<int32_t>(rows), depth, tokens);
    if (tokens / ms <= most) continue;
    most = tokens / ms;
    best = rows;
  }
  return shape_of(std::span(nodes).first(best));
}

double TreePlanner::expected_tokens(const TreeShape& shape) const {
  const CandidateRanks::Chances chances = ranks_.chances();
  std::array<double, kMaxStepRows> chance{1};
  double tokens = 1;
  for (int32_t row = 1; row < shape.rows; ++row) {
    chance[static_cast<size_t>(row)] =
        chance[static_cast<size_t>(shape.parent[row])] *
        chances[static_cast<size_t>(shape.depth[row] - 1)][static_cast<size_t>(shape.rank[row])];
    tokens += chance[static_cast<size_t>(row)];
  }
  return tokens;
}

double TreePlanner::ms_per_token(const TreeShape& shape) const {
  if (costs_.target.empty()) return 0;
  const double tokens = expected_tokens(shape);
  return round_ms(shape.rows, shape.depth[shape.rows - 1], tokens) / tokens;
}

}  // namespace specrt

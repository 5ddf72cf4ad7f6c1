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

double TreePlanner::round_ms(int32_t rows, std::span<const int32_t> parents, double tokens) const {
  return step_ms(costs_.target, rows) + draft_ms(parents, tokens);
}

// The draft feeds the tokens of the round before, the last of which is row 0, and then masks for
// all but its last depth, or depth by depth the rows that have children, `parents` of each.
double TreePlanner::draft_ms(std::span<const int32_t> parents, double tokens) const {
  if (costs_.draft.empty()) return 0;
  const auto fed = static_cast<int32_t>(std::lround(tokens));
  const std::span<const int32_t> behind = parents.subspan(1);
  if (costs_.drafts_at_once) {
    return step_ms(costs_.draft, fed + static_cast<int32_t>(behind.size()));
  }
  double ms = step_ms(costs_.draft, fed);
  for (const int32_t rows : behind) ms += step_ms(costs_.draft, rows);
  return ms;
}

TreeShape TreePlanner::plan() const {
  const std::vector<DraftNode> nodes = likeliest_nodes(ranks_.chances(), limits_);
  if (costs_.target.empty()) return shape_of(nodes);
  size_t best = 2;
  double most = 0, tokens = 1;
  std::vector<int32_t> parents;  // of each depth but the last
  std::vector<bool> is_parent(nodes.size(), false);
  for (size_t rows = 2; rows <= nodes.size(); ++rows) {
    const DraftNode& node = nodes[rows - 1];
    const auto parent = static_cast<size_t>(node.parent),
               above = static_cast<size_t>(node.depth - 1);
    tokens += node.chance;
    if (above == parents.size()) parents.push_back(0);
    if (!is_parent[parent]) ++parents[above];
    is_parent[parent] = true;
    const double ms = round_ms(static_cast<int32_t>(rows), parents, tokens);
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
  const auto depth = static_cast<size_t>(shape.depth[shape.rows - 1]);
  return round_ms(shape.rows, std::span(shape.parents).first(depth), tokens) / tokens;
}

}  // namespace specrt

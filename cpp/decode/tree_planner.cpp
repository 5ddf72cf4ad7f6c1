#include "decode/tree_planner.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <utility>
#include <vector>

#include "base/error.h"
#include "decode/step_curve.h"

namespace specrt {
namespace {

// What a depth is taken for before anything was seen there: the depth before, or for the first
// these shares, each counting as so many rounds.
constexpr std::array<double, kTreeWidth> kAssumed = {0.70, 0.12, 0.05, 0.03,
                                                     0.02, 0.01, 0.01, 0.01};
constexpr double kAssumedRounds = 4;
constexpr double kMemory = 0.98;  // a round counts this much of the one after it

// A node by the way that leads to it.
struct Node {
  double chance = 1;  // that all on the way are right
  int32_t parent = 0;
  int32_t depth = 0;
  int32_t rank = 0;
};

struct LessLikely {
  bool operator()(const Node& a, const Node& b) const { return a.chance < b.chance; }
};

// Nodes in falling order of their chances, none before its parent. Node 0 is the committed token.
// Behind a node of rank r its first child and the sibling of rank r + 1 come into question, which
// reaches every node once.
template <typename Chances>
std::vector<Node> likeliest_nodes(const Chances& chances, const TreeLimits& limits) {
  std::vector<Node> nodes{{}};
  std::priority_queue<Node, std::vector<Node>, LessLikely> open;
  open.push({chances[0][0], 0, 1, 0});
  while (!open.empty() && std::cmp_less_equal(nodes.size(), limits.nodes)) {
    const Node node = open.top();
    open.pop();
    const double parent = nodes[static_cast<size_t>(node.parent)].chance;
    if (node.rank + 1 < kTreeWidth) {
      const double share =
          chances[static_cast<size_t>(node.depth - 1)][static_cast<size_t>(node.rank + 1)];
      open.push({parent * share, node.parent, node.depth, node.rank + 1});
    }
    if (node.depth < limits.depth) {
      open.push({node.chance * chances[static_cast<size_t>(node.depth)][0],
                 static_cast<int32_t>(nodes.size()), node.depth + 1, 0});
    }
    nodes.push_back(node);
  }
  return nodes;
}

TreeShape shape_of(std::span<const Node> nodes) {
  std::vector<int32_t> order, row_of(nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) order.push_back(static_cast<int32_t>(i));
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return nodes[static_cast<size_t>(a)].depth < nodes[static_cast<size_t>(b)].depth;
  });
  TreeShape shape;
  shape.rows = static_cast<int32_t>(nodes.size());
  for (int32_t row = 0; row < shape.rows; ++row) {
    const int32_t at = order[static_cast<size_t>(row)];
    const Node& node = nodes[static_cast<size_t>(at)];
    const int32_t parent = row_of[static_cast<size_t>(node.parent)];
    row_of[static_cast<size_t>(at)] = row;
    shape.parent[row] = parent;
    shape.depth[row] = node.depth;
    shape.rank[row] = node.rank;
    shape.sees[row] = (row == 0 ? 0 : shape.sees[parent]) | uint64_t{1} << row;
  }
  return shape;
}

}  // namespace

TreePlanner::TreePlanner(StepCosts costs, const TreeLimits& limits)
    : costs_(std::move(costs)), limits_(limits) {
  limits_.depth = std::min(limits_.depth, kMaxTreeDepth);
  if (limits_.depth < 1 || limits_.nodes < 1 || limits_.nodes >= kMaxStepRows) {
    fail_argument("a tree of drafts has 1 to ", kMaxStepRows - 1, " nodes, not ", limits_.nodes);
  }
  check_curve(costs_.target);
  check_curve(costs_.draft);
}

void TreePlanner::observe(std::span<const int32_t> ranks) {
  if (ranks.empty()) return;
  for (Ranks& depth : seen_) {
    for (double& count : depth) count *= kMemory;
  }
  for (size_t depth = 0; depth < ranks.size(); ++depth) {
    seen_[depth][static_cast<size_t>(ranks[depth])] += 1;
  }
}

// Of each rank at each depth, given that the depths before are right.
TreePlanner::Chances TreePlanner::chances() const {
  Chances chances{};
  std::array<double, kTreeWidth> before = kAssumed;
  for (size_t depth = 0; depth < chances.size(); ++depth) {
    double rounds = kAssumedRounds;
    for (const double count : seen_[depth]) rounds += count;
    for (size_t rank = 0; rank < before.size(); ++rank) {
      chances[depth][rank] = (seen_[depth][rank] + kAssumedRounds * before[rank]) / rounds;
    }
    // A rank that is seen more often than one before it does not stand before it in a tree.
    for (size_t rank = 1; rank < before.size(); ++rank) {
      chances[depth][rank] = std::min(chances[depth][rank], chances[depth][rank - 1]);
    }
    before = chances[depth];
  }
  return chances;
}

// The draft feeds the tokens of the round before, and masks for all but its last depth.
double TreePlanner::round_ms(int32_t rows, int32_t depth, double tokens) const {
  const double target = step_ms(costs_.target, rows);
  if (costs_.draft.empty()) return target;
  return target + step_ms(costs_.draft, static_cast<int32_t>(std::lround(tokens)) + depth - 1);
}

TreeShape TreePlanner::plan() const {
  const std::vector<Node> nodes = likeliest_nodes(chances(), limits_);
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
  const Chances chances = this->chances();
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

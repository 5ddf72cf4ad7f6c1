#include "decode/draft_tree.h"

#include <algorithm>
#include <numeric>
#include <queue>
#include <utility>

namespace specrt {
namespace {

// What a depth is taken for before anything was seen there: the depth before, or for the first
// these shares, each counting as so many rounds.
constexpr std::array<double, kTreeWidth> kAssumed = {0.70, 0.12, 0.05, 0.03,
                                                     0.02, 0.01, 0.01, 0.01};
constexpr double kAssumedRounds = 4;
constexpr double kMemory = 0.98;  // a round counts this much of the one after it

struct LessLikely {
  bool operator()(const DraftNode& a, const DraftNode& b) const { return a.chance < b.chance; }
};

}  // namespace

void CandidateRanks::observe(std::span<const int32_t> ranks) {
  if (ranks.empty()) return;
  for (Ranks& depth : seen_) {
    for (double& count : depth) count *= kMemory;
  }
  for (size_t depth = 0; depth < ranks.size(); ++depth) {
    seen_[depth][static_cast<size_t>(ranks[depth])] += 1;
  }
}

CandidateRanks::Chances CandidateRanks::chances() const {
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

// Behind a node of rank r its first child and the sibling of rank r + 1 come into question, which
// reaches every node once.
std::vector<DraftNode> likeliest_nodes(const CandidateRanks::Chances& chances,
                                       const TreeLimits& limits) {
  std::vector<DraftNode> nodes{{}};
  std::priority_queue<DraftNode, std::vector<DraftNode>, LessLikely> open;
  open.push({chances[0][0], 0, 1, 0});
  while (!open.empty() && std::cmp_less_equal(nodes.size(), limits.nodes)) {
    const DraftNode node = open.top();
    open.pop();
    const double parent = nodes[static_cast<size_t>(node.parent)].chance;
    if (node.rank + 1 < kTreeWidth && limits.branches == Branches::any) {
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

TreeShape shape_of(std::span<const DraftNode> nodes) {
  std::vector<size_t> order(nodes.size());
  std::vector<int32_t> row_of(nodes.size()), leaf(nodes.size(), 1);
  std::iota(order.begin(), order.end(), 0);
  for (const DraftNode& node : nodes.subspan(1)) leaf[static_cast<size_t>(node.parent)] = 0;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(nodes[a].depth, leaf[a]) < std::pair(nodes[b].depth, leaf[b]);
  });
  TreeShape shape;
  shape.rows = static_cast<int32_t>(nodes.size());
  for (int32_t row = 0; row < shape.rows; ++row) {
    const size_t at = order[static_cast<size_t>(row)];
    const DraftNode& node = nodes[at];
    const int32_t parent = row_of[static_cast<size_t>(node.parent)];
    row_of[at] = row;
    shape.parent[row] = parent;
    shape.depth[row] = node.depth;
    shape.rank[row] = node.rank;
    shape.sees[row] = (row == 0 ? 0 : shape.sees[parent]) | uint64_t{1} << row;
    for (int32_t& begin : std::span(shape.begin).subspan(static_cast<size_t>(node.depth) + 1)) {
      begin = row + 1;
    }
    shape.parents[node.depth] += 1 - leaf[at];
  }
  return shape;
}

}  // namespace specrt

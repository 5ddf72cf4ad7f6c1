// What trees of drafts are planned from: how often each candidate of a depth was the right one, and
// the nodes that are likeliest by that.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "device/tree.h"

namespace specrt {

// Where the target's tokens stood among the candidates of late.
class CandidateRanks {
 public:
  // For each depth and rank, how likely the candidate is right where the depths before are. Ranks
  // do not ascend in likelihood.
  using Chances = std::array<std::array<double, kTreeWidth>, kMaxTreeDepth>;

  // The first tokens of a round, as in LogEntry::ranks.
  void observe(std::span<const int32_t> ranks);

  Chances chances() const;

 private:
  // How often each rank was the right one at a depth, older rounds counting less.
  using Ranks = std::array<double, kTreeWidth + 1>;

  std::array<Ranks, kMaxTreeDepth> seen_{};
};

// Whether the nodes of a depth may be several.
enum class Branches : int32_t { one, any };

struct TreeLimits {
  int32_t depth = 0;  // at most kMaxTreeDepth
  int32_t nodes = 0;  // drafted tokens, at most kMaxStepRows - 1
  Branches branches = Branches::any;
};

// A drafted token by the way that leads to it.
struct DraftNode {
  double chance = 1;  // that all on the way are right
  int32_t parent = 0;
  int32_t depth = 0;
  int32_t rank = 0;
};

// Nodes in falling order of their chances, none before its parent. Node 0 is the committed token.
std::vector<DraftNode> likeliest_nodes(const CandidateRanks::Chances& chances,
                                       const TreeLimits& limits);

// The tree of such nodes.
TreeShape shape_of(std::span<const DraftNode> nodes);

}  // namespace specrt

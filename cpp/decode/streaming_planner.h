// What the next round of a target with streams verifies and how many streams its rows have: what
// gives most tokens for its time, by the ranks of late and by what steps cost.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "decode/draft_tree.h"
#include "device/ops.h"
#include "specrt/types.h"

namespace specrt {

struct StreamingLimits {
  int32_t streams = 0;  // of a row at most
  int32_t nodes = 0;    // drafted tokens of a tree at most; 0: drafts are chains
  int32_t kept = 0;     // rows that reach the layers with streams at most; 0: as many as can
  double share = 0.5;   // of a step's time that those layers and the head take
};

struct StreamingPlan {
  StreamingShape shape;
  Pruning pruning = Pruning::off;
  int32_t depth = 0;         // of the tree
  double tokens_per_ms = 0;  // as expected; 0 without costs
};

class StreamingPlanner {
 public:
  // Without costs of the target every round has the most streams and nodes that are possible.
  StreamingPlanner(const StepCosts& costs, const StreamingLimits& limits);

  // Of a round that followed `plan`: where its first tokens stood among the candidates, and how
  // many drafted tokens were right.
  void observe(const StreamingPlan& plan, std::span<const int32_t> ranks, int32_t accepted);

  // One row without streams where they do not pay, but for a trial now and then.
  StreamingPlan next();

  // The plan that gives most tokens for its time, with streams.
  StreamingPlan best() const;

  // How much better pruning is than chance at keeping the right row: 0 as chance, 1 always right.
  double pruning_quality() const;

 private:
  struct Candidate {
    double rate = 0;  // tokens for each millisecond
    int32_t streams = 0, rows = 0, kept = 0;
  };
  // Of a tree's nodes: the sum of the chances of each depth, of which there are at most as many as
  // streams.
  using DepthChances = std::array<double, kMaxTreeDepth + 1>;

  double ms(int32_t rows) const { return ms_[static_cast<size_t>(rows)]; }
  int32_t most_kept(int32_t streams) const;
  Candidate best_of(std::span<const DraftNode> nodes, int32_t streams) const;
  double rate(const DepthChances& chances, const Candidate& candidate) const;
  TreeLimits tree_limits(int32_t streams) const;
  float worthwhile_score(const Candidate& candidate) const;
  StreamingPlan plan_of(const Candidate& candidate) const;

  StreamingLimits limits_;
  std::vector<double> ms_;  // of a step by its rows; empty without costs
  CandidateRanks ranks_;
  struct Quality {
    double better = 0, possible = 0;
  };
  Quality quality_;     // of late
  StreamingPlan best_;  // as of some rounds ago
  uint32_t rounds_ = 0;
  int32_t plain_rounds_ = 0;
};

}  // namespace specrt

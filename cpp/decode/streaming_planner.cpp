#include "decode/streaming_planner.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "decode/step_curve.h"

namespace specrt {
namespace {

constexpr uint32_t kReplanRounds = 8;  // as plans change slowly and take time
constexpr int32_t kPlainRounds = 64;   // without streams before a trial
constexpr int32_t kTrialRounds = 2;    // the first proposes, the second verifies
constexpr double kMemory = 0.98;       // a round counts this much of the one after it
constexpr double kAssumedQuality = 0.7;
constexpr double kAssumedRows = 4;     // that the assumption counts for
constexpr double kScoringCost = 0.03;  // of a step of one row

// The row of the tree that the ranks lead to from `row`; -1: it has none.
int32_t child_of(const TreeShape& tree, int32_t row, int32_t rank) {
  for (int32_t i = row + 1; i < tree.rows; ++i) {
    if (tree.parent[i] == row && tree.rank[i] == rank) return i;
  }
  return -1;
}

}  // namespace

StreamingPlanner::StreamingPlanner(const StepCosts& costs, const StreamingLimits& limits)
    : limits_(limits) {
  if (limits.streams < 1 || limits.streams > kMaxTreeDepth) {
    fail_argument("a row has 1 to ", kMaxTreeDepth, " streams, not ", limits.streams);
  }
  if (limits.nodes < 0 || limits.nodes >= kMaxStepRows || limits.kept < 0 ||
      limits.kept > kMaxStepRows) {
    fail_argument("a tree of drafts has at most ", kMaxStepRows - 1, " nodes, not ", limits.nodes,
                  ", of which ", limits.kept, " are kept");
  }
  if (limits.kept == 1) {
    fail_argument("of a tree of drafts 2 rows or more are kept, as the first is the committed ",
                  "token's, not 1; set kept_nodes to 0 to keep as many as fit");
  }
  check_curve(costs.target);
  for (int32_t rows = 0; !costs.target.empty() && rows <= kMaxStepRows; ++rows) {
    ms_.push_back(step_ms(costs.target, std::max(1, rows)));
  }
}

double StreamingPlanner::pruning_quality() const {
  return (quality_.better + kAssumedQuality * kAssumedRows) / (quality_.possible + kAssumedRows);
}

int32_t StreamingPlanner::most_kept(int32_t streams) const {
  const int32_t most = kMaxStepRows / (1 + streams);
  return limits_.kept > 0 ? std::min(limits_.kept, most) : most;
}

TreeLimits StreamingPlanner::tree_limits(int32_t streams) const {
  const bool chains = limits_.nodes == 0;
  return {.depth = streams,
          .nodes = chains ? streams : limits_.nodes,
          .branches = chains ? Branches::one : Branches::any};
}

void StreamingPlanner::observe(const StreamingPlan& plan, std::span<const int32_t> ranks,
                               int32_t accepted) {
  ranks_.observe(ranks);
  if (plan.pruning == Pruning::off) return;
  quality_.better *= kMemory;
  quality_.possible *= kMemory;
  const TreeShape& tree = plan.shape.tree;
  const double chance = static_cast<double>(plan.shape.kept) / tree.rows;
  int32_t row = 0;
  for (size_t depth = 0; depth < ranks.size(); ++depth) {
    row = child_of(tree, row, ranks[depth]);
    if (row < 0) return;
    const bool kept = std::cmp_less(depth, accepted);
    quality_.better += (kept ? 1 : 0) - chance;
    quality_.possible += 1 - chance;
    if (!kept) return;
  }
}

// Pruning loses some of the right rows at each depth.
double StreamingPlanner::rate(const DepthChances& chances, const Candidate& candidate) const {
  const int32_t streams = candidate.streams, rows = candidate.rows, kept = candidate.kept;
  const bool prunes = kept < rows;
  const double chance = static_cast<double>(kept) / rows;
  const double quality = std::clamp(pruning_quality(), 0.0, 1.0);
  const double survival = prunes ? chance + (1 - chance) * quality : 1;
  double tokens = 0;
  for (int32_t depth = streams; depth >= 0; --depth) {
    tokens = tokens * survival + chances[static_cast<size_t>(depth)];
  }
  const double scoring = prunes ? kScoringCost * ms(1) : 0;
  return tokens /
         ((1 - limits_.share) * ms(rows) + limits_.share * ms(kept * (1 + streams)) + scoring);
}

StreamingPlanner::Candidate StreamingPlanner::best_of(std::span<const DraftNode> nodes,
                                                      int32_t streams) const {
  Candidate best;
  const int32_t most = most_kept(streams);
  DepthChances chances{nodes[0].chance};
  const auto consider = [&](Candidate candidate) {
    candidate.rate = rate(chances, candidate);
    if (candidate.rate > best.rate) best = candidate;
  };
  for (int32_t rows = 2; std::cmp_less_equal(rows, nodes.size()); ++rows) {
    const DraftNode& added = nodes[static_cast<size_t>(rows) - 1];
    chances[static_cast<size_t>(added.depth)] += added.chance;
    if (rows <= most) consider({.streams = streams, .rows = rows, .kept = rows});
    for (int32_t kept = 2; kept < std::min(rows, most + 1); kept += (kept + 1) / 2) {
      consider({.streams = streams, .rows = rows, .kept = kept});
    }
  }
  return best;
}

// A row's score is the chance that it adds a token. The time that it takes in the last layers would
// elsewhere give so many.
float StreamingPlanner::worthwhile_score(const Candidate& candidate) const {
  if (ms_.empty()) return 0;
  const int32_t one = 1 + candidate.streams, all = candidate.kept * one;
  return static_cast<float>(candidate.rate * limits_.share * (ms(all) - ms(all - one)));
}

StreamingPlan StreamingPlanner::plan_of(const Candidate& candidate) const {
  const std::vector<DraftNode> nodes =
      likeliest_nodes(ranks_.chances(), tree_limits(candidate.streams));
  StreamingPlan plan;
  plan.shape.tree = shape_of(std::span(nodes).first(static_cast<size_t>(candidate.rows)));
  plan.shape.streams = candidate.streams;
  plan.shape.kept = candidate.kept;
  if (candidate.kept < candidate.rows) {
    plan.pruning = Pruning::scored;
    plan.shape.least_score = worthwhile_score(candidate);
  }
  plan.depth = plan.shape.tree.depth[plan.shape.tree.rows - 1];
  plan.tokens_per_ms = candidate.rate;
  return plan;
}

StreamingPlan StreamingPlanner::best() const {
  const CandidateRanks::Chances chances = ranks_.chances();
  if (ms_.empty()) {
    const auto rows =
        static_cast<int32_t>(likeliest_nodes(chances, tree_limits(limits_.streams)).size());
    return plan_of({.streams = limits_.streams,
                    .rows = rows,
                    .kept = std::min(rows, most_kept(limits_.streams))});
  }
  Candidate best;
  for (int32_t streams = 1; streams <= limits_.streams; ++streams) {
    const Candidate candidate = best_of(likeliest_nodes(chances, tree_limits(streams)), streams);
    if (candidate.rate > best.rate) best = candidate;
  }
  return plan_of(best);
}

StreamingPlan StreamingPlanner::next() {
  if (rounds_++ % kReplanRounds == 0) {
    best_ = best();
  }
  if (ms_.empty() || best_.tokens_per_ms > 1 / ms(1)) return best_;
  if (++plain_rounds_ > kPlainRounds) {
    if (plain_rounds_ == kPlainRounds + kTrialRounds) plain_rounds_ = 0;
    return best_;
  }
  return {};
}

}  // namespace specrt

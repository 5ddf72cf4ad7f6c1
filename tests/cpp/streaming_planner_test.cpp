// What a target with streams verifies next, and how many streams it asks for.
#include "decode/streaming_planner.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "table_rig.h"
#include "tree_shape_check.h"

namespace specrt::testing {
namespace {

// A target whose every row costs as much as `row_share` of a step of one row.
StepCosts costs(double row_share) {
  return {.target = {{1, 1.0}, {64, 1.0 + 63 * row_share}}, .draft = {}};
}

void check_plan(const StreamingPlan& plan, const StreamingLimits& limits) {
  const StreamingShape& shape = plan.shape;
  check_shape(shape.tree, limits.streams);
  CHECK_GE(shape.streams, plan.depth);
  CHECK_LE(shape.streams, limits.streams);
  CHECK_EQ(plan.depth, shape.tree.depth[shape.tree.rows - 1]);
  CHECK_LE(shape.kept, shape.tree.rows);
  CHECK_LE(shape.kept * (1 + shape.streams), kMaxStepRows);
  CHECK((plan.pruning == Pruning::off) == (shape.kept == shape.tree.rows));
  if (limits.kept > 0) CHECK_LE(shape.kept, limits.kept);
  if (limits.nodes > 0) CHECK_LE(shape.tree.rows, 1 + limits.nodes);
  if (limits.nodes == 0) CHECK_EQ(plan.depth + 1, shape.tree.rows);
}

// Ranks of a round, each the best candidate with probability `right`.
std::vector<int32_t> draw_ranks(Dice& dice, double right, int32_t depths) {
  std::vector<int32_t> ranks;
  while (static_cast<int32_t>(ranks.size()) < depths) {
    const bool best = dice.between(0, 999) < right * 1000;
    ranks.push_back(best ? 0 : dice.between(1, kTreeWidth));
    if (ranks.back() == kTreeWidth) break;
  }
  return ranks;
}

TEST_CASE("plans fit into a step whatever the limits, the costs and the ranks") {
  for (uint64_t index = 0; index < 400; ++index) {
    Dice dice(index);
    const StreamingLimits limits{.streams = dice.between(1, kMaxTreeDepth),
                                 .nodes = dice.between(0, 3) == 0 ? 0 : dice.between(1, 63),
                                 .kept = dice.between(0, 1) == 0 ? 0 : dice.between(2, 64),
                                 .share = dice.one_of({0.1, 0.5, 0.9})};
    const bool measured = dice.between(0, 1) == 0;
    const double share = dice.one_of({0.0005, 0.01, 0.2});
    StreamingPlanner planner(measured ? costs(share) : StepCosts{}, limits);
    const double right = dice.one_of({0.1, 0.6, 0.95});
    for (int round = 0; round < 100; ++round) {
      planner.observe(planner.next(), draw_ranks(dice, right, limits.streams), 0);
    }
    check_plan(planner.best(), limits);
  }
}

TEST_CASE("without costs all streams and nodes are used, and kept as far as they fit") {
  const StreamingPlanner planner({}, {.streams = 4, .nodes = 20});
  const StreamingPlan plan = planner.best();
  CHECK_EQ(plan.shape.tree.rows, 21);
  CHECK_EQ(plan.shape.streams, 4);
  CHECK_EQ(plan.shape.kept, 12);
  CHECK(plan.pruning == Pruning::scored);
  const StreamingPlan chain = StreamingPlanner({}, {.streams = 4}).best();
  CHECK_EQ(chain.shape.tree.rows, 5);
  CHECK_EQ(chain.depth, 4);
  CHECK(chain.pruning == Pruning::off);
}

TEST_CASE("no plan without pruning gives more tokens by the same costs") {
  for (const double share : {0.0005, 0.01, 0.05, 0.2}) {
    const StreamingLimits limits{.streams = 6, .nodes = 40, .share = 0.3};
    StreamingPlanner planner(costs(share), limits);
    CandidateRanks ranks;
    Dice dice(static_cast<uint64_t>(share * 1e4));
    for (int i = 0; i < 300; ++i) {
      const std::vector<int32_t> seen = draw_ranks(dice, 0.7, 6);
      ranks.observe(seen);
      planner.observe({}, seen, 0);
    }
    const auto ms = [&](int32_t rows) { return 1.0 + (rows - 1) * share; };
    double best = 0;
    for (int32_t streams = 1; streams <= 6; ++streams) {
      double tokens = 0;
      int32_t rows = 0;
      for (const DraftNode& node : likeliest_nodes(ranks.chances(), {streams, 40})) {
        tokens += node.chance;
        if (++rows < 2 || rows * (1 + streams) > kMaxStepRows) continue;
        best = std::max(best, tokens / (0.7 * ms(rows) + 0.3 * ms(rows * (1 + streams))));
      }
    }
    const StreamingPlan plan = planner.best();
    CHECK(plan.tokens_per_ms >= best * (1 - 1e-9));
    if (plan.pruning == Pruning::off) CHECK(plan.tokens_per_ms == doctest::Approx(best));
  }
}

TEST_CASE("where only the next token is foreseen, a row has one stream") {
  StreamingPlanner planner(costs(0.02), {.streams = 6, .nodes = 20});
  for (int i = 0; i < 300; ++i) planner.observe({}, std::vector<int32_t>{0, kTreeWidth}, 0);
  CHECK_EQ(planner.best().shape.streams, 1);
  for (int i = 0; i < 300; ++i) planner.observe({}, std::vector<int32_t>{0, 0, 0, 0, 0, 0}, 0);
  CHECK_EQ(planner.best().shape.streams, 6);
}

bool is_plain(const StreamingPlan& plan) {
  return plan.shape.tree.rows == 1 && plan.shape.streams == 0 && plan.pruning == Pruning::off;
}

TEST_CASE("streams are left out where they do not pay, but for trials, and come back") {
  StreamingPlanner planner(costs(0.3), {.streams = 4, .nodes = 12});
  const auto run = [&](int rounds, const std::vector<int32_t>& ranks) {
    int streamed = 0;
    for (int i = 0; i < rounds; ++i) {
      const StreamingPlan plan = planner.next();
      if (is_plain(plan)) continue;
      ++streamed;
      check_plan(plan, {.streams = 4, .nodes = 12});
      planner.observe(plan, ranks, 0);
    }
    return streamed;
  };
  CHECK_GT(run(300, {kTreeWidth}), 0);
  const int trials = run(660, {kTreeWidth});
  CHECK_GE(trials, 18);
  CHECK_LE(trials, 22);
  run(3000, {0, 0, 0, 0});
  CHECK_EQ(run(100, {0, 0, 0, 0}), 100);
}

// A pruned plan of a tree of eleven rows, four of which are kept.
StreamingPlan pruned_plan() {
  StreamingPlan plan = StreamingPlanner({}, {.streams = 4, .nodes = 10, .kept = 4}).best();
  CHECK(plan.pruning == Pruning::scored);
  return plan;
}

// The right token is one of eight alike, and pruning always keeps it.
TEST_CASE("a row that is pruned would give fewer tokens than its time gives elsewhere") {
  const double share = 0.9, row = 0.02;
  const StreamingLimits limits{.streams = 3, .nodes = 30, .share = share};
  StreamingPlanner planner(costs(row), limits);
  for (int i = 0; i < 400; ++i) planner.observe(pruned_plan(), std::vector<int32_t>{i % 8}, 1);
  const StreamingPlan plan = planner.best();
  REQUIRE(plan.pruning == Pruning::scored);
  const double worth = plan.tokens_per_ms * share * (1 + plan.shape.streams) * row;
  CHECK(static_cast<double>(plan.shape.least_score) == doctest::Approx(worth));
  CHECK(worth > 0.01);
  // Rows of unknown cost are worth feeding however unlikely.
  CHECK_EQ(pruned_plan().shape.least_score, 0.f);
}

TEST_CASE("how well pruning keeps the right rows is learnt from what was accepted") {
  StreamingPlanner planner({}, {.streams = 4, .nodes = 10, .kept = 4});
  const double assumed = planner.pruning_quality();
  const StreamingPlan plan = pruned_plan();
  for (int i = 0; i < 300; ++i) planner.observe(plan, std::vector<int32_t>{0, 0}, 2);
  CHECK(planner.pruning_quality() == doctest::Approx(1).epsilon(0.01));
  // As often as chance keeps a row: 4 of 11.
  for (int i = 0; i < 1100; ++i) planner.observe(plan, std::vector<int32_t>{0}, i % 11 < 4 ? 1 : 0);
  CHECK(planner.pruning_quality() < 0.1);
  CHECK(planner.pruning_quality() > -0.1);
  CHECK(assumed > 0.1);
}

TEST_CASE("rounds that did not prune, and right tokens beside the tree, say nothing of pruning") {
  StreamingPlanner planner({}, {.streams = 4, .nodes = 10, .kept = 4});
  const double assumed = planner.pruning_quality();
  StreamingPlan plan = pruned_plan();
  for (int i = 0; i < 50; ++i) planner.observe(plan, std::vector<int32_t>{kTreeWidth}, 0);
  CHECK(planner.pruning_quality() == doctest::Approx(assumed));
  plan.pruning = Pruning::off;
  for (int i = 0; i < 50; ++i) planner.observe(plan, std::vector<int32_t>{0}, 0);
  CHECK(planner.pruning_quality() == doctest::Approx(assumed));
}

TEST_CASE("limits of streams are checked") {
  CHECK_THROWS_AS(StreamingPlanner({}, {.streams = 0}), Error);
  CHECK_THROWS_AS(StreamingPlanner({}, {.streams = 17}), Error);
  CHECK_THROWS_AS(StreamingPlanner({}, {.streams = 4, .nodes = 64}), Error);
  CHECK_THROWS_AS(StreamingPlanner({}, {.streams = 4, .nodes = 4, .kept = 65}), Error);
  CHECK_THROWS_WITH_AS(StreamingPlanner({}, {.streams = 4, .nodes = 4, .kept = 1}),
                       doctest::Contains("set kept_nodes to 0"), Error);
}

}  // namespace
}  // namespace specrt::testing

// Trees of drafts: whatever their shape, the tokens are those of direct sampling, and the planner
// shapes them by what was right of late.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "decode/draft_length.h"
#include "decode/tree_planner.h"
#include "table_rig.h"
#include "tree_shape_check.h"

namespace specrt::testing {
namespace {

Config tree_config(uint64_t index, int32_t sequences) {
  Config config = draw_config(index, sequences);
  config.rig.drafting = Drafting::at_once;
  config.tree_nodes = Dice(index).between(1, 64 / std::max(sequences, 2) / 2);
  return config;
}

std::string wrong_in_loop(const Config& config) {
  Rig rig(config.rig);
  return difference(rig, config, run_loop(rig, config));
}

TEST_CASE("random trees give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 3000; ++index) {
    const std::string wrong = wrong_in_loop(tree_config(20'000'000 + index, 1));
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
  }
}

TEST_CASE("random trees of several sequences give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 1200; ++index) {
    const int32_t sequences = 2 + static_cast<int32_t>(index % 2);
    const std::string wrong = wrong_in_loop(tree_config(21'000'000 + index, sequences));
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
  }
}

TEST_CASE("a generator with planned trees gives the tokens of direct sampling") {
  uint64_t beside_the_best = 0;
  for (uint64_t index = 0; index < 1500; ++index) {
    Config config = tree_config(22'000'000 + index, 1);
    config.draft_tokens = 1 + static_cast<int32_t>(index % 6);
    Rig rig(config.rig);
    const Outcome outcome = run_generator(rig, config, {});
    const std::string wrong = difference(rig, config, outcome);
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
    for (const RoundRecord& round : outcome.rounds) {
      beside_the_best += round.accepted > 0 && round.drafted > config.draft_tokens ? 1 : 0;
    }
  }
  CHECK(beside_the_best > 100);  // trees that branch were judged
}

TEST_CASE("trees of a model that drafts depth by depth give the tokens of direct sampling") {
  uint64_t rows = 0;
  for (uint64_t index = 0; index < 3000; ++index) {
    Config config = tree_config(26'000'000 + index, 1 + static_cast<int32_t>(index % 3));
    config.rig.drafting = Drafting::one_by_one;
    Rig rig(config.rig);
    const std::string wrong = difference(rig, config, run_loop(rig, config));
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
    rows += rig.backend.rows_drafted();
  }
  CHECK(rows > 20'000);
}

// Runs configurations until one of them is found wrong.
bool is_noticed(Fault fault) {
  for (uint64_t index = 0; index < 300; ++index) {
    Config config = tree_config(23'000'000 + index, 1);
    config.rig.fault = fault;
    if (!wrong_in_loop(config).empty()) return true;
  }
  return false;
}

TEST_CASE("mistakes with trees are noticed") {
  CHECK(is_noticed(Fault::tree_not_moved));
  CHECK(is_noticed(Fault::tree_judged_by_row));
  CHECK_FALSE(is_noticed(Fault::none));
}

// A target whose every row costs as much as `row_share` of a step of one row.
StepCosts costs(double row_share) {
  return {.target = {{1, 1.0}, {64, 1.0 + 63 * row_share}},
          .draft = {{1, 0.1}, {64, 0.2}},
          .drafts_at_once = true};
}

TEST_CASE("a planner without costs fills its nodes") {
  for (const int32_t nodes : {1, 2, 7, 31, 63}) {
    const TreePlanner planner({}, {.depth = 6, .nodes = nodes});
    const TreeShape shape = planner.plan();
    check_shape(shape, 6);
    CHECK_EQ(shape.rows, nodes + 1);
  }
}

TEST_CASE("a planner puts nodes where the right tokens stood") {
  TreePlanner planner({}, {.depth = 4, .nodes = 4});
  for (int i = 0; i < 200; ++i) planner.observe(std::vector<int32_t>{0, 0, 0, 0});
  const TreeShape chain = planner.plan();
  for (int32_t row = 1; row < chain.rows; ++row) CHECK_EQ(chain.depth[row], row);
  for (int i = 0; i < 400; ++i) planner.observe(std::vector<int32_t>{i % 4});
  const TreeShape star = planner.plan();
  for (int32_t row = 1; row < star.rows; ++row) CHECK_EQ(star.rank[row], row - 1);
}

TEST_CASE("the expected tokens are one and the chances of all nodes") {
  TreePlanner planner({}, {.depth = 2, .nodes = 3});
  // Depth 1: half rank 0, half rank 1; depth 2: always rank 0.
  for (int i = 0; i < 3000; ++i) planner.observe(std::vector<int32_t>{i % 2, 0});
  const TreeShape shape = planner.plan();
  check_shape(shape, 2);
  CHECK(planner.expected_tokens(shape) == doctest::Approx(1 + 0.5 + 0.5 + 0.5).epsilon(0.03));
}

TEST_CASE("a planner's tree is larger where rows cost less, and none is better by its costs") {
  int32_t rows_before = kMaxStepRows + 1;
  for (const double share : {0.0005, 0.01, 0.05, 0.2}) {
    TreePlanner planner(costs(share), {.depth = 8, .nodes = 63});
    for (int i = 0; i < 300; ++i) {
      planner.observe(i % 3 == 0 ? std::vector<int32_t>{0, 1} : std::vector<int32_t>{0, 0, 2});
    }
    const TreeShape shape = planner.plan();
    check_shape(shape, 8);
    CHECK_LE(shape.rows, rows_before);
    rows_before = shape.rows;
  }
  CHECK_LT(rows_before, 8);
}

TEST_CASE("a drafter that takes a step for each depth gets trees that are less deep") {
  StepCosts each{.target = {{1, 1.0}, {64, 1.2}}, .draft = {{1, 0.3}, {64, 0.4}}};
  StepCosts one = each;
  one.drafts_at_once = true;
  TreePlanner by_depth(each, {.depth = 8, .nodes = 63}), at_once(one, {.depth = 8, .nodes = 63});
  for (int i = 0; i < 300; ++i) {  // the right token is the best, or no candidate
    std::vector<int32_t> ranks(static_cast<size_t>(i % 4), 0);
    ranks.push_back(kTreeWidth);
    by_depth.observe(ranks);
    at_once.observe(ranks);
  }
  const TreeShape tree = by_depth.plan(), deep = at_once.plan();
  check_shape(tree, 8);
  CHECK_LT(tree.depth[tree.rows - 1], deep.depth[deep.rows - 1]);
  CHECK_LT(at_once.ms_per_token(deep), by_depth.ms_per_token(tree));
}

TEST_CASE("the time of a round with a tree is that of its steps") {
  const StepCosts each{.target = {{1, 10.0}, {64, 73.0}}, .draft = {{1, 1.0}, {64, 64.0}}};
  TreePlanner planner(each, {.depth = 3, .nodes = 6});
  // Depth 1 has three nodes, two of which have children, depth 2 two, of which one has a child.
  const std::vector<DraftNode> nodes{{},
                                     {.parent = 0, .depth = 1, .rank = 0},
                                     {.parent = 0, .depth = 1, .rank = 1},
                                     {.parent = 0, .depth = 1, .rank = 2},
                                     {.parent = 1, .depth = 2, .rank = 0},
                                     {.parent = 3, .depth = 2, .rank = 0},
                                     {.parent = 5, .depth = 3, .rank = 0}};
  const TreeShape shape = shape_of(nodes);
  check_shape(shape, 3);
  const double tokens = planner.expected_tokens(shape);
  const double ms = 16 + std::round(tokens) + 2 + 1;
  CHECK(planner.ms_per_token(shape) == doctest::Approx(ms / tokens));
}

TEST_CASE("trees are drafted where they pay and a chain does not") {
  // Half of the right tokens have rank 0 and half rank 1; a draft costs 0.6 of a step.
  const StepCosts dear{
      .target = {{1, 1.0}, {64, 1.1}}, .draft = {{1, 0.6}, {64, 0.6}}, .drafts_at_once = true};
  TreePlanner planner(dear, {.depth = 3, .nodes = 16});
  DraftLength lengths(LoopKind::lockstep, dear, 3);
  for (int i = 0; i < 400; ++i) {
    const std::vector<int32_t> ranks{i % 2, i / 2 % 2, i / 4 % 2};
    planner.observe(ranks);
    const auto held = static_cast<int32_t>(
        std::find_if(ranks.begin(), ranks.end(), [](int32_t r) { return r > 0; }) - ranks.begin());
    lengths.observe(std::min(held + 1, 3), held);
  }
  const DraftLength::Round round{.unfed = 2, .left = 100};
  const TreeShape tree = planner.plan();
  CHECK(planner.expected_tokens(tree) > 2.5);
  CHECK(lengths.pays(round, planner.ms_per_token(tree)));
  CHECK(lengths.expected_tokens(1) < 1.6);
  CHECK_FALSE(lengths.pays(round, 1.0));
  CHECK_FALSE(lengths.pays({.unfed = 2000, .left = 2}, 0.9));
}

TEST_CASE("limits of trees are checked") {
  CHECK_THROWS_AS(TreePlanner({}, {.depth = 4, .nodes = 64}), Error);
  CHECK_THROWS_AS(TreePlanner({}, {.depth = 0, .nodes = 4}), Error);
  Config config = tree_config(1, 1);
  config.loop = LoopKind::pearl;
  config.rig.streams = StreamUse::separate;
  Rig rig(config.rig);
  CHECK_THROWS_WITH_AS(run_generator(rig, config, {}),
                       "trees of drafts need a drafter with a model, no lookup before it, and "
                       "drafts that are verified in turn with it; set tree_nodes to 0",
                       Error);
}

}  // namespace
}  // namespace specrt::testing

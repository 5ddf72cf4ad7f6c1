// A drafter that goes on from its own estimates of hidden states, on table models: the tokens are
// those of direct sampling, every pair has the features or the estimate of its own token, and no
// access races. In trees every row has the logits of the path to it as a chain, which the scripted
// backend compares.
#include "decode/eagle_drafter.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "decode/tree_planner.h"
#include "table_rig.h"

namespace specrt::testing {
namespace {

Config eagle_config(uint64_t index, int32_t sequences) {
  Config config = draw_config(index, sequences);
  config.rig.features = TableFeatures::estimated;
  config.rig.context = std::max(config.rig.context, 3);
  config.rig.window = std::clamp(config.rig.window, 2, config.rig.context - 1);
  config.loop = loop_of(index, config);
  return config;
}

void check(const Config& config, uint64_t index) {
  Rig rig(config.rig);
  const std::string wrong = difference(rig, config, run_loop(rig, config));
  REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
}

TEST_CASE("random configurations with an EAGLE drafter give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 3000; ++index) check(eagle_config(31'000'000 + index, 1), index);
}

TEST_CASE("several sequences with an EAGLE drafter give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 1200; ++index) {
    check(eagle_config(32'000'000 + index, 2 + static_cast<int32_t>(index % 2)), index);
  }
}

TEST_CASE("a generator with an EAGLE drafter gives the tokens of direct sampling") {
  for (uint64_t index = 0; index < 1500; ++index) {
    Config config = eagle_config(33'000'000 + index, 1);
    if (config.draft_tokens == kRandomLength) config.draft_tokens = 3;
    Rig rig(config.rig);
    const std::string wrong = difference(rig, config, run_generator(rig, config, {}));
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
  }
}

Config perfect_config() {
  Config config = draw_config(1, 1);
  config.rig = {.vocab = 8, .context = 200, .window = 199, .error = 0, .model_seed = 3};
  config.rig.features = TableFeatures::estimated;
  config.asks = {{.prompt = {1, 2, 3}, .eos = {}, .max_tokens = 60, .temperature = 0, .seed = 5}};
  config.draft_tokens = 4;
  return config;
}

TEST_CASE("a perfect EAGLE drafter is right about every token") {
  const Config config = perfect_config();
  Rig rig(config.rig);
  const Outcome outcome = run_generator(rig, config, {});
  REQUIRE_EQ(difference(rig, config, outcome), "");
  for (const RoundRecord& round : outcome.rounds) CHECK_EQ(round.accepted, round.drafted);
}

Config tree_config(uint64_t index, int32_t sequences) {
  Config config = eagle_config(index, sequences);
  config.loop = LoopKind::lockstep;
  config.tree_nodes = Dice(index).between(1, 64 / std::max(sequences, 2) / 2);
  return config;
}

TEST_CASE("random trees of EAGLE drafters give the tokens of direct sampling") {
  uint64_t rows = 0;
  for (uint64_t index = 0; index < 3000; ++index) {
    const Config config =
        tree_config(35'000'000 + index, index < 2000 ? 1 : 2 + static_cast<int32_t>(index % 2));
    Rig rig(config.rig);
    const std::string wrong = difference(rig, config, run_loop(rig, config));
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
    rows += rig.backend.rows_drafted();
  }
  CHECK(rows > 20'000);
}

TEST_CASE("a generator with planned trees of an EAGLE drafter gives those tokens, too") {
  uint64_t beside_the_best = 0;
  for (uint64_t index = 0; index < 1500; ++index) {
    Config config = tree_config(36'000'000 + index, 1);
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

TEST_CASE("a perfect EAGLE drafter's trees hold the right path, a tree of one node as well") {
  for (const int32_t nodes : {1, 5, 20, 63}) {
    for (const float temperature : {0.0f, 1.0f}) {
      Config config = perfect_config();
      config.tree_nodes = nodes;
      config.asks[0].temperature = temperature;
      Rig rig(config.rig);
      const Outcome outcome = run_generator(rig, config, {});
      REQUIRE_EQ(difference(rig, config, outcome), "");
      for (const RoundRecord& round : outcome.rounds) {
        CHECK_EQ(round.accepted, std::min(round.drafted, round.judged));
        CHECK_EQ(round.drafted > 0, round.accepted > 0);
      }
    }
  }
}

TEST_CASE("the end of the context cuts trees of an EAGLE drafter") {
  for (int32_t room = 1; room <= 9; ++room) {
    Config config = perfect_config();
    config.rig.context = 3 + room;
    config.rig.window = config.rig.context - 1;
    config.draft_tokens = 8;
    config.tree_nodes = 40;
    Rig rig(config.rig);
    const Outcome outcome = run_generator(rig, config, {});
    REQUIRE_EQ(difference(rig, config, outcome), "");
    CHECK_EQ(outcome.tokens[0].size(), static_cast<size_t>(room));
  }
}

TEST_CASE("siblings that carry the same token draft it once") {
  Config config = perfect_config();
  config.rig.vocab = 5;  // fewer than candidates, so the last ones repeat a token
  config.rig.error = 0.4;
  config.draft_tokens = 2;
  config.tree_nodes = 63;
  const TreeShape shape = TreePlanner({}, {.depth = 2, .nodes = 63}).plan();
  REQUIRE(std::count(shape.rank, shape.rank + shape.rows, kTreeWidth - 1) > 1);
  Rig rig(config.rig);
  const Outcome outcome = run_generator(rig, config, {});
  REQUIRE_EQ(difference(rig, config, outcome), "");
  CHECK(rig.backend.rows_drafted() > 20);
}

// Runs configurations until one of them is found wrong.
bool is_noticed(Fault fault, const char* how) {
  for (uint64_t index = 0; index < 300; ++index) {
    Config config = tree_config(37'000'000 + index, 1);
    config.rig.fault = fault;
    Rig rig(config.rig);
    const std::string wrong = difference(rig, config, run_loop(rig, config));
    if (!wrong.empty() && wrong.find(how) != std::string::npos) return true;
  }
  return false;
}

TEST_CASE("mistakes with trees of an EAGLE drafter are noticed") {
  CHECK(is_noticed(Fault::estimates_by_position, "the features of position"));
  CHECK(is_noticed(Fault::kv_row_not_written, "has not the logits of the path to it"));
  CHECK_FALSE(is_noticed(Fault::none, ""));
}

TEST_CASE("an EAGLE drafter that does not wait for the target's features is noticed") {
  uint64_t noticed = 0;
  for (uint64_t index = 0; index < 300; ++index) {
    Config config = eagle_config(34'000'000 + index, 1);
    config.rig.streams = StreamUse::separate;
    config.rig.fault = Fault::draft_does_not_wait;
    Rig rig(config.rig);
    const std::string problems = difference(rig, config, run_loop(rig, config));
    if (problems.find("race: features[") != std::string::npos) ++noticed;
  }
  CHECK(noticed > 10);
}

}  // namespace
}  // namespace specrt::testing

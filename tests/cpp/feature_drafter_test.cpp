// A drafter that reads the target's hidden states, on table models: the tokens are those of
// direct sampling, every pair has the features of its own token, and no access races.
#include <doctest/doctest.h>

#include <algorithm>

#include "base/error.h"
#include "table_rig.h"

namespace specrt::testing {
namespace {

Config eagle_config(uint64_t index, int32_t sequences) {
  Config config = draw_config(index, sequences);
  config.rig.drafting = Drafting::at_once;
  config.rig.features = TableFeatures::read;
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

TEST_CASE("random configurations with a P-EAGLE drafter give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 3000; ++index) check(eagle_config(19'000'000 + index, 1), index);
}

TEST_CASE("several sequences with a P-EAGLE drafter give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 1200; ++index) {
    check(eagle_config(20'000'000 + index, 2 + static_cast<int32_t>(index % 2)), index);
  }
}

TEST_CASE("a generator with a P-EAGLE drafter gives the tokens of direct sampling") {
  uint64_t accepted = 0;
  for (uint64_t index = 0; index < 1500; ++index) {
    Config config = eagle_config(21'000'000 + index, 1);
    if (config.draft_tokens == kRandomLength) config.draft_tokens = 3;
    Rig rig(config.rig);
    const Outcome outcome = run_generator(rig, config, {});
    const std::string wrong = difference(rig, config, outcome);
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
    for (const RoundRecord& round : outcome.rounds) accepted += round.accepted > 0 ? 1 : 0;
  }
  CHECK(accepted > 1000);
}

TEST_CASE("a perfect drafter is right about the first token of every draft") {
  Config config = draw_config(1, 1);
  config.rig = {.vocab = 8, .context = 200, .window = 199, .error = 0, .model_seed = 3};
  config.rig.drafting = Drafting::at_once;
  config.rig.features = TableFeatures::read;
  config.asks = {{.prompt = {1, 2, 3}, .eos = {}, .max_tokens = 60, .temperature = 0, .seed = 5}};
  config.draft_tokens = 4;
  Rig rig(config.rig);
  const Outcome outcome = run_generator(rig, config, {});
  REQUIRE_EQ(difference(rig, config, outcome), "");
  for (const RoundRecord& round : outcome.rounds) {
    if (round.drafted > 0) CHECK(round.accepted > 0);
  }
}

Config tree_config(uint64_t index, int32_t sequences) {
  Config config = eagle_config(index, sequences);
  config.loop = LoopKind::lockstep;
  config.tree_nodes = Dice(index).between(1, 64 / std::max(sequences, 2) / 2);
  return config;
}

TEST_CASE("random trees of features give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 2000; ++index) check(tree_config(23'000'000 + index, 1), index);
  for (uint64_t index = 0; index < 600; ++index) {
    check(tree_config(24'000'000 + index, 2 + static_cast<int32_t>(index % 2)), index);
  }
}

TEST_CASE("features that do not move with an accepted path are noticed") {
  uint64_t noticed = 0;
  for (uint64_t index = 0; index < 300; ++index) {
    Config config = tree_config(25'000'000 + index, 1);
    config.rig.fault = Fault::features_not_moved;
    Rig rig(config.rig);
    const std::string problems = difference(rig, config, run_loop(rig, config));
    if (problems.find("the features of position") != std::string::npos) ++noticed;
  }
  CHECK(noticed > 10);
}

// The random tests would see it if a drafter read features before the target has kept them.
TEST_CASE("a drafter that does not wait for the target's features is noticed") {
  uint64_t noticed = 0;
  for (uint64_t index = 0; index < 300; ++index) {
    Config config = eagle_config(22'000'000 + index, 1);
    config.rig.streams = StreamUse::separate;
    config.rig.fault = Fault::draft_does_not_wait;
    Rig rig(config.rig);
    const std::string problems = difference(rig, config, run_loop(rig, config));
    if (problems.find("race: features[") != std::string::npos) ++noticed;
  }
  CHECK(noticed > 10);
}

TEST_CASE("a drafter without a smaller context than the target's is refused") {
  RigOptions options{.context = 40, .window = 40};
  options.drafting = Drafting::at_once;
  options.features = TableFeatures::read;
  CHECK_THROWS_WITH_AS(Rig{options},
                       "the drafter has a context of 40, which must be below the target's of 40; "
                       "build the bundle with both models",
                       Error);
}

TEST_CASE("a drafter whose features the target does not keep is refused") {
  RigOptions options{.context = 40, .window = 39};
  options.drafting = Drafting::at_once;
  options.features = TableFeatures::read;
  Rig rig(options);
  CHECK_THROWS_WITH_AS(
      FeatureDrafter(*rig.target, *rig.draft),
      "the drafter reads 12 columns of features in f32, the target keeps 0 in f32; "
      "build the bundle with both models",
      Error);
}

}  // namespace
}  // namespace specrt::testing

// A drafter that goes on from its own estimates of hidden states, on table models: the tokens are
// those of direct sampling, every pair has the features or the estimate of its own token, and no
// access races.
#include "decode/eagle_drafter.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "table_rig.h"

namespace specrt::testing {
namespace {

Config eagle_config(uint64_t index, int32_t sequences) {
  Config config = draw_config(index, sequences);
  config.rig.features = TableFeatures::estimated;
  config.rig.context = std::max(config.rig.context, 3);
  config.rig.window = std::clamp(config.rig.window, 2, config.rig.context - 1);
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

TEST_CASE("a perfect EAGLE drafter is right about every token") {
  Config config = draw_config(1, 1);
  config.rig = {.vocab = 8, .context = 200, .window = 199, .error = 0, .model_seed = 3};
  config.rig.features = TableFeatures::estimated;
  config.asks = {{.prompt = {1, 2, 3}, .eos = {}, .max_tokens = 60, .temperature = 0, .seed = 5}};
  config.draft_tokens = 4;
  Rig rig(config.rig);
  const Outcome outcome = run_generator(rig, config, {});
  REQUIRE_EQ(difference(rig, config, outcome), "");
  for (const RoundRecord& round : outcome.rounds) CHECK_EQ(round.accepted, round.drafted);
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

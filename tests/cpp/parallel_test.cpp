// The drafter that fills masks, under both loops: the tokens are those of direct sampling, and
// masks leave nothing in its cache.
#include <doctest/doctest.h>

#include "base/error.h"
#include "table_rig.h"

namespace specrt::testing {
namespace {

Config parallel_config(uint64_t index, int32_t sequences) {
  Config config = draw_config(index, sequences);
  config.loop = loop_of(index, config);
  config.rig.drafting = Drafting::at_once;
  return config;
}

void check(const Config& config, uint64_t index) {
  Rig rig(config.rig);
  const std::string wrong = difference(rig, config, run_loop(rig, config));
  REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
}

TEST_CASE("random configurations with a parallel drafter give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 3000; ++index) {
    check(parallel_config(9'000'000 + index, 1), index);
  }
}

TEST_CASE("several sequences with a parallel drafter give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 1200; ++index) {
    check(parallel_config(10'000'000 + index, 2 + static_cast<int32_t>(index % 2)), index);
  }
}

TEST_CASE("a generator with a parallel drafter gives the tokens of direct sampling") {
  uint64_t accepted = 0;
  for (uint64_t index = 0; index < 1500; ++index) {
    Config config = parallel_config(11'000'000 + index, 1);
    if (config.draft_tokens == kRandomLength) config.draft_tokens = 3;
    Rig rig(config.rig);
    const Outcome outcome = run_generator(rig, config, {});
    const std::string wrong = difference(rig, config, outcome);
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
    for (const RoundRecord& round : outcome.rounds) accepted += round.accepted > 1 ? 1 : 0;
  }
  CHECK(accepted > 100);  // drafts beyond the first token, which masks gave
}

TEST_CASE("a draft takes one step, whatever its length") {
  for (const int32_t length : {1, 4, 8}) {
    Config config = draw_config(1, 1);
    config.rig = {.vocab = 8, .context = 200, .window = 200, .error = 0, .model_seed = 3};
    config.rig.drafting = Drafting::at_once;
    config.rig.target_ms = 10;
    config.rig.draft_ms = 2;
    config.asks = {{.prompt = {1, 2, 3}, .eos = {}, .max_tokens = 60, .temperature = 0, .seed = 5}};
    config.draft_tokens = length;
    Rig rig(config.rig);
    const Outcome outcome = run_generator(rig, config, {});
    REQUIRE_EQ(difference(rig, config, outcome), "");
    size_t drafts = 0, steps = 0;
    for (const RoundRecord& round : outcome.rounds) drafts += round.drafted > 0 ? 1 : 0;
    for (const StepRecord& step : outcome.steps) steps += step.role == EngineRole::drafter ? 1 : 0;
    CHECK(drafts > 0);
    CHECK_EQ(steps, drafts);
  }
}

TEST_CASE("a draft that does not fit into a step is refused") {
  Config config = parallel_config(1, 1);
  config.rig.window = config.rig.context;
  Rig rig(config.rig);
  CHECK_GE(rig.drafter->slack(32), 33);
  CHECK_THROWS_WITH_AS(rig.drafter->slack(33),
                       "a step of 64 rows cannot draft 33 tokens at once; at most 32 are possible",
                       Error);
}

}  // namespace
}  // namespace specrt::testing

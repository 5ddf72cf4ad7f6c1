// The overlapping loop over table models: whatever is drafted, and however the streams run, the
// tokens are those of direct sampling.
#include <doctest/doctest.h>

#include <algorithm>

#include "table_rig.h"

namespace specrt::testing {
namespace {

Config pearl_config(uint64_t index, int32_t sequences) {
  Config config = draw_config(index, sequences);
  config.loop = LoopKind::pearl;
  return config;
}

void check(const Config& config, uint64_t index) {
  Rig rig(config.rig);
  const std::string wrong = difference(rig, config, run_loop(rig, config));
  REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
}

TEST_CASE("random configurations through Pearl give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 3000; ++index) check(pearl_config(5'000'000 + index, 1), index);
}

TEST_CASE("two and three sequences under Pearl give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 1200; ++index) {
    check(pearl_config(6'000'000 + index, 2 + static_cast<int32_t>(index % 2)), index);
  }
}

TEST_CASE("Pearl with an n-gram lookup, alone and before the model, gives the same tokens") {
  for (uint64_t index = 0; index < 1500; ++index) {
    Config config = pearl_config(7'000'000 + index, 1);
    config.rig.ngram = 1 + static_cast<int32_t>(index % 3);
    if (index % 2 == 0) config.rig.window = 0;
    check(config, index);
  }
}

TEST_CASE("one phase of Pearl alone gives the tokens of direct sampling") {
  for (uint64_t index = 0; index < 2400; ++index) {
    Config config = pearl_config(8'000'000 + index, 1 + static_cast<int32_t>(index % 2));
    config.phases = index % 4 < 2 ? Phases::pre_verify_only : Phases::post_verify_only;
    config.rig.ngram = index % 5 == 0 ? 2 : 0;
    if (index % 7 == 0) config.rig.drafting = Drafting::at_once;
    check(config, index);
  }
}

TEST_CASE("Generator runs one phase of Pearl alone, to every limit") {
  for (uint64_t index = 0; index < 600; ++index) {
    Config config = pearl_config(9'000'000 + index, 1);
    config.phases = index % 2 == 0 ? Phases::pre_verify_only : Phases::post_verify_only;
    config.draft_tokens = 1 + static_cast<int32_t>(index % 8);
    config.depth = static_cast<int32_t>(index % 3);
    Rig rig(config.rig);
    const std::string wrong = difference(rig, config, run_generator(rig, config, {}));
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
  }
}

// A perfect drafter, greedy choice, and steps of 10 and 2 ms on the scripted clock.
Config timed_config(int32_t gamma) {
  Config config;
  config.loop = LoopKind::pearl;
  config.rig = {.vocab = 8, .context = 200, .window = 200, .error = 0, .model_seed = 3};
  config.rig.target_ms = 10;
  config.rig.draft_ms = 2;
  config.asks = {{.prompt = {1, 2, 3}, .eos = {}, .max_tokens = 101, .temperature = 0, .seed = 5}};
  config.draft_tokens = gamma;
  return config;
}

struct Timeline {
  double whole = 0;       // from the first step's begin to the last one's end
  double drafting = 0;    // time in draft steps
  double overlapped = 0;  // of that, under a target step
};

Timeline timeline(const Outcome& outcome) {
  Timeline line;
  double begin = 1e30, end = 0;
  for (const StepRecord& step : outcome.steps) {
    begin = std::min(begin, step.begin);
    end = step.end > end || end == 0 ? step.end : end;
    if (step.role == EngineRole::target) continue;
    line.drafting += step.end - step.begin;
    for (const StepRecord& other : outcome.steps) {
      if (other.role != EngineRole::target) continue;
      line.overlapped +=
          std::max(0.0, std::min(step.end, other.end) - std::max(step.begin, other.begin));
    }
  }
  line.whole = end - begin;
  return line;
}

TEST_CASE("where drafts hold, drafting lies under the target's steps") {
  const Config config = timed_config(5);
  Rig rig(config.rig);
  const Outcome outcome = run_generator(rig, config, {});
  REQUIRE_EQ(difference(rig, config, outcome), "");
  const Timeline line = timeline(outcome);
  CHECK(line.overlapped >= 0.999 * line.drafting);
  // One pre-verify that commits one token, then five tokens in every step of the target.
  CHECK_EQ(outcome.rounds.size(), 1 + 20);
  CHECK(line.whole < 0.010 * 21 + 0.001);
}

// Tokens that the drafter holds when the prompt's first token is committed.
int32_t fed_beside_prompt(const Config& config) {
  Rig rig(config.rig);
  int32_t fed = -1;
  const Outcome outcome = run_generator(rig, config, [&](const Progress& progress) {
    if (fed < 0 && !progress.tokens.empty()) fed = rig.sequences[0]->entry(0).draft_kv;
    return true;
  });
  REQUIRE_EQ(difference(rig, config, outcome), "");
  return fed;
}

TEST_CASE("the drafter reads the prompt beside the target, unless nothing will be drafted") {
  constexpr int32_t kLength = 150;
  Config config = timed_config(5);
  config.rig.context = config.rig.window = 300;
  config.asks[0].max_tokens = 20;
  config.asks[0].prompt.clear();
  for (int32_t i = 0; i < kLength; ++i) config.asks[0].prompt.push_back(i * i % 8);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    config.rig.schedule_seed = seed;
    CHECK_EQ(fed_beside_prompt(config), kLength - 1);
  }
  Config lookup_first = config;
  lookup_first.rig.ngram = 2;
  CHECK_EQ(fed_beside_prompt(lookup_first), kLength - 1);
  Config short_window = config;
  short_window.rig.window = 100;
  CHECK_EQ(fed_beside_prompt(short_window), 100);
  Config one_token = config;
  one_token.asks[0].max_tokens = 1;
  CHECK_EQ(fed_beside_prompt(one_token), 0);
  Config slow_drafter = config;
  slow_drafter.costs.target = {{1, 1.0}, {64, 1.5}};
  slow_drafter.costs.draft = {{1, 3.0}, {64, 4.0}};
  CHECK_EQ(fed_beside_prompt(slow_drafter), 0);
  Config in_turns = config;
  in_turns.loop = LoopKind::lockstep;
  CHECK_EQ(fed_beside_prompt(in_turns), 0);
}

TEST_CASE("without post-verify nothing is drafted while a draft is verified") {
  Config config = timed_config(5);
  config.phases = Phases::pre_verify_only;
  Rig rig(config.rig);
  const Outcome outcome = run_generator(rig, config, {});
  REQUIRE_EQ(difference(rig, config, outcome), "");
  // In turn a pre-verify, which commits one token, and a round of five without a draft.
  REQUIRE_EQ(outcome.rounds.size(), 34);
  for (size_t i = 0; i < 32; ++i) {
    CHECK_EQ(outcome.rounds[i].drafted, i % 2 == 0 ? 5 : 0);
    CHECK_EQ(outcome.rounds[i].committed, i % 2 == 0 ? 1 : 5);
  }
}

TEST_CASE("without pre-verify a first draft waits for the next round") {
  Config config = timed_config(5);
  config.phases = Phases::post_verify_only;
  Rig rig(config.rig);
  const Outcome outcome = run_generator(rig, config, {});
  REQUIRE_EQ(difference(rig, config, outcome), "");
  // Nothing, then six with the first token of the next draft, then five in every round.
  REQUIRE_GE(outcome.rounds.size(), 3);
  CHECK_EQ(outcome.rounds[0].committed, 0);
  CHECK_EQ(outcome.rounds[1].committed, 6);
  CHECK_EQ(outcome.rounds[2].committed, 5);
  CHECK_EQ(outcome.rounds.size(), 21);
}

TEST_CASE("draft and verify of a round in lockstep never overlap, and take their sum") {
  Config config = timed_config(5);
  config.loop = LoopKind::lockstep;
  Rig rig(config.rig);
  const Outcome outcome = run_generator(rig, config, {});
  REQUIRE_EQ(difference(rig, config, outcome), "");
  const Timeline line = timeline(outcome);
  CHECK(line.overlapped < 1e-9);
  CHECK(line.whole > 0.020 * static_cast<double>(outcome.rounds.size() - 1));
}

TEST_CASE("refused work is bounded by the draft: a useless drafter costs no step of the target") {
  Config config = timed_config(5);
  config.rig.error = 1;
  config.rig.vocab = 16;
  Rig rig(config.rig);
  const Outcome outcome = run_generator(rig, config, {});
  REQUIRE_EQ(difference(rig, config, outcome), "");
  CHECK(outcome.rounds.size() <= 100);  // autoregressive decoding takes 100 steps
  CHECK(timeline(outcome).whole < 0.010 * 100 + 0.001);
  for (const RoundRecord& round : outcome.rounds) CHECK(round.drafted <= 5);
}

}  // namespace
}  // namespace specrt::testing

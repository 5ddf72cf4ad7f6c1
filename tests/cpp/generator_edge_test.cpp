// The edge cases of the decoding state, by name.
#include <doctest/doctest.h>

#include <algorithm>

#include "decode/lockstep.h"
#include "table_rig.h"

namespace specrt::testing {
namespace {

// A perfect drafter and greedy choice unless the case says otherwise.
Config edge_config(uint64_t model_seed) {
  Config config;
  config.rig = {.vocab = 8, .context = 64, .window = 64, .error = 0, .model_seed = model_seed};
  config.asks = {{.prompt = {1, 2, 3}, .eos = {}, .max_tokens = 20, .temperature = 0, .seed = 5}};
  config.draft_tokens = 4;
  return config;
}

Outcome run_checked(const Config& config) {
  Outcome first;
  for (const int32_t depth : {0, 1, 2}) {
    for (const StreamUse streams : {StreamUse::shared, StreamUse::separate}) {
      Config varied = config;
      varied.depth = depth;
      varied.rig.streams = streams;
      Rig rig(varied.rig);
      const Outcome outcome = run_generator(rig, varied, {});
      REQUIRE_EQ(difference(rig, varied, outcome), "");
      if (depth == 0 && streams == StreamUse::shared) first = outcome;
    }
  }
  return first;
}

// A configuration whose token number `index` does not occur before, made the end of the sequence.
Config with_eos_at(size_t index) {
  for (uint64_t seed = 1;; ++seed) {
    Config config = edge_config(seed);
    const std::vector<int32_t> tokens = direct(Rig(config.rig), config.asks[0]);
    const auto at = tokens.begin() + static_cast<std::ptrdiff_t>(index);
    if (std::find(tokens.begin(), at, *at) != at) continue;
    config.asks[0].eos = {*at};
    return config;
  }
}

TEST_CASE("a prompt of one token") {
  Config config = edge_config(1);
  config.asks[0].prompt = {4};
  CHECK_EQ(run_checked(config).tokens[0].size(), 20);
}

TEST_CASE("max_tokens = 1 takes no round behind the prompt's") {
  Config config = edge_config(1);
  config.asks[0].max_tokens = 1;
  const Outcome outcome = run_checked(config);
  CHECK(outcome.rounds.empty());
  CHECK(outcome.finish == FinishReason::length);
}

TEST_CASE("the end of the sequence is the first token") {
  const Outcome outcome = run_checked(with_eos_at(0));
  CHECK_EQ(outcome.tokens[0].size(), 1);
  CHECK(outcome.rounds.empty());
  CHECK(outcome.finish == FinishReason::stop);
}

TEST_CASE("the end of the sequence is an accepted token in the middle of a draft") {
  const Outcome outcome = run_checked(with_eos_at(2));
  CHECK_EQ(outcome.tokens[0].size(), 3);
  REQUIRE_EQ(outcome.rounds.size(), 1);
  CHECK_EQ(outcome.rounds[0].drafted, 4);
  CHECK_EQ(outcome.rounds[0].accepted, 2);  // nothing behind the end counts
  CHECK_EQ(outcome.rounds[0].committed, 2);
}

TEST_CASE("the end of the sequence is the last judged token") {
  const Outcome outcome = run_checked(with_eos_at(4));
  REQUIRE_EQ(outcome.rounds.size(), 1);
  CHECK_EQ(outcome.rounds[0].accepted, 4);
  CHECK_EQ(outcome.rounds[0].committed, 4);  // no bonus behind it
}

TEST_CASE("the end of the sequence is the bonus token") {
  const Outcome outcome = run_checked(with_eos_at(5));
  REQUIRE_EQ(outcome.rounds.size(), 1);
  CHECK_EQ(outcome.rounds[0].accepted, 4);
  CHECK_EQ(outcome.rounds[0].committed, 5);
  CHECK(outcome.finish == FinishReason::stop);
}

TEST_CASE("the limit is reached on the bonus token") {
  Config config = edge_config(1);
  for (int32_t max_tokens = 2; max_tokens <= 12; ++max_tokens) {
    config.asks[0].max_tokens = max_tokens;
    const Outcome outcome = run_checked(config);
    CHECK_EQ(outcome.tokens[0].size(), static_cast<size_t>(max_tokens));
    // The draft is clamped so that the bonus row is the last position.
    CHECK_EQ(outcome.rounds.back().committed, outcome.rounds.back().drafted + 1);
  }
}

TEST_CASE("the context ends before max_tokens") {
  Config config = edge_config(1);
  for (int32_t context = 4; context <= 12; ++context) {
    config.rig.context = context;
    const Outcome outcome = run_checked(config);
    CHECK_EQ(outcome.tokens[0].size(), static_cast<size_t>(context - 3));
    CHECK(outcome.finish == FinishReason::length);
  }
}

TEST_CASE("one drafted token in a round") {
  Config config = edge_config(1);
  config.draft_tokens = 1;
  for (const RoundRecord& round : run_checked(config).rounds) CHECK(round.committed <= 2);
}

TEST_CASE("a perfect drafter commits every draft and the bonus") {
  Config config = edge_config(1);
  config.asks[0].max_tokens = 21;
  config.asks[0].temperature = 1;  // the same noise: accepted when sampled, too
  const Outcome outcome = run_checked(config);
  REQUIRE_EQ(outcome.rounds.size(), 4);
  for (const RoundRecord& round : outcome.rounds) CHECK_EQ(round.committed, 5);
}

TEST_CASE("a useless drafter changes nothing") {
  Config config = edge_config(1);
  config.rig.error = 1;
  const Outcome outcome = run_checked(config);
  int32_t accepted = 0;
  for (const RoundRecord& round : outcome.rounds) accepted += round.accepted;
  CHECK(accepted < 12);
}

TEST_CASE("no drafter at all") {
  Config config = edge_config(1);
  config.rig.window = 0;
  config.draft_tokens = 0;
  const Outcome outcome = run_checked(config);
  CHECK_EQ(outcome.rounds.size(), 19);
  for (const RoundRecord& round : outcome.rounds) CHECK_EQ(round.drafted, 0);
}

TEST_CASE("a drafter whose window is shorter than the prompt drafts nothing") {
  Config config = edge_config(1);
  config.rig.window = 2;
  const Outcome outcome = run_checked(config);
  CHECK_EQ(outcome.rounds.size(), 19);
  for (const RoundRecord& round : outcome.rounds) CHECK_EQ(round.drafted, 0);
}

TEST_CASE("a drafter whose window ends within a draft drafts up to its end") {
  Config config = edge_config(1);
  for (int32_t window = 3; window <= 20; ++window) {
    config.rig.window = window;
    const Outcome outcome = run_checked(config);
    int32_t position = 4, drafted_to = 0;  // behind the prompt and its first token
    for (const RoundRecord& round : outcome.rounds) {
      if (round.drafted > 0) drafted_to = position + round.drafted;
      position += round.committed;
    }
    CHECK(drafted_to <= window + 1);  // the last position fed chooses the token behind it
    if (window >= 4) CHECK(drafted_to >= window);
  }
}

// A lockstep loop over a perfect drafter, round by round.
struct ByHand {
  ByHand() : rig(config.rig), loop(*rig.target, rig.drafter.get()), sequence(*rig.sequences[0]) {
    sequence.begin(*rig.target_stream, {.prompt = config.asks[0].prompt, .max_tokens = 100},
                   config.asks[0].params());
    loop.enqueue_prompt_verdict(0, 0, 3);
  }

  int32_t drafted(int32_t draft_tokens) {
    loop.enqueue_round(draft_tokens, 200).wait();
    return sequence.entry(round++).drafted;
  }

  static Config make() {
    Config config = edge_config(1);
    config.rig.context = config.rig.window = 200;
    config.asks[0].max_tokens = 100;
    return config;
  }

  Config config = make();
  Rig rig;
  Lockstep loop;
  Sequence& sequence;
  uint32_t round = 1;
};

TEST_CASE("an autoregressive round behind a full accept, and drafting again") {
  ByHand hand;
  CHECK_EQ(hand.drafted(4), 4);
  CHECK_EQ(hand.drafted(0), 0);
  CHECK_EQ(hand.drafted(4), 4);  // three tokens to catch up with
  for (int i = 0; i < 20; ++i) CHECK_EQ(hand.drafted(0), 0);
  int lost = 0;
  while (hand.drafted(4) == 0) ++lost;
  CHECK_EQ(lost, 2);  // eight tokens a round of the 21 that are missing
  CHECK(hand.rig.backend.violations().empty());
  CHECK_EQ(hand.sequence.entry(hand.round - 1).accepted, 4);
}

TEST_CASE("behind a catch-up step drafting resumes at once") {
  ByHand hand;
  for (int i = 0; i < 50; ++i) CHECK_EQ(hand.drafted(0), 0);
  hand.loop.enqueue_catch_up(200);  // the prompt and the 50 tokens
  CHECK_EQ(hand.drafted(4), 4);
  CHECK_EQ(hand.sequence.entry(hand.round - 1).accepted, 4);
  hand.loop.enqueue_catch_up(200);  // nothing is missing
  CHECK_EQ(hand.drafted(4), 4);
  CHECK(hand.rig.backend.violations().empty());
}

TEST_CASE("two sequences of which one has stopped") {
  Config config = with_eos_at(0);
  config.rig.sequences = 2;
  Ask other = config.asks[0];
  other.eos = {};
  other.prompt = {3, 3};
  config.asks.push_back(other);
  for (const int32_t depth : {0, 1, 2}) {
    config.depth = depth;
    Rig rig(config.rig);
    const Outcome outcome = run_loop(rig, config);
    CHECK_EQ(difference(rig, config, outcome), "");
    CHECK_EQ(outcome.tokens[0].size(), 1);
    CHECK_EQ(outcome.tokens[1].size(), 20);
  }
}

}  // namespace
}  // namespace specrt::testing

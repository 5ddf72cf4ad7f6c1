// Generator over table models: identity with direct sampling, run-ahead, cancellation, errors.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "decode/lockstep.h"
#include "decode/pearl.h"
#include "table_rig.h"

namespace specrt::testing {
namespace {

Config plain_config(int32_t draft_tokens, int32_t depth) {
  Config config;
  config.rig = {.vocab = 8, .context = 400, .window = 400, .error = 0.3, .model_seed = 11};
  config.asks = {{.prompt = {1, 2, 3}, .eos = {}, .max_tokens = 60, .temperature = 1, .seed = 5}};
  config.draft_tokens = draft_tokens;
  config.depth = depth;
  return config;
}

std::vector<int32_t> long_prompt(int32_t length) {
  Dice dice(static_cast<uint64_t>(length));
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < length; ++i) prompt.push_back(dice.between(0, 7));
  return prompt;
}

Generator make_generator(Rig& rig, const Config& config) {
  return {*rig.target,
          rig.drafter.get(),
          {.loop = config.loop, .draft_tokens = config.draft_tokens, .run_ahead = config.depth}};
}

// Runs once and says what is wrong; empty when nothing is.
std::string run_and_compare(Rig& rig, const Config& config) {
  return difference(rig, config, run_generator(rig, config, {}));
}

// A request whose op number `count` throws; `cancel_at` ends it at that callback (0: never).
// Returns whether generate() threw.
bool run_with_error(Generator& generator, Rig& rig, const Config& config, uint64_t count,
                    uint64_t cancel_at) {
  rig.backend.fail_op(count);
  uint64_t calls = 0;
  bool thrown = false;
  try {
    generator.generate(config.asks[0].prompt, config.asks[0].params(),
                       [&](const Progress&) { return ++calls != cancel_at; });
  } catch (const Error& error) {
    thrown = true;
    CHECK_EQ(std::string(error.what()), "this op was told to fail");
  }
  rig.backend.fail_op(~uint64_t{0} / 2);
  return thrown;
}

TEST_CASE("random configurations through Generator give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 4000; ++index) {
    Config config = draw_config(2'000'000 + index, 1);
    if (config.draft_tokens == kRandomLength) {
      config.draft_tokens = 0;
      if (index % 2 == 0) config.rig.window = 0;
    }
    config.loop = loop_of(index / 2, config);
    Rig rig(config.rig);
    const std::string wrong = run_and_compare(rig, config);
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
  }
}

// Costs of the machine such that all lengths, 0 included, are chosen somewhere.
StepCosts draw_costs(uint64_t seed) {
  Dice dice(seed);
  const double more = dice.one_of({0.01, 0.2});
  StepCosts costs;
  costs.target = {{1, 1.0}, {64, 1.0 + 63 * more}};
  costs.draft = {{1, dice.one_of({0.02, 0.3, 1.2})}, {64, 2.0}};
  return costs;
}

TEST_CASE("draft lengths that follow the costs give the tokens of direct sampling") {
  std::set<int32_t> lengths;
  for (uint64_t index = 0; index < 2000; ++index) {
    Config config = draw_config(5'000'000 + index, 1);
    config.draft_tokens = 8;
    config.costs = draw_costs(index);
    if (index % 3 == 0) config.rig.ngram = 2;
    config.loop = loop_of(index, config);
    Rig rig(config.rig);
    const Outcome outcome = run_generator(rig, config, {});
    const std::string wrong = difference(rig, config, outcome);
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
    for (const RoundRecord& round : outcome.rounds) lengths.insert(round.drafted);
  }
  CHECK_EQ(lengths.size(), 9);
}

TEST_CASE("a prompt that begins as the text before feeds only what differs") {
  for (uint64_t index = 0; index < 400; ++index) {
    Dice dice(index);
    Config config = plain_config(static_cast<int32_t>(index % 5), static_cast<int32_t>(index % 3));
    config.rig.schedule_seed = index;
    config.rig.streams = index % 2 == 0 ? StreamUse::separate : StreamUse::shared;
    config.asks[0].prompt = long_prompt(dice.between(1, 100));
    config.asks[0].max_tokens = dice.between(1, 20);
    config.loop = loop_of(index / 2, config);
    Rig rig(config.rig);
    Generator generator = make_generator(rig, config);
    for (int turn = 0; turn < 4; ++turn) {
      std::vector<int32_t>& prompt = config.asks[0].prompt;
      const Completion done = generator.generate(prompt, config.asks[0].params(), {});
      REQUIRE_EQ(done.token_ids, direct(rig, config.asks[0]));
      REQUIRE(rig.backend.violations().empty());
      std::vector<int32_t> text = prompt;
      text.insert(text.end(), done.token_ids.begin(), done.token_ids.end());
      const auto kept = static_cast<size_t>(dice.between(1, static_cast<int32_t>(text.size())));
      prompt.assign(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(kept));
      const auto more = static_cast<size_t>(dice.between(0, 3));
      for (size_t i = 0; i < more; ++i) prompt.push_back(dice.between(0, 7));
      const Completion next = generator.generate(prompt, config.asks[0].params(), {});
      const int32_t cached = next.metrics.cached_tokens;
      REQUIRE(cached >= static_cast<int32_t>(std::min(kept, text.size() - 1)) - 1);
      REQUIRE(cached < static_cast<int32_t>(prompt.size()));
      REQUIRE_EQ(next.token_ids, direct(rig, config.asks[0]));
    }
    rig.backend.check_target_cache(rig.sequences[0]->cells());
    rig.backend.check_draft_cache(rig.sequences[0]->cells());
    REQUIRE(rig.backend.violations().empty());
  }
}

TEST_CASE("nothing is cached behind an error, another user of the sequence, or where it is off") {
  const Config config = plain_config(4, 1);
  Rig rig(config.rig);
  const auto cached = [&](Generator& generator) {
    return generator.generate(config.asks[0].prompt, config.asks[0].params(), {})
        .metrics.cached_tokens;
  };
  Generator generator(*rig.target, rig.drafter.get(), {.draft_tokens = 4, .run_ahead = 1});
  CHECK_EQ(cached(generator), 0);
  CHECK_EQ(cached(generator), 2);
  CHECK(run_with_error(generator, rig, config, 20, 0));
  CHECK_EQ(cached(generator), 0);
  rig.sequences[0]->begin(*rig.target_stream, {.prompt = config.asks[0].prompt}, {});
  CHECK_EQ(cached(generator), 0);
  CHECK_EQ(cached(generator), 2);
  Generator off(*rig.target, rig.drafter.get(),
                {.draft_tokens = 4, .run_ahead = 1, .prefix_caching = PrefixCaching::off});
  CHECK_EQ(cached(off), 0);
  CHECK_EQ(cached(off), 0);
}

TEST_CASE("one generator serves many requests, one after another") {
  Config config = plain_config(4, 2);
  Rig rig(config.rig);
  for (uint64_t index = 0; index < 100; ++index) {
    config.asks = draw_config(3'000'000 + index, 1).asks;
    for (int32_t& token : config.asks[0].prompt) token %= 8;
    const std::string wrong = run_and_compare(rig, config);
    REQUIRE_MESSAGE(wrong.empty(), wrong);
  }
}

TEST_CASE("prompts of several chunks") {
  for (const int32_t length : {63, 64, 65, 128, 129, 200, 330}) {
    for (const int32_t window : {400, 100, 64, 10}) {
      Config config = plain_config(5, 1);
      config.rig.window = window;
      config.asks[0].prompt = long_prompt(length);
      for (const LoopKind loop : {LoopKind::lockstep, LoopKind::pearl}) {
        config.loop = loop;
        Rig rig(config.rig);
        const std::string wrong = run_and_compare(rig, config);
        REQUIRE_MESSAGE(wrong.empty(), "length ", length, ": ", wrong);
      }
    }
  }
}

TEST_CASE("as many rounds as the run-ahead depth are enqueued before the first verdict is read") {
  for (const int32_t depth : {0, 1, 2, 3, kMaxRunAhead}) {
    const Config config = plain_config(4, depth);
    Rig rig(config.rig);
    std::vector<uint64_t> launches;
    run_generator(rig, config, [&](const Progress&) {
      launches.push_back(rig.backend.launches());
      return true;
    });
    REQUIRE(launches.size() > 4);
    for (size_t read = 0; read < 3; ++read) {
      // Each round launches a draft and a target; `read` verdicts were delivered before this one.
      CHECK_EQ(launches[read], 2 * (static_cast<uint64_t>(depth) + read));
    }
  }
}

TEST_CASE("no round is enqueued that cannot be live") {
  for (const int32_t depth : {0, 1, 2}) {
    Config config = plain_config(4, depth);
    config.asks[0].max_tokens = 1;
    Rig rig(config.rig);
    CHECK_EQ(run_and_compare(rig, config), "");
    CHECK_EQ(rig.backend.launches(), 0);
    CHECK_EQ(rig.backend.verdicts(), 1);
  }
}

TEST_CASE("a callback that cancels gets nothing more, and the next request is right") {
  for (uint64_t index = 0; index < 300; ++index) {
    Config config =
        plain_config(1 + static_cast<int32_t>(index % 8), static_cast<int32_t>(index % 3));
    config.rig.schedule_seed = index;
    config.rig.streams = index % 2 == 0 ? StreamUse::separate : StreamUse::shared;
    config.loop = loop_of(index / 2, config);
    Rig rig(config.rig);
    const std::vector<int32_t> whole = direct(rig, config.asks[0]);
    Generator generator = make_generator(rig, config);
    uint64_t calls = 0;
    const uint64_t last = 1 + index % 5;
    const Completion cut = generator.generate(config.asks[0].prompt, config.asks[0].params(),
                                              [&](const Progress&) { return ++calls < last; });
    REQUIRE_EQ(calls, last);
    REQUIRE(cut.finish_reason == FinishReason::cancelled);
    REQUIRE(cut.token_ids.size() < whole.size());
    REQUIRE(std::equal(cut.token_ids.begin(), cut.token_ids.end(), whole.begin()));
    const uint64_t ops = rig.backend.ops_run();
    rig.target_stream->record().wait();
    REQUIRE_EQ(rig.backend.ops_run(), ops);  // nothing runs on behind the call
    const std::string wrong = run_and_compare(rig, config);
    REQUIRE_MESSAGE(wrong.empty(), wrong);
  }
}

TEST_CASE("a long prompt can be cancelled before its first token") {
  Config config = plain_config(4, 1);
  config.asks[0].prompt = long_prompt(330);
  Rig rig(config.rig);
  Generator generator(*rig.target, rig.drafter.get(), {.draft_tokens = 4, .run_ahead = 1});
  int calls = 0;
  const auto cancel = [&](const Progress& progress) {
    const std::span<const int32_t> tokens = progress.tokens;
    CHECK(tokens.empty());
    ++calls;
    return false;
  };
  const Completion cut = generator.generate(config.asks[0].prompt, config.asks[0].params(), cancel);
  CHECK_EQ(calls, 1);
  CHECK(cut.token_ids.empty());
  CHECK(cut.finish_reason == FinishReason::cancelled);
  CHECK_EQ(run_and_compare(rig, config), "");
}

TEST_CASE("an op that throws reaches the caller, and the next request is right") {
  uint64_t thrown = 0;
  for (uint64_t index = 0; index < 1500; ++index) {
    Config config = plain_config(static_cast<int32_t>(index % 5), static_cast<int32_t>(index % 3));
    config.rig.schedule_seed = index;
    config.rig.streams = index % 2 == 0 ? StreamUse::separate : StreamUse::shared;
    config.loop = loop_of(index / 2, config);
    Rig rig(config.rig);
    // Half of the requests are cancelled around the moment of the error.
    Generator generator = make_generator(rig, config);
    const uint64_t cancel_at = index % 4 < 2 ? 0 : 1 + index % 7;
    if (run_with_error(generator, rig, config, 1 + index / 4, cancel_at)) ++thrown;
    const std::string wrong = run_and_compare(rig, config);
    REQUIRE_MESSAGE(wrong.empty(), "error ", index, ": ", wrong);
  }
  CHECK(thrown > 700);
}

TEST_CASE("an exception of the callback reaches the caller, and the next request is right") {
  const Config config = plain_config(4, 2);
  Rig rig(config.rig);
  Generator generator(*rig.target, rig.drafter.get(), {.draft_tokens = 4, .run_ahead = 2});
  const auto throws = [](const Progress&) -> bool { throw std::runtime_error("no"); };
  CHECK_THROWS_WITH_AS(generator.generate(config.asks[0].prompt, config.asks[0].params(), throws),
                       "no", std::runtime_error);
  CHECK_EQ(run_and_compare(rig, config), "");
}

TEST_CASE("over a thousand rounds there are as many recordings as shapes") {
  Config config = plain_config(kRandomLength, 1);
  config.rig.context = 9000;
  config.rig.window = 9000;
  Rig rig(config.rig);
  Lockstep loop(*rig.target, rig.drafter.get());
  Sequence& sequence = *rig.sequences[0];
  Dice dice(3);
  const std::vector<int32_t> prompt{1, 2, 3};
  sequence.begin(*rig.target_stream, {.prompt = prompt, .max_tokens = 8990}, {});
  loop.enqueue_prompt_verdict(0, 0, 3);
  for (int round = 0; round < 1000; ++round) {
    // Contexts of three classes: 2048, 8192 and all.
    loop.enqueue_round(dice.between(0, 8), 50 + 9 * round).wait();
  }
  const size_t drafts = 8, targets = 2;  // up to 8 rows and up to 16
  CHECK_EQ(loop.recordings(), 3 * (drafts + targets));
  CHECK_EQ(rig.backend.recordings(), loop.recordings());
  CHECK(rig.backend.violations().empty());
}

TEST_CASE("under Pearl, too, there are as many recordings as shapes") {
  Config config = plain_config(kRandomLength, 1);
  config.rig.context = 9000;
  config.rig.window = 9000;
  Rig rig(config.rig);
  Pearl loop(*rig.target, rig.drafter.get());
  Dice dice(3);
  const std::vector<int32_t> prompt{1, 2, 3};
  rig.sequences[0]->begin(*rig.target_stream, {.prompt = prompt, .max_tokens = 8990}, {});
  loop.enqueue_prompt_verdict(0, 0, 3);
  for (int round = 0; round < 1000; ++round) {
    loop.enqueue_round(dice.between(0, 12), 50 + 9 * round).wait();
  }
  const size_t drafts = 12, steps = 2, judges = 2;  // up to 8 rows and up to 16
  CHECK_EQ(loop.recordings(), 3 * (drafts + steps) + judges);
  CHECK_EQ(rig.backend.recordings(), loop.recordings());
  CHECK(rig.backend.violations().empty());
}

TEST_CASE("arguments are refused by name and change nothing") {
  const Config config = plain_config(4, 1);
  Rig rig(config.rig);
  Generator generator(*rig.target, rig.drafter.get(), {.draft_tokens = 4, .run_ahead = 1});
  const SamplingParams params = config.asks[0].params();
  const std::vector<int32_t> bad{1, 8}, empty, whole(400, 1);
  CHECK_THROWS_WITH_AS(generator.generate(bad, params, {}), doctest::Contains("vocabulary of 8"),
                       Error);
  CHECK_THROWS_WITH_AS(generator.generate(empty, params, {}),
                       doctest::Contains("the prompt is empty"), Error);
  CHECK_THROWS_WITH_AS(generator.generate(whole, params, {}),
                       "the prompt has 400 tokens; the context of 400 leaves room for 399", Error);
  SamplingParams many = params;
  many.stop_token_ids.assign(17, 1);
  CHECK_THROWS_WITH_AS(generator.generate(config.asks[0].prompt, many, {}),
                       "17 stop tokens; at most 16 are possible", Error);
  CHECK_THROWS_WITH_AS(Generator(*rig.target, nullptr, {.draft_tokens = 1, .run_ahead = 1}),
                       "num_speculative_tokens must be in [0, 0], not 1", Error);
  CHECK_THROWS_WITH_AS(Generator(*rig.target, nullptr, {.loop = LoopKind::pearl}),
                       "the pearl loop needs a drafter", Error);
  CHECK_THROWS_WITH_AS(Generator(*rig.target, nullptr, {.draft_tokens = 0, .run_ahead = 9}),
                       "run_ahead must be in [0, 8], not 9", Error);
  CHECK_EQ(run_and_compare(rig, config), "");
}

}  // namespace
}  // namespace specrt::testing

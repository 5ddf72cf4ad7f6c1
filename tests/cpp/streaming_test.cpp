// Speculative Streaming: whatever the streams propose and whatever is pruned, the tokens are those
// of direct sampling.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "decode/lockstep.h"
#include "table_rig.h"

namespace specrt::testing {
namespace {

std::string wrong_in_loop(const Config& config) {
  Rig rig(config.rig);
  return difference(rig, config, run_loop(rig, config));
}

TEST_CASE("random rounds with streams give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 4000; ++index) {
    const std::string wrong = wrong_in_loop(draw_streaming_config(30'000'000 + index, 1));
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
  }
}

TEST_CASE("several sequences with streams in a step give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 1500; ++index) {
    const int32_t sequences = 2 + static_cast<int32_t>(index % 2);
    const std::string wrong = wrong_in_loop(draw_streaming_config(31'000'000 + index, sequences));
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
  }
}

// For a generator: chains or trees, all streams or fewer, with costs or without.
Config planned_config(uint64_t index) {
  Config config = draw_streaming_config(32'000'000 + index, 1);
  Dice dice(index);
  config.draft_tokens = dice.between(0, config.rig.proposing.count);
  if (dice.between(0, 2) == 0) config.tree_nodes = 0;
  if (dice.between(0, 1) == 0) config.kept_nodes = dice.between(2, 12);
  const double row = dice.one_of({0.001, 0.02, 0.3});
  if (dice.between(0, 1) == 0)
    config.costs = {.target = {{1, 1.0}, {64, 1.0 + 63 * row}}, .draft = {}};
  return config;
}

TEST_CASE("a generator with planned streams gives the tokens of direct sampling") {
  std::array<int, 7> accepted{};
  for (uint64_t index = 0; index < 2500; ++index) {
    const Config config = planned_config(index);
    Rig rig(config.rig);
    const Outcome outcome = run_generator(rig, config, {});
    const std::string wrong = difference(rig, config, outcome);
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
    for (const RoundRecord& round : outcome.rounds) {
      REQUIRE_LE(round.accepted, config.draft_tokens);
      REQUIRE_LE(round.judged, std::min(round.drafted, config.draft_tokens));
      ++accepted[static_cast<size_t>(round.accepted)];
    }
  }
  for (size_t depth = 0; depth < accepted.size(); ++depth) {
    CHECK_MESSAGE(accepted[depth] > 3, "drafts of depth ", depth, ": ", accepted[depth]);
  }
}

TEST_CASE("streams that are always right are accepted to the last") {
  Config config = draw_streaming_config(33'000'000, 1);
  config.rig.error = 0;
  config.rig.context = 400;
  config.rig.proposing.count = 4;
  config.asks = {{.prompt = {1}, .eos = {}, .max_tokens = 101, .temperature = 1, .seed = 5}};
  config.draft_tokens = 4;
  config.tree_nodes = 0;
  Rig rig(config.rig);
  const Outcome outcome = run_generator(rig, config, {});
  REQUIRE_EQ(difference(rig, config, outcome), "");
  REQUIRE_EQ(outcome.rounds.size(), 20);
  for (const RoundRecord& round : outcome.rounds) CHECK_EQ(round.accepted, 4);
}

// One request through a loop whose rounds the test names.
struct Rounds {
  explicit Rounds(const Config& chosen) : config(chosen), rig(chosen.rig) {
    const Ask& ask = config.asks[0];
    rig.sequences[0]->begin(
        *rig.target_stream,
        {.prompt = ask.prompt, .eos = ask.eos, .max_tokens = ask.max_tokens, .seed = ask.seed},
        ask.params());
    loop.enqueue_prompt_verdict(0, 0, static_cast<int32_t>(ask.prompt.size()));
    rig.target_stream->record().wait();
    read();
  }

  const LogEntry& run(const StreamingShape& shape, Pruning pruning) {
    loop.enqueue_streamed_round(shape, pruning, config.rig.context).wait();
    return read();
  }

  const LogEntry& read() {
    const LogEntry& entry = rig.sequences[0]->entry(next++);
    tokens.insert(tokens.end(), entry.tokens, entry.tokens + entry.count);
    return entry;
  }

  std::string wrong() {
    Outcome outcome;
    rig.backend.check_target_cache(rig.sequences[0]->cells());
    outcome.problems = rig.backend.violations();
    outcome.tokens = {tokens};
    return difference(rig, config, outcome);
  }

  Config config;
  Rig rig;
  Lockstep loop{*rig.target, nullptr};
  uint32_t next = 0;
  std::vector<int32_t> tokens;
};

Config certain_config(int32_t streams, int32_t max_tokens) {
  Config config;
  config.rig = {.vocab = 8, .context = 60, .window = 0, .error = 0, .model_seed = 4};
  config.rig.streams = StreamUse::shared;
  config.rig.proposing.count = streams;
  config.asks = {{.prompt = {3}, .eos = {}, .max_tokens = max_tokens, .temperature = 1, .seed = 9}};
  return config;
}

StreamingShape chain_of(int32_t length, int32_t streams) {
  StreamingShape shape;
  shape.streams = streams;
  shape.kept = shape.tree.rows = 1 + length;
  for (int32_t row = 1; row <= length; ++row) {
    shape.tree.parent[row] = row - 1;
    shape.tree.depth[row] = row;
    shape.tree.sees[row] = (uint64_t{2} << row) - 1;
  }
  return shape;
}

TEST_CASE("a chain behind a prompt of one token is accepted whole, and the next one again") {
  Rounds rounds(certain_config(3, 9));
  for (int i = 0; i < 2; ++i) {
    const LogEntry& entry = rounds.run(chain_of(3, 3), Pruning::off);
    CHECK_EQ(entry.drafted, 3);
    CHECK_EQ(entry.judged, 3);
    CHECK_EQ(entry.accepted, 3);
    CHECK_EQ(entry.count, 4);
  }
  CHECK(rounds.rig.sequences[0]->entry(2).stop == Stop::limit);
  CHECK_EQ(rounds.wrong(), "");
}

TEST_CASE("with all children pruned a round commits one token and proposes the next ones") {
  Rounds rounds(certain_config(3, 6));
  StreamingShape none = chain_of(3, 3);
  none.least_score = 2;
  const LogEntry& pruned = rounds.run(none, Pruning::scored);
  CHECK_EQ(pruned.drafted, 3);
  CHECK_EQ(pruned.judged, 0);
  CHECK_EQ(pruned.count, 1);
  CHECK_EQ(pruned.ranked, 1);  // where the right one stood is seen all the same
  CHECK_EQ(pruned.ranks[0], 0);
  CHECK_EQ(rounds.run(chain_of(3, 3), Pruning::off).count, 4);
  CHECK_EQ(rounds.wrong(), "");
}

TEST_CASE(
    "a round without streams proposes nothing, and drafting goes on behind one with streams") {
  Rounds rounds(certain_config(3, 8));
  CHECK_EQ(rounds.run(chain_of(3, 0), Pruning::off).count, 4);
  const LogEntry& empty = rounds.run(chain_of(3, 3), Pruning::off);
  CHECK_EQ(empty.drafted, 0);
  CHECK_EQ(empty.count, 1);
  CHECK_EQ(rounds.run(chain_of(2, 0), Pruning::off).count, 2);
  CHECK_EQ(rounds.wrong(), "");
}

TEST_CASE("a tree is cut where the context or the request ends") {
  for (int32_t left = 1; left <= 4; ++left) {
    Config config = certain_config(4, 40);
    config.rig.context = 1 + 1 + left;
    Rounds rounds(config);
    const LogEntry& entry = rounds.run(chain_of(4, 4), Pruning::off);
    CHECK_EQ(entry.drafted, left - 1);
    CHECK_EQ(entry.count, left);
    CHECK(entry.stop == Stop::limit);
    CHECK_EQ(rounds.run(chain_of(4, 4), Pruning::off).count, 0);
    CHECK_EQ(rounds.wrong(), "");
  }
}

TEST_CASE("a long prompt is fed in pieces that leave room for streams") {
  for (const int32_t rows : {kMaxStepRows, kMaxPromptRows}) {
    for (const int32_t length : {57, 58, 59, 64, 65, 117, 123, 249, 250, 251, 256, 257, 520}) {
      Config config = certain_config(6, 12);
      config.rig.context = 600;
      config.rig.prompt_rows = rows;
      config.asks[0].prompt.clear();
      for (int32_t i = 0; i < length; ++i) config.asks[0].prompt.push_back(i * i % 7);
      config.draft_tokens = 6;
      Rig rig(config.rig);
      CHECK_EQ(rig.target->prompt_rows(), rows - 6);
      const Outcome outcome = run_generator(rig, config, {});
      CHECK_EQ(difference(rig, config, outcome), "");
      CHECK_EQ(outcome.rounds.size(), 2);
    }
  }
}

TEST_CASE("a prompt that begins as the text before goes on with streams") {
  Config config = certain_config(4, 10);
  config.rig.context = 200;
  Rig rig(config.rig);
  Generator generator(*rig.target, nullptr, {.draft_tokens = 4, .tree_nodes = 12});
  std::vector<int32_t>& prompt = config.asks[0].prompt;
  for (int turn = 0; turn < 6; ++turn) {
    const Completion done = generator.generate(prompt, config.asks[0].params(), {});
    CHECK_EQ(done.token_ids, direct(rig, config.asks[0]));
    CHECK_EQ(done.metrics.cached_tokens, turn == 0 ? 0 : static_cast<int32_t>(prompt.size()) - 2);
    prompt.insert(prompt.end(), done.token_ids.begin(), done.token_ids.end());
    prompt.push_back(turn);
    CHECK(rig.backend.violations().empty());
  }
}

TEST_CASE("as many rounds are recorded as shapes have classes") {
  Config config = certain_config(4, 500);
  config.rig.context = 600;
  Rounds rounds(config);
  std::set<int32_t> classes;
  for (int round = 0; round < 200; ++round) {
    const int32_t length = round % 5, streams = round / 5 % 5;
    rounds.run(chain_of(length, streams), Pruning::off);
    const int32_t rows = (1 + length) * (1 + streams);
    classes.insert(rows <= 8 ? 8 : rows <= 16 ? 16 : 32);
  }
  CHECK_EQ(rounds.loop.recordings(), classes.size());
  CHECK_EQ(rounds.rig.backend.violations().size(), 0);
}

// Runs configurations until one of them is found wrong.
bool is_noticed(Fault fault) {
  for (uint64_t index = 0; index < 300; ++index) {
    Config config = draw_streaming_config(34'000'000 + index, 1);
    config.rig.fault = fault;
    if (!wrong_in_loop(config).empty()) return true;
  }
  return false;
}

TEST_CASE("mistakes with streams are noticed") {
  CHECK(is_noticed(Fault::levels_moved_alike));
  CHECK(is_noticed(Fault::stream_kept));
  CHECK(is_noticed(Fault::stale_candidates));
  CHECK(is_noticed(Fault::tree_not_moved));
  CHECK(is_noticed(Fault::tree_judged_by_row));
  CHECK(is_noticed(Fault::judged_at_next_position));
  CHECK(is_noticed(Fault::kv_row_not_written));
  CHECK_FALSE(is_noticed(Fault::none));
}

TEST_CASE("what streams cannot be combined with is refused") {
  Config config = certain_config(4, 8);
  Rig rig(config.rig);
  CHECK_THROWS_WITH_AS(Generator(*rig.target, nullptr, {.draft_tokens = 5}),
                       "num_speculative_tokens must be in [0, 4], not 5", Error);
  CHECK_THROWS_WITH_AS(Generator(*rig.target, nullptr, {.loop = LoopKind::pearl}),
                       doctest::Contains("no other drafter and no pearl loop"), Error);
  Lockstep loop(*rig.target, nullptr);
  StreamingShape wide = chain_of(4, 5);
  CHECK_THROWS_WITH_AS(loop.enqueue_streamed_round(wide, Pruning::off, 60),
                       doctest::Contains("with 5 streams where the target has 4"), Error);
  wide = chain_of(13, 4);
  CHECK_THROWS_WITH_AS(loop.enqueue_streamed_round(wide, Pruning::off, 60),
                       "a step of 1 sequences cannot verify 70 rows of each", Error);
}

}  // namespace
}  // namespace specrt::testing

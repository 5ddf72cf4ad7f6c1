// The n-gram drafter over the table model: alone and before a model drafter.
#include <doctest/doctest.h>

#include "table_rig.h"

namespace specrt::testing {
namespace {

// The rule by hand: what followed the latest earlier place of the longest match.
std::vector<int32_t> looked_up(std::vector<int32_t> tokens, int32_t longest, int32_t room) {
  const auto end = static_cast<int32_t>(tokens.size());
  for (int32_t n = longest; n >= 1; --n) {
    for (int32_t begin = end - n - 1; begin >= 0; --begin) {
      if (!std::equal(tokens.end() - n, tokens.end(), tokens.begin() + begin)) continue;
      for (int32_t i = 0; i < room; ++i) {
        tokens.push_back(tokens[static_cast<size_t>(begin + n + i)]);
      }
      return {tokens.begin() + end, tokens.end()};
    }
  }
  return {};
}

TEST_CASE("propose_ngram drafts what followed the latest longest match") {
  Dice dice(5);
  for (int run = 0; run < 3000; ++run) {
    std::vector<int32_t> tokens;
    for (int32_t i = dice.between(1, 14); i > 0; --i) tokens.push_back(dice.between(0, 2));
    const auto length = static_cast<int32_t>(tokens.size());
    std::vector<Cell<int32_t>> tok(64);
    for (size_t i = 0; i < tokens.size(); ++i) tok[i] = tokens[i];
    Cells cells;
    cells.committed = length;
    cells.tail = 1;
    cells.limit = length + dice.between(1, 10);
    NgramPlan plan{.capacity = dice.between(0, 8), .bonus_rows = 1, .shortest = 1, .longest = 3};
    propose_ngram(cells, tok.data(), plan);
    const int32_t room = std::min(plan.capacity, cells.limit - length - 1);
    const std::vector<int32_t> expected = looked_up(tokens, plan.longest, std::max(room, 0));
    REQUIRE(cells.drafted == static_cast<int32_t>(room > 0 ? expected.size() : 0));
    for (int32_t i = 0; i < cells.drafted; ++i) {
      REQUIRE(tok[static_cast<size_t>(length + i)] == expected[static_cast<size_t>(i)]);
    }
    REQUIRE(cells.snap_count == 0);
  }
}

TEST_CASE("random configurations with an n-gram lookup give the tokens of direct sampling") {
  int64_t drafted = 0, accepted = 0;
  for (uint64_t index = 0; index < 3000; ++index) {
    Config config = draw_config(7'000'000 + index, 1);
    if (config.draft_tokens == kRandomLength) config.draft_tokens = 3;
    config.rig.ngram = 1 + static_cast<int32_t>(index % 3);
    if (index % 2 == 0) config.rig.window = 0;
    Rig rig(config.rig);
    const Outcome outcome = run_generator(rig, config, {});
    const std::string wrong = difference(rig, config, outcome);
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
    for (const RoundRecord& round : outcome.rounds) {
      drafted += round.drafted;
      accepted += round.accepted;
    }
  }
  CHECK(accepted > 1000);
  CHECK(drafted > accepted);
}

TEST_CASE("several sequences look up their own tokens") {
  for (uint64_t index = 0; index < 500; ++index) {
    Config config = draw_config(8'000'000 + index, 2);
    config.rig.ngram = 2;
    Rig rig(config.rig);
    const std::string wrong = difference(rig, config, run_loop(rig, config));
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
  }
}

}  // namespace
}  // namespace specrt::testing

// Draft lengths from costs and verdicts.
#include "decode/draft_length.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "table_rig.h"

namespace specrt::testing {
namespace {

constexpr int32_t kMost = 16;

// A target whose steps cost 1, 1.6 with 64 rows, and a draft model.
StepCosts costs_with(double draft_ms) {
  return {.target = {{1, 1.0}, {64, 1.63}}, .draft = {{1, draft_ms}, {64, 4 * draft_ms}}};
}

// Feeds verdicts of drafts whose every token holds with probability `acceptance`, and returns the
// lengths chosen in `rounds` rounds; a new request with a short prompt begins every 200.
std::vector<int32_t> simulate(DraftLength& lengths, double acceptance, int rounds, uint64_t seed) {
  Dice dice(seed);
  std::vector<int32_t> chosen;
  int32_t unfed = 0;
  for (int r = 0; r < rounds; ++r) {
    if (r % 200 == 0) unfed = 50;
    const int32_t length = lengths.choose({.unfed = unfed, .left = 1000});
    chosen.push_back(length);
    unfed = length > 0 ? 2 : unfed + 1;
    int32_t accepted = 0;
    while (accepted < length && dice.between(0, 9999) < acceptance * 10000) ++accepted;
    lengths.observe(std::min(length, accepted + 1), accepted);
  }
  return chosen;
}

double time_of(const StepCosts& costs, int32_t length) {
  return 1 + 0.01 * length + (length > 0 ? length * costs.draft[0].milliseconds : 0);
}

TEST_CASE("without costs every round drafts the most") {
  DraftLength lengths(LoopKind::lockstep, {}, 5);
  lengths.observe(5, 0);
  CHECK_EQ(lengths.choose({.unfed = 1, .left = 2}), 5);
}

TEST_CASE("with a perfect and cheap drafter the length reaches the most") {
  DraftLength lengths(LoopKind::lockstep, costs_with(0.05), kMost);
  const std::vector<int32_t> chosen = simulate(lengths, 1.0, 60, 1);
  CHECK(chosen.front() > 0);
  CHECK_EQ(chosen.back(), kMost);
}

TEST_CASE("a drafter that cannot pay is never asked") {
  DraftLength lengths(LoopKind::lockstep, costs_with(1.1), kMost);
  for (const int32_t length : simulate(lengths, 1.0, 500, 1)) CHECK_EQ(length, 0);
}

TEST_CASE("useless drafts cost less than a hundredth of the time") {
  for (const double draft_ms : {0.05, 0.2, 0.5}) {
    const StepCosts costs = costs_with(draft_ms);
    DraftLength lengths(LoopKind::lockstep, costs, kMost);
    simulate(lengths, 0.0, 40, 1);
    double time = 0;
    const std::vector<int32_t> chosen = simulate(lengths, 0.0, 4000, 2);
    for (const int32_t length : chosen) time += time_of(costs, length);
    CHECK(time < 4000 * 1.01);
    CHECK(time > 4000);  // it goes on to try
  }
}

TEST_CASE("when drafts begin to hold it notices") {
  DraftLength lengths(LoopKind::lockstep, costs_with(0.1), kMost);
  simulate(lengths, 0.0, 200, 1);
  const std::vector<int32_t> chosen = simulate(lengths, 0.95, 400, 2);
  int32_t drafted = 0;
  for (size_t i = 200; i < chosen.size(); ++i) drafted += chosen[i] > 2 ? 1 : 0;
  CHECK(drafted > 180);
}

TEST_CASE("the length settles near the best for the acceptance") {
  for (const double acceptance : {0.4, 0.6, 0.8, 0.9}) {
    const StepCosts costs = costs_with(0.1);
    double best_rate = 0;
    const auto rate = [&](int32_t k) {
      return (1 - std::pow(acceptance, k + 1)) / (1 - acceptance) / time_of(costs, k);
    };
    for (int32_t k = 0; k <= kMost; ++k) best_rate = std::max(best_rate, rate(k));
    DraftLength lengths(LoopKind::lockstep, costs, kMost);
    simulate(lengths, acceptance, 100, 3);
    double tokens = 0, time = 0;
    for (const int32_t k : simulate(lengths, acceptance, 3000, 4)) {
      tokens += rate(k) * time_of(costs, k);
      time += time_of(costs, k);
    }
    CHECK_MESSAGE(tokens / time > 0.95 * best_rate, "acceptance ", acceptance);
  }
}

TEST_CASE("a drafter that must read a long prompt is not asked for a few tokens") {
  DraftLength lengths(LoopKind::lockstep, costs_with(0.2), kMost);
  CHECK_EQ(lengths.choose({.unfed = 2000, .left = 4}), 0);
  CHECK(lengths.choose({.unfed = 2000, .left = 1000}) > 0);
  CHECK(lengths.choose({.unfed = 2, .left = 4}) > 0);
}

TEST_CASE("a lookup costs nothing, so little acceptance is enough") {
  DraftLength lengths(LoopKind::lockstep, {.target = costs_with(1).target, .draft = {}}, kMost);
  const std::vector<int32_t> chosen = simulate(lengths, 0.1, 300, 5);
  int32_t drafted = 0;
  for (const int32_t length : chosen) drafted += length > 0 ? 1 : 0;
  CHECK(drafted > 250);
}

// Rounds of Pearl, by their definition: a tail of drafted tokens, the first token of the next
// draft, each right with probability `acceptance`. Returns tokens per millisecond.
struct PearlRun {
  double rate = 0;
  std::vector<int32_t> lengths;
};

template <typename Choose>
PearlRun simulate_pearl(const StepCosts& costs, double acceptance, int rounds, DraftLength* learns,
                        const Choose& choose) {
  Dice dice(6);
  PearlRun run;
  double tokens = 0, time = 0;
  int32_t tail = 1;
  for (int r = 0; r < rounds; ++r) {
    const int32_t length = choose();
    run.lengths.push_back(length);
    const int32_t judged = tail - 1 + (length > 0 ? 1 : 0);
    int32_t accepted = 0;
    while (accepted < judged && dice.between(0, 9999) < acceptance * 10000) ++accepted;
    const bool held = accepted == judged && length > 0;
    tokens += held ? accepted : accepted + 1;
    const double step = 1 + 0.01 * (tail - 1);
    time += std::max(step, length * costs.draft[0].milliseconds);
    tail = held ? length : 1;
    if (learns != nullptr) learns->observe(std::min(judged, accepted + 1), accepted);
  }
  run.rate = tokens / time;
  return run;
}

TEST_CASE("Pearl begins with as many tokens as are drafted during a step of the target") {
  for (const int32_t ratio : {1, 3, 7}) {
    DraftLength lengths(LoopKind::pearl, costs_with(1.0 / ratio), kMost);
    CHECK_EQ(lengths.choose({.unfed = 1, .left = 1000}), ratio > 1 ? ratio : 0);
  }
  DraftLength most(LoopKind::pearl, costs_with(0.01), kMost);
  CHECK_EQ(most.choose({.unfed = 1, .left = 1000}), kMost);
}

TEST_CASE("Pearl's length settles near the best for the acceptance") {
  for (const double draft_ms : {0.1, 0.25}) {
    for (const double acceptance : {0.2, 0.6, 0.8, 0.95}) {
      const StepCosts costs = costs_with(draft_ms);
      double best = 0;
      for (int32_t g = 0; g <= kMost; ++g) {
        const PearlRun run = simulate_pearl(costs, acceptance, 20000, nullptr, [&] { return g; });
        best = std::max(best, run.rate);
      }
      DraftLength lengths(LoopKind::pearl, costs, kMost);
      const PearlRun run = simulate_pearl(costs, acceptance, 20000, &lengths, [&] {
        return lengths.choose({.unfed = 1, .left = 1000});
      });
      CHECK_MESSAGE(run.rate > 0.95 * best, "draft ", draft_ms, " ms, acceptance ", acceptance);
    }
  }
}

TEST_CASE("under Pearl a useless drafter costs less than a hundredth of the time") {
  DraftLength lengths(LoopKind::pearl, costs_with(0.2), kMost);
  const PearlRun run = simulate_pearl(costs_with(0.2), 0.0, 4000, &lengths,
                                      [&] { return lengths.choose({.unfed = 1, .left = 1000}); });
  CHECK(run.rate > 0.99);
}

TEST_CASE("costs that cannot be are refused") {
  const auto refused = [](std::vector<StepTime> target, const char* why) {
    CHECK_THROWS_WITH_AS(
        DraftLength(LoopKind::lockstep, {.target = std::move(target), .draft = {}}, 4),
        doctest::Contains(why), Error);
  };
  refused({{2, 1.0}, {2, 1.5}}, "ascending rows");
  refused({{0, 1.0}}, "ascending rows");
  refused({{1, 0.0}}, "positive milliseconds");
  refused({{1, std::nan("")}}, "positive milliseconds");
  refused({{1, INFINITY}}, "positive milliseconds");
}

}  // namespace
}  // namespace specrt::testing

// Rules `rejection` and `block` keep the target's distribution: every way that the random numbers
// can fall is played through the real loop, and the probabilities of its outputs are compared with
// the model's own.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "table_rig.h"

namespace specrt::testing {
namespace {

using Law = std::map<std::vector<int32_t>, double>;

// Random numbers as intervals: what a number has decided so far bounds it, so that a number which
// is met again decides accordingly. Each replay takes the next branch, depth first.
class Enumerator final : public Draws {
 public:
  explicit Enumerator(bool ignores_anchor = false) : ignores_anchor_(ignores_anchor) {}

  bool below(const DrawKey& key, double threshold) override {
    return decide(key, {0.0, std::clamp(threshold, 0.0, 1.0), 1.0}) == 0;
  }

  int32_t draw(const DrawKey& key, const std::vector<double>& weights) override {
    double sum = 0;
    for (const double weight : weights) sum += weight;
    std::vector<double> cuts{0.0};
    for (const double weight : weights) cuts.push_back(cuts.back() + weight / sum);
    cuts.back() = 1.0;
    return decide(key, cuts);
  }

  double weight() const { return weight_; }

  // Prepares the next replay; false when there is none.
  bool next() {
    intervals_.clear();
    weight_ = 1;
    at_ = 0;
    while (!path_.empty() && path_.back().taken + 1 == path_.back().choices) path_.pop_back();
    if (path_.empty()) return false;
    ++path_.back().taken;
    return true;
  }

 private:
  struct Interval {
    double low = 0, high = 1;
  };
  struct Branch {
    size_t choices, taken;
  };
  using Key = std::tuple<Purpose, int32_t, int32_t>;

  // Which part between two cuts the number lies in.
  int32_t decide(const DrawKey& key, const std::vector<double>& cuts) {
    const int32_t anchor = ignores_anchor_ ? 0 : key.anchor;
    Interval& interval = intervals_[{key.purpose, key.position, anchor}];
    std::vector<int32_t> parts;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const double low = std::max(interval.low, cuts[i]);
      const double high = std::min(interval.high, cuts[i + 1]);
      if (high > low) parts.push_back(static_cast<int32_t>(i));
    }
    if (at_ == path_.size()) path_.push_back({parts.size(), 0});
    REQUIRE_EQ(path_[at_].choices, parts.size());
    const auto part = static_cast<size_t>(parts[path_[at_++].taken]);
    const Interval narrowed{std::max(interval.low, cuts[part]),
                            std::min(interval.high, cuts[part + 1])};
    weight_ *= (narrowed.high - narrowed.low) / (interval.high - interval.low);
    interval = narrowed;
    return static_cast<int32_t>(part);
  }

  bool ignores_anchor_;
  std::map<Key, Interval> intervals_;
  std::vector<Branch> path_;
  size_t at_ = 0;
  double weight_ = 1;
};

struct LawConfig {
  int32_t vocab = 2;
  int32_t tokens = 5;
  int32_t gamma = 2;
  Rule rule = Rule::rejection;
  LoopKind loop = LoopKind::lockstep;
  int32_t ngram = 0;  // 0: a draft model
  int32_t depth = 1;
  std::vector<int32_t> eos = {};
  uint64_t seed = 1;
};

Config config_of(const LawConfig& law) {
  Config config;
  config.rig = {.vocab = law.vocab,
                .context = 32,
                .window = law.ngram == 0 ? 32 : 0,
                .error = 1,
                .ngram = law.ngram,
                .model_seed = law.seed};
  config.rig.rule = law.rule;
  config.loop = law.loop;
  config.draft_tokens = law.gamma;
  config.depth = law.depth;
  config.asks = {{.prompt = {1, 0, 1}, .eos = law.eos, .max_tokens = law.tokens, .temperature = 1}};
  return config;
}

// The model's own probability of an output.
double probability(const Rig& rig, const Ask& ask, const std::vector<int32_t>& tokens) {
  const TableParams params = rig.params();
  uint64_t context = kEmptyContext;
  for (const int32_t token : ask.prompt) context = extend_context(context, token);
  double product = 1;
  for (const int32_t token : tokens) {
    float logits[16];
    table_logits(params, context, logits);
    double sum = 0;
    for (int32_t v = 0; v < params.vocab; ++v) sum += std::exp(static_cast<double>(logits[v]));
    product *= std::exp(static_cast<double>(logits[token])) / sum;
    context = extend_context(context, token);
  }
  return product;
}

struct LawResult {
  double error = 0;  // largest difference of a probability
  double total = 0;  // of all outputs
  uint64_t branches = 0;
  size_t outputs = 0;
  std::vector<std::string> problems;
};

LawResult compare(const LawConfig& law, Enumerator draws = Enumerator()) {
  const Config config = config_of(law);
  Rig rig(config.rig);
  rig.backend.draw_from(draws);
  Law found;
  LawResult result;
  do {
    Generator generator(*rig.target, rig.drafter.get(),
                        {.loop = law.loop, .draft_tokens = law.gamma, .run_ahead = law.depth});
    const Completion done = generator.generate(config.asks[0].prompt, config.asks[0].params(), {});
    found[done.token_ids] += draws.weight();
    ++result.branches;
  } while (draws.next());
  for (const auto& [tokens, share] : found) {
    result.total += share;
    result.error =
        std::max(result.error, std::abs(share - probability(rig, config.asks[0], tokens)));
  }
  result.outputs = found.size();
  result.problems = rig.backend.violations();
  return result;
}

// Returns the number of branches.
uint64_t check_law(const LawConfig& law) {
  const LawResult result = compare(law);
  INFO("vocab ", law.vocab, ", gamma ", law.gamma, ", rule ", static_cast<int>(law.rule), ", loop ",
       static_cast<int>(law.loop), ", n-gram ", law.ngram, ", depth ", law.depth);
  CHECK(result.error < 1e-12);
  CHECK(std::abs(result.total - 1) < 1e-12);
  CHECK(result.problems.empty());
  return result.branches;
}

TEST_CASE("the law of every output is the model's, under both rules and loops") {
  uint64_t branches = 0;
  for (const Rule rule : {Rule::rejection, Rule::block}) {
    for (const LoopKind loop : {LoopKind::lockstep, LoopKind::pearl}) {
      for (int32_t gamma = 1; gamma <= 3; ++gamma) {
        LawConfig law{.vocab = 2, .tokens = 5, .gamma = gamma, .rule = rule, .loop = loop};
        branches += check_law(law);
        law.vocab = 3;
        law.tokens = 4;
        law.seed = static_cast<uint64_t>(gamma) + 7;
        branches += check_law(law);
      }
    }
  }
  MESSAGE(branches, " branches");
}

TEST_CASE("the law holds with an n-gram lookup, whose drafts are certain") {
  for (const Rule rule : {Rule::rejection, Rule::block}) {
    for (const LoopKind loop : {LoopKind::lockstep, LoopKind::pearl}) {
      check_law({.vocab = 2, .tokens = 6, .gamma = 3, .rule = rule, .loop = loop, .ngram = 1});
      check_law({.vocab = 3, .tokens = 4, .gamma = 2, .rule = rule, .loop = loop, .ngram = 2});
    }
  }
}

TEST_CASE("the law holds up to the end of a sequence, and at every run-ahead depth") {
  for (const Rule rule : {Rule::rejection, Rule::block}) {
    for (const LoopKind loop : {LoopKind::lockstep, LoopKind::pearl}) {
      check_law({.vocab = 3, .tokens = 4, .gamma = 2, .rule = rule, .loop = loop, .eos = {2}});
      check_law({.vocab = 2, .tokens = 5, .gamma = 2, .rule = rule, .loop = loop, .depth = 0});
      check_law({.vocab = 2, .tokens = 5, .gamma = 2, .rule = rule, .loop = loop, .depth = 2});
    }
  }
}

TEST_CASE("without the anchor in its keys, block verification would bend the law") {
  const LawConfig law{.vocab = 2, .tokens = 6, .gamma = 3, .rule = Rule::block};
  CHECK(compare(law).error < 1e-12);
  CHECK(compare(law, Enumerator(true)).error > 1e-4);
}

TEST_CASE("block verification accepts no fewer tokens than testing one by one") {
  size_t rounds[2] = {0, 0};
  for (const Rule rule : {Rule::rejection, Rule::block}) {
    for (uint64_t seed = 0; seed < 600; ++seed) {
      Config config = config_of({.vocab = 5, .tokens = 24, .gamma = 4, .rule = rule, .seed = seed});
      config.rig.error = 0.4;
      config.asks[0].seed = seed;
      Rig rig(config.rig);
      Generator generator(*rig.target, rig.drafter.get(), {.draft_tokens = 4});
      const Completion done =
          generator.generate(config.asks[0].prompt, config.asks[0].params(), {});
      rounds[rule == Rule::block ? 1 : 0] += done.metrics.rounds.size();
    }
  }
  CHECK(rounds[1] < rounds[0]);
}

TEST_CASE("at temperature 0 both rules give the tokens of greedy decoding") {
  for (const Rule rule : {Rule::rejection, Rule::block}) {
    for (uint64_t index = 0; index < 200; ++index) {
      Config config = draw_config(8'000'000 + index, 1);
      config.loop = loop_of(index, config);
      config.rig.rule = rule;
      config.asks[0].temperature = 0;
      Rig rig(config.rig);
      const std::string wrong = difference(rig, config, run_loop(rig, config));
      REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
    }
  }
}

TEST_CASE("the same seed gives the same tokens again, whatever the streams do") {
  for (const Rule rule : {Rule::rejection, Rule::block}) {
    for (const LoopKind loop : {LoopKind::lockstep, LoopKind::pearl}) {
      std::vector<int32_t> first;
      for (uint64_t schedule = 0; schedule < 30; ++schedule) {
        Config config =
            config_of({.vocab = 6, .tokens = 24, .gamma = 4, .rule = rule, .loop = loop});
        config.rig.error = 0.4;
        config.rig.schedule_seed = schedule;
        Rig rig(config.rig);
        Generator generator(*rig.target, rig.drafter.get(), {.loop = loop, .draft_tokens = 4});
        const Completion done =
            generator.generate(config.asks[0].prompt, config.asks[0].params(), {});
        if (first.empty()) first = done.token_ids;
        REQUIRE_EQ(done.token_ids, first);
        REQUIRE(rig.backend.violations().empty());
      }
    }
  }
}

}  // namespace
}  // namespace specrt::testing

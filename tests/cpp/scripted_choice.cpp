// How the scripted backend chooses tokens from logits, under every rule.
#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "scripted_backend.h"

namespace specrt::testing {
namespace {

std::vector<double> softmax(const float* logits, int32_t vocab, double temperature) {
  std::vector<double> weights;
  double sum = 0;
  for (int32_t v = 0; v < vocab; ++v)
    sum += weights.emplace_back(std::exp(logits[v] / temperature));
  for (double& weight : weights) weight /= sum;
  return weights;
}

// Asks `draws`, or where there are none the keyed numbers, as walk_rejection does.
struct AnyDraws {
  Draws* draws;
  KeyedDraws keyed;

  bool below(const DrawKey& key, double threshold) const {
    return draws == nullptr ? keyed.below(key, threshold) : draws->below(key, threshold);
  }
  template <typename Weight>
  double sum(int32_t vocab, const Weight& weight) const {
    return sum_weights(vocab, weight);
  }
  template <typename Weight>
  int32_t draw(const DrawKey& key, int32_t vocab, const Weight& weight) const {
    if (draws == nullptr) return keyed.draw(key, vocab, weight);
    std::vector<double> weights;
    for (int32_t v = 0; v < vocab; ++v) weights.push_back(weight(v));
    return draws->draw(key, weights);
  }
};

}  // namespace

// Probabilities in double, so that a law can be compared to the last bits. The rows of the sequence
// are touched all the same, for the race detector.
int32_t ScriptedBackend::draw_draft(const PickDraftArgs& args, int32_t row, int32_t position) {
  const Cells& s = *args.sequence.cells;
  const ProbabilityRows& rows = args.sequence.probabilities;
  races_.access(args.logits.row<std::byte>(row), CellAccess::read);
  const std::vector<double> from =
      softmax(args.logits.row<float>(row), rows.vocab, static_cast<double>(s.sampling.temperature));
  const int32_t slot = position % rows.slots;
  races_.access(rows.draft + slot * rows.vocab, CellAccess::write);
  rows.sure[slot] = -1;
  drafted_from_[{&s, slot}] = from;
  return AnyDraws{draws_, KeyedDraws(s.seed)}.draw(
      draft_key(s, position), rows.vocab,
      [&](int32_t token) { return from[static_cast<size_t>(token)]; });
}

Verdict ScriptedBackend::judge_by_probabilities(const JudgeArgs& args, int32_t first) {
  const Cells& s = *args.sequence.cells;
  struct Rows {
    ScriptedBackend& backend;
    const JudgeArgs& args;
    std::vector<std::vector<double>> targets;

    int32_t vocab() const { return args.vocab; }
    double target(int32_t row, int32_t token) const {
      return targets[static_cast<size_t>(row)][static_cast<size_t>(token)];
    }
    double draft(int32_t position, int32_t token) const {
      const ProbabilityRows& kept = args.sequence.probabilities;
      const int32_t slot = position % kept.slots, sure = kept.sure[slot];
      if (sure >= 0) return sure == token ? 1 : 0;
      backend.races_.access(kept.draft + slot * kept.vocab, CellAccess::read);
      return backend.drafted_from_.at({args.sequence.cells, slot})[static_cast<size_t>(token)];
    }
  };
  Rows rows{*this, args, {}};
  for (int32_t i = 0; i < s.tail; ++i) {
    races_.access(args.logits.row<std::byte>(first + i), CellAccess::read);
    rows.targets.push_back(softmax(args.logits.row<float>(first + i), args.vocab,
                                   static_cast<double>(s.sampling.temperature)));
  }
  return walk_rejection(s, args.sequence.tok, rows, AnyDraws{draws_, KeyedDraws(s.seed)});
}

// All tokens, the one that is chosen first, then the one that would be chosen without it.
std::vector<int32_t> ScriptedBackend::in_order(const Cells& s, const RowsView& logits, int32_t row,
                                               int32_t position) {
  races_.access(logits.row<std::byte>(row), CellAccess::read);
  return in_order(s, logits.row<float>(row), logits.cols, position);
}

std::vector<int32_t> ScriptedBackend::in_order(const Cells& s, const float* values, int32_t vocab,
                                               int32_t position) {
  const float temperature = s.sampling.temperature;
  std::vector<std::pair<float, int32_t>> scores;
  for (int32_t v = 0; v < vocab; ++v) {
    const float score =
        temperature > 0
            ? values[v] / temperature + token_gumbel(s.seed, static_cast<uint32_t>(position),
                                                     Purpose::token, static_cast<uint32_t>(v), 0)
            : values[v];
    scores.emplace_back(-score, v);
  }
  std::sort(scores.begin(), scores.end());
  std::vector<int32_t> tokens;
  for (const auto& [score, token] : scores) tokens.push_back(token);
  return tokens;
}

int32_t ScriptedBackend::pick(const Cells& s, const RowsView& logits, int32_t row,
                              int32_t position) {
  return in_order(s, logits, row, position).front();
}

void ScriptedBackend::run(const ProposeNgramArgs& args) {
  Cells& s = *args.sequence.cells;
  specrt::propose_ngram(s, args.sequence.tok, args.plan);
  note_sure_drafts(args.sequence);
}

}  // namespace specrt::testing

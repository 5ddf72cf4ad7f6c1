#include "decode/draft_length.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "decode/step_curve.h"
#include "device/cells.h"

namespace specrt {
namespace {

constexpr double kAssumedAcceptance = 0.7;  // of the first token, before any was judged
constexpr double kAssumedTrials = 2;        // what that, or the position before, counts for
constexpr double kMemory = 0.92;            // a draft counts this much of the one after it

constexpr int32_t kTrialLength = 2;
constexpr double kTrialShare = 0.006;  // of the time without drafts goes into trials
constexpr double kMostTrials = 8;      // saved up, or taken in advance while they hold

}  // namespace

DraftLength::DraftLength(LoopKind loop, StepCosts costs, int32_t most)
    : loop_(loop), costs_(std::move(costs)), most_(most), trials_(static_cast<size_t>(most)) {
  check_curve(costs_.target);
  check_curve(costs_.draft);
  if (most_ > 0) trials_[0] = {kAssumedTrials, kAssumedTrials * kAssumedAcceptance};
  if (costs_.target.empty()) return;
  for (int32_t length = 1; length <= most_; ++length) {
    const int32_t tokens = loop_ == LoopKind::pearl ? length : length + 1;
    can_pay_ = can_pay_ || round_ms(length) < tokens * round_ms(0);
  }
}

// A draft made at once feeds the tokens of the round before, and masks for all but its last token.
double DraftLength::draft_ms(int32_t length) const {
  if (costs_.draft.empty() || length == 0) return 0;
  if (!costs_.drafts_at_once) return length * step_ms(costs_.draft, 1);
  const auto fed = static_cast<int32_t>(std::lround(expected_tokens(length)));
  return step_ms(costs_.draft, fed + length - 1);
}

double DraftLength::round_ms(int32_t length) const {
  const double draft = draft_ms(length);
  if (loop_ == LoopKind::pearl) {
    return std::max(step_ms(costs_.target, std::max(1, length)), draft);
  }
  return step_ms(costs_.target, length + 1) + draft;
}

int32_t DraftLength::drafted_in_a_step() const {
  if (costs_.draft.empty() || costs_.drafts_at_once) return most_;
  const double ratio = step_ms(costs_.target, 1) / step_ms(costs_.draft, 1);
  return static_cast<int32_t>(std::clamp(std::round(ratio), 1.0, static_cast<double>(most_)));
}

double DraftLength::catch_up_ms(int32_t unfed) const {
  if (costs_.draft.empty() || unfed <= 1) return 0;
  const double steps = std::ceil(static_cast<double>(unfed) / kMaxStepRows);
  return steps * step_ms(costs_.draft, std::min(unfed, kMaxStepRows));
}

double DraftLength::expected_tokens(int32_t length) const {
  return loop_ == LoopKind::pearl ? pearl_tokens(length) : lockstep_tokens(length);
}

// The mean over the chain of rounds, each of which is a pre-verify (after a refusal) or a
// post-verify, for a constant acceptance a: (1 + a + ... + a^(g-1)) / (1 + a - a^g).
double DraftLength::pearl_tokens(int32_t length) const {
  if (length == 0) return 1;
  const double acceptance = trials_[0].held / trials_[0].reached;
  double sum = 0, power = 1;
  for (int32_t i = 0; i < length; ++i) {
    sum += power;
    power *= acceptance;
  }
  return sum / (1 + acceptance - power);
}

// 1 + a_1 + a_1 a_2 + ..., a_i being the acceptance at position i after acceptance before it. Each
// position starts from what the one before it shows.
double DraftLength::lockstep_tokens(int32_t length) const {
  double tokens = 1, all_held = 1, acceptance = 0;
  for (int32_t i = 0; i < length; ++i) {
    const Trials& at = trials_[static_cast<size_t>(i)];
    const double assumed = i == 0 ? 0 : kAssumedTrials;
    acceptance = (at.held + assumed * acceptance) / (at.reached + assumed);
    all_held *= acceptance;
    tokens += all_held;
  }
  return tokens;
}

int32_t DraftLength::most_worthwhile(const Round& round) const {
  const double plain = round_ms(0);
  const double unfed = catch_up_ms(round.unfed);
  int32_t best = 0;
  double least = round.left * plain;
  for (int32_t length = 1; length <= most_; ++length) {
    const double per_token = round_ms(length) / expected_tokens(length);
    const double whole = unfed + round.left * per_token;
    if (whole < least) {
      least = whole;
      best = length;
    }
  }
  return best;
}

bool DraftLength::pays(const Round& round, double ms_per_token) const {
  if (costs_.target.empty()) return true;
  return catch_up_ms(round.unfed) + round.left * ms_per_token < round.left * round_ms(0);
}

int32_t DraftLength::choose(const Round& round) {
  if (costs_.target.empty()) return most_;
  if (!can_pay_ || round.left < 2) return 0;
  if (loop_ == LoopKind::pearl && !has_verdicts_) return drafted_in_a_step();
  const int32_t best = most_worthwhile(round);
  if (best > 0) return best;
  const double plain = round_ms(0);
  const int32_t length = std::min(kTrialLength, most_);
  const double cost = catch_up_ms(round.unfed) + round_ms(length) - plain;
  trial_budget_ms_ += kTrialShare * plain;
  if (trial_budget_ms_ < (trial_held_ ? -kMostTrials * cost : cost)) return 0;
  trial_budget_ms_ = std::min(trial_budget_ms_, kMostTrials * cost) - cost;
  trial_held_ = false;
  return length;
}

void DraftLength::observe(int32_t judged, int32_t accepted) {
  if (judged <= 0) return;
  has_verdicts_ = true;
  for (Trials& at : trials_) {
    at.reached *= kMemory;
    at.held *= kMemory;
  }
  for (int32_t i = 0; i < std::min(judged, most_); ++i) {
    const int32_t position = loop_ == LoopKind::pearl ? 0 : i;
    Trials& at = trials_[static_cast<size_t>(position)];
    at.reached += 1;
    if (i < accepted) at.held += 1;
  }
  trial_held_ = accepted > 0;
}

}  // namespace specrt

// How many tokens to draft in the next round: what the drafts of late have yielded, against what
// steps cost on this machine and whether they overlap. 0 where drafting does not pay.
#pragma once

#include <vector>

#include "specrt/types.h"

namespace specrt {

class DraftLength {
 public:
  // Lengths up to `most` for rounds of `loop`. Without costs of the target every round drafts
  // `most` tokens; without costs of a draft model drafting is free, as a lookup is. Throws an
  // argument error unless the rows of the costs ascend from 1 and the times are positive.
  DraftLength(LoopKind loop, StepCosts costs, int32_t most);

  struct Round {
    int32_t unfed = 0;  // tokens that the drafter must feed before it can draft
    int32_t left = 1;   // tokens that the sequence may still get
  };

  // The length that should give the rest of the sequence soonest. Where that is 0, now and then a
  // short draft all the same, to notice when drafting begins to pay: such trials take 0.6 % of the
  // time. Pearl begins with as many tokens as are drafted during one target step (PEARL, theorem
  // 1), until verdicts tell more.
  int32_t choose(const Round& round);

  // Whether rounds that take `ms_per_token` for each token give the rest of the sequence sooner
  // than rounds without drafts.
  bool pays(const Round& round, double ms_per_token) const;

  // What became of a draft: `judged` tokens, of which the first `accepted` were right.
  void observe(int32_t judged, int32_t accepted);

  // Tokens that a round with a draft of `length` commits on average, by the drafts of late.
  double expected_tokens(int32_t length) const;

 private:
  // Drafts that reached a position and held there, older ones counting less.
  struct Trials {
    double reached = 0;
    double held = 0;
  };

  double lockstep_tokens(int32_t length) const;
  double pearl_tokens(int32_t length) const;
  double round_ms(int32_t length) const;
  double draft_ms(int32_t length) const;
  int32_t drafted_in_a_step() const;
  double catch_up_ms(int32_t unfed) const;
  int32_t most_worthwhile(const Round& round) const;

  LoopKind loop_;
  StepCosts costs_;
  int32_t most_;
  bool can_pay_ = false;        // whether drafts that always hold would pay
  bool has_verdicts_ = false;   // of any draft
  std::vector<Trials> trials_;  // Pearl: all positions in the first, as drafts follow each other
  double trial_budget_ms_ = 0;
  bool trial_held_ = false;  // the last trial held, so more of them are worth their time
};

}  // namespace specrt

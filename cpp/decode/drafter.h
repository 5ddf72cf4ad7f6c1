// What proposes tokens. A drafter only enqueues; what it really drafts is decided from cells.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/backend.h"

namespace specrt {

struct DraftRequest {
  int32_t capacity = 0;    // tokens to draft at most
  int32_t bonus_rows = 0;  // as in DraftPlan
  int32_t positions = 0;   // all that is fed and drafted lies below
  DraftOrder order = DraftOrder::first;
  const TreeShape* tree = nullptr;  // device memory: the draft is a tree, `capacity` deep
  int32_t tree_rows = 0;            // of it that a drafter by rows feeds at most
};

class Drafter {
 public:
  virtual ~Drafter() = default;

  virtual Stream& stream() const = 0;
  virtual Backend& backend() const = 0;

  // When its steps ran; null without steps or without a clock.
  virtual const StepClock* clock() const = 0;

  // Positions that the drafter can feed; beyond them it drafts nothing.
  virtual int32_t window() const = 0;

  // By how many tokens what its KV cache holds of a position depends on the text behind it.
  virtual int32_t token_shift() const { return 0; }

  // Tokens that its KV cache may lack at most when a draft of `capacity` tokens begins; with more,
  // the draft is empty. Rounds without a draft, and the prompt, must be caught up before.
  virtual int32_t slack(int32_t capacity) const = 0;

  // Tokens that a catch-up step feeds for each sequence; 0: the drafter has nothing to feed.
  virtual int32_t catch_up_rows() const = 0;

  // One step that feeds tokens, all below `positions`, which the drafter's KV cache lacks; may be
  // recorded.
  virtual void enqueue_catch_up(int32_t positions) = 0;

  // Whether it can draft trees, and whose the candidates of these are.
  virtual Branching branching() const { return Branching::none; }

  // One draft of every sequence; may be recorded.
  virtual void enqueue_draft(const DraftRequest& request) = 0;
};

}  // namespace specrt

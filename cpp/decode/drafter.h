// What proposes tokens. A drafter only enqueues; what it really drafts is decided from cells.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/backend.h"

namespace specrt {

struct DraftRequest {
  int32_t capacity = 0;    // tokens to draft at most
  int32_t bonus_rows = 0;  // as in DraftPlan
  DraftOrder order = DraftOrder::first;
};

class Drafter {
 public:
  virtual ~Drafter() = default;

  virtual Stream& stream() const = 0;
  virtual Backend& backend() const = 0;

  // Positions that the drafter can feed; beyond them it drafts nothing.
  virtual int32_t window() const = 0;

  // Prompt tokens [begin, begin + count) of sequence s; only those inside of the window are passed.
  virtual void enqueue_prompt_chunk(size_t s, int32_t begin, int32_t count) = 0;

  // One draft of every sequence; may be recorded.
  virtual void enqueue_draft(const DraftRequest& request) = 0;
};

}  // namespace specrt

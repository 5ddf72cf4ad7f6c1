// Drafts what followed the last tokens where they occurred before: prompt lookup, no model.
// Alone, or as a free first proposer: where it finds nothing, `then` drafts.
#pragma once

#include <vector>

#include "decode/drafter.h"
#include "decode/sequence.h"

namespace specrt {

struct NgramOptions {
  int32_t shortest = 2;  // tokens that must match, 1 .. longest
  int32_t longest = 4;   // tried first; at most 16
};

class NgramDrafter final : public Drafter {
 public:
  // Works on the stream of `then`, if there is one, else on `stream`. `then` may be null.
  NgramDrafter(Backend& backend, Stream& stream, std::vector<Sequence*> sequences,
               const NgramOptions& options, Drafter* then);

  Stream& stream() const override { return stream_; }
  Backend& backend() const override { return backend_; }
  const StepClock* clock() const override { return then_ == nullptr ? nullptr : then_->clock(); }
  int32_t window() const override { return then_ == nullptr ? 0 : then_->window(); }
  int32_t slack(int32_t capacity) const override;
  int32_t catch_up_rows() const override { return then_ == nullptr ? 0 : then_->catch_up_rows(); }
  void enqueue_catch_up(int32_t positions) override;
  void enqueue_draft(const DraftRequest& request) override;

 private:
  Backend& backend_;
  Stream& stream_;
  std::vector<Sequence*> sequences_;
  NgramOptions options_;
  Drafter* then_;
};

}  // namespace specrt

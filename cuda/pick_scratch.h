// The scratch of pick_draft and judge: a head, then for each row the logits that bias and penalties
// changed, and how often each token occurred. Zeroed when made; only `arrived` must be zero when a
// kernel starts, and is when it ends.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/ops.h"

namespace specrt::cuda {

struct alignas(64) PickHead {
  uint32_t arrived;               // blocks of judge that are done
  uint32_t chosen[kMaxStepRows];  // the token of every tail row
};

struct AdjustScratch {
  float* logits;     // (v), 64-byte aligned
  uint32_t* counts;  // (v), 64-byte aligned
};

// Rows of the scratch are padded as those of activations, to whole lines.
SPECRT_HD inline size_t pick_scratch_cols(int32_t vocab) {
  return (static_cast<size_t>(vocab) + 15) / 16 * 16;
}

SPECRT_HD inline PickHead& pick_head(const PickScratch& scratch) {
  return *reinterpret_cast<PickHead*>(scratch.data);
}

SPECRT_HD inline AdjustScratch adjust_scratch(const PickScratch& scratch, int32_t vocab,
                                              int32_t row) {
  const size_t cols = pick_scratch_cols(vocab);
  std::byte* data = scratch.data + sizeof(PickHead) + static_cast<size_t>(row) * cols * 8;
  return {reinterpret_cast<float*>(data), reinterpret_cast<uint32_t*>(data) + cols};
}

// What a head leaves in LinearArgs::best: for every 16 tokens of a row, a key of values.cuh, that
// of the best token there as noisy_best has it; where the choice is greedy, without noise.
class HeadKeys {
 public:
  SPECRT_HD HeadKeys(std::byte* best, int32_t vocab)
      : keys_(reinterpret_cast<unsigned long long*>(best)), count_((vocab + 15) / 16) {}

  SPECRT_HD int32_t count() const { return count_; }  // of a row
  SPECRT_HD unsigned long long* row(int64_t r) const { return keys_ + r * count_; }

 private:
  unsigned long long* keys_;
  int32_t count_;
};

// The keys of row r, or null.
SPECRT_HD inline const unsigned long long* head_keys(const PickScratch& scratch, int32_t vocab,
                                                     int32_t r) {
  return scratch.best == nullptr ? nullptr : HeadKeys(scratch.best, vocab).row(r);
}

}  // namespace specrt::cuda

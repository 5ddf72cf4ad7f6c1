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

// What a head leaves in LinearArgs::best: for every panel of 16 tokens of a row two keys of
// values.cuh. `chosen` is that of the best token as noisy_best has it, `largest` that of the
// largest value; where the choice is greedy, both are without noise. And a mass: the sum of
// exp(value - largest value), within 2^-19 of it.
class HeadKeys {
 public:
  SPECRT_HD HeadKeys(std::byte* best, int32_t vocab)
      : keys_(reinterpret_cast<unsigned long long*>(best)), count_((vocab + 15) / 16) {}

  SPECRT_HD int32_t count() const { return count_; }  // of a row
  SPECRT_HD unsigned long long* chosen(int64_t r) const { return keys_ + r * row_words(); }
  SPECRT_HD unsigned long long* largest(int64_t r) const { return chosen(r) + count_; }
  SPECRT_HD float* mass(int64_t r) const { return reinterpret_cast<float*>(largest(r) + count_); }

  static size_t bytes(int64_t rows, int32_t vocab) {
    return static_cast<size_t>(rows * HeadKeys(nullptr, vocab).row_words()) *
           sizeof(unsigned long long);
  }

 private:
  SPECRT_HD int64_t row_words() const { return 2 * int64_t{count_} + (count_ + 1) / 2; }

  unsigned long long* keys_;
  int32_t count_;
};

// The keys of one row; null where no head left them.
struct RowKeys {
  const unsigned long long* chosen;
  const unsigned long long* largest;
  const float* mass;
  int32_t count;
};

SPECRT_HD inline RowKeys head_keys(const PickScratch& scratch, int32_t vocab, int32_t r) {
  if (scratch.best == nullptr) return {nullptr, nullptr, nullptr, 0};
  const HeadKeys keys(scratch.best, vocab);
  return {keys.chosen(r), keys.largest(r), keys.mass(r), keys.count()};
}

}  // namespace specrt::cuda

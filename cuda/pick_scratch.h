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

SPECRT_HD inline PickHead& pick_head(const Scratch& scratch) {
  return *reinterpret_cast<PickHead*>(scratch.data);
}

SPECRT_HD inline AdjustScratch adjust_scratch(const Scratch& scratch, int32_t vocab, int32_t row) {
  const size_t cols = pick_scratch_cols(vocab);
  std::byte* data = scratch.data + sizeof(PickHead) + static_cast<size_t>(row) * cols * 8;
  return {reinterpret_cast<float*>(data), reinterpret_cast<uint32_t*>(data) + cols};
}

}  // namespace specrt::cuda

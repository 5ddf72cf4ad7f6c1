// Changes of logits that come before filters and noise: bias, early stops, penalties (device/ops.h,
// "How a token is chosen", 1 and 2). By one block for one row.
#pragma once

#include <limits>

#include "cuda/pick_scratch.h"
#include "cuda/ptx.h"

namespace specrt::cuda {

// A token that is named more than once gets its summands one after another, in their order.
__device__ __forceinline__ void add_bias(const SequenceCells& sequence, int32_t count,
                                         float* logits) {
  for (int32_t i = threadIdx.x; i < count; i += blockDim.x) {
    const int32_t token = sequence.bias[i].token;
    bool first = true;
    for (int32_t j = 0; j < i && first; ++j) first = sequence.bias[j].token != token;
    for (int32_t j = i; j < count && first; ++j) {
      if (sequence.bias[j].token == token) logits[token] += sequence.bias[j].value;
    }
  }
}

// Occurrences of tok[0 .. position-1]: the upper bit says that a token occurred, the others how
// often it was generated.
inline constexpr uint32_t kOccurred = 0x80000000u;

__device__ __forceinline__ void count_tokens(const SequenceCells& sequence, int32_t position,
                                             int32_t vocab, uint32_t* counts) {
  const int32_t prompt = sequence.cells->logit.prompt_length;
  const int32_t quads = (vocab + 3) / 4;
  for (int32_t quad = threadIdx.x; quad < quads; quad += blockDim.x) {
    st16(counts + 4 * quad, make_uint4(0, 0, 0, 0));
  }
  sync_block();
  for (int32_t p = threadIdx.x; p < position; p += blockDim.x) {
    uint32_t& count = counts[sequence.tok[p]];
    atomicOr(&count, kOccurred);
    if (p >= prompt) atomicAdd(&count, 1u);
  }
  sync_block();
}

__device__ __forceinline__ void penalise(const LogitCells& options, int32_t vocab,
                                         const AdjustScratch& scratch) {
  const float given = options.repetition_penalty, frequency = options.frequency_penalty;
  const float repetition = given == 0.0f ? 1.0f : given;
  const float presence = options.presence_penalty;
  for (int32_t token = threadIdx.x; token < vocab; token += blockDim.x) {
    const uint32_t count = ld_cg4(scratch.counts + token);
    if (count == 0) continue;
    float logit = scratch.logits[token];
    logit = logit > 0.0f ? logit / repetition : logit * repetition;
    const auto generated = static_cast<float>(count & ~kOccurred);
    if (generated > 0.0f) logit -= frequency * generated + presence;
    scratch.logits[token] = logit;
  }
}

// The logits (v) to choose the token at `position` from: `logits` itself where nothing changes,
// else a changed copy in `scratch`. Every operation rounds as on the CPU.
__device__ __forceinline__ const float* adjust(const SequenceCells& sequence, const float* logits,
                                               int32_t vocab, int32_t position,
                                               const AdjustScratch& scratch) {
  const Cells& cells = *sequence.cells;
  const LogitCells& options = cells.logit;
  const int32_t bias_count = options.bias_count;
  const int32_t eos_count = position < options.earliest_stop ? int32_t{cells.eos_count} : 0;
  const bool penalties = options.repetition_penalty != 0.0f || options.frequency_penalty != 0.0f ||
                         options.presence_penalty != 0.0f;
  if (bias_count == 0 && eos_count == 0 && !penalties) return logits;

  const int32_t quads = (vocab + 3) / 4;
  for (int32_t quad = threadIdx.x; quad < quads; quad += blockDim.x) {
    st16(scratch.logits + 4 * quad, ld_cg16(logits + 4 * quad));
  }
  sync_block();
  add_bias(sequence, bias_count, scratch.logits);
  sync_block();
  for (int32_t i = threadIdx.x; i < eos_count; i += blockDim.x) {
    scratch.logits[cells.eos[i]] = -std::numeric_limits<float>::infinity();
  }
  sync_block();
  if (penalties) {
    count_tokens(sequence, position, vocab, scratch.counts);
    penalise(options, vocab, scratch);
    sync_block();
  }
  return scratch.logits;
}

}  // namespace specrt::cuda

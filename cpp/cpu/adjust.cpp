#include "cpu/adjust.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace specrt::cpu {
namespace {

bool has_penalties(const LogitCells& options) {
  return options.repetition_penalty != 0.0f || options.frequency_penalty != 0.0f ||
         options.presence_penalty != 0.0f;
}

void penalise(const SequenceCells& sequence, float* logits, int32_t* generated, int32_t vocab,
              int32_t position) {
  const LogitCells& options = sequence.cells->logit;
  const float given = options.repetition_penalty, frequency = options.frequency_penalty;
  const float repetition = given == 0.0f ? 1.0f : given;
  const float presence = options.presence_penalty;
  const int32_t prompt = options.prompt_length;
  // -1: did not occur; else how often it was generated.
  std::fill_n(generated, vocab, -1);
  for (int32_t p = 0; p < position; ++p) {
    int32_t& count = generated[sequence.tok[p]];
    count = std::max(count, 0) + (p >= prompt ? 1 : 0);
  }
  for (int32_t token = 0; token < vocab; ++token) {
    const int32_t count = generated[token];
    if (count < 0) continue;
    float& logit = logits[token];
    logit = logit > 0.0f ? logit / repetition : logit * repetition;
    if (count > 0) logit -= frequency * static_cast<float>(count) + presence;
  }
}

}  // namespace

size_t adjust_scratch_bytes(int32_t vocab) {
  return static_cast<size_t>(vocab) * (sizeof(float) + sizeof(int32_t));
}

const float* adjust(const SequenceCells& sequence, const float* logits, int32_t vocab,
                    int32_t position, std::byte* scratch) {
  const Cells& cells = *sequence.cells;
  const LogitCells& options = cells.logit;
  const int32_t bias_count = options.bias_count;
  const bool too_early = position < options.earliest_stop && cells.eos_count > 0;
  const bool penalties = has_penalties(options);
  if (bias_count == 0 && !too_early && !penalties) return logits;

  auto* changed = reinterpret_cast<float*>(scratch);
  std::memcpy(changed, logits, static_cast<size_t>(vocab) * sizeof(float));
  for (int32_t i = 0; i < bias_count; ++i) {
    changed[sequence.bias[i].token] += sequence.bias[i].value;
  }
  if (too_early) {
    const int32_t count = cells.eos_count;
    for (int32_t i = 0; i < count; ++i) {
      changed[cells.eos[i]] = -std::numeric_limits<float>::infinity();
    }
  }
  if (penalties) {
    penalise(sequence, changed, reinterpret_cast<int32_t*>(changed + vocab), vocab, position);
  }
  return changed;
}

}  // namespace specrt::cpu

// The rules `rejection` and `block` on the device. Each launcher enqueues a kernel beside that of
// rule `exact`; which of the two works, the rule in the cells says.
#pragma once

#include <cuda_runtime.h>

#include "device/ops.h"

namespace specrt::cuda {

void draw_draft(cudaStream_t stream, const PickDraftArgs& args);
void judge_by_probabilities(cudaStream_t stream, const JudgeArgs& args);

// Whether the sequence may follow another rule than `exact`.
inline bool keeps_probabilities(const SequenceCells& sequence) {
  return sequence.probabilities.draft != nullptr;
}

}  // namespace specrt::cuda

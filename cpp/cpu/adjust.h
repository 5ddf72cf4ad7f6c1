// Changes of logits that come before filters and noise: bias, early stops, penalties.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cells.h"

namespace specrt::cpu {

// Bytes of scratch that `adjust` needs.
size_t adjust_scratch_bytes(int32_t vocab);

// The logits (v,) to choose the token at `position` from, as device/ops.h defines them ("How a
// token is chosen", 1 and 2): `logits` itself where nothing changes, else a changed copy in
// `scratch`.
const float* adjust(const SequenceCells& sequence, const float* logits, int32_t vocab,
                    int32_t position, std::byte* scratch);

}  // namespace specrt::cpu

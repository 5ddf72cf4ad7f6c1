// Times single steps of a lane: the cost curves that draft lengths are chosen from.
#pragma once

#include <vector>

#include "decode/lane.h"

namespace specrt {

// Milliseconds of `repeats` steps of `rows` rows behind `cached` positions, logits of every row
// included. Uses the lane's first sequence, which must not be generating.
std::vector<double> time_steps(Lane& lane, int32_t rows, int32_t cached, int32_t repeats);

}  // namespace specrt

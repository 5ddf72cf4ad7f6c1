// What a step costs by its rows, from times that were measured on this machine.
#pragma once

#include <vector>

#include "specrt/types.h"

namespace specrt {

// Throws an argument error unless rows ascend from 1 and times are positive.
void check_curve(const std::vector<StepTime>& curve);

// Between measured rows on the line through the neighbours; the ends go on as they are. The curve
// has an entry at least.
double step_ms(const std::vector<StepTime>& curve, int32_t rows);

}  // namespace specrt

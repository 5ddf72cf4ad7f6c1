// Between the layers without and those with streams: which rows go on (device/streaming.h).
#pragma once

#include "cpu/kernels.h"

namespace specrt::cpu {

// Plans the rows of one segment; nothing to do without streams.
void plan_streams(const Kernels& kernels, const PlanStreamsArgs& args, int32_t segment, Team& team);

}  // namespace specrt::cpu

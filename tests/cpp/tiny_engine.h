// A Llama-like model of two layers with random weights: every kind of op, small enough to be run
// thousands of times.
#pragma once

#include "engine_image.h"

namespace specrt::testing {

EngineImage tiny_engine(DType dtype, uint64_t seed);

// One that keeps the residual before each layer, and a drafter that reads them; token 1 masks.
EngineImage tiny_target(DType dtype, uint64_t seed);
EngineImage tiny_eagle(DType dtype, uint64_t seed);

// One that goes on from its own estimates of them.
EngineImage tiny_estimating(DType dtype, uint64_t seed);

// Three heads over the second of these layers, each for one token of a draft.
EngineImage tiny_medusa(DType dtype, uint64_t seed);

// One whose second layer has four streams with additions of their own, and scores for pruning.
EngineImage tiny_streaming(DType dtype, uint64_t seed);

}  // namespace specrt::testing

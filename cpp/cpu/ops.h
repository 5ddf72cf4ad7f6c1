// An enqueued op and what running it means: read cells, list the existing rows, call the kernel.
#pragma once

#include <variant>
#include <vector>

#include "cpu/kernels.h"

namespace specrt::cpu {

// Keeps the layers, which the caller may drop.
struct MoveKvOp {
  MoveKvArgs args;
  std::vector<KvLayer> layers;
};

using Op =
    std::variant<EmbedArgs, RopeAnglesArgs, RmsNormArgs, LinearArgs, RopeKvArgs, AttentionArgs,
                 KeepFeaturesArgs, LoadFeaturesArgs, ConvertArgs, ScatterArgs, PlanStreamsArgs,
                 InsertStreamsArgs, MoveKvOp, MoveFeaturesArgs, CopyToDeviceArgs, CopyToHostArgs,
                 FeedPromptArgs, ProposeNgramArgs, BeginCatchUpArgs, BeginDraftArgs, PickDraftArgs,
                 PickCandidatesArgs, FeedTailArgs, GrowTreeArgs, JudgeArgs, ClockStepArgs>;

// Throws when cells hold what the op cannot do: a slot beyond the cache, a token beyond the table.
void run(const Kernels& kernels, const Op& op, Team& team);

}  // namespace specrt::cpu

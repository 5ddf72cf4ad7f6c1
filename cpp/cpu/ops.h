// An enqueued op and what running it means: read cells, list the existing rows, call the kernel.
#pragma once

#include <variant>

#include "cpu/kernels.h"

namespace specrt::cpu {

using Op =
    std::variant<EmbedArgs, RopeAnglesArgs, RmsNormArgs, LinearArgs, RopeKvArgs, AttentionArgs,
                 CopyToDeviceArgs, CopyToHostArgs, FeedPromptArgs, ProposeNgramArgs,
                 BeginCatchUpArgs, BeginDraftArgs, PickDraftArgs, FeedTailArgs, JudgeArgs>;

// Throws when cells hold what the op cannot do: a slot beyond the cache, a token beyond the table.
void run(const Kernels& kernels, const Op& op, Team& team);

}  // namespace specrt::cpu

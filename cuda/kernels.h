// One launcher for each op: enqueues its kernels on a stream. Arguments have been checked
// (device/ops.h); rows are read from cells when the kernels run.
#pragma once

#include <cuda_runtime.h>

#include "device/ops.h"

namespace specrt::cuda {

void embed(cudaStream_t stream, const EmbedArgs& args);
void rope_angles(cudaStream_t stream, const RopeAnglesArgs& args);
void rms_norm(cudaStream_t stream, const RmsNormArgs& args);
void linear(cudaStream_t stream, const LinearArgs& args);
void rope_kv(cudaStream_t stream, const RopeKvArgs& args);
void attention(cudaStream_t stream, const AttentionArgs& args);
void keep_features(cudaStream_t stream, const KeepFeaturesArgs& args);
void load_features(cudaStream_t stream, const LoadFeaturesArgs& args);
void convert(cudaStream_t stream, const ConvertArgs& args);
void scatter(cudaStream_t stream, const ScatterArgs& args);
void plan_streams(cudaStream_t stream, const PlanStreamsArgs& args);
void insert_streams(cudaStream_t stream, const InsertStreamsArgs& args);
void move_kv(cudaStream_t stream, const MoveKvArgs& args);
void move_features(cudaStream_t stream, const MoveFeaturesArgs& args);

void feed_prompt(cudaStream_t stream, const FeedPromptArgs& args);
void propose_ngram(cudaStream_t stream, const ProposeNgramArgs& args);
void begin_catch_up(cudaStream_t stream, const BeginCatchUpArgs& args);
void begin_draft(cudaStream_t stream, const BeginDraftArgs& args);
void pick_draft(cudaStream_t stream, const PickDraftArgs& args);
void pick_candidates(cudaStream_t stream, const PickCandidatesArgs& args);
void feed_tail(cudaStream_t stream, const FeedTailArgs& args);
void grow_tree(cudaStream_t stream, const GrowTreeArgs& args);
void judge(cudaStream_t stream, const JudgeArgs& args);       // a chain
void judge_tree(cudaStream_t stream, const JudgeArgs& args);  // with a shape
void clock_step(cudaStream_t stream, const ClockStepArgs& args);

// What Backend::clock_offset gives, by kernels in `stream` that write to `now`, which is memory
// that the host reads.
int64_t clock_offset(cudaStream_t stream, uint64_t* now);

// Bytes of AttentionArgs::scratch: the partial results of every row, head and split.
size_t attention_scratch(const AttentionArgs& args);

// Bytes of LinearArgs::best, for a step of kMaxStepRows rows.
size_t head_bytes(int32_t vocab);

// Bytes of the scratch of pick_draft and judge, for a step of kMaxStepRows rows.
size_t pick_scratch(int32_t vocab);

}  // namespace specrt::cuda

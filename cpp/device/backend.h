// A device that runs ops: one virtual method per op. Every op only enqueues on the stream.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "device/buffer.h"
#include "device/ops.h"
#include "device/stream.h"

namespace specrt {

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;  // "cpu:avx512bf16", "cuda:sm_90:NVIDIA H200"

  // Cores that streams divide among them; 0: all streams share the whole device.
  virtual int cores() const = 0;

  virtual Layout weight_layout() const = 0;  // of the matrices that `linear` reads

  // Whether embed and linear take over the work of their neighbours: NormGain, NormFactor and
  // Epilogue::rope_kv.
  virtual bool joins_ops() const { return false; }

  // Rows that a step may have where it feeds a prompt: kMaxStepRows, or a multiple of it up to
  // kMaxPromptRows. Their bits do not depend on how many share a step.
  virtual int32_t prompt_rows() const { return kMaxStepRows; }

  // Zero-filled, 64-byte aligned device memory. Throws when the machine cannot hold it.
  virtual Buffer alloc(size_t bytes) = 0;

  // Zero-filled memory that both the device and the host read and write: the verdict log, and what
  // the host hands over. Far from the device, so nothing that a step reads lies here.
  virtual Buffer alloc_shared(size_t bytes) = 0;

  // The weights of an engine as device memory; `host` stays valid as long as the buffer.
  virtual Buffer place_weights(const std::byte* host, size_t bytes) = 0;

  // Bytes of AttentionArgs::scratch, for any number of rows and positions.
  virtual size_t attention_scratch(const AttentionArgs& args) const = 0;

  // Bytes of the scratch of pick_draft and judge.
  virtual size_t pick_scratch(int32_t vocab) const = 0;

  // Bytes of LinearArgs::best; 0: heads prepare nothing.
  virtual size_t head_bytes(int32_t vocab) const {
    (void)vocab;
    return 0;
  }

  virtual std::unique_ptr<Stream> make_stream(const StreamShare& share) = 0;

  // Records the ops that `enqueue` issues on `stream` instead of running them.
  virtual std::unique_ptr<RecordedWork> record(Stream& stream,
                                               const std::function<void()>& enqueue) = 0;

  virtual void embed(Stream& stream, const EmbedArgs& args) = 0;
  virtual void rope_angles(Stream& stream, const RopeAnglesArgs& args) = 0;
  virtual void rms_norm(Stream& stream, const RmsNormArgs& args) = 0;
  virtual void linear(Stream& stream, const LinearArgs& args) = 0;
  virtual void rope_kv(Stream& stream, const RopeKvArgs& args) = 0;
  virtual void attention(Stream& stream, const AttentionArgs& args) = 0;
  virtual void keep_features(Stream& stream, const KeepFeaturesArgs& args) = 0;
  virtual void load_features(Stream& stream, const LoadFeaturesArgs& args) = 0;
  virtual void convert(Stream& stream, const ConvertArgs& args) = 0;
  virtual void scatter(Stream& stream, const ScatterArgs& args) = 0;
  virtual void plan_streams(Stream& stream, const PlanStreamsArgs& args) = 0;
  virtual void insert_streams(Stream& stream, const InsertStreamsArgs& args) = 0;
  virtual void move_kv(Stream& stream, const MoveKvArgs& args) = 0;
  virtual void move_features(Stream& stream, const MoveFeaturesArgs& args) = 0;

  virtual void copy_to_device(Stream& stream, const CopyToDeviceArgs& args) = 0;
  virtual void copy_to_host(Stream& stream, const CopyToHostArgs& args) = 0;
  virtual void feed_prompt(Stream& stream, const FeedPromptArgs& args) = 0;
  virtual void propose_ngram(Stream& stream, const ProposeNgramArgs& args) = 0;
  virtual void begin_catch_up(Stream& stream, const BeginCatchUpArgs& args) = 0;
  virtual void begin_draft(Stream& stream, const BeginDraftArgs& args) = 0;
  virtual void pick_draft(Stream& stream, const PickDraftArgs& args) = 0;
  virtual void pick_candidates(Stream& stream, const PickCandidatesArgs& args) = 0;
  virtual void feed_tail(Stream& stream, const FeedTailArgs& args) = 0;
  virtual void grow_tree(Stream& stream, const GrowTreeArgs& args) = 0;
  virtual void judge(Stream& stream, const JudgeArgs& args) = 0;

  virtual void clock_step(Stream& stream, const ClockStepArgs& args) = 0;

  // What brings the times of a StepClock to the host's steady clock, in nanoseconds. Clocks drift
  // apart, so it is measured anew; between requests, as it may wait for the device.
  virtual int64_t clock_offset() { return 0; }
};

}  // namespace specrt

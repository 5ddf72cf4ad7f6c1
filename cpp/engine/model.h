// An engine loaded on a backend: weights in place, activations allocated, steps enqueued.
// A model belongs to one stream at a time, because its activations are shared by its steps.
#pragma once

#include <memory>

#include "engine/engine.h"

namespace specrt {

// Bytes of an engine loaded on a backend for one sequence.
struct ModelBytes {
  size_t weights = 0;
  size_t kv_cache = 0;  // features of the target included
  size_t buffers = 0;   // activations and scratch
};
ModelBytes model_bytes(const Engine& engine, const Backend& backend);

class Model {
 public:
  // Throws specrt::Error when the device cannot hold weights or activations.
  Model(std::shared_ptr<const Engine> engine, Backend& backend);

  // Enqueues one forward of the rows that the segments' spans name; nothing waits.
  void enqueue_step(Stream& stream, const StepRows& rows, Head head);

  // Logits of the last step, (kMaxStepRows, vocab) f32, row as in StepRows; a longer step leaves
  // those of its first rows.
  RowsView logits() const { return logits_view(plan(), memory_); }

  // For choosing from the logits, on the stream of the steps. Steps do not touch it.
  PickScratch pick_scratch() const {
    return {.data = pick_scratch_.data(), .bytes = pick_scratch_.size(), .best = memory_.best};
  }

  // Zeroed KV cache of one sequence.
  Buffer make_kv() const;

  // Zeroed features of one sequence; nothing if the model keeps none.
  Buffer make_features() const;

  // Whether the weights are read where the engine's file is mapped.
  bool reads_file() const { return weights_.data() == engine_->file(); }

  const Plan& plan() const { return engine_->plan(); }
  Backend& backend() const { return backend_; }
  int32_t vocab() const { return plan().header.vocab; }
  // Token that stands for one to be drafted; -1: the model drafts one by one.
  int32_t mask_token() const { return plan().header.mask_token - 1; }
  // Of each row in the last layers; 0: none.
  int32_t streams() const { return plan().header.streams; }
  // 1: its rows are pairs of the target's features and the token behind them.
  int32_t token_shift() const { return reads_features(plan()) ? 1 : 0; }
  int32_t context() const { return plan().header.context; }

 private:
  std::shared_ptr<const Engine> engine_;
  Backend& backend_;
  Joints joints_;
  Buffer weights_;
  Buffer arena_;
  Buffer joined_;
  Buffer scratch_;
  Buffer pick_scratch_;
  Buffer best_;
  PlanMemory memory_;
};

}  // namespace specrt

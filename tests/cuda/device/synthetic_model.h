// A Llama of any shape with random weights, in device memory: no file, the same plan as the builder
// makes for CUDA.
#pragma once

#include <string>

#include "bench.h"
#include "engine/plan.h"

namespace specrt::cuda::bench {

struct LlamaShape {
  const char* name;
  int32_t dim;
  int32_t layers;
  int32_t ffn;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t vocab;
  bool tied;  // the head is the embedding
};

// "8b", "7b", "13b", "1b", or "tiny" for the emulator; an argument error otherwise.
const LlamaShape& shape_named(const std::string& name);

// The pieces of a chain of `rows` rows behind `cached` positions: base and rows of each segment.
std::vector<int32_t> span_words(int32_t cached, int32_t rows);

// A step of these pieces, whose spans lie at `spans`; `segment` has what is the same in all of
// them.
StepRows chain_step(const StepSpan* spans, int32_t rows, Segment segment);

class SyntheticModel {
 public:
  SyntheticModel(const Device& device, const LlamaShape& shape, int32_t context);

  // A chain of `rows` rows behind `cached` positions. What it points to lives as long as the model.
  StepRows step(int32_t cached, int32_t rows);

  void enqueue(const StepRows& rows, Head head, Stream& stream) const;

  // Bytes that a step of one row must move: weights, and keys and values of `cached` positions.
  double step_bytes(int32_t cached) const;

 private:
  const Device& device_;
  Plan plan_;
  Buffer weights_;
  Buffer arena_;
  Joints joints_;
  Buffer joined_;
  Buffer scratch_;
  Buffer kv_;
  Buffer tok_;
  std::vector<Buffer> spans_;
};

}  // namespace specrt::cuda::bench

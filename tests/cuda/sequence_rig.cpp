#include "sequence_rig.h"

#include <cstring>
#include <limits>

namespace specrt::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

void copy_bytes(SequenceMemory& to, const SequenceMemory& from) {
  std::memcpy(static_cast<void*>(&to), static_cast<const void*>(&from), sizeof(SequenceMemory));
}

SequenceMemory* pinned() {
  void* memory = nullptr;
  CUDA_CHECK(cudaHostAlloc(&memory, sizeof(SequenceMemory), cudaHostAllocMapped));
  return static_cast<SequenceMemory*>(memory);
}

}  // namespace

SequenceCells SequenceMemory::view() {
  return {.cells = &cells,
          .tok = tok,
          .bias = bias,
          .logprobs = logprobs,
          .log = log,
          .log_slots = kLogSlots};
}

SequenceRig::SequenceRig(Rig& rig)
    : rig_(rig),
      cpu_(make_cpu_backend({.threads = 1})),
      cpu_stream_(cpu_->make_stream({})),
      start_(std::make_unique<SequenceMemory>()),
      host_(std::make_unique<SequenceMemory>()),
      device_(pinned(), &cudaFreeHost) {}

void SequenceRig::upload() {
  copy_bytes(*host_, *start_);
  CUDA_CHECK(cudaMemcpyAsync(device_.get(), start_.get(), sizeof(SequenceMemory), cudaMemcpyDefault,
                             rig_.stream()));
}

void SequenceRig::sync() {
  cpu_stream_->record().wait();
  rig_.sync();
}

bool SequenceRig::same() const {
  const size_t bytes = offsetof(SequenceMemory, logprobs);
  return std::memcmp(static_cast<const void*>(host_.get()), static_cast<const void*>(device_.get()),
                     bytes) == 0;
}

Logits::Logits(Rig& rig, int32_t vocab)
    : rig_(rig),
      vocab_(vocab),
      cols_((static_cast<size_t>(vocab) + 15) / 16 * 16),
      values_(kMaxStepRows * cols_, kNan),
      device_(kMaxStepRows * cols_) {}

void Logits::upload() {
  CUDA_CHECK(cudaMemcpyAsync(device_.data(), values_.data(), values_.size() * sizeof(float),
                             cudaMemcpyHostToDevice, rig_.stream()));
}

RowsView Logits::view(float* data) const {
  return {.data = reinterpret_cast<std::byte*>(data),
          .dtype = DType::f32,
          .cols = vocab_,
          .stride = static_cast<int64_t>(cols_ * sizeof(float))};
}

void draw_logits(Dice& dice, float* row, int32_t vocab) {
  const int32_t kind = dice.between(0, 9);
  const float scale = dice.of({0.1f, 1.0f, 3.0f, 10.0f});
  for (int32_t v = 0; v < vocab; ++v) {
    row[v] = scale * dice.normal();
    if (kind == 5) row[v] = static_cast<float>(dice.between(-2, 2)) * 0.5f;  // ties, both zeros
    if (kind == 5 && row[v] == 0.0f && dice.one_in(2)) row[v] = -0.0f;
    if (kind == 6) row[v] = 2.0f;
    if (kind >= 7 && dice.one_in(4)) row[v] = dice.of({kNan, -kInfinity, -80.0f, 1e-40f});
    if (kind == 8 && dice.one_in(10)) row[v] = kInfinity;
    if (kind == 9 && scale == 0.1f) row[v] = dice.of({kNan, -kInfinity});
  }
}

void draw_options(Dice& dice, SequenceMemory& memory, int32_t vocab) {
  Cells& s = memory.cells;
  s.seed = static_cast<uint64_t>(dice.between(0, 1 << 30)) << 20;
  s.eos_count = dice.of({0, 0, 1, 3});
  for (int32_t i = 0; i < s.eos_count; ++i) s.eos[i] = dice.between(0, vocab - 1);
  s.sampling.temperature = dice.of({0.0f, 0.3f, 1.0f, 1.0f, 2.5f});
  s.sampling.top_k = dice.of({0, 0, 1, 3, vocab / 2, vocab, vocab + 3});
  s.sampling.top_p = dice.of({1.0f, 1.0f, 0.999f, 0.9f, 0.5f, 1e-6f});
  s.sampling.min_p = dice.of({0.0f, 0.0f, 0.02f, 0.4f, 1.0f});
  s.logit.prompt_length = dice.between(1, s.committed);
  s.logit.earliest_stop = dice.of({0, int32_t{s.committed} + 2});
  const bool penalties = dice.one_in(3);
  s.logit.repetition_penalty = penalties ? dice.of({0.0f, 1.3f, 0.7f}) : 0.0f;
  s.logit.frequency_penalty = penalties ? dice.of({0.0f, 0.5f, -1.0f}) : 0.0f;
  s.logit.presence_penalty = penalties ? dice.of({0.0f, 2.0f, -0.25f}) : 0.0f;
  s.logit.bias_count = dice.of({0, 0, 2, 40});
  for (int32_t i = 0; i < s.logit.bias_count; ++i) {  // now and then a token twice
    memory.bias[i].token = dice.between(0, vocab - 1);
    memory.bias[i].value = dice.of({-100.0f, 0.3f, 5.0f, 1e-3f});
  }
  s.logprobs = dice.of({0, 0, 1, 6, 1 + kMaxLogprobs});
}

int32_t draw_vocab(Dice& dice) {
  return dice.of({5, 7, 16, 31, 50, 129, 256, 257, dice.between(5, 900), dice.between(900, 3000)});
}

}  // namespace specrt::cuda

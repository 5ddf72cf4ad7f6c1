// A sequence on the emulated device and the same one on the CPU backend, for tests of the ops that
// decide what is decoded.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cuda/kernels.h"
#include "rig.h"

namespace specrt::cuda {

inline constexpr int32_t kContext = 320;
inline constexpr uint32_t kLogSlots = 3;

// All memory of a sequence and the span of its steps. Copied as bytes.
struct SequenceMemory {
  Cells cells;
  StepSpan span;
  LogitBias bias[kMaxLogitBias];
  Cell<int32_t> tok[kContext];
  LogEntry log[kLogSlots];
  LogprobEntry logprobs[kLogSlots];

  SequenceCells view();
};

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}
  int32_t between(int32_t low, int32_t high) {  // both included
    return std::uniform_int_distribution<int32_t>(low, high)(random_);
  }
  bool one_in(int32_t n) { return between(1, n) == 1; }
  float normal() { return normal_(random_); }
  template <typename T>
  T of(std::initializer_list<T> values) {
    return values.begin()[between(0, static_cast<int32_t>(values.size()) - 1)];
  }

 private:
  std::mt19937_64 random_;
  std::normal_distribution<float> normal_;
};

// The CPU backend and the emulated device with one sequence each.
class SequenceRig {
 public:
  explicit SequenceRig(Rig& rig);

  // What the next ops begin with, on both.
  SequenceMemory& start() { return *start_; }
  void upload();

  Rig& rig() { return rig_; }
  Backend& cpu() { return *cpu_; }
  Stream& cpu_stream() { return *cpu_stream_; }
  SequenceMemory& on_cpu() { return *host_; }       // after sync
  SequenceMemory& on_device() { return *device_; }  // pinned, so that both see it; after sync
  void sync();

  // Whether both hold the same, bit for bit, log-probabilities aside.
  bool same() const;

 private:
  Rig& rig_;
  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<Stream> cpu_stream_;
  std::unique_ptr<SequenceMemory> start_;
  std::unique_ptr<SequenceMemory> host_;
  std::unique_ptr<SequenceMemory, decltype(&cudaFreeHost)> device_;
};

// Rows of logits in host and in device memory; what lies beyond the vocabulary is NaN.
class Logits {
 public:
  Logits(Rig& rig, int32_t vocab);

  float* row(int32_t i) { return values_.data() + static_cast<size_t>(i) * cols_; }
  void upload();
  RowsView on_cpu() { return view(values_.data()); }
  RowsView on_device() { return view(device_.data()); }

 private:
  RowsView view(float* data) const;

  Rig& rig_;
  int32_t vocab_;
  size_t cols_;
  std::vector<float> values_;
  DeviceArray<float> device_;
};

// Logits of one of many kinds: usual, with ties, with NaN and infinities, hopeless.
void draw_logits(Dice& dice, float* row, int32_t vocab);

// Every option of choosing a token, of a sequence whose `committed` and `vocab` are known.
void draw_options(Dice& dice, SequenceMemory& memory, int32_t vocab);

int32_t draw_vocab(Dice& dice);

}  // namespace specrt::cuda

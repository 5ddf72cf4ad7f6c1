// What the parts of specrt_cuda_check share: the device, times, and readings as lines of JSON.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <string>
#include <vector>

#include "cuda/check.h"
#include "device/backend.h"

namespace specrt::cuda::bench {

struct Options {
  std::string shape = "8b";
  std::vector<int32_t> rows = {1, 8, 16, 32, 64};
  std::vector<int32_t> contexts = {1024};
  int32_t samples = 7;             // times that are measured; their median counts
  int32_t count = 100000;          // repetitions of a litmus, and nodes of long graphs
  size_t bytes = size_t{8} << 30;  // of memory that a ceiling is measured on
};

struct Device {
  Device();

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;
  int multiprocessors = 0;

  cudaStream_t handle() const;
  void sync() const { stream->record().wait(); }

  // Device memory with these values.
  template <typename T>
  Buffer put(const std::vector<T>& values) const {
    return put(reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T));
  }
  Buffer put(const std::byte* data, size_t bytes) const;

  // Device memory of random bf16 numbers, uniform with a standard deviation of 0.02; the same ones
  // in every run, again after 32 MiB. Random, because arithmetic on zeros takes less power.
  Buffer random(size_t bytes) const;
};

// Median of `samples` times of what `enqueue` puts on the stream, after a warm-up; milliseconds.
template <typename Enqueue>
double time_ms(cudaStream_t stream, int32_t samples, Enqueue&& enqueue);

struct Reading {
  std::string name;
  double value;
  const char* unit;
  double bytes = 0;  // of device memory that must move in that time
};

void print(const Reading& reading);

// The parts.
void litmus(const Device& device, const Options& options);
void ceilings(const Device& device, const Options& options);
void steps(const Device& device, const Options& options);
void prefill(const Device& device, const Options& options);
void streams(const Device& device, const Options& options);
void linears(const Device& device, const Options& options);
void attentions(const Device& device, const Options& options);
void judges(const Device& device, const Options& options);
void gaps(const Device& device, const Options& options);

// ---- Of time_ms --------------------------------------------------------------------------------

class Stopwatch {
 public:
  Stopwatch();
  Stopwatch(const Stopwatch&) = delete;
  ~Stopwatch();

  void begin(cudaStream_t stream) { CUDA_CHECK(cudaEventRecord(begin_, stream)); }
  void end(cudaStream_t stream) { CUDA_CHECK(cudaEventRecord(end_, stream)); }
  double milliseconds() const;  // between the two; waits for the end

 private:
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

double median(std::vector<double> values);

template <typename Enqueue>
double time_ms(cudaStream_t stream, int32_t samples, Enqueue&& enqueue) {
  Stopwatch watch;
  std::vector<double> times;
  for (int32_t i = 0; i <= samples; ++i) {
    watch.begin(stream);
    enqueue();
    watch.end(stream);
    if (i > 0) times.push_back(watch.milliseconds());
  }
  return median(std::move(times));
}

}  // namespace specrt::cuda::bench

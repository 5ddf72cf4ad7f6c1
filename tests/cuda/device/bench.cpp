#include "bench.h"

#include <algorithm>
#include <cstdio>

#include "base/dtype.h"
#include "base/rng.h"
#include "cuda/stream.h"
#include "device/cuda_library.h"

extern "C" const specrt::CudaEntry* specrt_cuda_entry();

namespace specrt::cuda::bench {
namespace {

constexpr size_t kPatternBytes = size_t{32} << 20;
constexpr float kSpread = 0.034641f;  // uniform in +-kSpread has a standard deviation of 0.02

std::vector<bf16_bits> pattern(size_t bytes) {
  std::vector<bf16_bits> values(bytes / sizeof(bf16_bits));
  for (size_t i = 0; i < values.size(); i += 4) {
    const Bits4 bits = philox(1, static_cast<uint32_t>(i), 0, 0, 0);
    for (size_t j = i; j < std::min(i + 4, values.size()); ++j) {
      const float unit = static_cast<float>(bits.word[j - i] >> 8) * 0x1p-23f - 1.0f;
      values[j] = to_bf16(unit * kSpread);
    }
  }
  return values;
}

}  // namespace

Device::Device() : backend(specrt_cuda_entry()->make({})), stream(backend->make_stream({})) {
  CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
}

cudaStream_t Device::handle() const { return own_stream(*stream).handle(); }

Buffer Device::put(const std::byte* data, size_t bytes) const {
  return backend->place_weights(data, bytes);
}

Buffer Device::random(size_t bytes) const {
  Buffer buffer = backend->alloc(bytes);
  const std::vector<bf16_bits> block = pattern(std::min(bytes, kPatternBytes));
  const size_t size = block.size() * sizeof(bf16_bits);
  CUDA_CHECK(cudaMemcpyAsync(buffer.data(), block.data(), size, cudaMemcpyHostToDevice, handle()));
  for (size_t at = size; at < bytes; at += size) {
    CUDA_CHECK(cudaMemcpyAsync(buffer.data() + at, buffer.data(), std::min(size, bytes - at),
                               cudaMemcpyDeviceToDevice, handle()));
  }
  sync();
  return buffer;
}

Stopwatch::Stopwatch() {
  CUDA_CHECK(cudaEventCreateWithFlags(&begin_, 0));
  CUDA_CHECK(cudaEventCreateWithFlags(&end_, 0));
}

Stopwatch::~Stopwatch() {
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
}

double Stopwatch::milliseconds() const {
  float milliseconds = 0;
  CUDA_CHECK(cudaEventSynchronize(end_));
  CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin_, end_));
  return milliseconds;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void print(const Reading& reading) {
  std::printf("{\"name\": \"%s\", \"value\": %.9g, \"unit\": \"%s\", \"bytes\": %.9g}\n",
              reading.name.c_str(), reading.value, reading.unit, reading.bytes);
  std::fflush(stdout);
}

}  // namespace specrt::cuda::bench

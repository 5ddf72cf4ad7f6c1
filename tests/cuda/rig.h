// What the tests of kernels share: a device that starts clean, buffers, and running a kernel.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "cuda/emulation/control.h"
#include "cuda/launch.h"

namespace specrt::cuda {

// The settings of a test; the device is clean before and after it, whatever the test broke.
class Rig {
 public:
  explicit Rig(const emulation::Settings& settings = quiet());
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;
  ~Rig();

  static emulation::Settings quiet();  // reports are not printed

  cudaStream_t stream() const { return stream_; }
  // Waits; an error has the report of the kernel that failed.
  void sync() {
    const cudaError_t error = cudaStreamSynchronize(stream_);
    SPECRT_CHECK(error == cudaSuccess, emulation::report());
  }
  // Waits, and gives the report of the error that must have happened; the device is clean again.
  std::string failure();

 private:
  emulation::Settings settings_;
  cudaStream_t stream_ = nullptr;
};

// Whether `got` is what a sum of products gives whose order `want` has: the same bits on the
// emulator, nearly the same on a GPU, where the order of the sums inside an mma is the hardware's.
bool same_sum(float got, float want);

// Whether same_sum is about bits.
bool knows_mma_order();

// Device memory of n values.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n) : size_(n) {
    CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&data_), n * sizeof(T)));
  }
  DeviceArray(Rig& rig, const std::vector<T>& values) : DeviceArray(values.size()) {
    CUDA_CHECK(cudaMemcpyAsync(data_, values.data(), values.size() * sizeof(T),
                               cudaMemcpyHostToDevice, rig.stream()));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { (void)cudaFree(data_); }

  T* data() const { return data_; }
  size_t size() const { return size_; }

  std::vector<T> read(Rig& rig) const {
    std::vector<T> values(size_);
    CUDA_CHECK(cudaMemcpyAsync(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost,
                               rig.stream()));
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

}  // namespace specrt::cuda

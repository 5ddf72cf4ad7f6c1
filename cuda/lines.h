// Rows of keys, values or queries in shared memory, as cp.async writes and ldmatrix reads them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "cuda/ptx.h"

namespace specrt::cuda {

// Lines of bf16 whose 16-byte chunks are swizzled, so that ldmatrix reads 8 neighbouring lines
// without bank conflicts: groups of 8 chunks (4 where a line is not a multiple of 128 bytes) are
// permuted by bits of the line.
template <int kDim>
class Lines {
 public:
  explicit __device__ Lines(bf16_bits* data) : data_(reinterpret_cast<std::byte*>(data)) {}

  __device__ __forceinline__ void* chunk(int32_t line, int32_t chunk) const {
    constexpr int32_t kGroup = kDim % 64 == 0 ? 8 : 4;
    const int32_t key = line / (8 / kGroup) % kGroup * 16;
    return data_ + ((line * kDim * 2 + key) ^ (chunk % kGroup * 16)) + chunk / kGroup * kGroup * 16;
  }

 private:
  std::byte* data_;
};

}  // namespace specrt::cuda

// Small kernels of every kind, for the tests of the emulator.
#pragma once

#include <cuda_runtime.h>

#include "base/dtype.h"

namespace specrt::cuda {

struct SaxpyArgs {
  const float* x;
  float* y;
  float a;
  int n;
};

struct ReduceArgs {
  const float* x;
  float* sums;  // of each block
  int n;
};

struct GemmArgs {
  const bf16_bits* a;  // (m,k) rows
  const bf16_bits* b;  // (n,k) rows
  float* c;            // (m,n)
  int n;
  int k;
};

// y = a x + y
__global__ void saxpy(const __grid_constant__ SaxpyArgs args);
// y *= a, after pdl_wait
__global__ void scale_after_wait(const __grid_constant__ SaxpyArgs args);
// sums[block] = sum of the x that the block covers
__global__ void block_sums(const __grid_constant__ ReduceArgs args);
// c = a b^T, one warp a tile of 16 x 8; k a multiple of 16. A comes by cp.async and ldmatrix.
// grid (n / 8, m / 16), block 32, 512 bytes of shared memory
__global__ void gemm_tiles(const __grid_constant__ GemmArgs args);

}  // namespace specrt::cuda

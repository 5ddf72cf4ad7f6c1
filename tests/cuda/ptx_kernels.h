// One kernel for each group of functions of cuda/ptx.h: 32 lanes, results to memory as they come.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace specrt::cuda {

struct MmaArgs {
  const uint32_t* a;  // (32,4) fragments by lane
  const uint32_t* b;  // (32,2)
  float* d;           // (32,4), added to
};
__global__ void mma_once(const __grid_constant__ MmaArgs args);

struct LdmatrixArgs {
  const uint4* rows;  // (32): four matrices of 8 rows
  uint32_t* plain;    // (32,4)
  uint32_t* transposed;
};
__global__ void ldmatrix_both(const __grid_constant__ LdmatrixArgs args);

struct ExchangeArgs {
  const uint32_t* values;  // (32)
  uint32_t* out;           // (32,8): xor 5, idx 31 - lane, down 3, up 4, ballot odd, all, any, f64
};
__global__ void exchange_all(const __grid_constant__ ExchangeArgs args);

struct CopyArgs {
  const uint4* in;
  uint4* out;
  int count;  // bytes of the last copy for copy_groups; slots for copy_ring
};
// Four groups of cp.async of 32 values; the last lane copies `count` bytes of each group's value.
__global__ void copy_groups(const __grid_constant__ CopyArgs args);
// `count` bulk copies of 512 bytes through a ring of three slots; block 64, warp 1 reads.
__global__ void copy_ring(const __grid_constant__ CopyArgs args);

struct AtomicArgs {
  uint32_t* counter;
  uint32_t* order;  // by block: the number of blocks that came before
  uint32_t* last;   // blocks that saw themselves last
  uint64_t* host;   // pinned: (0) payload, (1) sequence
};
__global__ void count_blocks(const __grid_constant__ AtomicArgs args);

struct NumberArgs {
  const float* x;    // (32)
  float* out;        // (32,3): ex2, rsqrt_approx, rcp_rn
  uint32_t* packed;  // (32): x and -x
};
__global__ void numbers(const __grid_constant__ NumberArgs args);

// out[i] = in[i] by each way to load: ld_stream16, ld_cg16, four ld_cg4.
__global__ void load_ways(const __grid_constant__ CopyArgs args);

}  // namespace specrt::cuda

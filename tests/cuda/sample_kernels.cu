#include "cuda/ptx.h"
#include "sample_kernels.h"

namespace specrt::cuda {

__global__ void saxpy(const __grid_constant__ SaxpyArgs args) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < args.n) args.y[i] = __fmaf_rn(args.a, args.x[i], args.y[i]);
}

__global__ void scale_after_wait(const __grid_constant__ SaxpyArgs args) {
  pdl_launch();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  pdl_wait();
  if (i < args.n) args.y[i] = __fmul_rn(args.a, args.y[i]);
}

__global__ void block_sums(const __grid_constant__ ReduceArgs args) {
  SPECRT_SHARED(float[32], sums);
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  float sum = i < args.n ? args.x[i] : 0.0f;
  for (unsigned mask = 16; mask > 0; mask /= 2) sum += shfl_xor(sum, mask);
  if (lane_index() == 0) sums[warp_index()] = sum;
  sync_block();
  if (threadIdx.x != 0) return;
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) sum += sums[warp];
  args.sums[blockIdx.x] = sum;
}

__global__ void gemm_tiles(const __grid_constant__ GemmArgs args) {
  auto* tile = shared_memory<bf16_bits>();  // (16,16)
  const unsigned lane = lane_index();
  const bf16_bits* a = args.a + static_cast<size_t>(blockIdx.y) * 16 * args.k;
  const bf16_bits* b = args.b + static_cast<size_t>(blockIdx.x) * 8 * args.k;
  float d[4] = {};
  for (int k = 0; k < args.k; k += 16) {
    cp_async16(tile + 8 * lane, a + (lane / 2) * args.k + k + 8 * (lane % 2));
    cp_async_commit();
    cp_async_wait<0>();
    sync_warp();
    uint32_t fragment[4];
    ldmatrix_x4(fragment, tile + 16 * (lane % 16) + 8 * (lane / 16));
    const bf16_bits* column = b + (lane / 4) * args.k + k + 2 * (lane % 4);
    const uint32_t other[2] = {ld_cg4(column), ld_cg4(column + 8)};
    mma_m16n8k16(d, fragment, other);
    sync_warp();
  }
  const unsigned row = 16 * blockIdx.y + lane / 4;
  const unsigned col = 8 * blockIdx.x + 2 * (lane % 4);
  for (unsigned i = 0; i < 4; ++i) args.c[(row + 8 * (i / 2)) * args.n + col + i % 2] = d[i];
}

}  // namespace specrt::cuda

// Root mean square norm of whole rows.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/rows.h"

namespace specrt::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / 32;

// Elements of earlier kernels are read through L2.
__device__ __forceinline__ float element(const float* x, int32_t k) {
  return __uint_as_float(ld_cg4(x + k));
}

// The sum over the block of each thread's `sum`: a tree over lanes, then over warps. All threads.
__device__ float block_sum(float sum) {
  SPECRT_SHARED(float[kWarps], sums);
  for (unsigned mask = 16; mask > 0; mask /= 2) sum = __fadd_rn(sum, shfl_xor(sum, mask));
  if (lane_index() == 0) sums[warp_index()] = sum;
  sync_block();
  float total = sums[lane_index() % kWarps];
  for (unsigned mask = kWarps / 2; mask > 0; mask /= 2) {
    total = __fadd_rn(total, shfl_xor(total, mask));
  }
  return total;
}

// rms_norm: out[i,:] = x[i,:] * gain / sqrt(mean(x[i,:]^2) + eps)
// x (n,d) f32; gain (d) f32; out (n,d) f32 or bf16, not x
// grid n, block 256: one block per row; thread t sums elements t, t + 256, ... ascending
// moves 4nd + 4d bytes in, nd values out, all from and to L2; a few microseconds of latency
// sums in f32; the result rounds once
// any d; values beyond d are neither read nor written
__global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(const __grid_constant__ RmsNormArgs args) {
  pdl_launch();
  pdl_wait();
  const auto r = static_cast<int32_t>(blockIdx.x);
  if (!row_at(args.rows, r).exists) return;
  const int32_t cols = args.x.cols;
  const float* x = args.x.row<const float>(r);
  float sum = 0.0f;
#pragma unroll 4
  for (auto k = static_cast<int32_t>(threadIdx.x); k < cols; k += kThreads) {
    const float v = element(x, k);
    sum = __fmaf_rn(v, v, sum);
  }
  const float mean = __fdiv_rn(block_sum(sum), static_cast<float>(cols));
  const float factor = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, args.eps)));
#pragma unroll 4
  for (auto k = static_cast<int32_t>(threadIdx.x); k < cols; k += kThreads) {
    const float y = __fmul_rn(__fmul_rn(element(x, k), factor), args.gain[k]);
    if (args.out.dtype == DType::f32) {
      args.out.row<float>(r)[k] = y;
    } else {
      args.out.row<bf16_bits>(r)[k] = to_bf16(y);
    }
  }
}

}  // namespace

void rms_norm(cudaStream_t stream, const RmsNormArgs& args) {
  launch(stream, rms_norm_kernel, dim3(static_cast<unsigned>(row_count(args.rows))), kThreads, 0,
         args, {.pdl = true});
}

}  // namespace specrt::cuda

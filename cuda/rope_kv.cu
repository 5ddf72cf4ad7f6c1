#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/rows.h"

namespace specrt::cuda {
namespace {

constexpr int kWarps = 4;

// 1 / sqrt(mean(x^2) + eps) of a head: a sum for each lane over its pairs ascending, then lanes 16,
// 8, 4, 2 and 1 apart.
__device__ __forceinline__ float norm_factor(const float* x, int32_t half, float eps) {
  float sum = 0.0f;
  for (auto d = static_cast<int32_t>(lane_index()); d < half; d += 32) {
    sum = __fmaf_rn(x[d], x[d], sum);
    sum = __fmaf_rn(x[d + half], x[d + half], sum);
  }
  for (unsigned apart = 16; apart > 0; apart /= 2) sum = __fadd_rn(sum, shfl_xor(sum, apart));
  const float mean = __fdiv_rn(sum, static_cast<float>(2 * half));
  return rcp_rn(__fsqrt_rn(__fadd_rn(mean, eps)));
}

// A head of queries or keys: normed if there is a gain, rotated, rounded.
__device__ __forceinline__ void rotate_head(const float* x, const float* gain, float eps,
                                            const float* angles, int32_t half, bf16_bits* out) {
  const float factor = gain == nullptr ? 1.0f : norm_factor(x, half, eps);
  for (auto d = static_cast<int32_t>(lane_index()); d < half; d += 32) {
    float a = x[d], b = x[d + half];
    if (gain != nullptr) {
      a = __fmul_rn(__fmul_rn(a, factor), gain[d]);
      b = __fmul_rn(__fmul_rn(b, factor), gain[d + half]);
    }
    const float cosine = angles[d], sine = angles[d + half];
    out[d] = to_bf16(__fsub_rn(__fmul_rn(a, cosine), __fmul_rn(b, sine)));
    out[d + half] = to_bf16(__fadd_rn(__fmul_rn(b, cosine), __fmul_rn(a, sine)));
  }
}

// rope_kv: (a, b) -> (a cos - b sin, b cos + a sin) on components d, d + e/2 of queries and keys;
//   queries go to q, keys and values of row i into KV slot base + i
// with gains, heads of queries or keys are first x * gain / sqrt(mean(x^2) + eps)
// qkv (n,(h+2g)e) f32; angles (n,e) f32: cosines, then sines; q (n,he) bf16; keys, values
//   (g,slots,e) bf16 of each segment; gains (e) f32, or null
// grid ceil(n (h + 2g) / 4), block 128: a warp per row and head, pairs d, d + 32, ... a lane
// moves 4n(h+2g)e bytes in, 2n(h+2g)e out; latency bound
// products and sums in f32, not fused; the result rounds once
// needs slots within the cache
__global__ void __launch_bounds__(32 * kWarps)
    rope_kv_kernel(const __grid_constant__ RopeKvArgs args) {
  pdl_launch();
  pdl_wait();
  const KvLayer& kv = args.kv;
  const int32_t heads = args.heads + 2 * kv.kv_heads, e = kv.head_dim, half = e / 2;
  const auto item = static_cast<int32_t>(blockIdx.x * kWarps + warp_index());
  const int32_t r = item / heads, head = item % heads;
  const Row row = row_at(args.rows, r);
  if (!row.exists) return;
  const float* x = args.qkv.row<const float>(r) + int64_t{head} * e;
  const auto* angles = args.angles.row<const float>(r);
  if (head < args.heads) {
    bf16_bits* out = args.q.row<bf16_bits>(r) + int64_t{head} * e;
    rotate_head(x, args.q_gain, args.eps, angles, half, out);
    return;
  }
  const bool is_key = head < args.heads + kv.kv_heads;
  const int32_t g = (head - args.heads) % kv.kv_heads;
  std::byte* cache = args.rows.segments.data()[row.segment].kv;
  auto* out = reinterpret_cast<bf16_bits*>(cache + (is_key ? kv.key_offset : kv.value_offset)) +
              (int64_t{g} * kv.slots + row.slot) * e;
  if (is_key) {
    rotate_head(x, args.k_gain, args.eps, angles, half, out);
    return;
  }
  for (auto d = static_cast<int32_t>(lane_index()); d < e; d += 32) out[d] = to_bf16(x[d]);
}

}  // namespace

void rope_kv(cudaStream_t stream, const RopeKvArgs& args) {
  SPECRT_CHECK(args.kv.dtype == DType::bf16, "rope_kv: CUDA needs a bf16 cache, not ",
               name_of(args.kv.dtype));
  const int32_t items = row_count(args.rows) * (args.heads + 2 * args.kv.kv_heads);
  launch(stream, rope_kv_kernel, static_cast<unsigned>((items + kWarps - 1) / kWarps), 32 * kWarps,
         0, args, {.pdl = true});
}

}  // namespace specrt::cuda

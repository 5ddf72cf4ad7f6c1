#include "cuda/attention.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace specrt::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kPairsOfLane = 2;  // neighbouring components 2 lane + 64 j, for heads of up to 128

// attention_merge: out[i,head] = o / l of the left fold of the row's splits, ascending
// partials (n,h,splits) of (m, l, o (e)) f32, aliased by nothing; out (n,he) bf16
// grid ceil(n h / 4), block 128: a warp per row and head, 2 or 4 components a lane
// moves (e + 2) 4 bytes per row, head and split that the row sees; latency bound
// numbers: fold.h; the quotient rounds to f32, then to bf16
// needs e a multiple of 32 up to 128 (checked in attention)
__global__ void __launch_bounds__(32 * kWarps)
    merge_kernel(const __grid_constant__ AttentionArgs args) {
  pdl_launch();
  pdl_wait();
  const int32_t pair = static_cast<int32_t>(blockIdx.x * kWarps + warp_index());
  const int32_t r = pair / args.heads, head = pair % args.heads;
  const Row row = row_at(args.rows, r);
  if (!row.exists) return;
  const Sight sight = sight_of(row, args.kv.window);
  const Partials partials(args);
  const int32_t first = static_cast<int32_t>(2 * lane_index());
  float m = kMasked, l = 0.0f, o[kPairsOfLane][2] = {};
  const int32_t end = split_count(sight.end);
  for (int32_t split = split_of(sight.begin); split < end; ++split) {
    const float2 ml = *partials.ml(r, head, split);
    const Fold fold = begin_fold(m, ml.x, ml.y);
    fold_into(l, ml.y, fold);
#pragma unroll
    for (int j = 0; j < kPairsOfLane; ++j) {
      const int32_t d = first + 64 * j;
      if (d >= args.kv.head_dim) continue;
      const float2 other = *reinterpret_cast<const float2*>(partials.o(r, head, split) + d);
      fold_into(o[j][0], other.x, fold);
      fold_into(o[j][1], other.y, fold);
    }
  }
  bf16_bits* out = args.out.row<bf16_bits>(r) + int64_t{head} * args.kv.head_dim;
#pragma unroll
  for (int j = 0; j < kPairsOfLane; ++j) {
    const int32_t d = first + 64 * j;
    if (d >= args.kv.head_dim) continue;
    *reinterpret_cast<uint32_t*>(out + d) =
        pack_bf16x2(__fdiv_rn(o[j][0], l), __fdiv_rn(o[j][1], l));
  }
}

}  // namespace

size_t attention_scratch(const AttentionArgs& args) {
  return Partials::bytes(kMaxStepRows, args, args.kv.slots);
}

void attention_merge(cudaStream_t stream, const AttentionArgs& args) {
  const int32_t pairs = row_count(args.rows) * args.heads;
  launch(stream, merge_kernel, static_cast<unsigned>((pairs + kWarps - 1) / kWarps), 32 * kWarps, 0,
         args, {.pdl = true});
}

}  // namespace specrt::cuda

#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"

namespace specrt::cuda {
namespace {

constexpr int32_t kLayers = 64;  // of a launch: their table is a kernel argument
constexpr int32_t kThreads = 256;
constexpr int32_t kChunk = 16;                                            // bytes
constexpr int32_t kMostChunks = kMaxStepRows * kMaxHeadDim * 2 / kChunk;  // of a path
constexpr int32_t kPasses = (kMostChunks + kThreads - 1) / kThreads;

struct Args {
  const StepSpan* span;
  std::byte* kv;
  const Cell<int32_t>* path;
  const Cell<int32_t>* count;
  const Cell<int32_t>* from;
  KvLayer layers[kLayers];
};

// The row of the step whose slot goes to base + d.
__device__ __forceinline__ int32_t source_row(const Args& args, int32_t d) {
  const int32_t row = args.path[d];
  return args.from == nullptr ? row : static_cast<int32_t>(args.from[row]);
}

// move_kv: slot base + d = slot base + path[d] for d < count, in every layer; path[d] >= d ascends;
//   with `from`, slot base + from[path[d]]
// keys and values (g,slots,e) bf16, moved in place
// grid (2 x most kv heads, layers), block 256: a block per layer, head, and keys or values
// moves 4e bytes in and out per slot, layer and kv head; latency bound
// a copy: exact. A block reads its whole path before it writes any of it
// needs e a multiple of 8, slots within the cache
__global__ void __launch_bounds__(kThreads) move_kv_kernel(const __grid_constant__ Args args) {
  pdl_launch();
  pdl_wait();
  const KvLayer& kv = args.layers[blockIdx.y];
  const auto head = static_cast<int32_t>(blockIdx.x / 2);
  if (head >= kv.kv_heads) return;
  const int64_t row_bytes = kv.head_dim * 2;
  const int64_t offset = blockIdx.x % 2 == 0 ? kv.key_offset : kv.value_offset;
  std::byte* slots = args.kv + offset + (int64_t{head} * kv.slots + args.span->base) * row_bytes;
  const auto chunks = static_cast<int32_t>(row_bytes / kChunk);
  const int32_t total = *args.count * chunks;
  uint4 held[kPasses];
#pragma unroll
  for (int32_t pass = 0; pass < kPasses; ++pass) {
    const int32_t i = pass * kThreads + static_cast<int32_t>(threadIdx.x);
    if (i >= total) break;
    held[pass] = ld_cg16(slots + source_row(args, i / chunks) * row_bytes + i % chunks * kChunk);
  }
  sync_block();
#pragma unroll
  for (int32_t pass = 0; pass < kPasses; ++pass) {
    const int32_t i = pass * kThreads + static_cast<int32_t>(threadIdx.x);
    if (i >= total) break;
    st16(slots + i / chunks * row_bytes + i % chunks * kChunk, held[pass]);
  }
}

}  // namespace

void move_kv(cudaStream_t stream, const MoveKvArgs& args) {
  for (int32_t first = 0; first < args.layer_count; first += kLayers) {
    const int32_t count = std::min(kLayers, args.layer_count - first);
    Args part{.span = args.span,
              .kv = args.kv,
              .path = args.path,
              .count = args.count,
              .from = args.from,
              .layers = {}};
    int32_t heads = 0;
    for (int32_t i = 0; i < count; ++i) {
      const KvLayer& kv = args.layers[first + i];
      SPECRT_CHECK(kv.dtype == DType::bf16 && kv.head_dim % 8 == 0,
                   "move_kv: CUDA needs bf16 heads of a multiple of 8 components, not ",
                   name_of(kv.dtype), " of ", kv.head_dim);
      part.layers[i] = kv;
      heads = std::max(heads, kv.kv_heads);
    }
    const dim3 grid(static_cast<unsigned>(2 * heads), static_cast<unsigned>(count));
    launch(stream, move_kv_kernel, grid, kThreads, 0, part, {.pdl = true});
  }
}

}  // namespace specrt::cuda

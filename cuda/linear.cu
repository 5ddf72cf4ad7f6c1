// y = x w^T for 1 to 64 rows, on tensor cores, reading every weight once. The launcher of any
// number of rows.
#include <algorithm>

#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/linear.h"
#include "cuda/ptx.h"
#include "cuda/row_stream.h"
#include "cuda/weight_stream.h"

namespace specrt::cuda {
namespace {

constexpr unsigned kThreads = 32 * kChains;

// Slots of a warp's ring of weights: what one block of 112 KB has room for beside its scratch.
constexpr int slots(int row_tiles) { return row_tiles <= 2 ? 3 : 2; }

// Blocks that a multiprocessor holds: two, so that the next kernel starts beside this one.
constexpr int residents(int row_tiles) { return row_tiles == 8 ? 1 : 2; }

// One schedule of the kernel: its rings and its shared memory.
template <int kRowTiles, int kPanels>
struct Schedule {
  using Weights = WeightStream<WarpReaders, kPanels, slots(kRowTiles)>;
  // Activations are loaded a slot of weights ahead where registers allow it.
  static constexpr int kAhead = kRowTiles <= 2 ? 2 * Weights::kBlocks : Weights::kBlocks;
  static constexpr int kRing = std::min(kAhead, std::max(2, 8 / kRowTiles));
  static constexpr int kTurn = std::max(kRing, Weights::kBlocks);  // both rings have gone round
  using Rows = RowStream<kRowTiles, kRing>;
  static constexpr size_t kRings = size_t{kChains} * Weights::kRingBytes;
  static constexpr size_t kScratch = sizeof(float4) * 32 * kChains / 2 * kPanels * kRowTiles;
};

// A warp's chain of the panels of a group: `blocks` blocks of columns.
template <typename S, int kRowTiles, int kPanels>
__device__ __forceinline__ void run_chain(typename S::Weights& weights, typename S::Rows& rows,
                                          int32_t blocks, float (&sum)[kPanels][kRowTiles][4]) {
  constexpr int kBlocks = S::Weights::kBlocks;
  const std::byte* tile = nullptr;
  for (int32_t left = blocks; left > 0; left -= S::kTurn) {
#pragma unroll
    for (int u = 0; u < S::kTurn; ++u) {
      if (u >= left) break;
      if (u % kBlocks == 0) tile = weights.wait() + lane_index() * sizeof(uint4);
#pragma unroll
      for (int p = 0; p < kPanels; ++p) {
        const auto* words =
            reinterpret_cast<const uint4*>(tile + (p * kBlocks + u % kBlocks) * kTileBytes);
        const TileWords w{words[0], words[32]};
#pragma unroll
        for (int j = 0; j < kRowTiles; ++j) add_block(sum[p][j], w, rows.at(u % S::kRing, j));
      }
      if (u % kBlocks == kBlocks - 1 || u + 1 == left) weights.release();
      rows.load(u % S::kRing, left - u - S::kRing);
    }
  }
}

// linear: y = factor x w^T + bias, then store; add to out, and give it to the norm behind it;
//   silu(gate) * up; or rotate queries and keys, and keys and values into the cache; a head also
//   leaves the best of every 16 tokens (HeadKeys)
// x (n,k) bf16; w (m,k) tiles16x32; bias (m) f32 or null; out (n,m) f32 or bf16, add: f32,
//   swiglu: (n,m/2) bf16, rope_kv: none; factors and gains as device/ops.h says; outputs may not
//   alias x
// grid any, block 256: a block has a contiguous range of panels and takes kPanels at a time; warp c
//   is chain c of them for all rows and shares nothing with the others until its sums are done
// moves the weights once, 2mk bytes, through rings of 96 KB a block (64 KB above 16 rows), and 2nk
//   a block for x (from L2); memory bound
// sums as chains.h says, whatever the schedule; rounds once when stored as bf16
// shared memory up to 112 KB (128 KB above 32 rows), up to 128 registers (221 above 32 rows), no
//   spills: to 32 rows the next kernel fits beside it
// any m and k (swiglu: m/2 % 8 == 0, checked with LinearArgs); x beyond k may hold anything
template <int kRowTiles, int kPanels, bool kIsHead>
__global__ void __launch_bounds__(kThreads, residents(kRowTiles))
    linear_kernel(const __grid_constant__ LinearJob job) {
  using S = Schedule<kRowTiles, kPanels>;
  pdl_launch();
  SPECRT_SHARED(uint64_t[kChains * S::Weights::kSlots], came);
  SPECRT_SHARED(RowSlots<kRowTiles>, slots);
  const LinearArgs& args = job.args;
  const auto index = int64_t{blockIdx.x};
  const auto end = static_cast<int32_t>((index + 1) * job.panels / gridDim.x);
  auto panel = static_cast<int32_t>(index * job.panels / gridDim.x);
  const PanelGroups groups(panel, end, kPanels);
  const auto warp = static_cast<int32_t>(warp_index());
  const BlockRange range = chain_blocks(column_blocks(args.w.cols), warp);
  auto* shared = shared_memory<std::byte>();
  auto* scratch = reinterpret_cast<float4*>(shared + S::kRings);
  typename S::Weights weights(shared + warp * S::Weights::kRingBytes,
                              came + warp * S::Weights::kSlots, args.w, range, panel, groups);
  weights.fill();
  pdl_wait();
  find_rows(args.rows, slots);
  if (!has_rows(slots)) {
    weights.abandon();
    return;
  }
  typename S::Rows rows(args.x, range, slots.row);
  rows.fill();
  if (args.factor.squares.data != nullptr) find_factors(args.factor, args.x.cols, slots);
  while (panel < end) {
    float sum[kPanels][kRowTiles][4] = {};
    run_chain<S>(weights, rows, range.end - range.begin, sum);
    const int32_t done = panel, count = groups.size(panel);
    panel += count;
    if (panel < end) rows.fill();
    join_and_finish<kIsHead>(args, slots, scratch, done, count, sum);
  }
}

template <int kRowTiles, int kPanels>
void launch_linear(cudaStream_t stream, const LinearArgs& args, int32_t blocks) {
  using S = Schedule<kRowTiles, kPanels>;
  const auto kernel = args.best == nullptr ? linear_kernel<kRowTiles, kPanels, false>
                                           : linear_kernel<kRowTiles, kPanels, true>;
  launch(stream, kernel, dim3(static_cast<unsigned>(blocks)), kThreads, S::kRings + S::kScratch,
         {.args = args, .panels = panel_count(args.w)}, {.pdl = true});
}

template <int kRowTiles>
void launch_linear(cudaStream_t stream, const LinearArgs& args, const LinearSchedule& schedule) {
  switch (schedule.panels) {
    case 1:
      return launch_linear<kRowTiles, 1>(stream, args, schedule.blocks);
    case 2:
      return launch_linear<kRowTiles, 2>(stream, args, schedule.blocks);
    case 4:
      return launch_linear<kRowTiles, 4>(stream, args, schedule.blocks);
    default:
      fail("linear: no kernel for ", schedule.panels, " panels at once");
  }
}

}  // namespace

LinearSchedule linear_schedule(const LinearArgs& args, int32_t multiprocessors) {
  LinearSchedule schedule{.row_tiles = 1, .panels = 4, .blocks = 0};
  while (schedule.row_tiles * kTileRows < slot_count(args.rows)) schedule.row_tiles *= 2;
  const int32_t panels = panel_count(args.w);
  if (schedule.row_tiles > kMostStepTiles) {
    const int32_t groups = (panels + kPromptPanels - 1) / kPromptPanels;
    schedule.blocks = groups < multiprocessors ? groups : multiprocessors;
    return schedule;
  }
  if (panels <= 2 * multiprocessors) schedule.panels = panels <= multiprocessors ? 1 : 2;
  schedule.blocks = panels < multiprocessors ? panels : multiprocessors;
  return schedule;
}

void linear(cudaStream_t stream, const LinearArgs& args, const LinearSchedule& schedule) {
  if (schedule.row_tiles > kMostStepTiles) return linear_prompt(stream, args, schedule);
  switch (schedule.row_tiles) {
    case 1:
      return launch_linear<1>(stream, args, schedule);
    case 2:
      return launch_linear<2>(stream, args, schedule);
    case 4:
      return launch_linear<4>(stream, args, schedule);
    case 8:
      return launch_linear<8>(stream, args, schedule);
    default:
      fail("linear: no kernel for ", schedule.row_tiles, " row tiles");
  }
}

void linear(cudaStream_t stream, const LinearArgs& args) {
  SPECRT_CHECK(args.w.layout == Layout::tiles16x32 && args.w.dtype == DType::bf16,
               "linear: CUDA reads bf16 weights in tiles; rebuild with `specrt build --backend "
               "cuda`");
  SPECRT_CHECK(
      args.best == nullptr || (args.epilogue == Epilogue::store && args.w.pair_stride == 8),
      "linear: a head is stored, in pairs of stride 8");
  int device = 0, multiprocessors = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  linear(stream, args, linear_schedule(args, multiprocessors));
}

}  // namespace specrt::cuda

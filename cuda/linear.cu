// y = x w^T for 1 to 64 rows, on tensor cores, reading every weight once.
#include <algorithm>

#include "cuda/chains.h"
#include "cuda/exp.h"
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

struct LinearJob {
  LinearArgs args;
  int32_t panels;  // of the weight
};

__host__ __device__ int32_t panel_count(const Weight& w) {
  return (w.rows + kPanelRows - 1) / kPanelRows;
}

// One schedule of the kernel: its rings and its shared memory.
template <int kRowTiles, int kPanels>
struct Schedule {
  using Weights = WeightStream<kPanels, slots(kRowTiles)>;
  // Activations are loaded a slot of weights ahead where registers allow it.
  static constexpr int kRing =
      kRowTiles <= 2 ? 2 * Weights::kBlocks : std::min(Weights::kBlocks, 2);
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

__device__ float silu(float x) { return __fdiv_rn(x, __fadd_rn(exponential(-x), 1.0f)); }

__device__ void put(const RowsView& out, int32_t row, int32_t col, float value) {
  if (out.dtype == DType::f32) {
    out.row<float>(row)[col] = value;
  } else {
    out.row<bf16_bits>(row)[col] = to_bf16(value);
  }
}

// One output of a row.
__device__ void finish(const LinearArgs& args, int32_t row, int32_t output, float y) {
  if (output >= args.w.rows) return;
  if (args.epilogue == Epilogue::store) {
    put(args.out, row, output, y);
    return;
  }
  float* out = args.out.row<float>(row) + output;
  *out = __fadd_rn(__uint_as_float(ld_cg4(out)), y);
}

// The outputs of one row in the two halves of a panel.
__device__ void finish_pair(const LinearArgs& args, int32_t row, int32_t output, float low,
                            float high) {
  const int32_t other = output + args.w.pair_stride;
  if (args.bias != nullptr) {
    if (output < args.w.rows) low = __fadd_rn(low, args.bias[output]);
    if (other < args.w.rows) high = __fadd_rn(high, args.bias[other]);
  }
  if (args.epilogue == Epilogue::swiglu) {
    put(args.out, row, output, __fmul_rn(silu(low), high));
    return;
  }
  finish(args, row, output, low);
  finish(args, row, other, high);
}

static_assert(kChains == 8, "join_pairs takes four pairs");

// Joins the chains of the block's warps through `scratch` ([pair][panel][row tile][lane], each four
// sums of an mma: panel row i of rows 2 t and 2 t + 1, then panel row i + 8 of both) and writes
// what they give for `count` panels from `panel` on. All warps.
template <int kRowTiles, int kPanels>
__device__ void join_and_finish(const LinearArgs& args, const int32_t* row_of, float4* scratch,
                                int32_t panel, int32_t count,
                                const float (&sum)[kPanels][kRowTiles][4]) {
  constexpr int kParts = kPanels * kRowTiles * 32;
  const unsigned chain = warp_index();
  float4* own = scratch + chain / 2 * kParts + lane_index();
  if (chain % 2 == 1) {
#pragma unroll
    for (int i = 0; i < kPanels * kRowTiles; ++i) {
      const float(&s)[4] = sum[i / kRowTiles][i % kRowTiles];
      own[32 * i] = {s[0], s[1], s[2], s[3]};
    }
  }
  sync_block();
  if (chain % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kPanels * kRowTiles; ++i) {
      const float(&s)[4] = sum[i / kRowTiles][i % kRowTiles];
      const float4 odd = own[32 * i];
      own[32 * i] = {join_chains(s[0], odd.x), join_chains(s[1], odd.y), join_chains(s[2], odd.z),
                     join_chains(s[3], odd.w)};
    }
  }
  sync_block();
  for (int part = static_cast<int>(threadIdx.x); part < kParts; part += kThreads) {
    const int lane = part % 32, p = part / 32 / kRowTiles;
    const int slot = part / 32 % kRowTiles * kTileRows + lane % 4 * 2;
    if (p >= count) break;
    const float4 a = scratch[part], b = scratch[part + kParts];
    const float4 c = scratch[part + 2 * kParts], d = scratch[part + 3 * kParts];
    const int32_t output = tile_output(panel + p, lane / 4, args.w.pair_stride);
    const int32_t first = row_of[slot], second = row_of[slot + 1];
    if (first != kNoRow) {
      finish_pair(args, first, output, join_pairs(a.x, b.x, c.x, d.x),
                  join_pairs(a.z, b.z, c.z, d.z));
    }
    if (second != kNoRow) {
      finish_pair(args, second, output, join_pairs(a.y, b.y, c.y, d.y),
                  join_pairs(a.w, b.w, c.w, d.w));
    }
  }
  sync_block();
}

// Whether a slot has a row; the same in all threads.
template <int kRowTiles>
__device__ bool any_row(const int32_t* row_of) {
  bool found = false;
  for (unsigned slot = lane_index(); slot < kRowTiles * kTileRows; slot += 32) {
    found = found || row_of[slot] != kNoRow;
  }
  return warp_any(found);
}

// linear: y = x w^T + bias, then store, add to out, or silu(gate) * up
// x (n,k) bf16; w (m,k) tiles16x32; bias (m) f32 or null; out (n,m) f32 or bf16, add: f32,
//   swiglu: (n,m/2) bf16; out may not alias x
// grid any, block 256: a block has a contiguous range of panels and takes kPanels at a time; warp c
//   is chain c of them for all rows and shares nothing with the others until its sums are done
// moves the weights once, 2mk bytes, through rings of 96 KB a block (64 KB above 16 rows), and 2nk
//   a block for x (from L2); memory bound
// sums as chains.h says, whatever the schedule; rounds once when stored as bf16
// shared memory up to 112 KB (128 KB above 32 rows), up to 127 registers (239 above 32 rows), no
//   spills: to 32 rows the next kernel fits beside it
// any m and k (swiglu: m/2 % 8 == 0, checked with LinearArgs); x beyond k may hold anything
template <int kRowTiles, int kPanels>
__global__ void __launch_bounds__(kThreads, residents(kRowTiles))
    linear_kernel(const __grid_constant__ LinearJob job) {
  using S = Schedule<kRowTiles, kPanels>;
  pdl_launch();
  SPECRT_SHARED(uint64_t[kChains * S::Weights::kSlots], came);
  SPECRT_SHARED(int32_t[kRowTiles * kTileRows], row_of);
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
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread < kRowTiles * kTileRows) row_of[thread] = row_in_slot(args.rows, thread);
  sync_block();
  if (!any_row<kRowTiles>(row_of)) {
    weights.abandon();
    return;
  }
  typename S::Rows rows(args.x, range, row_of);
  rows.fill();
  while (panel < end) {
    float sum[kPanels][kRowTiles][4] = {};
    run_chain<S>(weights, rows, range.end - range.begin, sum);
    const int32_t done = panel, count = groups.size(panel);
    panel += count;
    if (panel < end) rows.fill();
    join_and_finish<kRowTiles, kPanels>(args, row_of, scratch, done, count, sum);
  }
}

template <int kRowTiles, int kPanels>
void launch_linear(cudaStream_t stream, const LinearArgs& args, int32_t blocks) {
  using S = Schedule<kRowTiles, kPanels>;
  launch(stream, linear_kernel<kRowTiles, kPanels>, dim3(static_cast<unsigned>(blocks)), kThreads,
         S::kRings + S::kScratch, {.args = args, .panels = panel_count(args.w)}, {.pdl = true});
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
  if (panels <= 2 * multiprocessors) schedule.panels = panels <= multiprocessors ? 1 : 2;
  schedule.blocks = panels < multiprocessors ? panels : multiprocessors;
  return schedule;
}

void linear(cudaStream_t stream, const LinearArgs& args, const LinearSchedule& schedule) {
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
  int device = 0, multiprocessors = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  linear(stream, args, linear_schedule(args, multiprocessors));
}

}  // namespace specrt::cuda

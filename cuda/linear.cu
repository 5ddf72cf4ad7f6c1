// y = x w^T for 1 to 64 rows, on tensor cores, reading every weight once.
#include "cuda/chains.h"
#include "cuda/exp.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/linear.h"
#include "cuda/ptx.h"
#include "cuda/rows.h"

namespace specrt::cuda {
namespace {

constexpr int32_t kTileRows = 8;  // activation rows of an mma
constexpr unsigned kThreads = 32 * kChains;
constexpr int32_t kNoRow = -1;

// Blocks of columns that a warp has in flight: as many as the registers hold, without spills.
constexpr int depth(int row_tiles, int panels) {
  if (row_tiles == 8) return 2;
  if (row_tiles == 4) return 4 - panels;
  return panels == 2 ? 3 : 8 - 2 * row_tiles;
}

// Blocks that a multiprocessor holds.
constexpr int residents(int row_tiles) { return row_tiles == 8 ? 1 : 2; }

struct LinearJob {
  LinearArgs args;
  int32_t panels;  // of the weight
};

__host__ __device__ int32_t panel_count(const Weight& w) {
  return (w.rows + kPanelRows - 1) / kPanelRows;
}

// Rows that a step can have; of RowSelect::last, one a segment.
__host__ __device__ int32_t slot_count(const StepRows& rows) {
  return rows.select == RowSelect::last ? rows.segment_count : row_count(rows);
}

// The activation row in slot `slot` of the row tiles, or kNoRow.
__device__ int32_t row_in_slot(const StepRows& rows, int32_t slot) {
  if (slot >= slot_count(rows)) return kNoRow;
  if (rows.select != RowSelect::last) return row_at(rows, slot).exists ? slot : kNoRow;
  const RowRange range = rows_of(rows, slot);
  return range.begin < range.end ? slot * rows.capacity + range.begin : kNoRow;
}

// The first `count` of 8 bf16 values; the others, which may be anything, become zero.
__device__ __forceinline__ uint4 first_values(const uint4& v, int32_t count) {
  const auto word = [count](uint32_t pair, int32_t begin) {
    if (count >= begin + 2) return pair;
    return count == begin + 1 ? pair & 0xffffu : 0u;
  };
  return {word(v.x, 0), word(v.y, 2), word(v.z, 4), word(v.w, 6)};
}

// One warp's chain of kPanels panels: a ring of operands in registers, refilled as it is used.
template <int kRowTiles, int kPanels>
class Chain {
 public:
  static constexpr int kRing = depth(kRowTiles, kPanels);

  __device__ Chain(const LinearArgs& args, int32_t chain) {
    const int32_t blocks = column_blocks(args.w.cols);
    const BlockRange range = chain_blocks(blocks, chain);
    const auto t = static_cast<int32_t>(lane_index() % 4);
    length_ = range.end - range.begin;
    panel_bytes_ = blocks * static_cast<int32_t>(kTileBytes);
    tiles_ = args.w.data + range.begin * kTileBytes + lane_index() * sizeof(uint4);
    x_ = args.x.data + range.begin * kBlockBytes + t * sizeof(uint4);
    last_values_ = range.end == blocks ? args.w.cols - (blocks - 1) * kTileCols - 8 * t : 8;
  }

  // Begins with the weights of `count` panels from `panel` on.
  __device__ __forceinline__ void fill_weights(int32_t panel, int32_t count) {
    tile_ = tiles_ + int64_t{panel} * panel_bytes_;
    count_ = count;
#pragma unroll
    for (int u = 0; u < kRing; ++u) {
      if (u < length_) load_weights(u);
    }
    tile_ += kRing * kTileBytes;
  }

  // Slot -> row.
  __device__ __forceinline__ void set_rows(const int32_t* row_of, int64_t stride) {
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) {
      const int32_t row = row_of[kTileRows * j + static_cast<int32_t>(lane_index() / 4)];
      offset_[j] = row == kNoRow ? kNoRow : row * static_cast<int32_t>(stride);
    }
  }

  // Begins with the first columns of the rows.
  __device__ __forceinline__ void fill_rows() {
    row_ = x_;
#pragma unroll
    for (int u = 0; u < kRing; ++u) {
      if (u < length_) load_rows(u, length_ - u);
    }
    row_ += kRing * kBlockBytes;
  }

  __device__ __forceinline__ void run(float (&sum)[kPanels][kRowTiles][4]) {
    for (int32_t left = length_; left > 0; left -= kRing) {
#pragma unroll
      for (int u = 0; u < kRing; ++u) {
        if (u >= left) break;
#pragma unroll
        for (int p = 0; p < kPanels; ++p) {
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) add_block(sum[p][j], w_[u][p], rows_[u][j]);
        }
        if (u + kRing < left) {
          load_weights(u);
          load_rows(u, left - u - kRing);
        }
      }
      tile_ += kRing * kTileBytes;
      row_ += kRing * kBlockBytes;
    }
  }

 private:
  static constexpr int32_t kBlockBytes = kTileCols * static_cast<int32_t>(sizeof(bf16_bits));

  __device__ __forceinline__ void load_weights(int u) {
#pragma unroll
    for (int p = 0; p < kPanels; ++p) {
      const std::byte* tile = tile_ + p * panel_bytes_ + u * kTileBytes;
      if (p < count_) w_[u][p] = {ld_stream16(tile), ld_stream16(tile + kTileBytes / 2)};
    }
  }

  // `left` blocks of the chain from this one on. Rows are padded to whole blocks (kRowAlignment),
  // so that only values need a limit.
  __device__ __forceinline__ void load_rows(int u, int32_t left) {
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) {
      rows_[u][j] = {};
      if (offset_[j] != kNoRow) rows_[u][j] = ld_cg16(row_ + offset_[j] + u * kBlockBytes);
    }
    if (left > 1) return;
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) rows_[u][j] = first_values(rows_[u][j], last_values_);
  }

  int32_t length_;  // of the chain, in blocks of columns
  int32_t panel_bytes_;
  int32_t last_values_;     // of this lane in the chain's last block; 8 or more: all
  const std::byte* tiles_;  // of the chain in panel 0
  const std::byte* x_;      // of the chain in row 0
  const std::byte* tile_ = nullptr;
  const std::byte* row_ = nullptr;
  int32_t count_ = 0;
  int32_t offset_[kRowTiles];  // bytes from row 0, or kNoRow
  TileWords w_[kRing][kPanels] = {};
  uint4 rows_[kRing][kRowTiles];
};

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

constexpr int kPairs = kChains / 2;
static_assert(kPairs == 4, "join_pairs takes four");

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

// linear: y = x w^T + bias, then store, add to out, or silu(gate) * up
// x (n,k) bf16; w (m,k) tiles16x32; bias (m) f32 or null; out (n,m) f32 or bf16, add: f32,
//   swiglu: (n,m/2) bf16; out may not alias x
// grid any, block 256: a block has a contiguous range of panels and takes kPanels at a time; warp c
//   is chain c of them for all rows and shares nothing with the others until its sums are done
// moves the weights once, 2mk bytes, and 2nk a block for x (from L2); memory bound
// sums as chains.h says, whatever the schedule; rounds once when stored as bf16
// any m and k (swiglu: m/2 % 8 == 0, checked with LinearArgs); x beyond k may hold anything
template <int kRowTiles, int kPanels>
__global__ void __launch_bounds__(kThreads, residents(kRowTiles))
    linear_kernel(const __grid_constant__ LinearJob job) {
  SPECRT_SHARED(int32_t[kRowTiles * kTileRows], row_of);
  const LinearArgs& args = job.args;
  const auto index = int64_t{blockIdx.x};
  const auto end = static_cast<int32_t>((index + 1) * job.panels / gridDim.x);
  auto panel = static_cast<int32_t>(index * job.panels / gridDim.x);
  const auto count = [&] { return end - panel < kPanels ? end - panel : kPanels; };
  Chain<kRowTiles, kPanels> chain(args, static_cast<int32_t>(warp_index()));
  chain.fill_weights(panel, count());
  // From here on the results of earlier kernels are read.
  if (threadIdx.x < kRowTiles * kTileRows) {
    row_of[threadIdx.x] = row_in_slot(args.rows, static_cast<int32_t>(threadIdx.x));
  }
  sync_block();
  chain.set_rows(row_of, args.x.stride);
  chain.fill_rows();
  while (panel < end) {
    float sum[kPanels][kRowTiles][4] = {};
    chain.run(sum);
    const int32_t done = panel, finished = count();
    panel += finished;
    if (panel < end) {
      chain.fill_weights(panel, count());
      chain.fill_rows();
    }
    join_and_finish<kRowTiles, kPanels>(args, row_of, shared_memory<float4>(), done, finished, sum);
  }
}

template <int kRowTiles, int kPanels>
void launch_linear(cudaStream_t stream, const LinearArgs& args, int32_t blocks) {
  constexpr size_t kScratch = sizeof(float4) * 32 * kPairs * kPanels * kRowTiles;
  launch(stream, linear_kernel<kRowTiles, kPanels>, dim3(static_cast<unsigned>(blocks)), kThreads,
         kScratch, {.args = args, .panels = panel_count(args.w)});
}

template <int kRowTiles>
void launch_linear(cudaStream_t stream, const LinearArgs& args, const LinearSchedule& schedule) {
  if (schedule.panels == 1) return launch_linear<kRowTiles, 1>(stream, args, schedule.blocks);
  return launch_linear<kRowTiles, 2>(stream, args, schedule.blocks);
}

}  // namespace

LinearSchedule linear_schedule(const LinearArgs& args, int32_t multiprocessors) {
  LinearSchedule schedule{.row_tiles = 1, .panels = 2, .blocks = 0};
  while (schedule.row_tiles * kTileRows < slot_count(args.rows)) schedule.row_tiles *= 2;
  const int32_t panels = panel_count(args.w);
  const int32_t resident = multiprocessors * residents(schedule.row_tiles);
  if (panels < 2 * multiprocessors) schedule.panels = 1;
  const int32_t groups = (panels + schedule.panels - 1) / schedule.panels;
  schedule.blocks = groups < resident ? groups : resident;
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

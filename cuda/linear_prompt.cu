// y = x w^T for 65 to 256 rows of a prompt, with the bits of the steps of 64 rows (chains.h).
#include "cuda/epilogue.cuh"
#include "cuda/launch.h"
#include "cuda/linear.h"
#include "cuda/ptx.h"
#include "cuda/row_stream.h"
#include "cuda/weight_stream.h"

namespace specrt::cuda {
namespace {

constexpr int kWarps = 8;
constexpr unsigned kThreads = 32 * kWarps;
constexpr int kPanels = kPromptPanels;
constexpr int kLevels = 3;  // of the tree of 8 chains
static_assert(kChains == 1 << kLevels);

// What the kernel keeps in shared memory for warps of kRowTiles row tiles.
template <int kRowTiles>
struct Schedule {
  using Weights = WeightStream<BlockReaders, kPanels, 2>;
  using Rows = RowStream<kRowTiles, Weights::kBlocks>;
  using Slots = RowSlots<kWarps * kRowTiles>;
  static constexpr int kTiles = kPanels * kRowTiles;  // of a warp's sums
  static constexpr size_t kRing = Weights::kRingBytes;
  static constexpr size_t kSums = sizeof(float4) * 32 * kWarps * kTiles * kLevels;
  static_assert(kRing + kSums + sizeof(Slots) + sizeof(uint64_t) * Weights::kSlots <= 227 << 10);
};

// The sums of a lane's chains, which come ascending: each is joined as soon as its other half is
// there. A sum that waits for that lies in shared memory, at the place of its level: 0 for a chain,
// 1 for two, 2 for four.
template <int kRowTiles>
class ChainTree {
 public:
  // `place` has kLevels x tiles x 32 sums for the warp.
  explicit __device__ ChainTree(float4* place) : own_(place + lane_index()) {}

  // Takes up the sums of the next chain, and clears them for the one behind it.
  __device__ __forceinline__ void take(int32_t chain, float (&sum)[kPanels][kRowTiles][4]) {
    int32_t level = 0;
    for (; (chain >> level & 1) != 0; ++level) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        const float4 left = at(level, i);
        float(&s)[4] = sum[i / kRowTiles][i % kRowTiles];
        s[0] = join_chains(left.x, s[0]);
        s[1] = join_chains(left.y, s[1]);
        s[2] = join_chains(left.z, s[2]);
        s[3] = join_chains(left.w, s[3]);
      }
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      float(&s)[4] = sum[i / kRowTiles][i % kRowTiles];
      at(level % kLevels, i) = {s[0], s[1], s[2], s[3]};
      s[0] = s[1] = s[2] = s[3] = 0.0f;
    }
  }

  // The sum of all chains, which lies where the last one without its other half did; tile i is row
  // tile i % kRowTiles of panel i / kRowTiles.
  __device__ __forceinline__ const float4& whole(int i) { return at(0, i); }

 private:
  static constexpr int kTiles = kPanels * kRowTiles;

  __device__ __forceinline__ float4& at(int32_t level, int i) {
    return own_[(level * kTiles + i) * 32];
  }

  float4* own_;
};

// All chains of a group of panels, `blocks` blocks of columns together, for the warp's rows.
template <typename S, int kRowTiles>
__device__ __forceinline__ void run_chains(typename S::Weights& weights, typename S::Rows& rows,
                                           int32_t blocks, ChainTree<kRowTiles>& tree) {
  constexpr int kBlocks = S::Weights::kBlocks;
  float sum[kPanels][kRowTiles][4] = {};
  int32_t chain = 0, done = 0;
  const auto end_chains = [&] {
    while (chain < kChains && chain_blocks(blocks, chain).end == done) tree.take(chain++, sum);
  };
  end_chains();  // those without blocks
  for (int32_t left = blocks; left > 0; left -= kBlocks) {
    const std::byte* tile = weights.wait() + lane_index() * sizeof(uint4);
#pragma unroll
    for (int u = 0; u < kBlocks; ++u) {
      if (u >= left) break;
#pragma unroll
      for (int p = 0; p < kPanels; ++p) {
        const auto* words = reinterpret_cast<const uint4*>(tile + (p * kBlocks + u) * kTileBytes);
        const TileWords w{words[0], words[32]};
#pragma unroll
        for (int j = 0; j < kRowTiles; ++j) add_block(sum[p][j], w, rows.at(u, j));
      }
      rows.load(u, left - u - kBlocks);
      ++done;
      end_chains();
    }
    weights.release();
  }
}

// Writes what the sums of `count` panels from `panel` on give for the warp's rows.
template <typename S, int kRowTiles>
__device__ __forceinline__ void finish(const LinearArgs& args, const typename S::Slots& slots,
                                       ChainTree<kRowTiles>& tree, int32_t panel, int32_t count) {
  const auto first = static_cast<int32_t>(warp_index()) * kRowTiles;
  for (int i = 0; i < count * kRowTiles; ++i) {
    const float4 y = tree.whole(i);
    const int32_t slot =
        (first + i % kRowTiles) * kTileRows + static_cast<int32_t>(lane_index() % 4) * 2;
    finish_row<false>(args, slots, slot, panel + i / kRowTiles, y.x, y.z);
    finish_row<false>(args, slots, slot + 1, panel + i / kRowTiles, y.y, y.w);
  }
}

// linear_prompt: as linear, for up to 64 kRowTiles rows and no head
// grid any, block 256: a block has a contiguous range of panels and takes 4 at a time, warp w the
//   rows of row tiles [w kRowTiles, (w + 1) kRowTiles): it has all chains of its sums one after
//   another, so that only the ring of weights is shared
// why: in linear a warp is a chain, and 8 chains of 64 rows x 64 outputs fill the registers; there
//   256 rows would be four passes, each with all weights and its own rows from L2, 8 x 2mk bytes.
//   Chains one after another need at most 4 sums of an output at a time: one in registers, three in
//   shared memory, 192 KB for 256 rows x 64 outputs
// moves the weights once, 2mk bytes from memory, and 2nk bytes of x from L2 for every 64 outputs:
//   L2 to multiprocessors 2mk (1 + n / 64), 5 x 2mk for 256 rows, 3 x 2mk for 128
// computes 2mnk flops: 512 flops a byte of memory for 256 rows, so that the tensor cores or L2 set
//   the time; a slot of weights is 128 mma a warp for 32 reads of 512 bytes from shared memory
// sums as chains.h says; rounds once when stored as bf16
// shared memory 226 KB for 256 rows, 129 KB for 128; no spills
// any m and k, as linear
template <int kRowTiles>
__global__ void __launch_bounds__(kThreads, 1)
    linear_prompt_kernel(const __grid_constant__ LinearJob job) {
  using S = Schedule<kRowTiles>;
  pdl_launch();
  SPECRT_SHARED(uint64_t[S::Weights::kSlots], came);
  SPECRT_SHARED(typename S::Slots, slots);
  const LinearArgs& args = job.args;
  const auto index = int64_t{blockIdx.x};
  const auto end = static_cast<int32_t>((index + 1) * job.panels / gridDim.x);
  auto panel = static_cast<int32_t>(index * job.panels / gridDim.x);
  const PanelGroups groups(panel, end, kPanels);
  const BlockRange range{0, column_blocks(args.w.cols)};
  auto* shared = shared_memory<std::byte>();
  typename S::Weights weights(shared, came, args.w, range, panel, groups);
  weights.fill();
  pdl_wait();
  find_rows(args.rows, slots);
  if (!has_rows(slots)) {
    weights.abandon();
    return;
  }
  const auto warp = static_cast<int32_t>(warp_index());
  typename S::Rows rows(args.x, range, slots.row + warp * kRowTiles * kTileRows);
  rows.fill();
  if (args.factor.squares.data != nullptr) find_factors(args.factor, args.x.cols, slots);
  auto* sums = reinterpret_cast<float4*>(shared + S::kRing);
  ChainTree<kRowTiles> tree(sums + warp * (32 * S::kTiles * kLevels));
  while (panel < end) {
    run_chains<S>(weights, rows, range.end, tree);
    const int32_t done = panel, count = groups.size(panel);
    panel += count;
    if (panel < end) rows.fill();
    finish<S>(args, slots, tree, done, count);
  }
}

template <int kRowTiles>
void launch_prompt(cudaStream_t stream, const LinearArgs& args, const LinearSchedule& schedule) {
  using S = Schedule<kRowTiles>;
  launch(stream, linear_prompt_kernel<kRowTiles>, dim3(static_cast<unsigned>(schedule.blocks)),
         kThreads, S::kRing + S::kSums, {.args = args, .panels = panel_count(args.w)},
         {.pdl = true});
}

}  // namespace

void linear_prompt(cudaStream_t stream, const LinearArgs& args, const LinearSchedule& schedule) {
  SPECRT_CHECK(args.best == nullptr, "linear: a head has at most ", kMaxStepRows, " rows");
  SPECRT_CHECK(schedule.panels == kPanels, "linear: no kernel for ", schedule.row_tiles,
               " row tiles of ", schedule.panels, " panels at once");
  switch (schedule.row_tiles) {
    case 16:
      return launch_prompt<2>(stream, args, schedule);
    case 32:
      return launch_prompt<4>(stream, args, schedule);
    default:
      fail("linear: no kernel for ", schedule.row_tiles, " row tiles");
  }
}

}  // namespace specrt::cuda

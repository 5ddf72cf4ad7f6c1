#include "cuda/ptx.h"
#include "ptx_kernels.h"

namespace specrt::cuda {

__global__ void mma_once(const __grid_constant__ MmaArgs args) {
  const unsigned lane = lane_index();
  uint32_t a[4], b[2];
  float d[4];
  for (unsigned i = 0; i < 4; ++i) a[i] = args.a[4 * lane + i];
  for (unsigned i = 0; i < 2; ++i) b[i] = args.b[2 * lane + i];
  for (unsigned i = 0; i < 4; ++i) d[i] = args.d[4 * lane + i];
  mma_m16n8k16(d, a, b);
  for (unsigned i = 0; i < 4; ++i) args.d[4 * lane + i] = d[i];
}

__global__ void ldmatrix_both(const __grid_constant__ LdmatrixArgs args) {
  SPECRT_SHARED(uint4[32], rows);
  const unsigned lane = lane_index();
  rows[lane] = args.rows[lane];
  sync_warp();
  uint32_t plain[4], transposed[4];
  ldmatrix_x4(plain, &rows[lane]);
  ldmatrix_x4_trans(transposed, &rows[lane]);
  for (unsigned i = 0; i < 4; ++i) {
    args.plain[4 * lane + i] = plain[i];
    args.transposed[4 * lane + i] = transposed[i];
  }
}

__global__ void exchange_all(const __grid_constant__ ExchangeArgs args) {
  const unsigned lane = lane_index();
  const uint32_t value = args.values[lane];
  uint32_t* out = args.out + 8 * lane;
  out[0] = shfl_xor(value, 5);
  out[1] = shfl_idx(value, 31 - lane);
  out[2] = shfl_down(value, 3);
  out[3] = shfl_up(value, 4);
  out[4] = warp_ballot(value % 2 == 1);
  out[5] = warp_all(value > 0) ? 1 : 0;
  out[6] = warp_any(value == args.values[7]) ? 1 : 0;
  out[7] = static_cast<uint32_t>(shfl_xor(static_cast<double>(value), 1));
}

__global__ void copy_groups(const __grid_constant__ CopyArgs args) {
  SPECRT_SHARED(uint4[128], stage);
  const unsigned lane = lane_index();
  const uint32_t bytes = lane == 31 ? static_cast<uint32_t>(args.count) : 16;
  for (unsigned group = 0; group < 4; ++group) {
    cp_async16(&stage[32 * group + lane], &args.in[32 * group + lane], bytes);
    cp_async_commit();
  }
  cp_async_wait<2>();
  st16(&args.out[lane], stage[lane]);
  st16(&args.out[32 + lane], stage[32 + lane]);
  cp_async_wait<0>();
  sync_warp();  // what follows reads the neighbour's copies
  const unsigned other = lane ^ 1;
  st16(&args.out[64 + other], stage[64 + other]);
  st16(&args.out[96 + other], stage[96 + other]);
}

__global__ void copy_ring(const __grid_constant__ CopyArgs args) {
  constexpr int kSlots = 3;
  SPECRT_SHARED(uint64_t[kSlots], full);
  auto* ring = shared_memory<uint4>();
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < kSlots; ++slot) mbar_init(&full[slot], 1);
    fence_mbar_init();
  }
  sync_block();
  if (warp_index() == 0) return;
  const unsigned lane = lane_index();
  const auto issue = [&](int step) {
    if (!elect_lane0() || step >= args.count) return;
    mbar_expect_tx(&full[step % kSlots], 512);
    bulk_g2s(ring + 32 * (step % kSlots), args.in + 32 * step, 512, &full[step % kSlots],
             l2_evict_first());
  };
  for (int step = 0; step < kSlots; ++step) issue(step);
  for (int step = 0; step < args.count; ++step) {
    mbar_wait(&full[step % kSlots], static_cast<uint32_t>(step / kSlots) & 1u);
    const uint4 value = ring[32 * (step % kSlots) + static_cast<int>(lane)];
    sync_warp();
    issue(step + kSlots);
    st16(args.out + 32 * step + lane, value);
  }
}

__global__ void count_blocks(const __grid_constant__ AtomicArgs args) {
  if (threadIdx.x != 0) return;
  threadfence();
  const uint32_t before = add_acq_rel_gpu(args.counter, 1);
  args.order[blockIdx.x] = before;
  if (before + 1 != gridDim.x) return;
  add_acq_rel_gpu(args.last, 1);
  args.host[0] = ld_acquire_gpu(args.counter);
  st_release_gpu(args.counter, 0);
  st_release_sys(&args.host[1], uint64_t{1});
}

__global__ void numbers(const __grid_constant__ NumberArgs args) {
  const unsigned lane = lane_index();
  const float x = args.x[lane];
  args.out[3 * lane] = ex2(x);
  args.out[3 * lane + 1] = rsqrt_approx(x);
  args.out[3 * lane + 2] = rcp_rn(x);
  args.packed[lane] = pack_bf16x2(x, -x);
}

__global__ void load_ways(const __grid_constant__ CopyArgs args) {
  const unsigned lane = lane_index();
  bulk_prefetch_l2(args.in, 512);
  st16(&args.out[lane], ld_stream16(&args.in[lane]));
  st16(&args.out[32 + lane], ld_cg16(&args.in[lane]));
  const auto* words = reinterpret_cast<const uint32_t*>(&args.in[lane]);
  const uint4 value =
      make_uint4(ld_cg4(words), ld_cg4(words + 1), ld_cg4(words + 2), ld_cg4(words + 3));
  st16(&args.out[64 + lane], value);
}

}  // namespace specrt::cuda

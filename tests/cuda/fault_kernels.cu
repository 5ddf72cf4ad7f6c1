#include "cuda/ptx.h"
#include "fault_kernels.h"

namespace specrt::cuda {
namespace {

// A barrier for `arrivals`, ready for all threads of the block.
__device__ void begin(uint64_t* full) {
  if (threadIdx.x == 0) {
    mbar_init(full, 1);
    fence_mbar_init();
  }
  sync_block();
}

__device__ void issue(uint64_t* full, uint4* dst, const uint4* src, uint32_t bytes) {
  mbar_expect_tx(full, bytes);
  bulk_g2s(dst, src, bytes, full, l2_evict_first());
}

}  // namespace

// ---- Wrong results -----------------------------------------------------------------------------

__global__ void copy_without_barrier(const __grid_constant__ FaultArgs args) {
  auto* stage = shared_memory<uint4>();
  stage[threadIdx.x] = args.in[threadIdx.x];
  args.out[threadIdx.x] = stage[threadIdx.x ^ 32];
}

__global__ void copy_without_warp_barrier(const __grid_constant__ FaultArgs args) {
  auto* stage = shared_memory<uint4>();
  stage[threadIdx.x] = args.in[threadIdx.x];
  args.out[threadIdx.x ^ 1] = stage[threadIdx.x ^ 1];
}

__global__ void copy_with_one_group_pending(const __grid_constant__ FaultArgs args) {
  auto* stage = shared_memory<uint4>();
  cp_async16(&stage[threadIdx.x], &args.in[threadIdx.x]);
  cp_async_commit();
  cp_async_wait<1>();
  args.out[threadIdx.x] = stage[threadIdx.x];
  cp_async_wait<0>();
}

__global__ void copy_without_mbar_wait(const __grid_constant__ FaultArgs args) {
  SPECRT_SHARED(uint64_t, full);
  auto* stage = shared_memory<uint4>();
  begin(&full);
  if (threadIdx.x == 0) issue(&full, stage, args.in, 1024);
  sync_block();
  args.out[threadIdx.x] = stage[threadIdx.x];
  mbar_wait(&full, 0);
}

// The second copy is issued into the slot before the first was read.
__global__ void copy_from_reissued_slot(const __grid_constant__ FaultArgs args) {
  SPECRT_SHARED(uint64_t, full);
  auto* stage = shared_memory<uint4>();
  begin(&full);
  if (threadIdx.x == 0) issue(&full, stage, args.in, 1024);
  mbar_wait(&full, 0);
  if (threadIdx.x == 0) issue(&full, stage, args.in + 64, 1024);
  args.out[threadIdx.x] = stage[threadIdx.x];
  mbar_wait(&full, 1);
}

__global__ void copy_before_pdl_wait(const __grid_constant__ FaultArgs args) {
  const uint4 value = ld_cg16(&args.in[threadIdx.x]);
  pdl_wait();
  args.out[threadIdx.x] = value;
}

// ---- Reports -----------------------------------------------------------------------------------

__global__ void return_before_barrier(const __grid_constant__ FaultArgs args) {
  if (threadIdx.x >= 32) return;
  sync_block();
  args.out[threadIdx.x] = args.in[threadIdx.x];
}

__global__ void barrier_in_half_a_warp(const __grid_constant__ FaultArgs args) {
  if (threadIdx.x < 16) {
    sync_block();
  } else {
    sync_warp();
  }
  args.out[threadIdx.x] = args.in[threadIdx.x];
}

__global__ void warps_at_different_ends(const __grid_constant__ FaultArgs args) {
  if (lane_index() == 7) return;
  args.out[threadIdx.x].x = shfl_xor(args.in[threadIdx.x].x, 1);
}

__global__ void wait_for_missing_bytes(const __grid_constant__ FaultArgs args) {
  SPECRT_SHARED(uint64_t, full);
  auto* stage = shared_memory<uint4>();
  begin(&full);
  if (threadIdx.x == 0) {
    mbar_expect_tx(&full, 1024);
    bulk_g2s(stage, args.in, 512, &full, l2_evict_first());
  }
  mbar_wait(&full, 0);
  args.out[threadIdx.x] = stage[threadIdx.x];
}

// Waits for a flag that no thread sets.
__global__ void wait_for_missing_block(const __grid_constant__ FaultArgs args) {
  while (ld_acquire_gpu(&args.out->x) != 12345) {
  }
}

__global__ void write_behind_the_end(const __grid_constant__ FaultArgs args) {
  if (threadIdx.x == 0) args.out[128] = args.in[0];
}

__global__ void write_behind_shared(const __grid_constant__ FaultArgs args) {
  auto* stage = shared_memory<uint4>();
  stage[256 - 63 + threadIdx.x] = args.in[threadIdx.x];
}

__global__ void write_behind_variable(const __grid_constant__ FaultArgs args) {
  SPECRT_SHARED(uint4[63], stage);
  uint4* first = &stage[0];
  first[threadIdx.x] = args.in[threadIdx.x];
}

__global__ void load_outside(const __grid_constant__ FaultArgs args) {
  args.out[threadIdx.x] = ld_cg16(&args.in[65 + threadIdx.x]);
}

__global__ void load_misaligned(const __grid_constant__ FaultArgs args) {
  args.out[threadIdx.x] = ld_cg16(&args.in[threadIdx.x].y);
}

__global__ void end_with_copy_in_flight(const __grid_constant__ FaultArgs args) {
  SPECRT_SHARED(uint64_t, full);
  begin(&full);
  if (threadIdx.x == 0) issue(&full, shared_memory<uint4>(), args.in, 1024);
}

__global__ void end_with_group_in_flight(const __grid_constant__ FaultArgs args) {
  cp_async16(shared_memory<uint4>() + threadIdx.x, args.in);
  cp_async_commit();
}

__global__ void write_before_pdl_wait(const __grid_constant__ FaultArgs args) {
  args.out[threadIdx.x] = make_uint4(1, 2, 3, 4);
  pdl_wait();
}

__global__ void end_without_pdl_wait(const __grid_constant__ FaultArgs args) {
  if (args.in == nullptr) pdl_wait();
}

__global__ void copy_more_than_announced(const __grid_constant__ FaultArgs args) {
  SPECRT_SHARED(uint64_t, full);
  begin(&full);
  if (threadIdx.x == 0) {
    mbar_expect_tx(&full, 512);
    bulk_g2s(shared_memory<uint4>(), args.in, 1024, &full, l2_evict_first());
  }
  mbar_wait(&full, 0);
}

__global__ void copy_without_init_fence(const __grid_constant__ FaultArgs args) {
  SPECRT_SHARED(uint64_t, full);
  if (threadIdx.x == 0) {
    mbar_init(&full, 1);
    issue(&full, shared_memory<uint4>(), args.in, 1024);
  }
  sync_block();
  mbar_wait(&full, 0);
}

__global__ void copy_without_proxy_fence(const __grid_constant__ FaultArgs args) {
  SPECRT_SHARED(uint64_t, full);
  auto* stage = shared_memory<uint4>();
  begin(&full);
  stage[threadIdx.x] = args.in[64 + threadIdx.x];
  sync_block();
  if (threadIdx.x == 0) issue(&full, stage, args.in, 1024);
  mbar_wait(&full, 0);
  args.out[threadIdx.x] = stage[threadIdx.x];
}

__global__ void copy_into_copy_in_flight(const __grid_constant__ FaultArgs args) {
  SPECRT_SHARED(uint64_t, full);
  begin(&full);
  if (threadIdx.x == 0) {
    mbar_expect_tx(&full, 2048);
    for (int i = 0; i < 2; ++i) {
      bulk_g2s(shared_memory<uint4>(), args.in, 1024, &full, l2_evict_first());
    }
  }
  mbar_wait(&full, 0);
}

__global__ void overwrite_mbarrier(const __grid_constant__ FaultArgs args) {
  auto* full = shared_memory<uint64_t>();
  begin(full);
  shared_memory<uint4>()[threadIdx.x] = args.in[threadIdx.x];
  sync_block();
  mbar_wait(full, 0);
}

__global__ void stream_what_a_kernel_wrote(const __grid_constant__ FaultArgs args) {
  args.out[threadIdx.x] = args.in[threadIdx.x];
  args.out[64 + threadIdx.x] = ld_stream16(&args.out[threadIdx.x]);
}

__global__ void copy_with_proxy_fence(const __grid_constant__ FaultArgs args) {
  SPECRT_SHARED(uint64_t, full);
  auto* stage = shared_memory<uint4>();
  begin(&full);
  stage[threadIdx.x] = args.in[64 + threadIdx.x];
  fence_proxy_async();
  sync_block();
  if (threadIdx.x == 0) issue(&full, stage, args.in, 1024);
  mbar_wait(&full, 0);
  args.out[threadIdx.x] = stage[threadIdx.x];
}

}  // namespace specrt::cuda

// Kernels that are wrong on purpose, each in one way, for the tests of what the emulator reports.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace specrt::cuda {

struct FaultArgs {
  const uint4* in;  // (128)
  uint4* out;       // (128)
};

using FaultKernel = void (*)(FaultArgs);

// Wrong results; launched with a block of 64 and 4096 bytes of shared memory, out = in is right.
__global__ void copy_without_barrier(const __grid_constant__ FaultArgs args);
__global__ void copy_without_warp_barrier(const __grid_constant__ FaultArgs args);
__global__ void copy_with_one_group_pending(const __grid_constant__ FaultArgs args);
__global__ void copy_without_mbar_wait(const __grid_constant__ FaultArgs args);
__global__ void copy_from_reissued_slot(const __grid_constant__ FaultArgs args);
__global__ void copy_before_pdl_wait(const __grid_constant__ FaultArgs args);

// Reports.
__global__ void return_before_barrier(const __grid_constant__ FaultArgs args);
__global__ void barrier_in_half_a_warp(const __grid_constant__ FaultArgs args);
__global__ void warps_at_different_ends(const __grid_constant__ FaultArgs args);
__global__ void wait_for_missing_bytes(const __grid_constant__ FaultArgs args);
__global__ void wait_for_missing_block(const __grid_constant__ FaultArgs args);
__global__ void write_behind_the_end(const __grid_constant__ FaultArgs args);
__global__ void write_behind_shared(const __grid_constant__ FaultArgs args);
__global__ void write_behind_variable(const __grid_constant__ FaultArgs args);
__global__ void load_outside(const __grid_constant__ FaultArgs args);
__global__ void load_misaligned(const __grid_constant__ FaultArgs args);
__global__ void end_with_copy_in_flight(const __grid_constant__ FaultArgs args);
__global__ void end_with_group_in_flight(const __grid_constant__ FaultArgs args);
__global__ void write_before_pdl_wait(const __grid_constant__ FaultArgs args);
__global__ void end_without_pdl_wait(const __grid_constant__ FaultArgs args);
__global__ void copy_more_than_announced(const __grid_constant__ FaultArgs args);
__global__ void copy_without_init_fence(const __grid_constant__ FaultArgs args);
__global__ void copy_without_proxy_fence(const __grid_constant__ FaultArgs args);
__global__ void copy_into_copy_in_flight(const __grid_constant__ FaultArgs args);
__global__ void overwrite_mbarrier(const __grid_constant__ FaultArgs args);
__global__ void stream_what_a_kernel_wrote(const __grid_constant__ FaultArgs args);

// Right: the same as copy_without_proxy_fence with the fence.
__global__ void copy_with_proxy_fence(const __grid_constant__ FaultArgs args);

}  // namespace specrt::cuda

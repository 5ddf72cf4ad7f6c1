// Every PTX instruction that the kernels use, one function each; nothing else holds inline PTX.
// Under emulation the same functions come from emulation/ptx.h, which checks what is said here.
// Warp collectives: all 32 lanes call them together. Pointers to shared memory are generic.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#ifdef SPECRT_CUDA_EMULATION
#include "cuda/emulation/ptx.h"
#else

// A __shared__ variable of a block, not initialized: SPECRT_SHARED(float[32], sums);
#define SPECRT_SHARED(type, name) __shared__ ::specrt::cuda::Shared<type> name

namespace specrt::cuda {

template <typename T>
using Shared = T;

inline constexpr unsigned kFullMask = 0xffffffffu;

// ---- Places ------------------------------------------------------------------------------------

// Dynamic shared memory of the block, 128-byte aligned: the bytes given to launch().
template <typename T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(128) unsigned char specrt_dynamic_shared[];
  return reinterpret_cast<T*>(specrt_dynamic_shared);
}

// The 32-bit address of generic `pointer` in the shared window, as PTX takes it.
__device__ __forceinline__ uint32_t smem_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ unsigned lane_index() { return threadIdx.x % 32; }
__device__ __forceinline__ unsigned warp_index() { return threadIdx.x / 32; }

// True in lane 0 of each warp: the lane that issues bulk copies.
__device__ __forceinline__ bool elect_lane0() { return lane_index() == 0; }

// Nanoseconds of the device's global timer; steps of about a microsecond.
__device__ __forceinline__ uint64_t nanotime() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

// Waits until nanotime() has reached `end`.
__device__ __forceinline__ void wait_until(uint64_t end) {
  while (nanotime() < end) __nanosleep(1000);
}

// ---- Block and warp ----------------------------------------------------------------------------

// All threads of the block; writes before it are seen after it by the whole block.
__device__ __forceinline__ void sync_block() { __syncthreads(); }

// All lanes; writes before it are seen after it by the warp.
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

// T is a 4- or 8-byte type. shfl_down and shfl_up give the lane its own value where the source is
// outside the warp; the other two need operands below 32.
template <typename T>
__device__ __forceinline__ T shfl_xor(T value, unsigned lane_mask) {
  return __shfl_xor_sync(kFullMask, value, lane_mask);
}
template <typename T>
__device__ __forceinline__ T shfl_idx(T value, unsigned source_lane) {
  return __shfl_sync(kFullMask, value, source_lane);
}
template <typename T>
__device__ __forceinline__ T shfl_down(T value, unsigned delta) {
  return __shfl_down_sync(kFullMask, value, delta);
}
template <typename T>
__device__ __forceinline__ T shfl_up(T value, unsigned delta) {
  return __shfl_up_sync(kFullMask, value, delta);
}

// Bit i: whether `predicate` holds in lane i.
__device__ __forceinline__ unsigned warp_ballot(bool predicate) {
  return __ballot_sync(kFullMask, predicate);
}
__device__ __forceinline__ bool warp_all(bool predicate) {
  return __all_sync(kFullMask, predicate);
}
__device__ __forceinline__ bool warp_any(bool predicate) {
  return __any_sync(kFullMask, predicate);
}

// ---- Matrix ------------------------------------------------------------------------------------

// Warp collective. d (16 x 8, f32) += a (16 x 16, bf16, row) * b (16 x 8, bf16, column).
// Lane 4i + t holds a[0] = A[i][2t..], a[1] = A[i+8][2t..], a[2] = A[i][2t+8..],
// a[3] = A[i+8][2t+8..]; b[0] = B[2t..][i], b[1] = B[2t+8..][i]; d[0], d[1] = D[i][2t..],
// d[2], d[3] = D[i+8][2t..]. The lower half of a word has the lower index. Not volatile, so that
// the assembler may schedule it. The order of its sums is the hardware's.
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Warp collective. Four 8 x 8 matrices of 16-bit values from shared memory: lane 8m + r gives the
// address of row r of matrix m (16 bytes, 16-byte aligned). Lane 4i + t gets in r[m] the elements
// 2t, 2t+1 of row i.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(row))
               : "memory");
}

// As ldmatrix_x4, each matrix transposed: r[m] has rows 2t, 2t+1 of column i.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(row))
               : "memory");
}

// ---- Asynchronous copies -----------------------------------------------------------------------

// Starts a copy of 16 bytes from global to shared memory by this thread, both 16-byte aligned.
// `bytes` 0 reads nothing and fills with zeros; between 0 and 16 the rest is zeros.
__device__ __forceinline__ void cp_async16(void* dst, const void* src, uint32_t bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(dst)), "l"(src),
               "r"(bytes)
               : "memory");
}

// Closes a group of this thread's copies; a group may be empty.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most kPending of this thread's newest groups are in flight. Others see the data
// only after a barrier that follows.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Initializes a barrier in shared memory (8-byte aligned) for `arrivals` arrivals a phase. Others
// may use it after fence_mbar_init by the same thread and a block or warp barrier.
__device__ __forceinline__ void mbar_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_address(barrier)), "r"(arrivals)
               : "memory");
}

// Makes mbar_init visible to the bulk copies and, with a barrier, to other threads.
__device__ __forceinline__ void fence_mbar_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives once and announces `bytes` of bulk copies for this phase (below 1 MiB); call it before
// the copies. A phase ends when all arrivals and all announced bytes have come.
__device__ __forceinline__ void mbar_expect_tx(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(
                   smem_address(barrier)),
               "r"(bytes)
               : "memory");
}

// Waits until the phase of this parity has ended; phases count from 0. Each thread for itself.
__device__ __forceinline__ void mbar_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(smem_address(barrier)), "r"(parity)
        : "memory");
  }
}

// L2 policy of data that is read once.
__device__ __forceinline__ uint64_t l2_evict_first() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Starts a copy of `bytes` (a multiple of 16) from global to shared memory by this thread, both
// 16-byte aligned; its bytes count on `barrier`. The block must not end before they have come.
__device__ __forceinline__ void bulk_g2s(void* dst, const void* src, uint32_t bytes,
                                         uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(smem_address(dst)),
      "l"(src), "r"(bytes), "r"(smem_address(barrier)), "l"(policy)
      : "memory");
}

// Hint: brings `bytes` (a multiple of 16, 16-byte aligned) of global memory into L2.
__device__ __forceinline__ void bulk_prefetch_l2(const void* src, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(src), "r"(bytes) : "memory");
}

// Between ordinary writes to shared memory and a bulk copy into the same place.
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- Programmatic dependent launch -------------------------------------------------------------

// Waits until all earlier kernels of the stream are complete and visible. Every thread calls it, on
// every path; before it only weights and constants may be touched.
__device__ __forceinline__ void pdl_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the next kernel be scheduled; says nothing about visibility.
__device__ __forceinline__ void pdl_launch() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// ---- Loads, stores, atomics --------------------------------------------------------------------

// 16 bytes of weights: 16-byte aligned global memory that no kernel ever writes. May be moved
// above pdl_wait; read past L1, first out of L2.
__device__ __forceinline__ uint4 ld_stream16(const void* src) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(src), "l"(l2_evict_first()));
  return v;
}

// Global memory through L2 only; 16- and 4-byte aligned.
__device__ __forceinline__ uint4 ld_cg16(const void* src) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(src));
  return v;
}
__device__ __forceinline__ uint32_t ld_cg4(const void* src) {
  uint32_t v;
  asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(v) : "l"(src));
  return v;
}

// 16 bytes to 16-byte aligned global memory.
__device__ __forceinline__ void st16(void* dst, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(dst), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}

// Adds to a counter in global memory and gives the old value. Acquires and releases at the GPU.
__device__ __forceinline__ uint32_t add_acq_rel_gpu(uint32_t* counter, uint32_t value) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(counter), "r"(value)
               : "memory");
  return old;
}

__device__ __forceinline__ uint32_t ld_acquire_gpu(const uint32_t* src) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(src) : "memory");
  return value;
}
__device__ __forceinline__ void st_release_gpu(uint32_t* dst, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(dst), "r"(value) : "memory");
}

// The last write of an entry in pinned host memory: the host, having loaded it with acquire, sees
// what this thread wrote before.
__device__ __forceinline__ void st_release_sys(uint32_t* dst, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(dst), "r"(value) : "memory");
}
__device__ __forceinline__ void st_release_sys(uint64_t* dst, uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(dst), "l"(value) : "memory");
}

// This thread's writes before it are seen by the whole GPU before those after it.
__device__ __forceinline__ void threadfence() { __threadfence(); }

// ---- Numbers -----------------------------------------------------------------------------------

// 2^x, about 2 ulp; results below the smallest normal are 0. ex2(0) = 1, ex2(-inf) = 0.
__device__ __forceinline__ float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / sqrt(x), about 1 ulp.
__device__ __forceinline__ float rsqrt_approx(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x, correctly rounded.
__device__ __forceinline__ float rcp_rn(float x) { return __frcp_rn(x); }

// Two floats rounded to nearest even, `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

}  // namespace specrt::cuda

#endif

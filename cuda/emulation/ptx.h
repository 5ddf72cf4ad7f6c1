// The functions of cuda/ptx.h under emulation; what each does is said there. Checks of alignment,
// bounds and order end the kernel with a report.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/dtype.h"

// One variable a block, made anew (poisoned) for each block. The key is the address of `place`.
#define SPECRT_SHARED(type, name)                                                       \
  static const char specrt_place_##name = 0;                                            \
  ::specrt::cuda::Shared<type>& name =                                                  \
      *static_cast<::specrt::cuda::Shared<type>*>(::specrt::emulation::shared_variable( \
          &specrt_place_##name, sizeof(::specrt::cuda::Shared<type>),                   \
          alignof(::specrt::cuda::Shared<type>)))

namespace specrt::emulation {

void* shared_variable(const void* key, size_t bytes, size_t alignment);
void* dynamic_shared();
uint32_t shared_address(const void* pointer);
uint64_t nanotime();
void wait_until(uint64_t end);

// Gathers `argument` of all 32 lanes of the warp and calls combine with them once.
using Combine = void (*)(void* const* arguments);
void collect(const char* what, Combine combine, void* argument);

struct Mma {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};
void combine_mma(void* const* arguments);

enum class Transpose { no, yes };
void ldmatrix(uint32_t* result, const void* row, Transpose transpose);

enum class ShuffleSource { lane_xor, lane, below, above };
struct Shuffle {
  ShuffleSource source;
  unsigned operand;
  uint64_t value;
};
void combine_shuffle(void* const* arguments);
uint64_t shuffle(ShuffleSource source, unsigned operand, uint64_t value);
unsigned ballot(bool predicate);

void cp_async16(void* dst, const void* src, uint32_t bytes);
void cp_async_commit();
void cp_async_wait(int pending);
void mbar_init(uint64_t* barrier, uint32_t arrivals);
void fence_mbar_init();
void mbar_expect_tx(uint64_t* barrier, uint32_t bytes);
void mbar_wait(uint64_t* barrier, uint32_t parity);
void bulk_g2s(void* dst, const void* src, uint32_t bytes, uint64_t* barrier);
void bulk_prefetch_l2(const void* src, uint32_t bytes);
void fence_proxy_async();
void pdl_wait();

// Ends the kernel unless [data, data + bytes) lies in one variable or in dynamic shared memory.
void check_shared(const char* what, const void* data, size_t bytes, size_t alignment);
// Ends the kernel unless [data, data + bytes) is aligned to `alignment` and lies in an allocation.
void check_global(const char* what, const void* data, size_t bytes, size_t alignment);
// As check_global, for 16 bytes of device memory that no kernel wrote; where to read them.
const void* weights(const void* data);

}  // namespace specrt::emulation

namespace specrt::cuda {

template <typename T>
using Shared = T;

template <typename T>
T* shared_memory() {
  return static_cast<T*>(emulation::dynamic_shared());
}
inline uint32_t smem_address(const void* pointer) { return emulation::shared_address(pointer); }
inline unsigned lane_index() { return threadIdx.x % 32; }
inline unsigned warp_index() { return threadIdx.x / 32; }
inline bool elect_lane0() { return lane_index() == 0; }
inline uint64_t nanotime() { return emulation::nanotime(); }
inline void wait_until(uint64_t end) { emulation::wait_until(end); }

inline void sync_block() { emulation::sync_block(); }
inline void sync_warp() { emulation::sync_warp(); }

template <typename T>
T shuffle(emulation::ShuffleSource source, unsigned operand, T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  return std::bit_cast<T>(
      static_cast<Bits>(emulation::shuffle(source, operand, std::bit_cast<Bits>(value))));
}
template <typename T>
T shfl_xor(T value, unsigned lane_mask) {
  return shuffle(emulation::ShuffleSource::lane_xor, lane_mask, value);
}
template <typename T>
T shfl_idx(T value, unsigned source_lane) {
  return shuffle(emulation::ShuffleSource::lane, source_lane, value);
}
template <typename T>
T shfl_down(T value, unsigned delta) {
  return shuffle(emulation::ShuffleSource::above, delta, value);
}
template <typename T>
T shfl_up(T value, unsigned delta) {
  return shuffle(emulation::ShuffleSource::below, delta, value);
}
inline unsigned warp_ballot(bool predicate) { return emulation::ballot(predicate); }
inline bool warp_all(bool predicate) { return emulation::ballot(predicate) == 0xffffffffu; }
inline bool warp_any(bool predicate) { return emulation::ballot(predicate) != 0; }

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::Mma mma{d, a, b};
  emulation::collect("mma_m16n8k16", &emulation::combine_mma, &mma);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  emulation::ldmatrix(r, row, emulation::Transpose::no);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  emulation::ldmatrix(r, row, emulation::Transpose::yes);
}

inline void cp_async16(void* dst, const void* src, uint32_t bytes = 16) {
  emulation::cp_async16(dst, src, bytes);
}
inline void cp_async_commit() { emulation::cp_async_commit(); }
template <int kPending>
void cp_async_wait() {
  emulation::cp_async_wait(kPending);
}
inline void mbar_init(uint64_t* barrier, uint32_t arrivals) {
  emulation::mbar_init(barrier, arrivals);
}
inline void fence_mbar_init() { emulation::fence_mbar_init(); }
inline void mbar_expect_tx(uint64_t* barrier, uint32_t bytes) {
  emulation::mbar_expect_tx(barrier, bytes);
}
inline void mbar_wait(uint64_t* barrier, uint32_t parity) { emulation::mbar_wait(barrier, parity); }
inline uint64_t l2_evict_first() { return 0; }
inline void bulk_g2s(void* dst, const void* src, uint32_t bytes, uint64_t* barrier, uint64_t) {
  emulation::bulk_g2s(dst, src, bytes, barrier);
}
inline void bulk_prefetch_l2(const void* src, uint32_t bytes) {
  emulation::bulk_prefetch_l2(src, bytes);
}
inline void fence_proxy_async() { emulation::fence_proxy_async(); }

inline void pdl_wait() { emulation::pdl_wait(); }
inline void pdl_launch() {}

template <typename T>
T load(const void* src) {
  T value;
  std::memcpy(&value, src, sizeof(T));
  return value;
}
inline uint4 ld_stream16(const void* src) { return load<uint4>(emulation::weights(src)); }
inline uint4 ld_cg16(const void* src) {
  emulation::check_global("ld_cg16", src, 16, 16);
  return load<uint4>(src);
}
inline uint32_t ld_cg4(const void* src) {
  emulation::check_global("ld_cg4", src, 4, 4);
  return load<uint32_t>(src);
}
inline void st16(void* dst, uint4 value) {
  emulation::check_global("st16", dst, 16, 16);
  std::memcpy(dst, &value, 16);
}

inline uint32_t add_acq_rel_gpu(uint32_t* counter, uint32_t value) {
  emulation::check_global("add_acq_rel_gpu", counter, 4, 4);
  emulation::pause_thread();
  return __atomic_fetch_add(counter, value, __ATOMIC_SEQ_CST);
}
inline uint32_t ld_acquire_gpu(const uint32_t* src) {
  emulation::check_global("ld_acquire_gpu", src, 4, 4);
  emulation::pause_thread();
  return __atomic_load_n(src, __ATOMIC_SEQ_CST);
}
template <typename T>
void store_release(const char* what, T* dst, T value) {
  emulation::check_global(what, dst, sizeof(T), sizeof(T));
  emulation::pause_thread();
  __atomic_store_n(dst, value, __ATOMIC_SEQ_CST);
}
inline void st_release_gpu(uint32_t* dst, uint32_t value) {
  store_release("st_release_gpu", dst, value);
}
inline void st_release_sys(uint32_t* dst, uint32_t value) {
  store_release("st_release_sys", dst, value);
}
inline void st_release_sys(uint64_t* dst, uint64_t value) {
  store_release("st_release_sys", dst, value);
}
inline void threadfence() { __threadfence(); }

inline float ex2(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}
inline float rsqrt_approx(float x) { return 1.0f / std::sqrt(x); }
inline float rcp_rn(float x) { return 1.0f / x; }
inline uint32_t pack_bf16x2(float low, float high) {
  return to_bf16(low) | static_cast<uint32_t>(to_bf16(high)) << 16;
}

}  // namespace specrt::cuda

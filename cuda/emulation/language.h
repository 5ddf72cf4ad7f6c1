// CUDA C++ for g++: qualifiers, vector types, built-in variables and the intrinsics that kernels
// use. Not all of CUDA: what is missing here is not to be used in cuda/.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace specrt::emulation {

// What the built-in variables of one device thread say.
struct Place {
  uint3 thread;
  uint3 block;
  dim3 block_dim;
  dim3 grid_dim;
};
extern const Place* current_place;  // of the device thread that runs; only one runs at a time

void sync_block();
void sync_warp();
void pause_thread();  // lets other device threads run: atomics and fences are such points

}  // namespace specrt::emulation

#define threadIdx (::specrt::emulation::current_place->thread)
#define blockIdx (::specrt::emulation::current_place->block)
#define blockDim (::specrt::emulation::current_place->block_dim)
#define gridDim (::specrt::emulation::current_place->grid_dim)

inline void __syncthreads() { ::specrt::emulation::sync_block(); }
inline void __syncwarp() { ::specrt::emulation::sync_warp(); }
inline void __threadfence() { ::specrt::emulation::pause_thread(); }
inline void __nanosleep(unsigned) { ::specrt::emulation::pause_thread(); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline int __float2int_rn(float a) { return static_cast<int>(std::nearbyint(a)); }
inline unsigned __float_as_uint(float a) { return std::bit_cast<unsigned>(a); }
inline int __float_as_int(float a) { return std::bit_cast<int>(a); }
inline float __uint_as_float(unsigned a) { return std::bit_cast<float>(a); }
inline float __int_as_float(int a) { return std::bit_cast<float>(a); }

inline int __popc(unsigned a) { return std::popcount(a); }
inline int __popcll(unsigned long long a) { return std::popcount(a); }
inline int __clz(unsigned a) { return std::countl_zero(a); }
inline int __clzll(unsigned long long a) { return std::countl_zero(a); }
inline int __ffs(unsigned a) { return a == 0 ? 0 : std::countr_zero(a) + 1; }
inline int __ffsll(unsigned long long a) { return a == 0 ? 0 : std::countr_zero(a) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}

template <typename T>
T atomicAdd(T* cell, T value) {
  static_assert(std::is_integral_v<T>, "sums of floats must not depend on the order of arrival");
  const T old = *cell;
  *cell = old + value;
  ::specrt::emulation::pause_thread();
  return old;
}
template <typename T>
T atomicMax(T* cell, T value) {
  const T old = *cell;
  *cell = std::max(old, value);
  ::specrt::emulation::pause_thread();
  return old;
}
template <typename T>
T atomicMin(T* cell, T value) {
  const T old = *cell;
  *cell = std::min(old, value);
  ::specrt::emulation::pause_thread();
  return old;
}
template <typename T>
T atomicOr(T* cell, T value) {
  const T old = *cell;
  *cell = old | value;
  ::specrt::emulation::pause_thread();
  return old;
}

// e^x written out, so that every kernel and the emulator give the same bits.
#pragma once

#include "cuda/ptx.h"

namespace specrt::cuda {

// Within 2e-7 relative; 0 below -87.3, capped above 88.3, NaN stays. x = n log 2 + r with
// |r| <= log(2) / 2; e^r by its Taylor polynomial with minimax coefficients (Cephes), times 2^n.
__device__ __forceinline__ float exponential(float x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the rounded integer
  const float capped = x > 88.3f ? 88.3f : x;
  const float shifted = __fmaf_rn(capped, 1.44269504f, magic);
  const float n = __fsub_rn(shifted, magic);
  float r = __fmaf_rn(n, -0.693359375f, capped);
  r = __fmaf_rn(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = __fmaf_rn(p, r, 1.3981999507e-3f);
  p = __fmaf_rn(p, r, 8.3334519073e-3f);
  p = __fmaf_rn(p, r, 4.1665795894e-2f);
  p = __fmaf_rn(p, r, 1.6666665459e-1f);
  p = __fmaf_rn(p, r, 5.0000001201e-1f);
  p = __fadd_rn(__fmaf_rn(p, __fmul_rn(r, r), r), 1.0f);
  const float y = __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
  if (x != x) return x;
  return x < -87.3f ? 0.0f : y;
}

}  // namespace specrt::cuda

// Cosines and sines of the rotary embedding at each row's position.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/rows.h"

namespace specrt::cuda {
namespace {

constexpr unsigned kThreads = 64;

struct Rotation {
  double cos;
  double sin;
};

// Within 1e-15 for |x| < 2^30. Written out in double, so that a GPU and a host give the same float:
// x = n pi/2 + r with |r| <= pi/4, pi/2 in two parts of which n times the first is exact, then the
// Taylor series of both functions.
__device__ Rotation rotation(double x) {
  const auto n = static_cast<int64_t>(x * 0.63661977236758134 + (x < 0.0 ? -0.5 : 0.5));
  const double turns = static_cast<double>(n);
  const double r = (x - turns * 1.5707963109016418) - turns * 1.5893254773528196e-8;
  const double z = r * r;
  double s = -7.6471637318198165e-13;
  s = s * z + 1.6059043836821613e-10;
  s = s * z - 2.5052108385441718e-8;
  s = s * z + 2.7557319223985893e-6;
  s = s * z - 1.9841269841269841e-4;
  s = s * z + 8.3333333333333333e-3;
  s = s * z - 1.6666666666666667e-1;
  s = s * z * r + r;
  double c = 4.7794773323873853e-14;
  c = c * z - 1.1470745597729725e-11;
  c = c * z + 2.0876756987868099e-9;
  c = c * z - 2.7557319223985888e-7;
  c = c * z + 2.4801587301587302e-5;
  c = c * z - 1.3888888888888889e-3;
  c = c * z + 4.1666666666666667e-2;
  c = c * z - 0.5;
  c = c * z + 1.0;
  switch (n & 3) {
    case 0:
      return {c, s};
    case 1:
      return {-s, c};
    case 2:
      return {-c, -s};
    default:
      return {s, -c};
  }
}

// rope_angles: out[i] = cos(p f) s in [0, e/2), sin(p f) s in [e/2, e), p the position of row i
// inv_freq f (e/2) f32; out (n,e) f32
// grid n, block 64: one block per row
// computes n e/2 sines and cosines; 4ne bytes
// p f is one float32 product, as in Hugging Face; then within an ulp of the exact value
__global__ void rope_angles_kernel(const __grid_constant__ RopeAnglesArgs args) {
  pdl_launch();
  pdl_wait();
  const auto r = static_cast<int32_t>(blockIdx.x);
  const Row row = row_at(args.rows, r);
  if (!row.exists) return;
  auto* out = args.out.row<float>(r);
  for (auto d = static_cast<int32_t>(threadIdx.x); d < args.half; d += kThreads) {
    const Rotation at = rotation(__fmul_rn(static_cast<float>(row.position), args.inv_freq[d]));
    out[d] = __fmul_rn(static_cast<float>(at.cos), args.scaling);
    out[d + args.half] = __fmul_rn(static_cast<float>(at.sin), args.scaling);
  }
}

}  // namespace

void rope_angles(cudaStream_t stream, const RopeAnglesArgs& args) {
  launch(stream, rope_angles_kernel, dim3(static_cast<unsigned>(row_count(args.rows))), kThreads, 0,
         args, {.pdl = true});
}

}  // namespace specrt::cuda

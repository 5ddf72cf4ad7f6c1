// The scores of a reduced vocabulary in the places of their tokens.
#include <limits>

#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/rows.h"

namespace specrt::cuda {
namespace {

constexpr unsigned kThreads = 1024;

// scatter: out[i,ids[k]] = x[i,k], minus infinity elsewhere
// x (n,m) f32, ids (m) f32, out (n,v) f32
// grid n, block 1024: one block per row, which fills it and then writes the m
// moves 4nv + 12nm bytes; a few microseconds
// exact; of two equal ids either may win
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const __grid_constant__ ScatterArgs args) {
  pdl_launch();
  pdl_wait();
  const auto r = static_cast<int32_t>(blockIdx.x);
  if (!row_at(args.rows, r).exists) return;
  const auto* x = args.x.row<float>(r);
  auto* out = args.out.row<float>(r);
  const auto first = static_cast<int32_t>(threadIdx.x);
  for (int32_t k = first; k < args.out.cols; k += kThreads) {
    out[k] = -std::numeric_limits<float>::infinity();
  }
  sync_block();
  const auto cols = static_cast<float>(args.out.cols);
  for (int32_t k = first; k < args.x.cols; k += kThreads) {
    const float id = args.ids[k];
    if (id >= 0 && id < cols) out[static_cast<int32_t>(id)] = x[k];
  }
}

}  // namespace

void scatter(cudaStream_t stream, const ScatterArgs& args) {
  const dim3 grid(static_cast<unsigned>(row_count(args.rows)));
  launch(stream, scatter_kernel, grid, kThreads, 0, args, {.pdl = true});
}

}  // namespace specrt::cuda

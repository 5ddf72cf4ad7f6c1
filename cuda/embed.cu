// Rows of the embedding table, from either layout that a CUDA engine has.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/rows.h"
#include "cuda/table.cuh"

namespace specrt::cuda {
namespace {

constexpr unsigned kThreads = 256;

// x * gain, and sums of 16 squares ascending, of a row that the block has just written.
__device__ void give_to_norm(const NormGain& norm, int32_t r, const float* x, int32_t cols) {
  for (auto at = static_cast<int32_t>(threadIdx.x); at < cols / kSquareCols; at += kThreads) {
    float sum = 0.0f;
    for (int32_t k = at * kSquareCols; k < (at + 1) * kSquareCols; ++k) {
      sum = __fmaf_rn(x[k], x[k], sum);
      norm.scaled.row<bf16_bits>(r)[k] = to_bf16(__fmul_rn(x[k], norm.gain[k]));
    }
    norm.squares.row<float>(r)[at] = sum;
  }
}

// embed: out[i,:] = table[token of row i,:]
// table (v,d) bf16, row_major or tiles16x32 with pair stride 8; out (n,d) f32
// grid n, block 256: one block per row
// moves nd table values and 4nd bytes; a few microseconds of latency
// exact: a bf16 value widens to f32; with a gain, out * gain rounds once; zeros go into the padding
//   of out
// a token outside [0, v) gives a row of NaN: nothing is read there
__global__ void embed_kernel(const __grid_constant__ EmbedArgs args) {
  pdl_launch();
  pdl_wait();
  const auto r = static_cast<int32_t>(blockIdx.x);
  const Row row = row_at(args.rows, r);
  if (!row.exists) return;
  const Segment& segment = args.rows.segments.data()[row.segment];
  const int32_t token =
      segment.row_tokens != nullptr ? segment.row_tokens[row.index] : segment.tok[row.position];
  auto* out = args.out.row<float>(r);
  if (token < 0 || token >= args.table.rows) {
    for (auto k = static_cast<int32_t>(threadIdx.x); k < args.table.cols; k += kThreads) {
      out[k] = __uint_as_float(0x7fc00000u);
    }
  } else {
    each_octet(args.table, token, threadIdx.x, kThreads,
               [&](int32_t first, const float(&values)[kOctet]) {
                 for (int32_t j = 0; j < kOctet; ++j) out[first + j] = values[j];
               });
  }
  if (args.gain.gain == nullptr) return;
  sync_block();
  give_to_norm(args.gain, r, out, args.table.cols);
}

}  // namespace

void embed(cudaStream_t stream, const EmbedArgs& args) {
  SPECRT_CHECK(args.table.dtype == DType::bf16 && args.table.layout != Layout::panels16,
               "embed: CUDA reads bf16 tables, row-major or in tiles; rebuild with `specrt build "
               "--backend cuda`");
  launch(stream, embed_kernel, dim3(static_cast<unsigned>(row_count(args.rows))), kThreads, 0, args,
         {.pdl = true});
}

}  // namespace specrt::cuda

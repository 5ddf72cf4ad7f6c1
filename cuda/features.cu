// Hidden states of the target: what a step keeps of them, what a drafter's step loads, and where
// those of a tree go.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/rows.h"

namespace specrt::cuda {
namespace {

constexpr unsigned kThreads = 256;

// keep_features: feature (base + i + ahead, first + k) = x[i,k] in bf16
// x (n,d) f32
// grid n, block 256: one block per row
// moves 6nd bytes; a few microseconds of latency
// rounds to nearest even, once
// a slot outside of the features keeps nothing, nor one ahead that has features
__global__ void keep_features_kernel(const __grid_constant__ KeepFeaturesArgs args) {
  pdl_launch();
  pdl_wait();
  const auto r = static_cast<int32_t>(blockIdx.x);
  const Row row = row_at(args.rows, r);
  const int32_t slot = row.slot + args.ahead;
  if (!row.exists || slot < 0 || slot >= args.features.slots) return;
  const Segment& segment = args.rows.segments.data()[row.segment];
  if (args.ahead > 0 && has_features(*segment.cells, slot)) return;
  auto* out =
      reinterpret_cast<bf16_bits*>(segment.features + slot * feature_row_bytes(args.features)) +
      args.first;
  const auto* x = args.x.row<float>(r);
  for (auto k = static_cast<int32_t>(threadIdx.x); k < args.x.cols; k += kThreads) {
    out[k] = to_bf16(x[k]);
  }
}

template <typename T>
__device__ T stored(float value);
template <>
__device__ float stored<float>(float value) {
  return value;
}
template <>
__device__ bf16_bits stored<bf16_bits>(float value) {
  return to_bf16(value);
}

// load_features: out[i,k] = feature (position of i, first + k), or where there is none mask[k] or
//   that of the last position that has any; or the estimate kept behind its parent, there alone
// mask (d) f32; out (n,d) bf16 or f32
// grid n, block 256: one block per row
// moves 2nd bytes and 2nd or 4nd more; a few microseconds of latency
// exact but for the mask in bf16, which rounds once
template <typename T>
__global__ void load_features_kernel(const __grid_constant__ LoadFeaturesArgs args) {
  pdl_launch();
  pdl_wait();
  const auto r = static_cast<int32_t>(blockIdx.x);
  const Row row = row_at(args.rows, r);
  if (!row.exists) return;
  const Segment& segment = args.rows.segments.data()[row.segment];
  const bool own = has_features(*segment.cells, row.position);
  if (own && args.missing == MissingFeatures::estimates) return;
  const bool masked = !own && args.missing == MissingFeatures::mask;
  const int32_t instead = args.missing == MissingFeatures::last ? last_with_features(*segment.cells)
                                                                : estimate_slot(segment, row.index);
  const int32_t slot = own ? row.position : instead;
  const bool inside = slot >= 0 && slot < args.features.slots;
  const auto* kept = reinterpret_cast<const bf16_bits*>(segment.features +
                                                        slot * feature_row_bytes(args.features)) +
                     args.first;
  auto* out = args.out.row<T>(r);
  for (auto k = static_cast<int32_t>(threadIdx.x); k < args.out.cols; k += kThreads) {
    out[k] = stored<T>(masked ? args.mask[k] : inside ? to_float(kept[k]) : 0.0f);
  }
}

// move_features: slot base + d = slot base + path[d] for d < count; path[d] >= d ascends
// features (slots,cols) bf16, moved in place
// grid so that each thread has 16 bytes of a row, block 256
// moves 4 cols bytes for each slot; latency bound
// a copy: exact. What a thread writes is not read by another, and by itself no more
// needs slots within the features, rows padded to 16 bytes
__global__ void __launch_bounds__(kThreads)
    move_features_kernel(const __grid_constant__ MoveFeaturesArgs args) {
  pdl_launch();
  pdl_wait();
  const int64_t bytes = feature_row_bytes(args.rows);
  const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * 16;
  if (at >= bytes) return;
  std::byte* first = args.features + args.span->base * bytes + at;
  const int32_t count = *args.count;
  for (int32_t d = 0; d < count; ++d) {
    st16(first + d * bytes, ld_cg16(first + args.path[d] * bytes));
  }
}

// convert: out[i,k] = x[i,k]
// x (n,d) f32; out (n,d) bf16 or f32
// grid n, block 256: one block per row
// moves 6nd or 8nd bytes; a few microseconds of latency
// rounds to nearest even, once
template <typename T>
__global__ void convert_kernel(const __grid_constant__ ConvertArgs args) {
  pdl_launch();
  pdl_wait();
  const auto r = static_cast<int32_t>(blockIdx.x);
  if (!row_at(args.rows, r).exists) return;
  const auto* x = args.x.row<float>(r);
  auto* out = args.out.row<T>(r);
  for (auto k = static_cast<int32_t>(threadIdx.x); k < args.x.cols; k += kThreads) {
    out[k] = stored<T>(x[k]);
  }
}

void check_bf16(const char* op, const FeatureRows& features) {
  SPECRT_CHECK(features.dtype == DType::bf16, op,
               ": CUDA keeps features in bf16; rebuild with `specrt build --backend cuda`");
}

dim3 row_blocks(const StepRows& rows) { return dim3(static_cast<unsigned>(row_count(rows))); }

}  // namespace

void keep_features(cudaStream_t stream, const KeepFeaturesArgs& args) {
  check_bf16("keep_features", args.features);
  launch(stream, keep_features_kernel, row_blocks(args.rows), kThreads, 0, args, {.pdl = true});
}

void load_features(cudaStream_t stream, const LoadFeaturesArgs& args) {
  check_bf16("load_features", args.features);
  const auto kernel =
      args.out.dtype == DType::f32 ? load_features_kernel<float> : load_features_kernel<bf16_bits>;
  launch(stream, kernel, row_blocks(args.rows), kThreads, 0, args, {.pdl = true});
}

void convert(cudaStream_t stream, const ConvertArgs& args) {
  const auto kernel =
      args.out.dtype == DType::f32 ? convert_kernel<float> : convert_kernel<bf16_bits>;
  launch(stream, kernel, row_blocks(args.rows), kThreads, 0, args, {.pdl = true});
}

void move_features(cudaStream_t stream, const MoveFeaturesArgs& args) {
  check_bf16("move_features", args.rows);
  const int64_t chunks = feature_row_bytes(args.rows) / 16;
  const auto blocks = static_cast<unsigned>((chunks + kThreads - 1) / kThreads);
  launch(stream, move_features_kernel, dim3(blocks), kThreads, 0, args, {.pdl = true});
}

}  // namespace specrt::cuda

// What the two kernels of attention share: which positions a row sees, and where its partial
// results lie between the kernels.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/fold.h"
#include "cuda/rows.h"

namespace specrt::cuda {

// The logical positions [begin, end) that a row sees. Position j < base is slot j; position base +
// k is the row of the k-th bit of `sees`.
struct Sight {
  int32_t begin;
  int32_t end;
};

__device__ __forceinline__ Sight sight_of(const Row& row, int32_t window) {
  const int32_t end = row.base + __popcll(row.sees);
  return {window > 0 && end > window ? end - window : 0, end};
}

// Partial results of every row, query head and split, in AttentionArgs::scratch.
class Partials {
 public:
  explicit __device__ Partials(const AttentionArgs& args)
      : heads_(args.heads),
        splits_(split_count(args.rows.positions)),
        dim_(args.kv.head_dim),
        o_(reinterpret_cast<float*>(args.scratch.data)),
        ml_(o_ + int64_t{row_count(args.rows)} * heads_ * splits_ * dim_) {}

  static size_t bytes(int64_t rows, const AttentionArgs& args, int32_t positions) {
    return static_cast<size_t>(rows * args.heads * split_count(positions)) *
           static_cast<size_t>(args.kv.head_dim + 2) * sizeof(float);
  }

  __device__ float* o(int32_t row, int32_t head, int32_t split) const {  // (e,)
    return o_ + index(row, head, split) * dim_;
  }
  __device__ float2* ml(int32_t row, int32_t head, int32_t split) const {
    return reinterpret_cast<float2*>(ml_) + index(row, head, split);
  }

 private:
  __device__ int64_t index(int32_t row, int32_t head, int32_t split) const {
    return (int64_t{row} * heads_ + head) * splits_ + split;
  }

  int32_t heads_;
  int32_t splits_;
  int32_t dim_;
  float* o_;
  float* ml_;
};

// The attention of `count` segments from `first` on.
inline AttentionArgs part_of(const AttentionArgs& args, int32_t first, int32_t count) {
  AttentionArgs part = args;
  const auto* segments = args.rows.segments.data() + first;
  std::copy_n(segments, count, part.rows.segments.data());
  part.rows.segment_count = count;
  part.q.data += first * args.rows.capacity * args.q.stride;
  part.out.data += first * args.rows.capacity * args.out.stride;
  return part;
}

// Folds the splits of each row and head, and writes AttentionArgs::out.
void attention_merge(cudaStream_t stream, const AttentionArgs& args);

}  // namespace specrt::cuda

// plan_streams, insert_streams: the rows of a target's last layers, and what they begin with.
#include <limits>

#include "cuda/exp.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/rows.h"
#include "cuda/table.cuh"

namespace specrt::cuda {
namespace {

constexpr unsigned kScoreThreads = 32 * kTreeWidth;  // a warp a candidate
constexpr unsigned kPlanThreads = 128;
constexpr unsigned kInsertThreads = 256;

// Whether any of `rows` rows of a tree has `row` as its parent; the same in all lanes of a warp.
__device__ __forceinline__ bool has_children(const TreeShape& shape, int32_t row, int32_t rows) {
  bool found = false;
  for (auto i = static_cast<int32_t>(lane_index()); i < rows; i += 32) {
    found = found || (i > row && shape.parent[i] == row);
  }
  return warp_any(found);
}

// x . row of the token, in all lanes of a warp: a sum for each lane over its octets ascending, then
// lanes 16, 8, 4, 2 and 1 apart. NaN of a token outside of the table.
__device__ __forceinline__ float dot_of_token(const Weight& table, int32_t token, const float* x) {
  if (token < 0 || token >= table.rows) return std::numeric_limits<float>::quiet_NaN();
  float sum = 0.0f;
  each_octet(table, token, lane_index(), 32, [&](int32_t first, const float(&values)[kOctet]) {
    const uint4 low = ld_cg16(x + first), high = ld_cg16(x + first + 4);
    const uint32_t words[] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int32_t j = 0; j < kOctet; ++j) {
      if (first + j < table.cols) sum = __fmaf_rn(__uint_as_float(words[j]), values[j], sum);
    }
  });
  for (unsigned apart = 16; apart > 0; apart /= 2) sum = __fadd_rn(sum, shfl_xor(sum, apart));
  return sum;
}

// The share of `rank` in the softmax of all logits; NaN where one of them is.
__device__ __forceinline__ float share_of(const float (&logits)[kTreeWidth], int32_t rank) {
  float most = logits[0], sum = 0.0f;
  for (const float logit : logits) most = fmaxf(most, logit);
  for (const float logit : logits) sum = __fadd_rn(sum, exponential(__fsub_rn(logit, most)));
  return __fdiv_rn(exponential(__fsub_rn(logits[rank], most)), sum);
}

// score_rows: StreamingCells::score[i] = the share of row i's token in the softmax of
//   exit[parent,:] . table[candidate,:] over the candidates of its depth
// exit (n,d) f32; table (v,d) bf16, row_major or tiles16x32 with pair stride 8; cells of sequences
// grid n, block 256: one block per parent, a warp per candidate; blocks of rows without children
//   leave
// moves 16d bytes of the table and 4d of exit a parent, mostly from L2; latency bound
// the shares only say which rows are pruned, so no two backends need to agree on them
// a candidate outside [0, v) makes the scores of its depth NaN: nothing is read there
__global__ void __launch_bounds__(kScoreThreads)
    score_rows_kernel(const __grid_constant__ PlanStreamsArgs args) {
  SPECRT_SHARED(float[kTreeWidth], logits);
  pdl_launch();
  pdl_wait();
  const auto r = static_cast<int32_t>(blockIdx.x);
  const Row parent = row_at(args.rows, r);
  if (!parent.exists) return;
  const Segment& segment = args.rows.segments.data()[parent.segment];
  const SegmentStreams& streams = segment.streams;
  if (streams.shape == nullptr) return;
  const TreeShape& shape = streams.shape->tree;
  const int32_t rows = segment.span->rows;
  if (!has_children(shape, parent.index, rows)) return;
  const auto rank = static_cast<int32_t>(warp_index());
  const int32_t token = streams.tree->candidate[shape.depth[parent.index]][rank];
  const float logit = dot_of_token(args.table, token, args.exit.row<const float>(r));
  if (elect_lane0()) logits[rank] = logit;
  sync_block();
  const auto row = static_cast<int32_t>(threadIdx.x);
  if (row <= parent.index || row >= rows || shape.parent[row] != parent.index) return;
  streams.cells->score[row] = share_of(logits, shape.rank[row]);
}

// Device memory of earlier kernels in shared memory, where one thread works on it word by word.
template <typename T>
class Staged {
 public:
  static constexpr int32_t kWords = static_cast<int32_t>(sizeof(T) / sizeof(uint32_t));
  static_assert(sizeof(T) % sizeof(uint32_t) == 0 && alignof(T) <= alignof(uint64_t));

  // What the block has for it; as raw memory, as shared variables have no constructors.
  struct Memory {
    uint64_t words[(sizeof(T) + sizeof(uint64_t) - 1) / sizeof(uint64_t)];
  };

  explicit __device__ Staged(Memory& memory) : words_(reinterpret_cast<uint32_t*>(memory.words)) {}

  // All threads of the block; behind a barrier the others' words are there.
  __device__ void load(const T& from) const {
    const auto* words = reinterpret_cast<const uint32_t*>(&from);
    for (auto i = static_cast<int32_t>(threadIdx.x); i < kWords; i += kPlanThreads) {
      words_[i] = ld_cg4(words + i);
    }
  }
  __device__ void store(T& to) const {
    auto* words = reinterpret_cast<uint32_t*>(&to);
    for (auto i = static_cast<int32_t>(threadIdx.x); i < kWords; i += kPlanThreads) {
      words[i] = words_[i];
    }
  }
  __device__ T& operator*() const { return *reinterpret_cast<T*>(words_); }

 private:
  uint32_t* words_;
};

// Whether a row goes on, of 64 threads one bit each; all threads of the block.
__device__ __forceinline__ uint64_t rows_that_go_on(const StreamingShape& shape, int32_t rows,
                                                    const float* scores) {
  SPECRT_SHARED(unsigned[kPlanThreads / 32], halves);
  const auto row = static_cast<int32_t>(threadIdx.x);
  const unsigned half = warp_ballot(row < rows && goes_on(shape, rows, row, scores));
  if (elect_lane0()) halves[warp_index()] = half;
  sync_block();
  return uint64_t{halves[1]} << 32 | halves[0];
}

// What plan_tree_streams does, with a thread for each row where rows do not need each other.
__device__ __forceinline__ void plan_tree(const PlanStreamsArgs& args, const StepSpan& span,
                                          const StreamingShape& shape, TreeCells& tree,
                                          StreamingCells& cells) {
  const int32_t rows = span.rows;
  float* scores = args.rows.pruning == Pruning::scored ? cells.score : nullptr;
  if (scores != nullptr && threadIdx.x == 0) score_ways(shape.tree, rows, scores);
  sync_block();
  const uint64_t kept = rows_that_go_on(shape, rows, scores);
  if (threadIdx.x == 0) keep_rows(shape, span, tree, cells, kept);
  sync_block();
  const int32_t row = cells.kept + static_cast<int32_t>(threadIdx.x);
  if (row < cells.span.rows) place_stream(cells, row, args.positions);
}

// plan_streams: plan_tree_streams and plan_prompt_streams of device/streaming.h
// shape, cells and tree of each sequence, a few kilobytes; cells hold the scores, if there are any
// grid the segments, block 128: copies into shared memory and back; a thread decides on a row of
// the
//   fed tree or places one of a stream, and the first one moves main rows and multiplies scores
// moves 5 KB a segment in, 3 KB out; latency bound: some thousand cycles
// the CPU backend's plan, given the same scores
__global__ void __launch_bounds__(kPlanThreads)
    plan_streams_kernel(const __grid_constant__ PlanStreamsArgs args) {
  SPECRT_SHARED(Staged<StreamingShape>::Memory, shape_memory);
  SPECRT_SHARED(Staged<TreeCells>::Memory, tree_memory);
  SPECRT_SHARED(Staged<StreamingCells>::Memory, cells_memory);
  pdl_launch();
  pdl_wait();
  const Segment& segment = args.rows.segments.data()[blockIdx.x];
  const SegmentStreams& streams = segment.streams;
  if (streams.cells == nullptr) return;
  const Staged<StreamingShape> shape(shape_memory);
  const Staged<TreeCells> tree(tree_memory);
  const Staged<StreamingCells> cells(cells_memory);
  if (streams.shape != nullptr) shape.load(*streams.shape);
  tree.load(*streams.tree);
  cells.load(*streams.cells);
  sync_block();
  if (streams.shape != nullptr) {
    plan_tree(args, *segment.span, *shape, *tree, *cells);
  } else if (threadIdx.x == 0) {
    plan_prompt_streams(*segment.span, *tree, *cells, args.streams, args.positions);
  }
  sync_block();
  tree.store(*streams.tree);
  cells.store(*streams.cells);
}

struct InsertJob {
  InsertStreamsArgs args;
  StepRows above;  // with_streams(args.rows)
};

// insert_streams: out[i,:] = x[main row of i,:], plus embedding[j,:] for stream j
// x (n,d) f32; embedding (streams,d) f32; out (n',d) f32, n' rows of with_streams; not x
// grid n', block 256: one block per row
// moves 4n'd bytes in, as many out, and 4d a stream, all but that from and to L2; latency bound
// one sum in f32
__global__ void __launch_bounds__(kInsertThreads)
    insert_streams_kernel(const __grid_constant__ InsertJob job) {
  pdl_launch();
  pdl_wait();
  const InsertStreamsArgs& args = job.args;
  const auto r = static_cast<int32_t>(blockIdx.x);
  const Row row = row_at(job.above, r);
  if (!row.exists) return;
  int32_t from = row.index;
  const float* embedding = nullptr;
  if (const StreamingCells* cells = args.rows.segments.data()[row.segment].streams.cells) {
    from = cells->from[main_row(*cells, row.index)];
    if (row.index >= cells->kept) {
      embedding = args.embedding + int64_t{stream_of(*cells, row.index)} * args.x.cols;
    }
  }
  const auto* x = args.x.row<const float>(row.segment * args.rows.capacity + from);
  auto* out = args.out.row<float>(r);
  for (auto k = static_cast<int32_t>(threadIdx.x); k < args.x.cols; k += kInsertThreads) {
    const float value = __uint_as_float(ld_cg4(x + k));
    out[k] = embedding == nullptr ? value : __fadd_rn(value, embedding[k]);
  }
}

}  // namespace

void plan_streams(cudaStream_t stream, const PlanStreamsArgs& args) {
  if (args.rows.pruning == Pruning::scored) {
    SPECRT_CHECK(args.table.dtype == DType::bf16 && args.table.layout != Layout::panels16,
                 "plan_streams: CUDA reads bf16 tables, row-major or in tiles; rebuild with "
                 "`specrt build --backend cuda`");
    launch(stream, score_rows_kernel, dim3(static_cast<unsigned>(row_count(args.rows))),
           kScoreThreads, 0, args, {.pdl = true});
  }
  launch(stream, plan_streams_kernel, dim3(static_cast<unsigned>(args.rows.segment_count)),
         kPlanThreads, 0, args, {.pdl = true});
}

void insert_streams(cudaStream_t stream, const InsertStreamsArgs& args) {
  const InsertJob job{.args = args, .above = with_streams(args.rows)};
  launch(stream, insert_streams_kernel, dim3(static_cast<unsigned>(row_count(job.above))),
         kInsertThreads, 0, job, {.pdl = true});
}

}  // namespace specrt::cuda

#include "cpu/streaming.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"

namespace specrt::cpu {
namespace {

constexpr int32_t kSums = 16;

float dot(const float* a, const float* b, int32_t n) {
  std::array<float, kSums> sums{};
  int32_t k = 0;
  for (; k + kSums <= n; k += kSums) {
    for (int32_t lane = 0; lane < kSums; ++lane) {
      sums[static_cast<size_t>(lane)] += a[k + lane] * b[k + lane];
    }
  }
  float sum = 0;
  for (; k < n; ++k) sum += a[k] * b[k];
  for (const float part : sums) sum += part;
  return sum;
}

using Probabilities = std::array<float, kTreeWidth>;

// Softmax over the candidates of a depth, whose rows of the table are `candidates`.
Probabilities probabilities_of(const float* exit, const float* candidates, int32_t cols) {
  Probabilities p;
  for (size_t rank = 0; rank < p.size(); ++rank) {
    p[rank] = dot(exit, candidates + static_cast<int64_t>(rank) * cols, cols);
  }
  const float most = *std::max_element(p.begin(), p.end());
  float sum = 0;
  for (float& each : p) sum += each = std::exp(each - most);
  for (float& each : p) each /= sum;
  return p;
}

// The table's rows of the candidates for a depth, (kTreeWidth, d).
void gather(const Kernels& kernels, const PlanStreamsArgs& args, const TreeCells& tree,
            int32_t depth, float* out) {
  const int32_t cols = args.table.cols;
  RowList list;
  for (int32_t rank = 0; rank < kTreeWidth; ++rank) {
    const int32_t token = tree.candidate[depth][rank];
    SPECRT_CHECK(token >= 0 && token < args.table.rows, "plan_streams: token ", token,
                 " of a vocabulary of ", args.table.rows);
    Row& row = list.rows[static_cast<size_t>(list.count++)];
    row.row = rank;
    row.token = token;
  }
  kernels.embed({.rows = args.rows,
                 .table = args.table,
                 .out = {.data = reinterpret_cast<std::byte*>(out),
                         .dtype = DType::f32,
                         .cols = cols,
                         .stride = cols * static_cast<int64_t>(sizeof(float))}},
                list);
}

// Of each row of the tree behind its parent. Rows of a depth lie together.
void score_rows(const Kernels& kernels, const PlanStreamsArgs& args, int32_t segment,
                const TreeShape& shape, int32_t rows, Team& team, float* scores) {
  const TreeCells& tree = *args.rows.segments[static_cast<size_t>(segment)].streams.tree;
  const int32_t cols = args.table.cols, first = segment * args.rows.capacity;
  auto* candidates = reinterpret_cast<float*>(
      team.scratch(0, static_cast<size_t>(kTreeWidth) * static_cast<size_t>(cols) * sizeof(float)));
  std::array<Probabilities, kMaxStepRows> behind;  // of those parents that were reached
  uint64_t reached = 0;
  int32_t depth = 0;
  for (int32_t row = 1; row < rows; ++row) {
    const int32_t parent = shape.parent[row];
    Probabilities& p = behind[static_cast<size_t>(parent)];
    if (shape.depth[row] != depth) {
      depth = shape.depth[row];
      gather(kernels, args, tree, depth - 1, candidates);
    }
    if ((reached >> parent & 1) == 0) {
      reached |= uint64_t{1} << parent;
      p = probabilities_of(args.exit.row<float>(first + parent), candidates, cols);
    }
    scores[row] = p[static_cast<size_t>(shape.rank[row])];
  }
}

}  // namespace

void plan_streams(const Kernels& kernels, const PlanStreamsArgs& args, int32_t segment,
                  Team& team) {
  const Segment& own = args.rows.segments[static_cast<size_t>(segment)];
  const SegmentStreams& streams = own.streams;
  if (streams.cells == nullptr) return;
  const int32_t rows = own.span->rows;
  if (streams.shape == nullptr) {
    SPECRT_CHECK(rows >= 1 && rows + args.streams <= kMaxStepRows, "plan_streams: ", rows,
                 " rows of a prompt and ", args.streams, " streams");
    plan_prompt_streams(*own.span, *streams.tree, *streams.cells, args.streams, args.positions);
    return;
  }
  const StreamingShape& shape = *streams.shape;
  SPECRT_CHECK(shape.streams >= 0 && shape.streams <= args.streams, "plan_streams: ", shape.streams,
               " streams of ", args.streams);
  std::array<float, kMaxStepRows> scores{};
  const bool scored = args.rows.pruning == Pruning::scored;
  if (scored) score_rows(kernels, args, segment, shape.tree, rows, team, scores.data());
  plan_tree_streams(shape, *own.span, *streams.tree, *streams.cells, args.positions,
                    scored ? scores.data() : nullptr);
}

}  // namespace specrt::cpu

// Streams under the scripted backend: which rows go on, what streams see and propose, and what must
// hold of them.
#include <limits>

#include "scripted_backend.h"

namespace specrt::testing {
namespace {

// Hash of the tokens on the way to a row of a step, from the sequence and the tree.
uint64_t path_hash(const Segment& segment, int32_t row) {
  uint64_t hash = kEmptyContext;
  const int32_t base = peek(segment.span->base);
  for (int32_t p = 0; p < base; ++p) hash = extend_context(hash, peek(segment.tok[p]));
  for (int32_t i = 0; i <= row; ++i) {
    if ((segment.sees[row] >> i & 1) == 0) continue;
    hash = extend_context(hash, peek(segment.row_tokens[i]));
  }
  return hash;
}

}  // namespace

// A row's score is a hash of the tokens on the way to it, often that of another row or unknown.
std::vector<float> ScriptedBackend::scores_of(const PlanStreamsArgs& args, int32_t segment) {
  const Segment& own = args.rows.segments[static_cast<size_t>(segment)];
  const TreeShape& shape = own.streams.shape->tree;
  std::vector<float> scores(kMaxStepRows);
  for (int32_t row = 1; row < own.span->rows; ++row) {
    const int32_t parent = shape.parent[row];
    const std::byte* exit = args.exit.row<std::byte>(segment * args.rows.capacity + parent);
    races_.access(exit, CellAccess::read);
    const auto fed = load<TableRow>(exit);
    require(fed.below == path_hash(own, parent), "row ", row, " is scored by another parent");
    const auto token = static_cast<uint64_t>(peek(own.streams.tree->token[row]));
    const uint64_t bits = mix(fed.below ^ mix(token + 1));
    float& score = scores[static_cast<size_t>(row)];
    score = static_cast<float>(1 + bits % 4096) / 4096.0f;
    if (bits >> 60 == 0) score = std::numeric_limits<float>::quiet_NaN();
    if (bits >> 60 > 11) score = 0.5f;
  }
  return scores;
}

void ScriptedBackend::run(const PlanStreamsArgs& args) {
  stream_positions_ = args.positions;
  for (int32_t s = 0; s < args.rows.segment_count; ++s) {
    const Segment& segment = args.rows.segments[static_cast<size_t>(s)];
    const SegmentStreams& streams = segment.streams;
    if (streams.cells == nullptr) continue;
    streaming_[segment.span] = streams.cells;
    if (streams.shape == nullptr) {
      plan_prompt_streams(*segment.span, *streams.tree, *streams.cells, args.streams,
                          args.positions);
      continue;
    }
    const bool scored = args.rows.pruning == Pruning::scored;
    std::vector<float> scores;
    if (scored) scores = scores_of(args, s);
    plan_tree_streams(*streams.shape, *segment.span, *streams.tree, *streams.cells, args.positions,
                      scored ? scores.data() : nullptr);
    check_kept(args, segment);
  }
}

// The first row is kept, and of every other row its parent.
void ScriptedBackend::check_kept(const PlanStreamsArgs& args, const Segment& segment) {
  const StreamingCells& cells = *segment.streams.cells;
  const StreamingShape& shape = *segment.streams.shape;
  const int32_t kept = peek(cells.kept), streams = peek(cells.streams);
  const int32_t rows = peek(segment.span->rows);
  require((kept >= 1) == (rows >= 1) && kept <= shape.kept, "of ", rows, " rows ", kept,
          " are kept where ", shape.kept, " may be");
  require(kept * (1 + streams) == peek(cells.span.rows) || kept == 0, kept, " rows of ", streams,
          " streams are ", peek(cells.span.rows));
  require(peek(cells.span.rows) <= args.rows.stream_capacity, "streams have no place in ",
          args.rows.stream_capacity, " rows");
  for (int32_t i = 0; i < kept; ++i) {
    const int32_t from = peek(cells.from[i]);
    const int32_t parent = peek(cells.from[cells.shape.parent[i]]);
    require(i == 0 ? from == 0 : from > peek(cells.from[i - 1]) && from < rows, "row ", i,
            " is row ", from, " of ", rows);
    require(parent == shape.tree.parent[from], "row ", from, " is kept behind ", parent);
    require(cells.shape.depth[i] == shape.tree.depth[from] &&
                cells.shape.rank[i] == shape.tree.rank[from],
            "row ", from, " is kept at another depth or rank");
  }
}

void ScriptedBackend::run(const InsertStreamsArgs& args) {
  const StepRows above = with_streams(args.rows);
  each_row(above, [&](const Segment& segment, int32_t i, int32_t row) {
    const int32_t s = row / above.capacity;
    const StreamingCells* cells = segment.streams.cells;
    const int32_t from = cells == nullptr ? i : cells->from[main_row(*cells, i)];
    const std::byte* x = args.x.row<std::byte>(s * args.rows.capacity + from);
    races_.access(x, CellAccess::read);
    auto fed = load<TableRow>(x);
    if (is_stream(segment, i)) {
      const int32_t stream = stream_of(*cells, i);
      require(stream < args.streams, "stream ", stream, " of ", args.streams);
      fed.token = -1 - stream;
      fed.position = segment.span->base + segment.depth[i];
    }
    require(fed.position < args.rows.positions, "position ", fed.position, " in a step for ",
            args.rows.positions);
    races_.access(args.out.row<std::byte>(row), CellAccess::write);
    std::memcpy(args.out.row<std::byte>(row), &fed, sizeof(fed));
  });
}

// A stream that a row behind `position` others sees, `streams` of them streams.
void ScriptedBackend::check_stream(const FedToken& fed, int32_t position, int32_t streams) {
  const int32_t shift = stream_positions_ == StreamPositions::shifted ? streams : -1;
  require(fed.token == -1 - streams && fed.position == position + shift, "stream ", streams,
          " behind ", position, " tokens is token ", fed.token, " of position ", fed.position);
}

// What stream `stream` of the row at `position` makes of the tokens up to there: the logits behind
// those that the model itself would choose.
std::vector<float> ScriptedBackend::stream_logits(const TableParams& params, const Cells& s,
                                                  uint64_t hash, int32_t position, int32_t stream) {
  std::vector<float> logits(16);
  for (int32_t i = 0; i <= stream; ++i) {
    table_logits(params, hash, logits.data());
    hash = extend_context(hash, in_order(s, logits.data(), params.vocab, position + 1 + i).front());
  }
  TableParams own = params;
  own.own = mix(params.truth + 1);
  own.error = params.stream_error;
  table_logits(own, hash, logits.data());
  return logits;
}

void ScriptedBackend::run_stream_head(const LinearArgs& args, const Segment& segment, int32_t i,
                                      int32_t row) {
  const auto params = load<TableParams>(args.w.data);
  const StreamingCells& cells = *segment.streams.cells;
  const int32_t stream = stream_of(cells, i);
  const int32_t position = segment.span->base + segment.depth[main_row(cells, i)];
  const uint64_t hash = load<uint64_t>(args.x.row<std::byte>(row)) ^ kStreamMark;
  const std::vector<float> logits = stream_logits(params, *segment.cells, hash, position, stream);
  std::memcpy(args.out.row<float>(row), logits.data(),
              static_cast<size_t>(params.vocab) * sizeof(float));
  heads_[segment.cells] = params;
}

void ScriptedBackend::pick_streamed(const PickCandidatesArgs& args) {
  const Cells& s = *args.sequence.cells;
  TreeCells& tree = *args.sequence.tree;
  const int32_t levels = min_i32(args.lists, streamed_levels(s, *args.streams));
  tree.levels = levels;
  for (int32_t depth = 0; depth < levels; ++depth) {
    const int32_t row = candidate_row(tree, *args.streams, depth);
    require(row >= peek(args.streams->kept) && row < peek(args.streams->span.rows),
            "candidates come from row ", row);
    if (fault_ == Fault::stale_candidates) continue;
    int32_t best[kTreeWidth];
    keep_best(args, depth, in_order(s, args.logits, args.first_row + row, s.committed + depth),
              best);
  }
}

void ScriptedBackend::keep_best(const PickCandidatesArgs& args, int32_t list,
                                const std::vector<int32_t>& order, int32_t (&best)[kTreeWidth]) {
  for (size_t rank = 0; rank < kTreeWidth; ++rank)
    best[rank] = order[std::min(rank, order.size() - 1)];
  keep_candidates(*args.sequence.tree, list, best);
}

// Those of a tree about to grow are what the streams make of the tokens that are there now.
void ScriptedBackend::check_candidates(const SequenceCells& sequence) {
  const Cells& s = *sequence.cells;
  const int32_t committed = peek(s.committed), levels = peek(sequence.tree->levels);
  require(committed + levels < peek(s.limit), levels, " levels of candidates behind ", committed);
  uint64_t hash = kEmptyContext;
  for (int32_t p = 0; p + 1 < committed; ++p) hash = extend_context(hash, peek(sequence.tok[p]));
  for (int32_t depth = 0; depth < levels; ++depth) {
    const TableParams& params = heads_.at(&s);
    const std::vector<float> logits = stream_logits(params, s, hash, committed - 2, depth);
    const std::vector<int32_t> order = in_order(s, logits.data(), params.vocab, committed + depth);
    for (size_t rank = 0; rank < kTreeWidth; ++rank) {
      const int32_t candidate = peek(sequence.tree->candidate[depth][rank]);
      require(candidate == order[std::min(rank, order.size() - 1)], "candidate ", rank,
              " of depth ", depth + 1, " is token ", candidate);
    }
  }
}

}  // namespace specrt::testing

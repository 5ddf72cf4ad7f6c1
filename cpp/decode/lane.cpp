#include "decode/lane.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "decode/state_memory.h"

namespace specrt {

Lane::Lane(Model& model, Stream& stream, std::vector<Sequence*> sequences,
           const LaneOptions& options)
    : model_(model),
      stream_(stream),
      sequences_(std::move(sequences)),
      streams_(options.streaming == Streaming::on ? model.streams() : 0),
      least_step_ms_(options.least_step_ms) {
  SPECRT_CHECK(!sequences_.empty() && sequences_.size() <= kMaxSegments, "a step serves 1 to ",
               kMaxSegments, " sequences, not ", sequences_.size());
  const auto more = static_cast<size_t>(backend().prompt_rows() / kMaxStepRows - 1);
  // Zeros: no rows.
  spans_ = alloc_state(backend(), sizeof(StepSpan) * (sequences_.size() + more));
  for (size_t s = 0; s < sequences_.size(); ++s) {
    caches_.push_back(model_.make_kv());
    features_.push_back(model_.make_features());
  }
  if (streams_ > 0) {
    streaming_ = alloc_state(backend(), sizeof(StreamingCells) * sequences_.size());
  }
  if (options.clocking == StepClocking::on) {
    clock_ = alloc_state(backend(), sizeof(StepClock), StateMemory::shared);
  }
}

void Lane::enqueue_clock(const StepRows& rows, ClockEdge edge) {
  if (clock_.data() == nullptr) return;
  backend().clock_step(
      stream_,
      {.rows = rows, .clock = clock_.as<StepClock>(), .edge = edge, .least_ms = least_step_ms_});
}

Segment Lane::segment(size_t s, const StepSpan* span) const {
  const SequenceCells& sequence = sequences_[s]->cells();
  return {.span = span,
          .tok = sequence.tok + model_.token_shift(),
          .kv = caches_[s].data(),
          .features = features_from_->features(s),
          .ahead = 1 + model_.token_shift(),
          .cells = sequence.cells};
}

StepRows Lane::step_rows(int32_t capacity, int32_t positions) const {
  StepRows rows;
  rows.segment_count = static_cast<int32_t>(sequences_.size());
  rows.capacity = capacity;
  rows.positions = std::min(positions, model_.context());
  for (size_t s = 0; s < sequences_.size(); ++s) rows.segments[s] = segment(s, span(s));
  return rows;
}

void Lane::enqueue_clocked(const StepRows& rows, Head head) {
  enqueue_clock(rows, ClockEdge::begin);
  model_.enqueue_step(stream_, rows, head);
  enqueue_clock(rows, ClockEdge::end);
}

void Lane::enqueue_step(int32_t capacity, int32_t positions, Head head) {
  enqueue_clocked(step_rows(capacity, positions), head);
}

StepRows Lane::tree_rows(int32_t capacity, int32_t positions, const TreeShape* shape) const {
  StepRows rows = step_rows(capacity, positions);
  for (size_t s = 0; s < sequences_.size(); ++s) {
    rows.segments[s].sees = shape->sees;
    rows.segments[s].depth = shape->depth;
    rows.segments[s].row_tokens = sequences_[s]->cells().tree->token;
  }
  return rows;
}

void Lane::enqueue_tree_step(int32_t capacity, int32_t positions, const TreeShape* shape) {
  for (size_t s = 0; s < sequences_.size(); ++s) {
    backend().grow_tree(stream_,
                        {.sequence = sequences_[s]->cells(), .span = span(s), .shape = shape});
  }
  enqueue_clocked(tree_rows(capacity, positions, shape), Head::all);
}

void Lane::enqueue_depth_step(int32_t capacity, int32_t positions, const TreeShape* shape,
                              int32_t depth) {
  StepRows rows = tree_rows(capacity, positions, shape);
  for (size_t s = 0; s < sequences_.size(); ++s) rows.segments[s].tree = shape;
  rows.select = RowSelect::parents;
  rows.depth = depth;
  enqueue_clocked(rows, Head::all);
}

// Streams stand for tokens behind those that are fed, so positions of the last layers lie further
// ahead.
void Lane::enqueue_streamed_step(const StreamedTree& tree, int32_t positions) {
  StepRows rows = tree_rows(tree.capacity, positions, &tree.shape->tree);
  rows.positions += streams_;
  rows.stream_capacity = tree.stream_capacity;
  rows.pruning = tree.pruning;
  for (size_t s = 0; s < sequences_.size(); ++s) {
    const SequenceCells& sequence = sequences_[s]->cells();
    backend().grow_tree(stream_, {.sequence = sequence,
                                  .span = span(s),
                                  .shape = &tree.shape->tree,
                                  .candidates = Candidates::streamed});
    rows.segments[s].streams = {.cells = streaming(s), .tree = sequence.tree, .shape = tree.shape};
  }
  enqueue_clocked(rows, Head::all);
}

void Lane::enqueue_candidates(size_t s, int32_t first_row) {
  backend().pick_candidates(stream_, {.sequence = sequences_[s]->cells(),
                                      .logits = model_.logits(),
                                      .first_row = first_row,
                                      .vocab = model_.vocab(),
                                      .lists = streams_,
                                      .scratch = model_.pick_scratch(),
                                      .streams = streaming(s)});
}

// The layers with streams have the rows that were kept, the others all.
void Lane::enqueue_move() {
  const std::vector<KvLayer> layers = kv_layers(model_.plan());
  const size_t before = static_cast<size_t>(layers_before_streams(model_.plan()));
  for (size_t s = 0; s < sequences_.size(); ++s) {
    const TreeCells& tree = *sequences_[s]->cells().tree;
    MoveKvArgs args{.span = span(s),
                    .kv = caches_[s].data(),
                    .layers = layers.data(),
                    .layer_count = static_cast<int32_t>(layers.size()),
                    .path = tree.path,
                    .count = &tree.path_length};
    if (streams_ > 0) {
      args.layers += before;
      args.layer_count -= static_cast<int32_t>(before);
      backend().move_kv(stream_, args);
      args.layers = layers.data();
      args.layer_count = static_cast<int32_t>(before);
      args.from = streaming(s)->from;
    }
    backend().move_kv(stream_, args);
    if (streams_ > 0 || !keeps_features(model_.plan())) continue;
    backend().move_features(stream_, {.span = span(s),
                                      .features = features(s),
                                      .rows = feature_rows(model_.plan()),
                                      .path = tree.path,
                                      .count = &tree.path_length});
  }
}

void Lane::enqueue_catch_up(int32_t positions) {
  const int32_t rows = most_rows();
  for (size_t s = 0; s < sequences_.size(); ++s) {
    backend().begin_catch_up(stream_, {.sequence = sequences_[s]->cells(),
                                       .span = span(s),
                                       .rows = rows,
                                       .window = model_.context(),
                                       .token_shift = model_.token_shift()});
  }
  enqueue_step(rows, positions, Head::none);
}

void Lane::enqueue_prompt_chunk(size_t s, int32_t begin, int32_t count, Head head) {
  SPECRT_CHECK(count >= 1 && count <= prompt_rows(), "a step feeds 1 to ", prompt_rows(),
               " prompt tokens, not ", count);
  StepRows rows;
  rows.capacity = kMaxStepRows;
  rows.positions = begin + count;
  StepSpan* own = span(s);
  for (int32_t left = count, fed = 0; left > 0; left -= fed) {
    fed = std::min(left, kMaxStepRows - (rows.segment_count == 0 ? streams_ : 0));
    backend().feed_prompt(stream_, {.span = own, .begin = begin + left - fed, .count = fed});
    rows.segments[static_cast<size_t>(rows.segment_count)] = segment(s, own);
    own = span(size() + static_cast<size_t>(rows.segment_count++));
  }
  if (streams_ > 0 && head == Head::last) {
    rows.positions += streams_;
    rows.segments[0].streams = {.cells = streaming(s), .tree = sequences_[s]->cells().tree};
  }
  model_.enqueue_step(stream_, rows, head);
}

}  // namespace specrt

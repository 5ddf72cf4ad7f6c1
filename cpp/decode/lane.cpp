#include "decode/lane.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace specrt {

Lane::Lane(Model& model, Stream& stream, std::vector<Sequence*> sequences,
           const LaneOptions& options)
    : model_(model),
      stream_(stream),
      sequences_(std::move(sequences)),
      least_step_ms_(options.least_step_ms) {
  SPECRT_CHECK(!sequences_.empty() && sequences_.size() <= kMaxSegments, "a step serves 1 to ",
               kMaxSegments, " sequences, not ", sequences_.size());
  spans_ = backend().alloc(sizeof(StepSpan) * sequences_.size());  // zeros: no rows
  for (size_t s = 0; s < sequences_.size(); ++s) {
    caches_.push_back(model_.make_kv());
    features_.push_back(model_.make_features());
  }
  if (options.clocking == StepClocking::on) clock_ = backend().alloc_shared(sizeof(StepClock));
}

void Lane::enqueue_clock(const StepRows& rows, ClockEdge edge) {
  if (clock_.data() == nullptr) return;
  backend().clock_step(
      stream_,
      {.rows = rows, .clock = clock_.as<StepClock>(), .edge = edge, .least_ms = least_step_ms_});
}

Segment Lane::segment(size_t s) const {
  const SequenceCells& sequence = sequences_[s]->cells();
  return {.span = span(s),
          .tok = sequence.tok + model_.token_shift(),
          .kv = caches_[s].data(),
          .features = features_from_->features(s),
          .cells = sequence.cells};
}

void Lane::enqueue_step(int32_t capacity, int32_t positions, Head head) {
  StepRows rows;
  rows.segment_count = static_cast<int32_t>(sequences_.size());
  rows.capacity = capacity;
  rows.positions = std::min(positions, model_.context());
  for (size_t s = 0; s < sequences_.size(); ++s) rows.segments[s] = segment(s);
  enqueue_clock(rows, ClockEdge::begin);
  model_.enqueue_step(stream_, rows, head);
  enqueue_clock(rows, ClockEdge::end);
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
  backend().feed_prompt(stream_, {.span = span(s), .begin = begin, .count = count});
  StepRows rows;
  rows.segment_count = 1;
  rows.capacity = kMaxStepRows;
  rows.positions = begin + count;
  rows.segments[0] = segment(s);
  model_.enqueue_step(stream_, rows, head);
}

}  // namespace specrt

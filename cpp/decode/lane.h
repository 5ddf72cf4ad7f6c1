// A model on a stream, with the KV cache and the step span of every sequence that it serves.
// The target and a model drafter are both a lane.
#pragma once

#include <vector>

#include "decode/sequence.h"
#include "engine/model.h"

namespace specrt {

enum class StepClocking {
  off,
  on,  // steps note when they run
};

// Whether a target with streams drafts with them.
enum class Streaming { off, on };

struct LaneOptions {
  StepClocking clocking = StepClocking::off;
  double least_step_ms = 0;  // with a clock: a step lasts at least so long
  Streaming streaming = Streaming::off;
};

class Lane {
 public:
  Lane(Model& model, Stream& stream, std::vector<Sequence*> sequences,
       const LaneOptions& options = {});

  Model& model() const { return model_; }
  Stream& stream() const { return stream_; }
  Backend& backend() const { return model_.backend(); }
  size_t size() const { return sequences_.size(); }
  Sequence& sequence(size_t s) const { return *sequences_[s]; }
  // Rows that a step has for each sequence at most.
  int32_t most_rows() const { return kMaxStepRows / static_cast<int32_t>(sequences_.size()); }
  // Rows of a prompt that a step feeds at most; the last step has streams besides.
  int32_t prompt_rows() const { return backend().prompt_rows() - streams(); }
  // Streams that a row has in the last layers; 0: it drafts with none.
  int32_t streams() const { return streams_; }
  // The features that it reads are those of `target`, which serves the same sequences.
  void read_features_of(const Lane& target) { features_from_ = &target; }
  StepSpan* span(size_t s) const { return spans_.as<StepSpan>() + s; }

  // When its steps ran, those of prompts left out; null without a clock.
  const StepClock* clock() const { return clock_.as<StepClock>(); }

  // One step over all sequences, `capacity` rows each, at positions below `positions` and within
  // the model's context; spans say which rows exist.
  void enqueue_step(int32_t capacity, int32_t positions, Head head);

  // One step over a tree of each sequence, all of one shape in device memory.
  void enqueue_tree_step(int32_t capacity, int32_t positions, const TreeShape* shape);

  // One step of a drafter over those rows of such trees that lie at `depth` and have children. The
  // rows before them are in the cache.
  void enqueue_depth_step(int32_t capacity, int32_t positions, const TreeShape* shape,
                          int32_t depth);

  // One step over a tree of each sequence whose rows have streams in the last layers, which have
  // `stream_capacity` rows for each sequence, main rows and streams.
  struct StreamedTree {
    const StreamingShape* shape = nullptr;  // device memory
    int32_t capacity = 0;
    int32_t stream_capacity = 0;
    Pruning pruning = Pruning::off;
  };
  void enqueue_streamed_step(const StreamedTree& tree, int32_t positions);

  // The shape of the rows of sequence s that a verdict on such a step is about.
  const TreeShape* kept_shape(size_t s) const { return &streaming(s)->shape; }

  // Behind a verdict, of a tree or of the prompt: the candidates for the next tree of sequence s,
  // whose rows start at `first_row` of the last layers.
  void enqueue_candidates(size_t s, int32_t first_row);

  // Behind the verdict on the trees: moves what the cache holds of their committed rows to where a
  // chain has it.
  void enqueue_move();

  // One step over tokens of all sequences that the cache lacks as that of a drafter, all but the
  // last, at positions below `positions`.
  void enqueue_catch_up(int32_t positions);

  // Prompt tokens [begin, begin + count) of sequence s, count <= prompt_rows(). The last
  // kMaxStepRows come first: they have logits, and the span of the sequence.
  void enqueue_prompt_chunk(size_t s, int32_t begin, int32_t count, Head head);

 private:
  Segment segment(size_t s, const StepSpan* span) const;
  StepRows step_rows(int32_t capacity, int32_t positions) const;
  StepRows tree_rows(int32_t capacity, int32_t positions, const TreeShape* shape) const;
  void enqueue_clocked(const StepRows& rows, Head head);
  std::byte* features(size_t s) const { return features_[s].data(); }
  StreamingCells* streaming(size_t s) const { return streaming_.as<StreamingCells>() + s; }
  void enqueue_clock(const StepRows& rows, ClockEdge edge);

  Model& model_;
  Stream& stream_;
  std::vector<Sequence*> sequences_;
  std::vector<Buffer> caches_;
  std::vector<Buffer> features_;
  const Lane* features_from_ = this;
  Buffer spans_;  // of the sequences, then of the segments of a prompt but for the first
  int32_t streams_;
  Buffer streaming_;  // of the sequences
  Buffer clock_;
  double least_step_ms_;
};

}  // namespace specrt

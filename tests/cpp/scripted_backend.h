// A backend without kernels for table models (table_model.h). It runs device/rules.h as every
// backend must, on scripted streams, and checks while it runs: races on cells, logs, activations
// and KV slots, and the invariants of the decoding state.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/backend.h"
#include "device/rejection.h"
#include "race_detector.h"
#include "scripted_rows.h"
#include "scripted_stream.h"
#include "table_model.h"

namespace specrt::testing {

// Deliberate mistakes: the tests show that each is noticed.
enum class Fault {
  none,
  judged_at_next_position,  // the verdict uses the noise of the position behind
  draft_kv_too_long,        // commit keeps one rejected token in the drafter's KV
  draft_does_not_wait,      // the drafter's stream ignores the commit
  target_does_not_wait,     // the target's stream ignores the draft
  eos_ignored,
  kv_row_not_written,  // the last of several rows leaves its slot as it was
  draft_beyond_limit,
  judged_after_stop,
  tree_not_moved,         // the accepted path stays where the tree had it
  features_not_moved,     // those of the accepted path stay where the tree had them
  estimates_by_position,  // a row of a drafted tree takes what the row before it left
  tree_judged_by_row,     // the verdict uses the noise of the row instead of the depth
  levels_moved_alike,     // the layers below the streams move the rows that those with streams have
  stream_kept,            // a stream stays in the KV in place of the last committed row
  stale_candidates,       // the streams of a round propose nothing to the next one
};

// Where the random numbers of the rejection rules come from.
class Draws {
 public:
  virtual ~Draws() = default;
  virtual bool below(const DrawKey& key, double threshold) = 0;
  virtual int32_t draw(const DrawKey& key, const std::vector<double>& weights) = 0;
};

class ScriptedBackend final : public Backend {
 public:
  ScriptedBackend(uint64_t schedule_seed, Fault fault);
  ~ScriptedBackend() override;
  ScriptedBackend(const ScriptedBackend&) = delete;
  ScriptedBackend& operator=(const ScriptedBackend&) = delete;

  std::string name() const override { return "scripted"; }
  int cores() const override { return 0; }
  Layout weight_layout() const override { return Layout::panels16; }
  int32_t prompt_rows() const override { return prompt_rows_; }
  Buffer alloc(size_t bytes) override;
  Buffer alloc_shared(size_t bytes) override { return alloc(bytes); }
  Buffer place_weights(const std::byte* host, size_t bytes) override;
  std::unique_ptr<Stream> make_stream(const StreamShare& share) override;
  std::unique_ptr<RecordedWork> record(Stream& stream,
                                       const std::function<void()>& enqueue) override;

  void embed(Stream& stream, const EmbedArgs& args) override;
  void rope_angles(Stream& stream, const RopeAnglesArgs& args) override;
  void rms_norm(Stream& stream, const RmsNormArgs& args) override;
  void linear(Stream& stream, const LinearArgs& args) override;
  void rope_kv(Stream& stream, const RopeKvArgs& args) override;
  void attention(Stream& stream, const AttentionArgs& args) override;
  void keep_features(Stream& stream, const KeepFeaturesArgs& args) override;
  void load_features(Stream& stream, const LoadFeaturesArgs& args) override;
  void convert(Stream& stream, const ConvertArgs& args) override;
  void scatter(Stream& stream, const ScatterArgs& args) override;
  void plan_streams(Stream& stream, const PlanStreamsArgs& args) override;
  void insert_streams(Stream& stream, const InsertStreamsArgs& args) override;
  void move_kv(Stream& stream, const MoveKvArgs& args) override;
  void move_features(Stream& stream, const MoveFeaturesArgs& args) override;
  size_t attention_scratch(const AttentionArgs&) const override { return 0; }
  size_t pick_scratch(int32_t) const override { return 0; }
  void feed_prompt(Stream& stream, const FeedPromptArgs& args) override;
  void propose_ngram(Stream& stream, const ProposeNgramArgs& args) override;
  void begin_catch_up(Stream& stream, const BeginCatchUpArgs& args) override;
  void begin_draft(Stream& stream, const BeginDraftArgs& args) override;
  void pick_draft(Stream& stream, const PickDraftArgs& args) override;
  void pick_candidates(Stream& stream, const PickCandidatesArgs& args) override;
  void feed_tail(Stream& stream, const FeedTailArgs& args) override;
  void grow_tree(Stream& stream, const GrowTreeArgs& args) override;
  void judge(Stream& stream, const JudgeArgs& args) override;
  void clock_step(Stream& stream, const ClockStepArgs& args) override;
  void copy_to_device(Stream& stream, const CopyToDeviceArgs& args) override;
  void copy_to_host(Stream& stream, const CopyToHostArgs& args) override;

  // The host reads a log entry: only after an event that covers its round.
  void host_reads(const LogEntry& entry) { races_.access(&entry, CellAccess::read); }

  // The caches of a sequence hold its committed tokens, as far as C and D say. For the host, while
  // the streams are idle.
  void check_target_cache(const SequenceCells& sequence);
  void check_draft_cache(const SequenceCells& sequence);

  // Asked instead of the keyed numbers of the seed.
  void draw_from(Draws& draws) { draws_ = &draws; }

  // From the next model on, steps feed so many rows of a prompt.
  void feed_prompts_by(int32_t rows) { prompt_rows_ = rows; }

  // The op that runs as number `count` from now, counted from 1, throws.
  void fail_op(uint64_t count) { fail_at_ = ops_run_ + count; }

  RaceDetector& races() { return races_; }
  const std::vector<std::string>& violations() const { return violations_; }
  uint64_t ops_run() const { return ops_run_; }
  uint64_t recordings() const { return recordings_; }
  uint64_t launches() const { return launches_; }
  uint64_t verdicts() const { return verdicts_; }
  // Rows of trees that were fed depth by depth, each of which was compared with its path.
  uint64_t rows_drafted() const { return rows_drafted_; }

 private:
  struct Recorded;

  void push(Stream& stream, Op op);
  void violate(const std::string& what);
  template <typename... Parts>
  void require(bool holds, const Parts&... parts) {
    if (!holds) violate(concat(parts...));
  }

  void run(const EmbedArgs& args);
  void run(const LinearArgs& args);
  void run(const RopeKvArgs& args);
  void run(const AttentionArgs& args);
  void run(const KeepFeaturesArgs& args);
  void run(const LoadFeaturesArgs& args);
  void run(const BeginCatchUpArgs& args);
  void run(const BeginDraftArgs& args);
  void run(const PickDraftArgs& args);
  void run(const PickCandidatesArgs& args);
  void run(const FeedTailArgs& args);
  void run(const GrowTreeArgs& args);
  void run(const PlanStreamsArgs& args);
  void run(const InsertStreamsArgs& args);
  void run(const MoveKvArgs& args, const std::vector<KvLayer>& layers);
  void run(const MoveFeaturesArgs& args);
  void run(const JudgeArgs& args);
  void run(const ClockStepArgs& args);
  void run(const ProposeNgramArgs& args);

  int32_t draw_draft(const PickDraftArgs& args, int32_t row, int32_t position);
  struct Verdict judge_by_probabilities(const JudgeArgs& args, int32_t first);
  int32_t pick(const Cells& s, const RowsView& logits, int32_t row, int32_t position);
  std::vector<int32_t> in_order(const Cells& s, const RowsView& logits, int32_t row,
                                int32_t position);
  std::vector<int32_t> in_order(const Cells& s, const float* values, int32_t vocab,
                                int32_t position);
  void pick_streamed(const PickCandidatesArgs& args);
  void pick_behind_rows(const PickCandidatesArgs& args);
  void keep_best(const PickCandidatesArgs& args, int32_t list, const std::vector<int32_t>& order,
                 int32_t (&best)[kTreeWidth]);
  void check_candidates(const SequenceCells& sequence);
  std::vector<float> stream_logits(const TableParams& params, const Cells& s, uint64_t hash,
                                   int32_t position, int32_t stream);
  void run_stream_head(const LinearArgs& args, const Segment& segment, int32_t i, int32_t row);
  void check_kept(const PlanStreamsArgs& args, const Segment& segment);
  std::vector<float> scores_of(const PlanStreamsArgs& args, int32_t segment);
  void check_stream(const FedToken& fed, int32_t position, int32_t streams);
  void judge_tree(const JudgeArgs& args);
  void commit_checked(const JudgeArgs& args, const struct Verdict& verdict);
  void check_cache(const char* what, const StepSpan* span, const Cell<int32_t>* tok,
                   int32_t length);
  uint64_t context_of(const AttentionArgs& args, const Segment& segment, int32_t row);

  Fault fault_;
  int32_t prompt_rows_ = kMaxStepRows;
  std::vector<std::string> violations_;
  RaceDetector races_;
  Scheduler scheduler_;
  std::vector<std::unique_ptr<std::byte[]>> memory_;
  std::map<const StepSpan*, const std::byte*> caches_;             // of a span's lane
  std::map<const std::byte*, std::map<int64_t, KvLayer>> layers_;  // of a cache, by offset
  std::map<const Cells*, TableParams> heads_;                      // of targets with streams
  std::map<const StepSpan*, TableParams> head_params_;             // of a span's lane
  std::map<const StepSpan*, const StreamingCells*> streaming_;
  StreamPositions stream_positions_ = StreamPositions::shifted;
  std::map<const Cells*, const StepSpan*> target_spans_;
  std::map<const Cells*, const StepSpan*> draft_spans_;
  std::set<const StepSpan*> pair_spans_;  // of lanes whose rows are pairs
  std::set<const std::byte*> named_features_;
  Draws* draws_ = nullptr;
  std::map<std::pair<const Cells*, int32_t>, std::vector<double>> drafted_from_;  // by position
  uint64_t ops_run_ = 0;
  uint64_t fail_at_ = ~uint64_t{0};
  uint64_t recordings_ = 0;
  uint64_t launches_ = 0;
  uint64_t verdicts_ = 0;
  uint64_t rows_drafted_ = 0;
};

}  // namespace specrt::testing

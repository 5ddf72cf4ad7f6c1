// Generates completions: prompt, then rounds enqueued ahead of the verdicts that the host reads.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "decode/draft_length.h"
#include "decode/loop.h"
#include "decode/streaming_planner.h"
#include "decode/tree_planner.h"
#include "specrt/types.h"

namespace specrt {

// Told what a round added; returning false cancels the completion.
using OnProgress = std::function<bool(const Progress& progress)>;

enum class PrefixCaching {
  off,
  on,  // a prompt that begins as the sequence before it feeds only what differs
};

struct GeneratorOptions {
  LoopKind loop = LoopKind::lockstep;
  int32_t draft_tokens = 0;   // drafted tokens in a round at most; of a tree, its depth
  int32_t tree_nodes = 0;     // of a tree of drafts at most; 0: drafts are chains
  int32_t kept_nodes = 0;     // of them, with streams, that are not pruned at most; 0: what fits
  int32_t run_ahead = 1;      // rounds enqueued before the verdict of an earlier one is read
  StepCosts step_costs = {};  // draft lengths follow from them; without, all rounds draft the most
  PrefixCaching prefix_caching = PrefixCaching::on;
  Phases phases = Phases::both;  // of Pearl
};

// Throws the argument errors that a request of this model would, but for too many stop tokens.
void check_request(const Plan& plan, std::span<const int32_t> prompt, const SamplingParams& params);

class Generator {
 public:
  // `target` and `drafter` (null: autoregressive) serve the one sequence of the generator.
  Generator(Lane& target, Drafter* drafter, const GeneratorOptions& options);

  // Blocks until the completion has ended; one call at a time. Argument errors change nothing;
  // after any other error the next call starts afresh.
  Completion generate(std::span<const int32_t> prompt, const SamplingParams& params,
                      const OnProgress& on_progress);

 private:
  struct Request;

  void start(Request& request, std::span<const int32_t> prompt, const SamplingParams& params);
  int32_t cached_prefix(std::span<const int32_t> prompt) const;
  bool reads_beside(Request& request);
  void feed_beside(Request& request, int32_t count);
  void prefill(Request& request, int32_t length);
  void enqueue_rounds(Request& request);
  bool catch_up(Request& request, int32_t draft_tokens);
  bool enqueue_round(Request& request, int32_t left);
  void enqueue_streamed_round(Request& request);
  void choose_draft(Request& request, int32_t left);
  void observe(const LogEntry& entry, const StreamingPlan& plan);
  void read_entry(Request& request);
  int32_t take_tokens(Request& request, std::span<const int32_t> tokens);
  void read_steps(Request& request);
  void drain(Request& request);

  Lane& target_;
  Drafter* drafter_;
  GeneratorOptions options_;
  std::unique_ptr<Loop> loop_;
  DraftLength draft_length_;
  std::optional<TreePlanner> tree_planner_;
  std::optional<StreamingPlanner> streaming_planner_;  // where the target drafts with streams

  // What the KV caches hold: all of `text` but its last token, and a part of that in the drafter's.
  struct Cached {
    std::vector<int32_t> text;
    int32_t draft_kv = 0;
    uint64_t begun = 0;  // Sequence::begun() of the one whose text this is; 0: nothing
  };
  Cached cached_;

  // How many marks of a clock were read, those of steps before the request among them.
  struct ReadMarks {
    EngineRole role;
    const StepClock* clock;
    Backend* backend;  // whose clock it is
    int64_t offset = 0;
    uint32_t count = 0;
  };
  std::vector<ReadMarks> clocks_;
};

}  // namespace specrt

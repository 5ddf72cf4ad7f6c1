// Loads a target engine, with a drafter if there is one, and generates.
//
//   specrt::LLM llm(specrt::open_bundle("bundle").options());  // or paths of engines: LLMOptions
//   specrt::Completion out = llm.generate(prompt_ids, {.temperature = 0, .max_tokens = 64});
//
// Errors are specrt::Error (error.h): kind `argument` for what the caller passed. Threads: all
// members of an LLM but its destructor and moving it may be called from any number of threads at
// the same time. What generates or measures runs one call after another, in the order in which they
// came. Different LLMs are independent. There is no global state.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "specrt/error.h"
#include "specrt/export.h"
#include "specrt/types.h"

namespace specrt {

struct LLMOptions {
  std::string target = {};   // path of an engine
  std::string drafter = {};  // path of an engine; empty: autoregressive
  // N-gram lookup before the drafter, or alone: it drafts what followed the last tokens where they
  // occurred before. At least min (>= 1) and at most max (<= 16) tokens must match; max 0: none.
  int32_t prompt_lookup_min = 0;
  int32_t prompt_lookup_max = 0;
  int32_t num_speculative_tokens = 0;  // drafted tokens in a round at most, 0 .. 63
  // Drafts of a drafter without a lookup may be trees of at most so many tokens, verified in one
  // step, each path of at most num_speculative_tokens; 0: chains. Rule `exact` without Pearl only.
  int32_t tree_nodes = 0;  // 0 .. 63
  // A target with streams (Speculative Streaming) drafts for itself: the step that verifies a draft
  // makes the next. Needs no drafter; num_speculative_tokens is the number of streams of a row at
  // most, tree_nodes those of the trees. Rows of a tree that reach the layers with streams are
  // those that fit, or at most kept_nodes.
  bool streaming = false;
  int32_t kept_nodes = 0;  // 0 .. 63
  // Pearl drafts while it verifies, on a stream of its own: `draft_threads` of the threads (0: a
  // quarter, at least one) belong to the drafter, the others to the target.
  LoopKind loop = LoopKind::lockstep;
  int32_t draft_threads = 0;
  PearlPhases phases = PearlPhases::both;       // one alone: CPU engines, rule exact
  AcceptanceRule rule = AcceptanceRule::exact;  // how drafted tokens are judged when sampling
  // With step times of this machine (LLM::time_steps), each round drafts as many tokens as should
  // pay by them and by the drafts of late, down to none. Without, every round drafts the most.
  StepCosts step_costs{};
  int32_t device = 0;     // of a CUDA engine: number of the GPU
  int32_t threads = 0;    // of a CPU engine: cores to use; 0: all that the process may run on
  int32_t run_ahead = 1;  // rounds enqueued before an earlier verdict is read, 0 .. 8
  // Notes when every step ran (GenerationMetrics::steps).
  bool trace_steps = false;
  // Paced mode: a step lasts at least so many milliseconds, as if each model ran on a device of
  // that speed. For studies of loops; 0: as fast as it is.
  double pace_target_ms = 0;
  double pace_draft_ms = 0;
  bool enable_prefix_caching = true;  // what a prompt shares with the text before is not fed again
  // Of a CPU engine: "avx512bf16", "avx512", "avx2" or "portable"; empty: the best that is here.
  std::string isa = {};
  uint64_t memory_limit = 0;  // bytes; what needs more is refused unloaded; 0: none
  // Told what does not stop a load but should be known, on the thread that loads.
  std::function<void(std::string_view)> on_warning = {};
};

// What loading with these options takes, without loading: engines are opened and checked, weights
// stay in their files. Beside it stand stacks of threads, recorded rounds (kilobytes each) and,
// while it loads, the pages of the file that is being copied.
SPECRT_API MemoryBytes memory_needed(const LLMOptions& options);

// What ends a request from outside. Both are noticed within run_ahead + 1 rounds, within a few
// chunks of a prompt that is being read, and at once while the request waits for its turn.
struct RequestLimits {
  std::optional<std::chrono::steady_clock::time_point> deadline = {};
  std::stop_token stop = {};  // of a std::stop_source, whose request_stop() cancels from any thread
};

class SPECRT_API LLM {
 public:
  explicit LLM(const LLMOptions& options);
  ~LLM();
  LLM(LLM&&) noexcept;

  // Blocks until the request has had its turn and ended. `on_progress` is called on this thread
  // with what every round added, and with nothing now and then while a long prompt is read;
  // returning false cancels within run_ahead + 1 rounds. The completion has all that came before
  // its end, and at its end may have some text that was held back. What `on_progress` throws ends
  // the request and is thrown. It cannot generate with this LLM, which would wait for itself: that
  // is refused.
  Completion generate(std::span<const int32_t> prompt, const SamplingParams& params,
                      const std::function<bool(const Progress&)>& on_progress = {},
                      const RequestLimits& limits = {});

  // Throws the argument errors that `generate` would, but for too many stop tokens, without waiting
  // for a turn: a service can refuse a request before it accepts it.
  void check(std::span<const int32_t> prompt, const SamplingParams& params) const;

  // Never waits for a request.
  LLMCounters counters() const;

  // Milliseconds of `repeats` single steps with `rows` rows behind `cached` positions.
  std::vector<double> time_steps(EngineRole role, int32_t rows, int32_t cached, int32_t repeats);

  // Logits (tokens, vocabulary of the engine) of given tokens, fed in steps of `rows`; row i is for
  // token i + 1. A drafter that reads hidden states of the target has none for row 0, which is 0;
  // its mask tokens at the end stand for tokens that it drafts.
  std::vector<float> logits(EngineRole role, std::span<const int32_t> tokens, int32_t rows = 64);

  // Logits (1 + streams, vocabulary) behind given tokens, of the next token and of each stream of
  // the last one. With `streaming`.
  std::vector<float> stream_logits(std::span<const int32_t> tokens);

  int32_t vocab() const;
  int32_t context() const;      // most positions of a sequence, prompt included
  int32_t streams() const;      // of a row in the target's last layers; 0: it has none
  bool has_text() const;        // whether the engine can turn tokens into text
  std::string backend() const;  // "cpu:avx512bf16", "cuda:sm_90:NVIDIA H200"

 private:
  struct __attribute__((visibility("hidden"))) State;
  std::unique_ptr<State> state_;
};

}  // namespace specrt

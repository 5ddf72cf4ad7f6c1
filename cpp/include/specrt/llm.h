// The C++ API: load a target engine, with a drafter if there is one, and generate.
//
//   specrt::LLM llm({.target = "bundle/target.engine", .drafter = "bundle/drafters/draft.engine",
//                    .num_speculative_tokens = 4});
//   specrt::Completion out = llm.generate(prompt_ids, {.temperature = 0, .max_tokens = 64});
//
// Errors are specrt::Error (base/error.h): kind `argument` for what the caller passed.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "specrt/types.h"

namespace specrt {

struct LLMOptions {
  std::string target;   // path of an engine
  std::string drafter;  // path of an engine; empty: autoregressive
  // N-gram lookup before the drafter, or alone: it drafts what followed the last tokens where they
  // occurred before. At least min (>= 1) and at most max (<= 16) tokens must match; max 0: none.
  int32_t prompt_lookup_min = 0;
  int32_t prompt_lookup_max = 0;
  int32_t num_speculative_tokens = 0;  // drafted tokens in a round at most, 0 .. 63
  // Drafts of a parallel drafter may be trees of at most so many tokens, verified in one step, each
  // path of at most num_speculative_tokens; 0: chains. Rule `exact` without Pearl only.
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
  std::string isa;                    // empty: the best of this machine; else one of cpu_isas()
};

class LLM {
 public:
  explicit LLM(const LLMOptions& options);
  ~LLM();
  LLM(LLM&&) noexcept;

  // Blocks. `on_progress` is called on this thread with what every round added, and with nothing
  // now and then while a long prompt is read; returning false cancels within run_ahead + 1 rounds.
  // Safe to call from several threads: calls run one after another.
  Completion generate(std::span<const int32_t> prompt, const SamplingParams& params,
                      const std::function<bool(const Progress&)>& on_progress = {});

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
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace specrt

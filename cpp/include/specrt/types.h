// Plain data that a caller hands to specrt and gets back.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace specrt {

// How tokens are chosen and when a completion ends. Filters apply in the order temperature, top_k,
// top_p, min_p. The same seed gives the same tokens whatever the drafting method.
struct SamplingParams {
  float temperature = 1.0f;                  // >= 0; 0 is greedy
  int32_t top_k = 0;                         // >= 0; 0 keeps all
  float top_p = 1.0f;                        // in (0, 1]
  float min_p = 0.0f;                        // in [0, 1]
  int32_t max_tokens = 16;                   // >= 1
  std::optional<uint64_t> seed = {};         // none: drawn at random and reported
  bool ignore_eos = false;                   // do not end at the model's end-of-sequence tokens
  std::vector<int32_t> stop_token_ids = {};  // further tokens that end the completion
  // Texts that end the completion and are cut off it, and sequences of tokens that end it and stay.
  // They are found across tokens and rounds; the token that completes one is the last.
  std::vector<std::string> stop = {};
  std::vector<std::vector<int32_t>> stop_sequences = {};
  int32_t min_tokens = 0;  // >= 0; no stop of any kind before that many tokens
  // Changes of logits before the filters: a summand for single tokens, and vLLM's penalties over
  // the tokens so far.
  std::vector<std::pair<int32_t, float>> logit_bias = {};
  float repetition_penalty = 1.0f;  // > 0; prompt and completion
  float frequency_penalty = 0.0f;   // in [-2, 2]; completion, for each occurrence
  float presence_penalty = 0.0f;    // in [-2, 2]; completion, once
  // Log-probabilities of each token and of this many likeliest ones (0 .. 20), under the model's
  // own distribution: before bias, penalties, temperature and filters.
  std::optional<int32_t> logprobs = {};
};

// How drafting and verifying take turns.
enum class LoopKind {
  lockstep,  // draft, then verify
  pearl,     // draft and verify at the same time (PEARL, arXiv 2408.11850)
};

// What Pearl does ahead; one phase alone is for studies of what the other gives.
enum class PearlPhases {
  both,
  pre_verify_only,   // nothing is drafted while a draft is verified
  post_verify_only,  // the first drafted token is not judged while the others are drafted
};

// How drafted tokens are judged when sampling; at temperature 0 all rules give the same tokens.
enum class AcceptanceRule {
  exact,      // the tokens are those of autoregressive decoding with the same seed
  rejection,  // speculative sampling: the tokens have the same distribution
  block,      // the same, judging the drafted tokens of a round together
};

struct StepTime {
  int32_t rows = 0;  // >= 1
  double milliseconds = 0;
};

// What steps take on this machine by their rows, ascending; `draft` is empty without a draft model.
struct StepCosts {
  std::vector<StepTime> target;
  std::vector<StepTime> draft;
  // One step of the drafter makes the whole draft; else it takes a step for each token, or for each
  // depth of a tree.
  bool drafts_at_once = false;
};

enum class FinishReason {
  stop,       // an end-of-sequence or stop token; it is the last of token_ids
  length,     // max_tokens or the end of the context
  cancelled,  // the callback or the stop token said so
  deadline,   // the request's deadline passed
};

// One decoding round, as the verdict log tells it.
struct RoundRecord {
  int32_t drafted = 0;    // tokens proposed
  int32_t judged = 0;     // proposed tokens that were judged; with Pearl, most of the round before
  int32_t accepted = 0;   // of the judged
  int32_t committed = 0;  // tokens that joined the output
  double seconds = 0;     // on the host, since it read the verdict before
  // Of a tree of drafts: the ranks of the first tokens among the candidates for their places, from
  // 0; as many as there are candidates, where a token is none of them.
  std::vector<int32_t> ranks = {};
};

enum class EngineRole { target, drafter };

// When a step ran, in seconds since the request began. With Pearl, the drafter's steps lie under
// the target's.
struct StepRecord {
  EngineRole role = EngineRole::target;
  double begin = 0;
  double end = 0;
};

// Times in seconds, measured on the host. The round of the prompt is not among `rounds`.
struct GenerationMetrics {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;       // of these, found in the KV cache of the completion before
  double waiting_time = 0;         // before the others, for the requests in front
  double time_to_first_token = 0;  // from the end of the wait on, like total_time
  double total_time = 0;
  std::vector<RoundRecord> rounds;
  std::vector<StepRecord> steps;  // with LLMOptions::trace_steps; the prompt's are left out
};

// What ended a completion beside an end-of-sequence token: a stop token (or the last of a stop
// sequence), or a stop string.
using StopReason = std::variant<std::monostate, int32_t, std::string>;

struct Logprob {
  int32_t token = 0;
  float logprob = 0;
};

struct Completion {
  std::vector<int32_t> token_ids;
  std::vector<std::vector<Logprob>> logprobs;  // for each token: itself, then the likeliest
  std::string text;  // bytes, not always whole UTF-8; empty if the engine has no token table
  FinishReason finish_reason = FinishReason::length;
  StopReason stop_reason;
  uint64_t seed = 0;
  GenerationMetrics metrics;
};

// What requests of an LLM came to so far. A request is counted when it ends.
struct LLMCounters {
  uint64_t stopped = 0, length = 0, cancelled = 0, deadline = 0;  // by FinishReason
  uint64_t failed = 0;                                            // ended with an exception
  uint64_t prompt_tokens = 0;  // of requests that had their turn, as are the counts below
  uint64_t cached_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t rounds = 0;  // those of prompts left out
  uint64_t drafted = 0, judged = 0, accepted = 0;
  int32_t active = 0;  // requests that wait or run now
};

// Bytes of memory, on the host and the device together.
struct MemoryBytes {
  uint64_t weights = 0;
  uint64_t kv_cache = 0;  // of a whole context
  uint64_t buffers = 0;   // activations, scratch, cells
  uint64_t total() const { return weights + kv_cache + buffers; }
};

// What a round added to a completion. `text` is valid during the call; it may lag behind `tokens`,
// as it never ends within a character or in what may become a stop string.
struct Progress {
  std::span<const int32_t> tokens;
  std::string_view text;
};

}  // namespace specrt

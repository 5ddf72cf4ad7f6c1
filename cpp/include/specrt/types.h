// Plain data that a caller hands to specrt and gets back.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace specrt {

// How tokens are chosen and when a completion ends. Filters apply in the order temperature, top_k,
// top_p, min_p. The same seed gives the same tokens whatever the drafting method.
struct SamplingParams {
  float temperature = 1.0f;             // >= 0; 0 is greedy
  int32_t top_k = 0;                    // >= 0; 0 keeps all
  float top_p = 1.0f;                   // in (0, 1]
  float min_p = 0.0f;                   // in [0, 1]
  int32_t max_tokens = 16;              // >= 1
  std::optional<uint64_t> seed;         // none: drawn at random and reported
  bool ignore_eos = false;              // do not end at the model's end-of-sequence tokens
  std::vector<int32_t> stop_token_ids;  // further tokens that end the completion
};

enum class FinishReason {
  stop,       // an end-of-sequence or stop token; it is the last of token_ids
  length,     // max_tokens or the end of the context
  cancelled,  // the callback said so
};

// One decoding round, as the verdict log tells it.
struct RoundRecord {
  int32_t drafted = 0;    // tokens proposed
  int32_t accepted = 0;   // of those, accepted
  int32_t committed = 0;  // tokens that joined the output
};

// Times in seconds, measured on the host. The round of the prompt is not among `rounds`.
struct GenerationMetrics {
  int32_t prompt_tokens = 0;
  double time_to_first_token = 0;
  double total_time = 0;
  std::vector<RoundRecord> rounds;
};

struct Completion {
  std::vector<int32_t> token_ids;
  FinishReason finish_reason = FinishReason::length;
  uint64_t seed = 0;
  GenerationMetrics metrics;
};

}  // namespace specrt

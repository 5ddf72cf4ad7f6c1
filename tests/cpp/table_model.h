// A model without arithmetic: its logits are a hash of the whole visible context. A wrong context
// anywhere (a stale KV slot, a missing row, a wrong position) therefore changes its tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine_image.h"

namespace specrt::testing {

// Lies at the start of the head's weight tensor.
struct TableParams {
  uint64_t truth = 1;  // seed of the logits
  uint64_t own = 0;    // seed used instead for a share `error` of all contexts
  double error = 0;    // 0: a perfect drafter of the model with the same `truth`; 1: a useless one
  int32_t vocab = 5;   // at most 16
  int32_t mask_tokens = 0;  // 1: the token behind the vocabulary is a mask
};

uint64_t mix(uint64_t value);

inline constexpr uint64_t kEmptyContext = 0x9E3779B97F4A7C15ull;
uint64_t extend_context(uint64_t hash, int32_t token);

// Writes `vocab` logits in [-3, 3).
void table_logits(const TableParams& params, uint64_t context_hash, float* logits);

// What an engine does with features, which are the target's rows behind the embedding.
enum class TableFeatures { none, kept, read };

// embed -> rope_kv -> attention -> linear (head). Rows carry token and position, the KV cache keeps
// them, attention gives the hash of what the row sees, the head its logits.
EngineImage table_engine(const TableParams& params, int32_t context,
                         TableFeatures features = TableFeatures::none);

// Direct autoregressive sampling, one token at a time: what every decoding method must give.
struct DirectRequest {
  std::vector<int32_t> prompt;
  std::vector<int32_t> eos;
  int32_t limit = 0;  // most tokens, prompt included
  float temperature = 0;
  uint64_t seed = 0;
};
std::vector<int32_t> sample_directly(const TableParams& params, const DirectRequest& request);

}  // namespace specrt::testing

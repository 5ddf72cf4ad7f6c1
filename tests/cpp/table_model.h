// A model without arithmetic: its logits are a hash of the whole visible context. A wrong context
// anywhere (a stale KV slot, a missing row, a wrong position) therefore changes its tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/streaming.h"
#include "engine_image.h"

namespace specrt::testing {

// Lies at the start of the head's weight tensor.
struct TableParams {
  uint64_t truth = 1;  // seed of the logits
  uint64_t own = 0;    // seed used instead for a share `error` of all contexts
  double error = 0;    // 0: a perfect drafter of the model with the same `truth`; 1: a useless one
  int32_t vocab = 5;   // at most 16
  int32_t mask_tokens = 0;  // 1: the token behind the vocabulary is a mask
  double stream_error = 0;  // share of contexts whose streams are wrong
};

uint64_t mix(uint64_t value);

inline constexpr uint64_t kEmptyContext = 0x9E3779B97F4A7C15ull;
uint64_t extend_context(uint64_t hash, int32_t token);

// Writes `vocab` logits in [-3, 3).
void table_logits(const TableParams& params, uint64_t context_hash, float* logits);

// What an engine does with features, which are the target's rows behind the embedding: `estimated`
// reads them and keeps what stands for those that are not there yet.
enum class TableFeatures { none, kept, read, estimated };

inline bool reads(TableFeatures use) {
  return use == TableFeatures::read || use == TableFeatures::estimated;
}

// embed -> rope_kv -> attention -> linear (head). Rows carry token and position, the KV cache keeps
// them, attention gives the hash of what the row sees, the head its logits.
EngineImage table_engine(const TableParams& params, int32_t context,
                         TableFeatures features = TableFeatures::none);

// Streams of a table model: how many a row has and where they stand.
struct TableStreams {
  int32_t count = 4;
  StreamPositions positions = StreamPositions::shifted;
};

// A layer without and a layer with streams, each with a KV cache. The upper one takes the hash of
// the lower along and compares it with its own. A product of the streams alone marks their hashes;
// one of scored steps alone makes the rows that scores come from. Streams choose what the model
// would choose behind its own tokens, but for a share `error` of all contexts.
EngineImage streaming_table_engine(const TableParams& params, int32_t context,
                                   const TableStreams& streams);

// What the row of a streaming table model carries between its ops; others leave `below` empty.
struct TableRow {
  int32_t token;  // of a stream: -1 - its number
  int32_t position;
  uint64_t below;  // hash that the layer below gave
};

// On the hash of a stream, once its product has run.
inline constexpr uint64_t kStreamMark = 0xA5A5F00DC0FFEE11ull;

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

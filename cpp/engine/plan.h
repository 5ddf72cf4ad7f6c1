// The plan of an engine: its list of ops as data, and how it is run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "device/backend.h"
#include "engine/format.h"
#include "engine/joints.h"
#include "engine/vocabulary.h"

namespace specrt {

struct Plan {
  format::FileHeader header{};
  std::vector<format::TensorRecord> tensors;
  std::vector<format::BufferRecord> buffers;
  std::vector<format::KvRecord> kv;
  std::vector<format::OpRecord> ops;
  std::string meta;  // JSON for people
  Vocabulary vocabulary;
};

// Bytes of activations for steps of up to `rows` rows; the logits have no more than kMaxStepRows.
int64_t arena_bytes(const Plan& plan, int32_t rows);

// Slots of a KV cache: every position plus one step's rows behind them, in whole key blocks.
int32_t kv_slots(const Plan& plan);

// Bytes of one sequence's KV cache, all layers.
int64_t kv_bytes(const Plan& plan);

// Whether it is a target that keeps hidden states, or a drafter that reads them, and in place of
// those that are not there yet its own estimates.
bool keeps_features(const Plan& plan);
bool reads_features(const Plan& plan);
bool estimates_features(const Plan& plan);

// Tokens that a drafter drafts with a head for each; 0: it is not made of heads.
int32_t draft_heads(const Plan& plan);

// Bytes of the features that a target keeps of one sequence.
int64_t feature_bytes(const Plan& plan);

// Bytes of weights that one step reads, its head included; embedding rows and biases are not.
int64_t step_weight_bytes(const Plan& plan);

// Of the bytes that a step reads, what the layers with streams and the head read; 0 without
// streams.
double streamed_share(const Plan& plan);

// Layers of the KV cache before those that have streams; all without streams.
int32_t layers_before_streams(const Plan& plan);

// Where layer `id` lies in a KV cache, and the features that are kept beside it.
KvLayer kv_layer(const Plan& plan, int32_t id);
FeatureRows feature_rows(const Plan& plan);

// The layers of a KV cache.
std::vector<KvLayer> kv_layers(const Plan& plan);

// Checks every number of the plan: ids, dtypes, shapes, the bounds of tensors and buffers. Throws
// specrt::Error that names the record. A plan that passes can be run with any rows from cells.
void validate(const Plan& plan);

// Where the plan's memory lies for one model.
struct PlanMemory {
  const std::byte* weights = nullptr;  // byte 0 of the engine file
  std::byte* arena = nullptr;          // arena_bytes(plan, arena_rows)
  int32_t arena_rows = 0;
  Scratch scratch = {};
  std::byte* best = nullptr;    // LinearArgs::best of the head
  std::byte* joined = nullptr;  // joined_row_bytes(plan) * arena_rows, if ops are joined
};

enum class Head {
  none,    // fill the KV cache only (prompt chunks)
  last,    // logits of the last row of every segment
  drafts,  // of the rows that draft, of a draft made at once
  all,
};
// Where a step has more than kMaxStepRows rows, the head takes the segments that come first.

// Bytes of what norms without a pass keep for each row of capacity.
int64_t joined_row_bytes(const Plan& plan);

// Enqueues one step: every op of the plan in order. `rows.select` is set by `head`.
void run(const Plan& plan, const Joints& joints, const PlanMemory& memory, const StepRows& rows,
         Head head, Backend& backend, Stream& stream);

// Bytes of scratch that the ops of a step need on `backend`.
size_t scratch_bytes(const Plan& plan, const Backend& backend);

// The logits view of the plan's head.
RowsView logits_view(const Plan& plan, const PlanMemory& memory);

}  // namespace specrt

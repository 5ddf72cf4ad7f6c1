// What a plan takes in memory: activations, KV cache, features, and the weights that a step reads.
#include <algorithm>

#include "engine/plan.h"

namespace specrt {
namespace {

using format::OpKind;
using format::OpRecord;

bool has_op(const Plan& plan, OpKind kind) {
  return std::any_of(plan.ops.begin(), plan.ops.end(),
                     [&](const OpRecord& op) { return op.kind == kind; });
}

}  // namespace

KvLayer kv_layer(const Plan& plan, int32_t id) {
  KvLayer layer;
  int64_t offset = 0;
  for (int32_t i = 0; i <= id; ++i) {
    const format::KvRecord& record = plan.kv[static_cast<size_t>(i)];
    layer = {.key_offset = offset,
             .value_offset = 0,
             .kv_heads = record.kv_heads,
             .head_dim = record.head_dim,
             .slots = kv_slots(plan),
             .dtype = static_cast<DType>(record.dtype),
             .window = record.window};
    layer.value_offset = offset + kv_key_bytes(layer);
    offset = layer.value_offset + kv_value_bytes(layer);
  }
  return layer;
}

FeatureRows feature_rows(const Plan& plan) {
  return {.dtype = static_cast<DType>(plan.header.feature_dtype),
          .cols = plan.header.feature_cols,
          .slots = kv_slots(plan)};
}

int64_t arena_bytes(const Plan& plan, int32_t rows) {
  int64_t bytes = 0;
  for (size_t i = 0; i < plan.buffers.size(); ++i) {
    const format::BufferRecord& buffer = plan.buffers[i];
    const bool is_logits = i == static_cast<size_t>(plan.header.logits_buffer);
    const int64_t own = is_logits ? std::min(rows, kMaxStepRows) : rows;
    bytes =
        std::max(bytes, static_cast<int64_t>(buffer.offset) * rows +
                            padded_row_bytes(static_cast<DType>(buffer.dtype), buffer.cols) * own);
  }
  return bytes;
}

int32_t kv_slots(const Plan& plan) {
  const int32_t slots = plan.header.context + kMaxStepRows;
  return (slots + kKvBlock - 1) / kKvBlock * kKvBlock;
}

std::vector<KvLayer> kv_layers(const Plan& plan) {
  std::vector<KvLayer> layers;
  for (size_t i = 0; i < plan.kv.size(); ++i) {
    layers.push_back(kv_layer(plan, static_cast<int32_t>(i)));
  }
  return layers;
}

int64_t kv_bytes(const Plan& plan) {
  if (plan.kv.empty()) return 0;
  const KvLayer last = kv_layer(plan, static_cast<int32_t>(plan.kv.size()) - 1);
  return last.value_offset + kv_value_bytes(last);
}

bool keeps_features(const Plan& plan) {
  return std::any_of(plan.ops.begin(), plan.ops.end(), [](const OpRecord& op) {
    return op.kind == OpKind::keep_features && op.integer[1] == 0;
  });
}

bool reads_features(const Plan& plan) { return has_op(plan, OpKind::load_features); }

bool estimates_features(const Plan& plan) {
  return reads_features(plan) && has_op(plan, OpKind::keep_features);
}

int32_t draft_heads(const Plan& plan) {
  int32_t heads = 0;
  for (const OpRecord& op : plan.ops) {
    if (op.rows == format::OpRows::draft) heads = std::max(heads, op.draft + 1);
  }
  return heads;
}

int32_t layers_before_streams(const Plan& plan) {
  int32_t layers = 0;
  for (const OpRecord& op : plan.ops) {
    if (op.kind == OpKind::insert_streams) return layers;
    if (op.kv != format::kNone) layers = std::max(layers, op.kv + 1);
  }
  return static_cast<int32_t>(plan.kv.size());
}

int64_t feature_bytes(const Plan& plan) {
  if (!keeps_features(plan)) return 0;
  const FeatureRows rows = feature_rows(plan);
  return feature_row_bytes(rows) * rows.slots;
}

namespace {

// Of tables that an op reads for some tokens only, next to nothing.
int64_t weight_bytes_of(const Plan& plan, const OpRecord& op) {
  const bool gathers = op.kind == OpKind::embed || op.kind == OpKind::plan_streams;
  if (gathers || op.tensor == format::kNone) return 0;
  return static_cast<int64_t>(plan.tensors[static_cast<size_t>(op.tensor)].bytes);
}

}  // namespace

int64_t step_weight_bytes(const Plan& plan) {
  int64_t bytes = 0;
  for (const OpRecord& op : plan.ops) bytes += weight_bytes_of(plan, op);
  return bytes;
}

double streamed_share(const Plan& plan) {
  int64_t before = 0, behind = 0;
  bool inserted = false;
  for (const OpRecord& op : plan.ops) {
    inserted = inserted || op.kind == OpKind::insert_streams;
    (inserted ? behind : before) += weight_bytes_of(plan, op);
  }
  return behind == 0 ? 0 : static_cast<double>(behind) / static_cast<double>(before + behind);
}

int64_t joined_row_bytes(const Plan& plan) {
  int64_t bytes = 0;
  for (const OpRecord& op : plan.ops) {
    if (op.kind != OpKind::rms_norm) continue;
    const int64_t cols = plan.buffers[static_cast<size_t>(op.out)].cols;
    bytes = std::max(bytes, padded_row_bytes(DType::bf16, cols) +
                                padded_row_bytes(DType::f32, cols / kSquareCols));
  }
  return bytes;
}

}  // namespace specrt

// An op of a plan as the arguments of a backend: the one place that knows what the fields of an
// OpRecord mean, shared by validation and by running.
#pragma once

#include "base/error.h"
#include "engine/plan.h"

namespace specrt {

inline RowsView view_of(const Plan& plan, const PlanMemory& memory, int32_t id) {
  const format::BufferRecord& buffer = plan.buffers[static_cast<size_t>(id)];
  const auto dtype = static_cast<DType>(buffer.dtype);
  return {.data = memory.arena + static_cast<int64_t>(buffer.offset) * memory.arena_rows,
          .dtype = dtype,
          .cols = buffer.cols,
          .stride = padded_row_bytes(dtype, buffer.cols)};
}

inline Weight weight_of(const Plan& plan, const PlanMemory& memory, int32_t id) {
  const format::TensorRecord& tensor = plan.tensors[static_cast<size_t>(id)];
  return {.data = memory.weights + tensor.offset,
          .dtype = static_cast<DType>(tensor.dtype),
          .layout = static_cast<Layout>(tensor.layout),
          .rows = tensor.rows,
          .cols = tensor.cols,
          .pair_stride = tensor.pair_stride};
}

// Fills the Args of one op and hands them to `visitor`.
template <typename Visitor>
void visit(const Plan& plan, const format::OpRecord& op, const PlanMemory& memory,
           const StepRows& rows, Visitor&& visitor) {
  const auto in = [&](int i) { return view_of(plan, memory, op.in[i]); };
  const auto out = [&] { return view_of(plan, memory, op.out); };
  const auto weight = [&] { return weight_of(plan, memory, op.tensor); };
  const auto floats = [&] { return reinterpret_cast<const float*>(weight().data); };
  const auto optional = [&](int i) -> const float* {
    const int32_t id = op.integer[i] - 1;
    if (id < 0) return nullptr;
    return reinterpret_cast<const float*>(weight_of(plan, memory, id).data);
  };
  using format::OpKind;
  switch (op.kind) {
    case OpKind::embed:
      visitor(EmbedArgs{.rows = rows, .table = weight(), .out = out()});
      return;
    case OpKind::rope_angles:
      visitor(RopeAnglesArgs{.rows = rows,
                             .inv_freq = floats(),
                             .half = weight().cols,
                             .scaling = op.real[0],
                             .out = out()});
      return;
    case OpKind::rms_norm:
      visitor(
          RmsNormArgs{.rows = rows, .x = in(0), .gain = floats(), .eps = op.real[0], .out = out()});
      return;
    case OpKind::linear:
      visitor(LinearArgs{.rows = rows,
                         .x = in(0),
                         .w = weight(),
                         .bias = optional(1),
                         .epilogue = static_cast<Epilogue>(op.integer[0]),
                         .out = out()});
      return;
    case OpKind::rope_kv:
      visitor(RopeKvArgs{.rows = rows,
                         .qkv = in(0),
                         .angles = in(1),
                         .q = out(),
                         .kv = kv_layer(plan, op.kv),
                         .heads = op.integer[0],
                         .q_gain = optional(1),
                         .k_gain = optional(2),
                         .eps = op.real[0]});
      return;
    case OpKind::attention:
      visitor(AttentionArgs{.rows = rows,
                            .q = in(0),
                            .kv = kv_layer(plan, op.kv),
                            .heads = op.integer[0],
                            .scale = op.real[0],
                            .out = out(),
                            .scratch = memory.scratch});
      return;
    case OpKind::keep_features:
      visitor(KeepFeaturesArgs{.rows = rows,
                               .x = in(0),
                               .features = feature_rows(plan),
                               .first = op.integer[0],
                               .ahead = op.integer[1]});
      return;
    case OpKind::load_features:
      visitor(LoadFeaturesArgs{.rows = rows,
                               .features = feature_rows(plan),
                               .first = op.integer[0],
                               .missing = static_cast<MissingFeatures>(op.integer[1]),
                               .mask = op.tensor == format::kNone ? nullptr : floats(),
                               .out = out()});
      return;
    case OpKind::convert:
      visitor(ConvertArgs{.rows = rows, .x = in(0), .out = out()});
      return;
    case OpKind::scatter:
      visitor(ScatterArgs{.rows = rows, .x = in(0), .ids = floats(), .out = out()});
      return;
    case OpKind::plan_streams:
      visitor(
          PlanStreamsArgs{.rows = rows,
                          .exit = in(0),
                          .table = weight(),
                          .streams = plan.header.streams,
                          .positions = static_cast<StreamPositions>(plan.header.stream_positions)});
      return;
    case OpKind::insert_streams:
      visitor(InsertStreamsArgs{.rows = rows,
                                .x = in(0),
                                .embedding = floats(),
                                .streams = plan.header.streams,
                                .out = out()});
      return;
  }
  fail("unknown op kind ", static_cast<uint32_t>(op.kind));
}

}  // namespace specrt

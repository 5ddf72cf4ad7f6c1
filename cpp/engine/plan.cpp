#include "engine/plan.h"

#include <algorithm>
#include <type_traits>

#include "base/error.h"
#include "engine/plan_visit.h"

namespace specrt {

size_t scratch_bytes(const Plan& plan, const Backend& backend) {
  size_t bytes = 0;
  StepRows rows;
  rows.segment_count = 1;
  rows.capacity = kMaxStepRows;
  rows.positions = kv_slots(plan);
  for (const format::OpRecord& op : plan.ops) {
    visit(plan, op, PlanMemory{}, rows, [&]<typename Args>(const Args& args) {
      if constexpr (std::is_same_v<Args, AttentionArgs>) {
        bytes = std::max(bytes, backend.attention_scratch(args));
      }
    });
  }
  return bytes;
}

RowsView logits_view(const Plan& plan, const PlanMemory& memory) {
  return view_of(plan, memory, plan.header.logits_buffer);
}

namespace {

using format::OpKind;
using format::OpRecord;

struct Enqueue {
  Backend& backend;
  Stream& stream;

  void operator()(const EmbedArgs& args) const { backend.embed(stream, args); }
  void operator()(const RopeAnglesArgs& args) const { backend.rope_angles(stream, args); }
  void operator()(const RmsNormArgs& args) const { backend.rms_norm(stream, args); }
  void operator()(const LinearArgs& args) const { backend.linear(stream, args); }
  void operator()(const RopeKvArgs& args) const { backend.rope_kv(stream, args); }
  void operator()(const AttentionArgs& args) const { backend.attention(stream, args); }
  void operator()(const KeepFeaturesArgs& args) const { backend.keep_features(stream, args); }
  void operator()(const LoadFeaturesArgs& args) const { backend.load_features(stream, args); }
  void operator()(const ConvertArgs& args) const { backend.convert(stream, args); }
  void operator()(const ScatterArgs& args) const { backend.scatter(stream, args); }
  void operator()(const PlanStreamsArgs& args) const { backend.plan_streams(stream, args); }
  void operator()(const InsertStreamsArgs& args) const { backend.insert_streams(stream, args); }
};

RowsView rows_at(std::byte* data, DType dtype, int32_t cols) {
  return {.data = data, .dtype = dtype, .cols = cols, .stride = padded_row_bytes(dtype, cols)};
}

// What a norm without a pass keeps.
struct JoinedNorm {
  JoinedNorm(const Plan& plan, const PlanMemory& memory, int32_t norm)
      : op(plan.ops[static_cast<size_t>(norm)]) {
    const int32_t cols = plan.buffers[static_cast<size_t>(op.out)].cols;
    scaled = rows_at(memory.joined, DType::bf16, cols);
    squares =
        rows_at(memory.joined + scaled.stride * memory.arena_rows, DType::f32, cols / kSquareCols);
  }

  const OpRecord& op;
  RowsView scaled;
  RowsView squares;
};

// Extends the arguments of an op by what it does for its neighbours.
struct Join {
  const Plan& plan;
  const PlanMemory& memory;
  const Joint& joint;

  void operator()(auto&) const {}
  void operator()(EmbedArgs& args) const { add_gain(args.gain); }
  void operator()(LinearArgs& args) const {
    add_gain(args.gain);
    if (joint.factor_of != format::kNone) {
      const JoinedNorm norm(plan, memory, joint.factor_of);
      args.x = norm.scaled;
      args.factor = {.squares = norm.squares, .eps = norm.op.real[0]};
    }
    if (joint.rope == format::kNone) return;
    const auto set = [&](const RopeKvArgs& rope) {
      args.epilogue = Epilogue::rope_kv;
      args.rope = {.angles = rope.angles, .q = rope.q, .kv = rope.kv, .heads = rope.heads};
    };
    visit(plan, plan.ops[static_cast<size_t>(joint.rope)], memory, args.rows,
          [&]<typename Args>(const Args& rope) {
            if constexpr (std::is_same_v<Args, RopeKvArgs>) set(rope);
          });
  }

  void add_gain(NormGain& gain) const {
    if (joint.gain_of == format::kNone) return;
    const JoinedNorm norm(plan, memory, joint.gain_of);
    const Weight weight = weight_of(plan, memory, norm.op.tensor);
    gain = {.gain = reinterpret_cast<const float*>(weight.data),
            .scaled = norm.scaled,
            .squares = norm.squares};
  }
};

StepRows head_rows(const StepRows& rows, Head head) {
  StepRows selected = rows;
  selected.segment_count = std::min(rows.segment_count, kMaxStepRows / rows.capacity);
  if (head == Head::last) selected.select = RowSelect::last;
  if (head == Head::drafts) selected.select = RowSelect::drafts;
  return selected;
}

bool has_streams(const StepRows& rows) {
  return std::any_of(rows.segments.begin(), rows.segments.begin() + rows.segment_count,
                     [](const Segment& segment) { return segment.streams.cells != nullptr; });
}

// Whether a step has work for an op.
bool runs(const OpRecord& op, const StepRows& rows) {
  if (op.rows == format::OpRows::scored) return rows.pruning == Pruning::scored;
  const bool needs_streams = op.rows == format::OpRows::streams || op.kind == OpKind::plan_streams;
  return !needs_streams || has_streams(rows);
}

// The rows that an op runs for, of those that its part of the plan has.
StepRows rows_for(const OpRecord& op, const StepRows& rows) {
  StepRows selected = rows;
  if (op.rows == format::OpRows::streams) selected.select = RowSelect::streams;
  if (op.rows == format::OpRows::draft) {
    selected.select = RowSelect::draft;
    selected.draft = op.draft;
  }
  return selected;
}

}  // namespace

void run(const Plan& plan, const Joints& joints, const PlanMemory& memory, const StepRows& rows,
         Head head, Backend& backend, Stream& stream) {
  const Enqueue enqueue{backend, stream};
  const auto head_begin = static_cast<size_t>(plan.header.head_begin);
  const size_t end = head == Head::none ? head_begin : plan.ops.size();
  StepRows part = rows;
  for (size_t i = 0; i < end; ++i) {
    const OpRecord& op = plan.ops[i];
    if (i == head_begin) part = head_rows(part, head);
    const Joint joint = joints.of(i);
    if (joint.left_out || !runs(op, rows)) continue;
    visit(plan, op, memory, rows_for(op, part), [&]<typename Args>(Args args) {
      Join{plan, memory, joint}(args);
      if constexpr (std::is_same_v<Args, LinearArgs>) {
        if (op.out == plan.header.logits_buffer) args.best = memory.best;
      }
      enqueue(args);
    });
    if (op.kind == OpKind::insert_streams) part = with_streams(rows);
  }
}

}  // namespace specrt

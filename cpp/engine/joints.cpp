#include "engine/joints.h"

#include <algorithm>

#include "engine/plan.h"

namespace specrt {
namespace {

using format::kNone;
using format::OpKind;
using format::OpRecord;

const OpRecord& op_of(const Plan& plan, int32_t op) { return plan.ops[static_cast<size_t>(op)]; }

bool reads(const OpRecord& op, int32_t buffer) { return op.in[0] == buffer || op.in[1] == buffer; }

// The last op before `op` that writes `buffer`, or kNone.
int32_t writer_before(const Plan& plan, int32_t op, int32_t buffer) {
  int32_t writer = op - 1;
  while (writer >= 0 && op_of(plan, writer).out != buffer) --writer;
  return writer >= 0 ? writer : kNone;
}

// Whether the outputs of a linear op lie in tiles, in pairs of `stride`.
bool has_tiles(const Plan& plan, const OpRecord& op, int32_t stride) {
  const format::TensorRecord& tensor = plan.tensors[static_cast<size_t>(op.tensor)];
  return static_cast<Layout>(tensor.layout) == Layout::tiles16x32 && tensor.pair_stride == stride;
}

bool has_epilogue(const OpRecord& op, Epilogue epilogue) {
  return op.kind == OpKind::linear && op.integer[0] == static_cast<int32_t>(epilogue);
}

// The ops that read what `norm` writes; none unless all of them are linear and need nothing of it
// but its products.
std::vector<int32_t> linear_readers(const Plan& plan, int32_t norm) {
  const int32_t buffer = op_of(plan, norm).out;
  std::vector<int32_t> readers;
  for (auto i = static_cast<size_t>(norm) + 1; i < plan.ops.size(); ++i) {
    const OpRecord& op = plan.ops[i];
    if (reads(op, buffer)) {
      if (op.kind != OpKind::linear || has_epilogue(op, Epilogue::silu_add)) return {};
      readers.push_back(static_cast<int32_t>(i));
    }
    if (op.out == buffer) break;
  }
  return readers;
}

// Behind the ops that streams begin with, ops for streams alone change what others have made.
int32_t joinable_ops(const Plan& plan) {
  const auto begin = std::find_if(plan.ops.begin(), plan.ops.end(), [](const OpRecord& op) {
    return op.rows != format::OpRows::all || op.kind == OpKind::plan_streams;
  });
  return static_cast<int32_t>(begin - plan.ops.begin());
}

}  // namespace

Joints::Joints(const Plan& plan) : joints_(plan.ops.size()) {
  for (int32_t i = 0; i < joinable_ops(plan); ++i) {
    if (op_of(plan, i).kind == OpKind::rms_norm) join_norm(plan, i);
    if (op_of(plan, i).kind == OpKind::rope_kv) join_rope(plan, i);
  }
}

void Joints::join_norm(const Plan& plan, int32_t norm) {
  const OpRecord& op = op_of(plan, norm);
  const format::BufferRecord& out = plan.buffers[static_cast<size_t>(op.out)];
  const std::vector<int32_t> readers = linear_readers(plan, norm);
  const int32_t producer = writer_before(plan, norm, op.in[0]);
  if (producer == kNone || producer <= last_reader_ || readers.empty()) return;
  const OpRecord& from = op_of(plan, producer);
  const bool produces = from.kind == OpKind::embed || (has_epilogue(from, Epilogue::add) &&
                                                       has_tiles(plan, from, kPanelRows / 2));
  const bool has_squares =
      out.cols % kSquareCols == 0 && static_cast<DType>(out.dtype) == DType::bf16;
  Joint& joint = joints_[static_cast<size_t>(producer)];
  if (!produces || !has_squares || joint.gain_of != kNone) return;
  joint.gain_of = norm;
  joints_[static_cast<size_t>(norm)].left_out = true;
  for (const int32_t reader : readers) joints_[static_cast<size_t>(reader)].factor_of = norm;
  last_reader_ = readers.back();
}

void Joints::join_rope(const Plan& plan, int32_t rope) {
  const OpRecord& op = op_of(plan, rope);
  const format::KvRecord& kv = plan.kv[static_cast<size_t>(op.kv)];
  const bool has_norms = op.integer[1] != 0 || op.integer[2] != 0;
  if (has_norms || rope == 0 || static_cast<DType>(kv.dtype) != DType::bf16) return;
  // What is written earlier than in the plan must not lie where the product's own input does, which
  // a norm without a pass has moved away.
  const OpRecord& product = op_of(plan, rope - 1);
  Joint& joint = joints_[static_cast<size_t>(rope) - 1];
  if (!has_epilogue(product, Epilogue::store) || product.out != op.in[0] ||
      joint.factor_of == kNone || !has_tiles(plan, product, kv.head_dim / 2)) {
    return;
  }
  for (auto i = static_cast<size_t>(rope) + 1; i < plan.ops.size(); ++i) {
    if (reads(plan.ops[i], product.out)) return;
    if (plan.ops[i].out == product.out) break;
  }
  joint.rope = rope;
  joints_[static_cast<size_t>(rope)].left_out = true;
}

}  // namespace specrt

// What an engine file must keep to, so that its plan can be run with any rows from cells.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/plan.h"
#include "engine/plan_visit.h"

namespace specrt {
namespace {

using format::OpKind;
using format::OpRecord;

struct Uses {
  int inputs;
  bool tensor;
  bool kv;
  bool out = true;
};

Uses uses_of(const OpRecord& op) {
  switch (op.kind) {
    case OpKind::embed:
    case OpKind::rope_angles:
      return {0, true, false};
    case OpKind::rms_norm:
    case OpKind::linear:
      return {1, true, false};
    case OpKind::rope_kv:
      return {2, false, true};
    case OpKind::attention:
      return {1, false, true};
    case OpKind::keep_features:
      return {1, false, false, false};
    case OpKind::load_features:
      return {0, static_cast<MissingFeatures>(op.integer[1]) == MissingFeatures::mask, false};
    case OpKind::convert:
      return {1, false, false};
    case OpKind::scatter:
      return {1, true, false};
    case OpKind::plan_streams:
      return {1, true, false, false};
    case OpKind::insert_streams:
      return {1, true, false};
  }
  fail("unknown op kind ", static_cast<uint32_t>(op.kind));
}

void check_id(const char* what, int32_t id, size_t count, bool used) {
  if (used) {
    SPECRT_CHECK(id >= 0 && static_cast<size_t>(id) < count, what, " ", id, " of ", count);
  } else {
    SPECRT_CHECK(id == format::kNone, "unused ", what, " is ", id);
  }
}

// Rows that an op reads as plain floats.
void check_floats(const Plan& plan, int32_t id, int32_t rows, int32_t cols) {
  const format::TensorRecord& tensor = plan.tensors[static_cast<size_t>(id)];
  SPECRT_CHECK(tensor.rows == rows && tensor.cols == cols &&
                   static_cast<DType>(tensor.dtype) == DType::f32 &&
                   static_cast<Layout>(tensor.layout) == Layout::row_major,
               "tensor ", id, " must be ",
               rows == 1 ? concat("one f32 row") : concat(rows, " f32 rows"), " of ", cols);
}

void check_vector(const Plan& plan, int32_t id, int32_t cols) { check_floats(plan, id, 1, cols); }

// A vector that an op may do without: the id plus one, or 0.
void check_optional(const Plan& plan, int32_t number, int32_t cols) {
  if (number == 0) return;
  SPECRT_CHECK(number > 0 && static_cast<size_t>(number) <= plan.tensors.size(), "bias or gain ",
               number, " of ", plan.tensors.size());
  check_vector(plan, number - 1, cols);
}

void validate_op(const Plan& plan, const OpRecord& op) {
  const Uses uses = uses_of(op);
  for (int i = 0; i < 2; ++i) check_id("input", op.in[i], plan.buffers.size(), i < uses.inputs);
  check_id("output", op.out, plan.buffers.size(), uses.out);
  check_id("tensor", op.tensor, plan.tensors.size(), uses.tensor);
  check_id("kv layer", op.kv, plan.kv.size(), uses.kv);
  const int32_t out_cols = uses.out ? plan.buffers[static_cast<size_t>(op.out)].cols : 0;
  if (op.kind == OpKind::rms_norm) {
    check_vector(plan, op.tensor, plan.buffers[static_cast<size_t>(op.in[0])].cols);
  }
  if (op.kind == OpKind::scatter) {
    check_vector(plan, op.tensor, plan.buffers[static_cast<size_t>(op.in[0])].cols);
  }
  if (op.kind == OpKind::rope_angles) check_vector(plan, op.tensor, out_cols / 2);
  if (op.kind == OpKind::load_features && uses.tensor) check_vector(plan, op.tensor, out_cols);
  if (op.kind == OpKind::linear) {
    SPECRT_CHECK(op.integer[0] >= 0 && op.integer[0] <= static_cast<int32_t>(Epilogue::silu_add),
                 "linear: unknown epilogue ", op.integer[0]);
    check_optional(plan, op.integer[1], plan.tensors[static_cast<size_t>(op.tensor)].rows);
  }
  if (op.kind == OpKind::rope_kv) {
    const int32_t head_dim = plan.kv[static_cast<size_t>(op.kv)].head_dim;
    for (const int32_t gain : {op.integer[1], op.integer[2]}) check_optional(plan, gain, head_dim);
  }
  if (op.kind == OpKind::insert_streams) {
    check_floats(plan, op.tensor, plan.header.streams, out_cols);
  }
  if (op.kind == OpKind::embed || op.kind == OpKind::plan_streams) {
    const int32_t rows = plan.tensors[static_cast<size_t>(op.tensor)].rows;
    SPECRT_CHECK(rows >= plan.header.vocab, "the embedding has ", rows,
                 " rows for a vocabulary of ", plan.header.vocab);
  }
  StepRows rows;
  rows.segment_count = 1;
  rows.capacity = kMaxStepRows;
  visit(plan, op, PlanMemory{}, rows, [](const auto& args) { check(args); });
}

// Tiles belong to CUDA engines, panels to those of CPUs.
void check_tiles(const format::FileHeader& header, const format::TensorRecord& tensor) {
  const auto layout = static_cast<Layout>(tensor.layout);
  const bool is_cuda = header.backend == format::kBackendCuda;
  SPECRT_CHECK(layout != (is_cuda ? Layout::panels16 : Layout::tiles16x32), "layout ",
               tensor.layout, " in an engine for backend ", header.backend);
  SPECRT_CHECK(tensor.reserved == 0, "a reserved field is ", tensor.reserved);
  if (layout != Layout::tiles16x32) {
    SPECRT_CHECK(tensor.pair_stride == 0, "pair stride ", tensor.pair_stride, " without tiles");
    return;
  }
  SPECRT_CHECK(static_cast<DType>(tensor.dtype) == DType::bf16, "tiles of dtype ", tensor.dtype);
  SPECRT_CHECK(tensor.pair_stride >= kPanelRows / 2 && tensor.pair_stride % (kPanelRows / 2) == 0,
               "pair stride ", tensor.pair_stride);
  SPECRT_CHECK(tensor.pair_stride == kPanelRows / 2 || tensor.rows % (2 * tensor.pair_stride) == 0,
               tensor.rows, " rows are not whole pairs of ", tensor.pair_stride);
}

void validate_tensor(const Plan& plan, const format::TensorRecord& tensor) {
  const format::FileHeader& header = plan.header;
  SPECRT_CHECK(is_valid(static_cast<DType>(tensor.dtype)), "unknown dtype ", tensor.dtype);
  SPECRT_CHECK(tensor.layout <= static_cast<uint32_t>(Layout::tiles16x32), "unknown layout ",
               tensor.layout);
  check_tiles(header, tensor);
  SPECRT_CHECK(tensor.rows >= 1 && tensor.rows <= format::kMaxVocab && tensor.cols >= 1 &&
                   tensor.cols <= format::kMaxDim,
               "shape ", tensor.rows, " x ", tensor.cols);
  const auto bytes = static_cast<uint64_t>(weight_bytes(static_cast<DType>(tensor.dtype),
                                                        static_cast<Layout>(tensor.layout),
                                                        tensor.rows, tensor.cols));
  SPECRT_CHECK(tensor.bytes == bytes, tensor.bytes, " bytes where its shape needs ", bytes);
  SPECRT_CHECK(tensor.offset % 64 == 0 && tensor.offset >= header.weights_begin &&
                   tensor.offset <= header.file_bytes && bytes <= header.file_bytes - tensor.offset,
               "bytes [", tensor.offset, ", +", bytes, ") outside of the weights");
}

void validate_header(const Plan& plan) {
  const format::FileHeader& header = plan.header;
  SPECRT_CHECK(is_valid(static_cast<DType>(header.dtype)), "unknown weight dtype ", header.dtype);
  SPECRT_CHECK(header.vocab >= 1 && header.vocab <= format::kMaxVocab, "vocabulary of ",
               header.vocab);
  SPECRT_CHECK(header.context >= 2 && header.context <= format::kMaxContext, "context of ",
               header.context);
  SPECRT_CHECK(header.eos_count >= 0 && header.eos_count <= kMaxEos, header.eos_count,
               " end-of-sequence tokens");
  for (int32_t i = 0; i < header.eos_count; ++i) {
    SPECRT_CHECK(header.eos[i] >= 0 && header.eos[i] < header.vocab, "end-of-sequence token ",
                 header.eos[i]);
  }
  SPECRT_CHECK(header.mask_token >= 0 && header.mask_token <= header.vocab, "mask token field ",
               header.mask_token, " of a vocabulary of ", header.vocab);
  SPECRT_CHECK(header.head_begin >= 0 && static_cast<size_t>(header.head_begin) <= plan.ops.size(),
               "head begins at op ", header.head_begin);
  check_id("logits buffer", header.logits_buffer, plan.buffers.size(), true);
  const format::BufferRecord& logits = plan.buffers[static_cast<size_t>(header.logits_buffer)];
  SPECRT_CHECK(static_cast<DType>(logits.dtype) == DType::f32 && logits.cols == header.vocab,
               "the logits buffer is not f32 of the vocabulary's size");
  for (int32_t i = 0; i < header.head_begin; ++i) {
    const OpRecord& op = plan.ops[static_cast<size_t>(i)];
    const auto is_logits = [&](int32_t id) { return id == header.logits_buffer; };
    SPECRT_CHECK(!is_logits(op.out) && !is_logits(op.in[0]) && !is_logits(op.in[1]), "op ", i,
                 " uses the logits before the head");
  }
}

// A target's features are rows of every step, so the head, which steps may leave out, keeps none. A
// drafter's estimate is that of the row that drafts.
void validate_features(const Plan& plan) {
  const format::FileHeader& header = plan.header;
  SPECRT_CHECK(header.feature_cols >= 0 && header.feature_cols <= format::kMaxDim,
               header.feature_cols, " columns of features");
  SPECRT_CHECK(is_valid(static_cast<DType>(header.feature_dtype)), "unknown dtype ",
               header.feature_dtype, " of features");
  const bool keeps = keeps_features(plan), reads = reads_features(plan);
  const bool estimates = estimates_features(plan);
  SPECRT_CHECK((keeps || reads) == (header.feature_cols > 0), "features of ", header.feature_cols,
               " columns in an engine that ", keeps || reads ? "uses" : "does not use", " them");
  SPECRT_CHECK(!keeps || !reads, "an engine that keeps features and reads those of another");
  SPECRT_CHECK(!reads || (header.mask_token > 0) != estimates,
               "features are read without a mask token or estimates, or with both");
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    const OpRecord& op = plan.ops[i];
    if (op.kind != OpKind::keep_features) continue;
    const bool in_head = std::cmp_greater_equal(i, header.head_begin);
    SPECRT_CHECK(reads || !in_head, "engine op ", i, ": the head keeps features");
    SPECRT_CHECK(in_head == (op.integer[1] == 1), "engine op ", i, ": features ", op.integer[1],
                 " slots ahead");
  }
}

// Each op of a head of its own has one of the rows that a draft made at once has.
void validate_draft_heads(const Plan& plan) {
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    const OpRecord& op = plan.ops[i];
    SPECRT_CHECK(op.draft >= 0 && op.draft < kMaxStepRows &&
                     (op.draft == 0 || op.rows == format::OpRows::draft),
                 "engine op ", i, ": draft token ", op.draft);
    SPECRT_CHECK(op.rows != format::OpRows::draft ||
                     (std::cmp_greater_equal(i, plan.header.head_begin) && reads_features(plan)),
                 "engine op ", i, ": rows of drafts outside of a drafter's head");
  }
}

// Rows of the layers with streams may stand for positions beyond the tokens, so those embed none.
void validate_streams(const Plan& plan) {
  const format::FileHeader& header = plan.header;
  SPECRT_CHECK(header.streams >= 0 && header.streams <= kMaxTreeDepth, header.streams,
               " streams of at most ", kMaxTreeDepth);
  SPECRT_CHECK(header.stream_positions <= static_cast<uint32_t>(StreamPositions::shifted) &&
                   (header.streams > 0 || header.stream_positions == 0),
               "stream positions ", header.stream_positions, " of ", header.streams, " streams");
  const int32_t wanted = header.streams > 0 ? 1 : 0;
  int32_t planned = 0, inserted = 0, last_before = format::kNone;  // KV layer
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    const OpRecord& op = plan.ops[i];
    SPECRT_CHECK(std::cmp_not_equal(i, header.head_begin) || inserted >= wanted, "engine op ", i,
                 ": the head begins before streams are inserted");
    const bool plans = op.kind == OpKind::plan_streams, inserts = op.kind == OpKind::insert_streams;
    planned += plans ? 1 : 0;
    inserted += inserts ? 1 : 0;
    const bool in_order = inserted <= planned && planned <= 1 && planned - inserted <= 1 &&
                          (op.rows != format::OpRows::scored || planned == 0) &&
                          (op.rows != format::OpRows::streams || inserted == 1) &&
                          op.rows <= format::OpRows::draft &&
                          (op.rows == format::OpRows::all || (!plans && !inserts)) &&
                          (inserted == 0 || op.kind != OpKind::embed);
    SPECRT_CHECK(in_order, "engine op ", i, ": out of its place beside the streams");
    if (inserted == 0) last_before = std::max(last_before, op.kv);
    SPECRT_CHECK(inserted == 0 || op.kv == format::kNone || op.kv > last_before, "engine op ", i,
                 ": kv layer ", op.kv, " does not lie behind ", last_before,
                 ", which is before the streams");
  }
  SPECRT_CHECK(planned == wanted && inserted == wanted, "an engine with ", header.streams,
               " streams plans them ", planned, " times and inserts them ", inserted, " times");
}

constexpr int64_t kMaxBytes = int64_t{1} << 46;

template <typename Records, typename Check>
void each(const char* what, const Records& records, Check&& check_record) {
  for (size_t i = 0; i < records.size(); ++i) {
    try {
      check_record(records[i]);
    } catch (const Error& error) {
      fail("engine ", what, " ", i, ": ", error.what());
    }
  }
}

}  // namespace

void validate(const Plan& plan) {
  validate_header(plan);
  each("tensor", plan.tensors,
       [&](const format::TensorRecord& tensor) { validate_tensor(plan, tensor); });
  each("buffer", plan.buffers, [](const format::BufferRecord& buffer) {
    SPECRT_CHECK(is_valid(static_cast<DType>(buffer.dtype)), "unknown dtype ", buffer.dtype);
    SPECRT_CHECK(buffer.cols >= 1 && buffer.cols <= format::kMaxVocab, buffer.cols, " columns");
    SPECRT_CHECK(buffer.offset % kRowAlignment == 0 && buffer.offset < (uint64_t{1} << 32),
                 "offset ", buffer.offset);
  });
  int64_t kv_total = 0;
  each("kv layer", plan.kv, [&](const format::KvRecord& record) {
    SPECRT_CHECK(is_valid(static_cast<DType>(record.dtype)), "unknown dtype ", record.dtype);
    SPECRT_CHECK(record.kv_heads >= 1 && record.head_dim >= 2 && record.head_dim <= kMaxHeadDim &&
                     record.head_dim % 2 == 0 &&
                     record.kv_heads <= format::kMaxDim / record.head_dim,
                 record.kv_heads, " heads of ", record.head_dim);
    SPECRT_CHECK(record.window >= 0, "a window of ", record.window, " positions");
    kv_total += 8LL * record.kv_heads * record.head_dim * kv_slots(plan);
    SPECRT_CHECK(kv_total <= kMaxBytes, "a KV cache of ", kv_total, " bytes");
  });
  validate_features(plan);
  validate_draft_heads(plan);
  validate_streams(plan);
  each("op", plan.ops, [&](const OpRecord& op) { validate_op(plan, op); });
}

}  // namespace specrt

// Shape and dtype rules of the ops.
#include "device/ops.h"

#include "base/error.h"

namespace specrt {
namespace {

void check_rows(const char* op, const StepRows& rows) {
  SPECRT_CHECK(rows.segment_count >= 1 && rows.segment_count <= kMaxSegments, op,
               ": a step has 1 to ", kMaxSegments, " segments, not ", rows.segment_count);
  SPECRT_CHECK(rows.capacity >= 1 && rows.capacity <= kMaxStepRows, op, ": a segment has 1 to ",
               kMaxStepRows, " rows, not ", rows.capacity);
  SPECRT_CHECK(rows.segment_count * rows.capacity <= kMaxPromptRows, op, ": a step has 1 to ",
               kMaxPromptRows, " rows, not ", rows.segment_count, " x ", rows.capacity);
}

void check_view(const char* op, const char* what, const RowsView& view, DType dtype, int64_t cols) {
  SPECRT_CHECK(view.dtype == dtype, op, ": ", what, " must be ", name_of(dtype), ", not ",
               name_of(view.dtype));
  SPECRT_CHECK(view.cols == cols, op, ": ", what, " must have ", cols, " columns, not ", view.cols);
  SPECRT_CHECK(view.stride >= padded_row_bytes(dtype, cols) && view.stride % kRowAlignment == 0, op,
               ": ", what, " has a row stride of ", view.stride, " bytes");
}

void check_weight(const char* op, const Weight& weight) {
  SPECRT_CHECK(weight.rows >= 1 && weight.cols >= 1, op, ": weight of ", weight.rows, " x ",
               weight.cols);
}

// Gate meets up in a panel of tiles, or in two neighbouring panels of panels16, where the padding
// rows of a gate panel meet those of its up panel.
void check_swiglu(const LinearArgs& args) {
  const Weight& w = args.w;
  SPECRT_CHECK(w.layout == Layout::tiles16x32 || w.rows % (2 * kPanelRows) == 0,
               "linear: swiglu needs whole panel pairs, not ", w.rows, " rows");
  check_view("linear", "out", args.out, w.dtype, args.out.cols);
  if (w.layout == Layout::tiles16x32) {
    SPECRT_CHECK(
        w.pair_stride == args.out.cols && w.rows == 2 * static_cast<int64_t>(args.out.cols),
        "linear: swiglu of ", w.rows, " rows in pairs of stride ", w.pair_stride, " cannot give ",
        args.out.cols, " columns");
    return;
  }
  SPECRT_CHECK(args.out.cols <= w.rows / 2 && args.out.cols > w.rows / 2 - kPanelRows,
               "linear: swiglu of ", w.rows, " rows cannot give ", args.out.cols, " columns");
}

void check_kv(const char* op, const KvLayer& kv, int32_t heads) {
  SPECRT_CHECK(kv.head_dim >= 2 && kv.head_dim <= kMaxHeadDim && kv.head_dim % 2 == 0, op,
               ": head dimension ", kv.head_dim, " is not an even number up to ", kMaxHeadDim);
  SPECRT_CHECK(kv.kv_heads >= 1 && heads >= 1 && heads % kv.kv_heads == 0, op, ": ", heads,
               " query heads cannot share ", kv.kv_heads, " key/value heads");
  SPECRT_CHECK(kv.slots >= kKvBlock && kv.slots % kKvBlock == 0, op, ": ", kv.slots,
               " cache slots");
  SPECRT_CHECK(kv.window >= 0, op, ": a window of ", kv.window, " positions");
}

void check_gain(const char* op, const NormGain& norm, int64_t cols) {
  if (norm.gain == nullptr) return;
  SPECRT_CHECK(cols % kSquareCols == 0, op, ": a gain of ", cols, " columns");
  check_view(op, "scaled", norm.scaled, DType::bf16, cols);
  check_view(op, "squares", norm.squares, DType::f32, cols / kSquareCols);
}

void check_factor(const LinearArgs& args) {
  if (args.factor.squares.data == nullptr) return;
  check_view("linear", "squares", args.factor.squares, DType::f32, args.w.cols / kSquareCols);
}

void check_rope(const LinearArgs& args) {
  const RopeOutput& rope = args.rope;
  check_kv("linear", rope.kv, rope.heads);
  const int64_t e = rope.kv.head_dim;
  SPECRT_CHECK(args.w.layout == Layout::tiles16x32 && 2 * args.w.pair_stride == e &&
                   args.w.rows == (int64_t{rope.heads} + 2 * rope.kv.kv_heads) * e,
               "linear: ", args.w.rows, " rows in pairs of stride ", args.w.pair_stride,
               " are not queries, keys and values of ", e, " components");
  check_view("linear", "angles", rope.angles, DType::f32, e);
  check_view("linear", "q", rope.q, rope.kv.dtype, rope.heads * e);
}

void check_features(const char* op, const FeatureRows& features, int32_t first, int32_t cols) {
  SPECRT_CHECK(is_valid(features.dtype), op, ": features of an unknown dtype");
  SPECRT_CHECK(cols >= 1 && first >= 0 && first <= features.cols - cols, op, ": columns [", first,
               ", +", cols, ") of ", features.cols, " columns of features");
}

void check_logits(const char* op, const RowsView& logits, int32_t vocab, int32_t first_row) {
  check_view(op, "logits", logits, DType::f32, vocab);
  SPECRT_CHECK(vocab >= 1, op, ": empty vocabulary");
  SPECRT_CHECK(first_row >= 0 && first_row < kMaxStepRows, op, ": first row ", first_row);
}

}  // namespace

void check(const EmbedArgs& args) {
  check_rows("embed", args.rows);
  check_weight("embed", args.table);
  SPECRT_CHECK(args.table.layout != Layout::tiles16x32 || args.table.pair_stride == kPanelRows / 2,
               "embed: a table in pairs of stride ", args.table.pair_stride);
  check_view("embed", "out", args.out, DType::f32, args.table.cols);
  check_gain("embed", args.gain, args.table.cols);
}

void check(const RopeAnglesArgs& args) {
  check_rows("rope_angles", args.rows);
  SPECRT_CHECK(args.half >= 1 && args.half <= kMaxHeadDim / 2, "rope_angles: half dimension ",
               args.half);
  check_view("rope_angles", "out", args.out, DType::f32, 2 * static_cast<int64_t>(args.half));
}

void check(const RmsNormArgs& args) {
  check_rows("rms_norm", args.rows);
  SPECRT_CHECK(args.x.cols >= 1, "rms_norm: empty rows");
  check_view("rms_norm", "x", args.x, DType::f32, args.x.cols);
  check_view("rms_norm", "out", args.out, args.out.dtype, args.x.cols);
}

void check(const LinearArgs& args) {
  check_rows("linear", args.rows);
  check_weight("linear", args.w);
  SPECRT_CHECK(args.w.layout != Layout::row_major, "linear: the weight is not packed");
  check_view("linear", "x", args.x, args.w.dtype, args.w.cols);
  check_factor(args);
  switch (args.epilogue) {
    case Epilogue::store:
      check_view("linear", "out", args.out, args.out.dtype, args.w.rows);
      return;
    case Epilogue::add:
      check_view("linear", "out", args.out, DType::f32, args.w.rows);
      check_gain("linear", args.gain, args.w.rows);
      return;
    case Epilogue::swiglu:
      check_swiglu(args);
      return;
    case Epilogue::silu_add:
      SPECRT_CHECK(args.w.rows == args.w.cols, "linear: ", args.w.rows, " outputs do not add to ",
                   args.w.cols, " inputs");
      check_view("linear", "out", args.out, args.out.dtype, args.w.rows);
      return;
    case Epilogue::rope_kv:
      check_rope(args);
      return;
  }
  fail("linear: unknown epilogue ", static_cast<int32_t>(args.epilogue));
}

void check(const RopeKvArgs& args) {
  check_rows("rope_kv", args.rows);
  check_kv("rope_kv", args.kv, args.heads);
  const int64_t e = args.kv.head_dim;
  check_view("rope_kv", "qkv", args.qkv, DType::f32,
             (static_cast<int64_t>(args.heads) + 2 * args.kv.kv_heads) * e);
  check_view("rope_kv", "angles", args.angles, DType::f32, e);
  check_view("rope_kv", "q", args.q, args.kv.dtype, args.heads * e);
}

void check(const AttentionArgs& args) {
  check_rows("attention", args.rows);
  check_kv("attention", args.kv, args.heads);
  const int64_t cols = static_cast<int64_t>(args.heads) * args.kv.head_dim;
  check_view("attention", "q", args.q, args.kv.dtype, cols);
  check_view("attention", "out", args.out, args.kv.dtype, cols);
}

void check(const KeepFeaturesArgs& args) {
  check_rows("keep_features", args.rows);
  check_view("keep_features", "x", args.x, DType::f32, args.x.cols);
  check_features("keep_features", args.features, args.first, args.x.cols);
  SPECRT_CHECK(args.ahead == 0 || args.ahead == 1, "keep_features: ", args.ahead, " slots ahead");
}

void check(const LoadFeaturesArgs& args) {
  check_rows("load_features", args.rows);
  const DType dtype = args.out.dtype == DType::f32 ? DType::f32 : args.features.dtype;
  check_view("load_features", "out", args.out, dtype, args.out.cols);
  check_features("load_features", args.features, args.first, args.out.cols);
  SPECRT_CHECK(args.missing >= MissingFeatures::mask && args.missing <= MissingFeatures::estimates,
               "load_features: unknown way ", static_cast<int32_t>(args.missing),
               " to do without features");
}

void check(const ConvertArgs& args) {
  check_rows("convert", args.rows);
  SPECRT_CHECK(args.x.cols >= 1, "convert: empty rows");
  check_view("convert", "x", args.x, DType::f32, args.x.cols);
  check_view("convert", "out", args.out, args.out.dtype, args.x.cols);
}

void check(const ScatterArgs& args) {
  check_rows("scatter", args.rows);
  SPECRT_CHECK(args.x.cols >= 1 && args.x.cols <= args.out.cols, "scatter: ", args.x.cols,
               " columns to ", args.out.cols);
  check_view("scatter", "x", args.x, DType::f32, args.x.cols);
  check_view("scatter", "out", args.out, DType::f32, args.out.cols);
}

void check(const PlanStreamsArgs& args) {
  check_rows("plan_streams", args.rows);
  SPECRT_CHECK(args.streams >= 1 && args.streams <= kMaxTreeDepth, "plan_streams: ", args.streams,
               " streams of at most ", kMaxTreeDepth);
  SPECRT_CHECK(
      args.positions == StreamPositions::same || args.positions == StreamPositions::shifted,
      "plan_streams: unknown positions ", static_cast<int32_t>(args.positions));
  check_weight("plan_streams", args.table);
  SPECRT_CHECK(args.table.layout != Layout::tiles16x32 || args.table.pair_stride == kPanelRows / 2,
               "plan_streams: a table in pairs of stride ", args.table.pair_stride);
  check_view("plan_streams", "exit", args.exit, DType::f32, args.table.cols);
}

void check(const InsertStreamsArgs& args) {
  check_rows("insert_streams", args.rows);
  check_rows("insert_streams", with_streams(args.rows));
  SPECRT_CHECK(args.streams >= 1 && args.streams <= kMaxTreeDepth, "insert_streams: ", args.streams,
               " streams of at most ", kMaxTreeDepth);
  check_view("insert_streams", "x", args.x, DType::f32, args.x.cols);
  check_view("insert_streams", "out", args.out, DType::f32, args.x.cols);
}

void check(const MoveKvArgs& args) {
  SPECRT_CHECK(args.layer_count >= 0, "move_kv: ", args.layer_count, " layers");
  for (int32_t i = 0; i < args.layer_count; ++i) {
    check_kv("move_kv", args.layers[i], args.layers[i].kv_heads);
  }
}

void check(const MoveFeaturesArgs& args) { check_features("move_features", args.rows, 0, 1); }

void check(const PickDraftArgs& args) {
  check_logits("pick_draft", args.logits, args.vocab, args.first_row);
  SPECRT_CHECK(args.index >= 0 && args.index < kMaxStepRows, "pick_draft: step ", args.index);
}

void check(const PickCandidatesArgs& args) {
  check_logits("pick_candidates", args.logits, args.vocab, args.first_row);
  const int32_t most = args.tree == nullptr ? kMaxTreeDepth : kMaxStepRows;
  SPECRT_CHECK(args.lists >= 1 && args.lists <= most, "pick_candidates: ", args.lists,
               " lists of at most ", most);
  SPECRT_CHECK(args.depth >= 0 && args.depth < kMaxTreeDepth, "pick_candidates: behind depth ",
               args.depth, ", there are ", kMaxTreeDepth);
}

void check(const JudgeArgs& args) {
  check_logits("judge", args.logits, args.vocab, args.first_row);
}

}  // namespace specrt

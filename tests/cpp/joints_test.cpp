// Which ops of a plan join their neighbours.
#include "engine/joints.h"

#include <doctest/doctest.h>

#include "engine/plan.h"

namespace specrt {
namespace {

using format::kNone;
using format::OpKind;
using format::OpRecord;

enum Buffer : int32_t { kX, kNormed, kAngles, kQkv, kQ, kMixed, kFfn, kLogits };
enum Op : size_t { kEmbed, kRopeAngles, kNorm, kProduct, kRope, kAttention, kOut, kNorm2, kGateUp };

constexpr int32_t kDim = 64, kHeadDim = 16, kHeads = 4;

// The shape of a layer and a head, as far as Joints reads it.
struct LayerPlan {
  LayerPlan() {
    plan.buffers = {buffer(DType::f32, kDim),      buffer(DType::bf16, kDim),
                    buffer(DType::f32, kHeadDim),  buffer(DType::f32, 96),
                    buffer(DType::bf16, kDim),     buffer(DType::bf16, kDim),
                    buffer(DType::bf16, 2 * kDim), buffer(DType::f32, 100)};
    plan.kv = {{.kv_heads = 1,
                .head_dim = kHeadDim,
                .dtype = static_cast<uint32_t>(DType::bf16),
                .window = 0}};
    add(OpKind::embed, kNone, kX).tensor = tensor(8);
    add(OpKind::rope_angles, kNone, kAngles);
    add(OpKind::rms_norm, kX, kNormed);
    add(OpKind::linear, kNormed, kQkv).tensor = tensor(kHeadDim / 2);
    add(OpKind::rope_kv, kQkv, kQ).in[1] = kAngles;
    plan.ops.back().kv = 0;
    plan.ops.back().integer[0] = kHeads;
    add(OpKind::attention, kQ, kMixed).kv = 0;
    add_residual(kMixed);
    add(OpKind::rms_norm, kX, kNormed);
    add(OpKind::linear, kNormed, kFfn).tensor = tensor(kDim);
    plan.ops.back().integer[0] = static_cast<int32_t>(Epilogue::swiglu);
    add_residual(kFfn);
    add(OpKind::rms_norm, kX, kNormed);
    add(OpKind::linear, kNormed, kLogits).tensor = tensor(8);
  }

  static format::BufferRecord buffer(DType dtype, int32_t cols) {
    return {.offset = 0, .dtype = static_cast<uint32_t>(dtype), .cols = cols};
  }

  int32_t tensor(int32_t pair_stride) {
    plan.tensors.push_back({.offset = 0,
                            .bytes = 0,
                            .dtype = static_cast<uint32_t>(DType::bf16),
                            .layout = static_cast<uint32_t>(Layout::tiles16x32),
                            .rows = 1,
                            .cols = 1,
                            .pair_stride = pair_stride,
                            .reserved = 0});
    return static_cast<int32_t>(plan.tensors.size()) - 1;
  }

  OpRecord& add(OpKind kind, int32_t in, int32_t out) {
    plan.ops.push_back({.kind = kind,
                        .in = {in, kNone},
                        .out = out,
                        .tensor = kNone,
                        .kv = kNone,
                        .integer = {},
                        .real = {},
                        .rows = format::OpRows::all,
                        .draft = 0,
                        .reserved = {}});
    return plan.ops.back();
  }

  void add_residual(int32_t in) {
    OpRecord& op = add(OpKind::linear, in, kX);
    op.tensor = tensor(8);
    op.integer[0] = static_cast<int32_t>(Epilogue::add);
  }

  OpRecord& op(Op op) { return plan.ops[op]; }

  Plan plan;
};

TEST_CASE("a layer: norms go into what is around them, rope into its product") {
  LayerPlan layer;
  const Joints joints(layer.plan);
  CHECK(joints.of(kEmbed).gain_of == kNorm);
  CHECK(joints.of(kProduct).factor_of == kNorm);
  CHECK(joints.of(kProduct).rope == kRope);
  CHECK(joints.of(kOut).gain_of == kNorm2);
  CHECK(joints.of(kOut).factor_of == kNone);
  CHECK(joints.of(kGateUp).factor_of == kNorm2);
  CHECK(joints.of(9).gain_of == 10);
  CHECK(joints.of(11).factor_of == 10);
  for (size_t i = 0; i < layer.plan.ops.size(); ++i) {
    CHECK(joints.of(i).left_out == (i == kNorm || i == kRope || i == kNorm2 || i == 10));
    CHECK_FALSE(Joints().of(i).left_out);
  }
}

TEST_CASE("rope of heads with norms, or of other pairs, stays an op") {
  LayerPlan normed, paired, read_again;
  normed.op(kRope).integer[2] = 1;
  paired.plan.tensors[static_cast<size_t>(paired.op(kProduct).tensor)].pair_stride = 8 * 3;
  read_again.op(kOut).in[0] = kQkv;
  for (LayerPlan* layer : {&normed, &paired, &read_again}) {
    const Joints joints(layer->plan);
    CHECK(joints.of(kProduct).rope == kNone);
    CHECK_FALSE(joints.of(kRope).left_out);
    CHECK(joints.of(kProduct).factor_of == kNorm);
  }
}

TEST_CASE("a norm stays an op where its neighbours cannot take it") {
  LayerPlan read_by_attention, made_by_store, narrow, read_by_producer;
  read_by_attention.op(kAttention).in[0] = kNormed;
  made_by_store.op(kEmbed).out = kMixed;  // nothing makes x
  narrow.plan.buffers[kNormed].cols = 40;
  read_by_producer.op(kOut).in[0] = kNormed;  // the memory of both norms is the same
  for (LayerPlan* layer : {&read_by_attention, &made_by_store, &narrow}) {
    const Joints joints(layer->plan);
    CHECK_FALSE(joints.of(kNorm).left_out);
    CHECK(joints.of(kEmbed).gain_of == kNone);
    CHECK(joints.of(kProduct).factor_of == kNone);
    // Its product's input may lie where q does.
    CHECK(joints.of(kProduct).rope == kNone);
  }
  const Joints joints(read_by_producer.plan);
  CHECK(joints.of(kNorm).left_out);
  CHECK_FALSE(joints.of(kNorm2).left_out);
  CHECK(joints.of(kOut).gain_of == kNone);
}

TEST_CASE("a norm whose reader adds it to what it makes of it stays an op") {
  LayerPlan layer;
  layer.op(kGateUp).integer[0] = static_cast<int32_t>(Epilogue::silu_add);
  const Joints joints(layer.plan);
  CHECK_FALSE(joints.of(kNorm2).left_out);
  CHECK(joints.of(kOut).gain_of == kNone);
  CHECK(joints.of(kGateUp).factor_of == kNone);
  CHECK(joints.of(kNorm).left_out);
}

TEST_CASE("from the first op of streams on nothing is joined") {
  for (const size_t first : {size_t{kNorm}, size_t{kOut}, size_t{kNorm2}}) {
    LayerPlan scored, planned;
    OpRecord score = LayerPlan().op(kOut);
    score.rows = format::OpRows::scored;
    OpRecord plan = score;
    plan.kind = OpKind::plan_streams;
    plan.rows = format::OpRows::all;
    for (LayerPlan* layer : {&scored, &planned}) {
      std::vector<OpRecord>& ops = layer->plan.ops;
      ops.insert(ops.begin() + static_cast<std::ptrdiff_t>(first), layer == &scored ? score : plan);
      const Joints joints(layer->plan);
      for (size_t i = first; i < ops.size(); ++i) {
        CHECK_FALSE(joints.of(i).left_out);
        CHECK(joints.of(i).gain_of == kNone);
        CHECK(joints.of(i).factor_of == kNone);
        CHECK(joints.of(i).rope == kNone);
      }
      CHECK(joints.of(kNorm).left_out == (first > kNorm));
      CHECK(joints.of(kRope).left_out == (first > kRope));
    }
  }
}

}  // namespace
}  // namespace specrt

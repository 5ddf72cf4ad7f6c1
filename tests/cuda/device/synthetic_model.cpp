#include "synthetic_model.h"

#include <algorithm>
#include <cmath>

namespace specrt::cuda::bench {
namespace {

using format::OpKind;

constexpr LlamaShape kShapes[] = {
    {"8b", 4096, 32, 14336, 32, 8, 128, 128256, false},
    {"7b", 4096, 32, 11008, 32, 32, 128, 32000, false},
    {"13b", 5120, 40, 13824, 40, 40, 128, 32000, false},
    {"1b", 2048, 16, 8192, 32, 8, 64, 128256, true},
    {"tiny", 128, 2, 128, 2, 1, 64, 160, false},
};
constexpr uint64_t kWeightsBegin = 4096;
constexpr float kEps = 1e-5f;
constexpr float kTheta = 500000.0f;

class Writer {
 public:
  Writer(const LlamaShape& shape, int32_t context) : shape_(shape) {
    format::FileHeader& header = plan_.header;
    header.backend = format::kBackendCuda;
    header.layout_version = format::kCudaLayoutVersion;
    header.dtype = static_cast<uint32_t>(DType::bf16);
    header.vocab = shape.vocab;
    header.context = context;
    header.weights_begin = kWeightsBegin;
  }

  Plan write() {
    const int32_t table = matrix(shape_.vocab, shape_.dim);
    op(OpKind::embed, format::kNone, x_).tensor = table;
    format::OpRecord& rope = op(OpKind::rope_angles, format::kNone, angles_);
    rope.tensor = vector(shape_.head_dim / 2);
    rope.real[0] = 1.0f;
    for (int32_t i = 0; i < shape_.layers; ++i) layer();
    plan_.header.head_begin = static_cast<int32_t>(plan_.ops.size());
    norm();
    const int32_t head = shape_.tied ? table : matrix(shape_.vocab, shape_.dim);
    op(OpKind::linear, xn_, logits_).tensor = head;
    plan_.header.logits_buffer = logits_;
    plan_.header.file_bytes = end_;
    validate(plan_);
    return std::move(plan_);
  }

 private:
  int32_t add_tensor(const format::TensorRecord& record) {
    plan_.tensors.push_back(record);
    plan_.tensors.back().offset = end_;
    end_ += (record.bytes + 63) / 64 * 64;
    return static_cast<int32_t>(plan_.tensors.size()) - 1;
  }

  int32_t matrix(int32_t rows, int32_t cols, int32_t pair_stride = kPanelRows / 2) {
    const int64_t bytes = weight_bytes(DType::bf16, Layout::tiles16x32, rows, cols);
    return add_tensor({.offset = 0,
                       .bytes = static_cast<uint64_t>(bytes),
                       .dtype = static_cast<uint32_t>(DType::bf16),
                       .layout = static_cast<uint32_t>(Layout::tiles16x32),
                       .rows = rows,
                       .cols = cols,
                       .pair_stride = pair_stride,
                       .reserved = 0});
  }

  int32_t vector(int32_t cols) {
    return add_tensor({.offset = 0,
                       .bytes = static_cast<uint64_t>(cols) * sizeof(float),
                       .dtype = static_cast<uint32_t>(DType::f32),
                       .layout = static_cast<uint32_t>(Layout::row_major),
                       .rows = 1,
                       .cols = cols,
                       .pair_stride = 0,
                       .reserved = 0});
  }

  int32_t add_buffer(DType dtype, int32_t cols) {
    plan_.buffers.push_back(
        {.offset = arena_, .dtype = static_cast<uint32_t>(dtype), .cols = cols});
    arena_ += static_cast<uint64_t>(padded_row_bytes(dtype, cols));
    return static_cast<int32_t>(plan_.buffers.size()) - 1;
  }

  format::OpRecord& op(OpKind kind, int32_t in, int32_t out) {
    plan_.ops.push_back({.kind = kind,
                         .in = {in, format::kNone},
                         .out = out,
                         .tensor = format::kNone,
                         .kv = format::kNone,
                         .integer = {},
                         .real = {},
                         .rows = format::OpRows::all,
                         .draft = 0,
                         .reserved = {}});
    return plan_.ops.back();
  }

  void norm() {
    format::OpRecord& record = op(OpKind::rms_norm, x_, xn_);
    record.tensor = vector(shape_.dim);
    record.real[0] = kEps;
  }

  void linear(int32_t in, int32_t out, int32_t tensor, Epilogue epilogue) {
    format::OpRecord& record = op(OpKind::linear, in, out);
    record.tensor = tensor;
    record.integer[0] = static_cast<int32_t>(epilogue);
  }

  void layer() {
    const auto kv = static_cast<int32_t>(plan_.kv.size());
    plan_.kv.push_back({.kv_heads = shape_.kv_heads,
                        .head_dim = shape_.head_dim,
                        .dtype = static_cast<uint32_t>(DType::bf16),
                        .window = 0});
    norm();
    linear(xn_, qkv_, matrix(qkv_cols(), shape_.dim, shape_.head_dim / 2), Epilogue::store);
    format::OpRecord& rope = op(OpKind::rope_kv, qkv_, q_);
    rope.in[1] = angles_;
    rope.kv = kv;
    rope.integer[0] = shape_.heads;
    format::OpRecord& attention = op(OpKind::attention, q_, mixed_);
    attention.kv = kv;
    attention.integer[0] = shape_.heads;
    attention.real[0] = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    linear(mixed_, x_, matrix(shape_.dim, shape_.heads * shape_.head_dim), Epilogue::add);
    norm();
    linear(xn_, ffn_, matrix(2 * shape_.ffn, shape_.dim, shape_.ffn), Epilogue::swiglu);
    linear(ffn_, x_, matrix(shape_.dim, shape_.ffn), Epilogue::add);
  }

  int32_t qkv_cols() const { return (shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim; }

  const LlamaShape& shape_;
  Plan plan_;
  uint64_t end_ = kWeightsBegin;
  uint64_t arena_ = 0;
  int32_t x_ = add_buffer(DType::f32, shape_.dim);
  int32_t xn_ = add_buffer(DType::bf16, shape_.dim);
  int32_t angles_ = add_buffer(DType::f32, shape_.head_dim);
  int32_t qkv_ = add_buffer(DType::f32, qkv_cols());
  int32_t q_ = add_buffer(DType::bf16, shape_.heads* shape_.head_dim);
  int32_t mixed_ = add_buffer(DType::bf16, shape_.heads* shape_.head_dim);
  int32_t ffn_ = add_buffer(DType::bf16, shape_.ffn);
  int32_t logits_ = add_buffer(DType::f32, shape_.vocab);
};

// Recordings are made for these (decode/lockstep.cpp).
int32_t context_class(int32_t positions, int32_t context) {
  for (const int32_t most : {2048, 8192, 32768, 131072}) {
    if (positions <= most) return std::min(most, context);
  }
  return context;
}

// What a vector of the plan holds: frequencies for angles, gains of one otherwise.
std::vector<float> vector_values(const format::OpRecord& op, int32_t cols) {
  std::vector<float> values(static_cast<size_t>(cols), 1.0f);
  if (op.kind != OpKind::rope_angles) return values;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = std::pow(kTheta, -static_cast<float>(i) / static_cast<float>(cols));
  }
  return values;
}

}  // namespace

const LlamaShape& shape_named(const std::string& name) {
  for (const LlamaShape& shape : kShapes) {
    if (name == shape.name) return shape;
  }
  fail_argument("no shape '", name, "'; there are 8b, 7b, 13b, 1b and tiny");
}

std::vector<int32_t> span_words(int32_t cached, int32_t rows) {
  std::vector<int32_t> words;
  for (int32_t at = 0; at < rows; at += kMaxStepRows) {
    words.insert(words.end(), {cached + at, std::min(kMaxStepRows, rows - at)});
  }
  return words;
}

StepRows chain_step(const StepSpan* spans, int32_t rows, Segment segment) {
  StepRows step;
  step.segment_count = (rows + kMaxStepRows - 1) / kMaxStepRows;
  step.capacity = std::min(kMaxStepRows, rows);
  for (int32_t s = 0; s < step.segment_count; ++s) {
    segment.span = spans + s;
    step.segments[static_cast<size_t>(s)] = segment;
  }
  return step;
}

SyntheticModel::SyntheticModel(const Device& device, const LlamaShape& shape, int32_t context)
    : device_(device),
      plan_(Writer(shape, context).write()),
      weights_(device.random(plan_.header.file_bytes)),
      arena_(device.backend->alloc(static_cast<size_t>(arena_bytes(plan_, kMaxPromptRows)))),
      joints_(plan_),
      joined_(device.backend->alloc(static_cast<size_t>(joined_row_bytes(plan_) * kMaxPromptRows))),
      scratch_(device.backend->alloc(scratch_bytes(plan_, *device.backend))),
      kv_(device.random(static_cast<size_t>(kv_bytes(plan_)))) {
  for (const format::OpRecord& op : plan_.ops) {
    if (op.kind != OpKind::rope_angles && op.kind != OpKind::rms_norm) continue;
    const format::TensorRecord& tensor = plan_.tensors[static_cast<size_t>(op.tensor)];
    const std::vector<float> values = vector_values(op, tensor.cols);
    device.backend->copy_to_device(*device.stream,
                                   {.device = weights_.data() + tensor.offset,
                                    .host = reinterpret_cast<const std::byte*>(values.data()),
                                    .bytes = tensor.bytes});
    device.sync();
  }
  std::vector<int32_t> tok(static_cast<size_t>(kv_slots(plan_)));
  for (size_t i = 0; i < tok.size(); ++i) {
    tok[i] = static_cast<int32_t>(i * 7919 % static_cast<size_t>(shape.vocab));
  }
  tok_ = device.put(tok);
}

StepRows SyntheticModel::step(int32_t cached, int32_t rows) {
  spans_.push_back(device_.put(span_words(cached, rows)));
  StepRows step = chain_step(spans_.back().as<StepSpan>(), rows,
                             {.tok = tok_.as<const Cell<int32_t>>(), .kv = kv_.data()});
  step.positions = context_class(cached + rows, plan_.header.context);
  return step;
}

void SyntheticModel::enqueue(const StepRows& rows, Head head, Stream& stream) const {
  const PlanMemory memory{.weights = weights_.data(),
                          .arena = arena_.data(),
                          .arena_rows = kMaxPromptRows,
                          .scratch = {.data = scratch_.data(), .bytes = scratch_.size()},
                          .joined = joined_.data()};
  run(plan_, joints_, memory, rows, head, *device_.backend, stream);
}

double SyntheticModel::step_bytes(int32_t cached) const {
  const double position = static_cast<double>(kv_bytes(plan_)) / kv_slots(plan_);
  return static_cast<double>(step_weight_bytes(plan_)) + position * cached;
}

}  // namespace specrt::cuda::bench

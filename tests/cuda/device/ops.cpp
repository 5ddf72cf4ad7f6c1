// Single ops, back to back in a graph, each time on other memory, so that it comes from HBM.
#include <algorithm>
#include <cstring>
#include <random>

#include "synthetic_model.h"

namespace specrt::cuda::bench {
namespace {

constexpr size_t kPoolBytes = size_t{2} << 30;  // many times the L2 cache
constexpr int32_t kMaxNodes = 64;               // of a graph

// Microseconds of one of the `count` ops that `enqueue` puts on the stream.
template <typename Enqueue>
double time_each(const Device& device, const Options& options, int32_t count, Enqueue&& enqueue) {
  const auto work = device.backend->record(*device.stream, [&] {
    for (int32_t i = 0; i < count; ++i) enqueue(i);
  });
  const double time =
      time_ms(device.handle(), options.samples, [&] { work->launch(*device.stream); });
  return 1e3 * time / count;
}

struct Step {
  Step(const Device& device, int32_t cached, int32_t count, std::byte* kv = nullptr)
      : span(device.put(span_words(cached, count))),
        rows(chain_step(span.as<StepSpan>(), count, {.kv = kv})) {
    rows.positions = cached + count;
  }

  Buffer span;
  StepRows rows;
};

struct Activation {
  Activation(const Device& device, DType dtype, int32_t cols)
      : buffer(device.random(static_cast<size_t>(kMaxPromptRows * padded_row_bytes(dtype, cols)))),
        view{.data = buffer.data(),
             .dtype = dtype,
             .cols = cols,
             .stride = padded_row_bytes(dtype, cols)} {}

  Buffer buffer;
  RowsView view;
};

struct Matrix {
  const char* name;
  int32_t rows;
  int32_t cols;
  Epilogue epilogue;
  int32_t pair_stride;
  int32_t most_rows = kMaxPromptRows;
};

std::vector<Matrix> matrices(const LlamaShape& s) {
  const int32_t qkv = (s.heads + 2 * s.kv_heads) * s.head_dim;
  constexpr int32_t kPlain = kPanelRows / 2;
  return {
      {"qkv", qkv, s.dim, Epilogue::store, s.head_dim / 2},
      {"o", s.dim, s.heads * s.head_dim, Epilogue::add, kPlain},
      {"gate_up", 2 * s.ffn, s.dim, Epilogue::swiglu, s.ffn},
      {"down", s.dim, s.ffn, Epilogue::add, kPlain},
      {"head", s.vocab, s.dim, Epilogue::store, kPlain, kMaxStepRows},
  };
}

void time_matrix(const Device& device, const Options& options, const Buffer& pool,
                 const std::string& name, const Matrix& matrix) {
  const auto bytes =
      static_cast<size_t>(weight_bytes(DType::bf16, Layout::tiles16x32, matrix.rows, matrix.cols));
  const auto count = std::min<int32_t>(kMaxNodes, static_cast<int32_t>(pool.size() / bytes));
  const bool is_swiglu = matrix.epilogue == Epilogue::swiglu;
  const Activation x(device, DType::bf16, matrix.cols);
  const Activation out(device, is_swiglu ? DType::bf16 : DType::f32,
                       is_swiglu ? matrix.rows / 2 : matrix.rows);
  for (const int32_t rows : options.rows) {
    if (rows > matrix.most_rows) continue;
    const Step step(device, 0, rows);
    const double time = time_each(device, options, count, [&](int32_t i) {
      device.backend->linear(*device.stream, {.rows = step.rows,
                                              .x = x.view,
                                              .w = {.data = pool.data() + i * bytes,
                                                    .dtype = DType::bf16,
                                                    .layout = Layout::tiles16x32,
                                                    .rows = matrix.rows,
                                                    .cols = matrix.cols,
                                                    .pair_stride = matrix.pair_stride},
                                              .epilogue = matrix.epilogue,
                                              .out = out.view});
    });
    print({concat(name, ".", matrix.name, ".r", rows), time, "us", static_cast<double>(bytes)});
  }
}

}  // namespace

void linears(const Device& device, const Options& options) {
  const LlamaShape& shape = shape_named(options.shape);
  const std::vector<Matrix> all = matrices(shape);
  size_t pool_bytes = options.shape == "tiny" ? 0 : kPoolBytes;
  for (const Matrix& m : all) {
    pool_bytes = std::max(pool_bytes, static_cast<size_t>(weight_bytes(
                                          DType::bf16, Layout::tiles16x32, m.rows, m.cols)));
  }
  const Buffer pool = device.random(pool_bytes);
  for (const Matrix& m : all) {
    time_matrix(device, options, pool, concat(shape.name, ".linear"), m);
  }
}

void attentions(const Device& device, const Options& options) {
  const LlamaShape& shape = shape_named(options.shape);
  const Activation q(device, DType::bf16, shape.heads * shape.head_dim);
  const Activation out(device, DType::bf16, shape.heads * shape.head_dim);
  for (const int32_t cached : options.contexts) {
    KvLayer kv{.kv_heads = shape.kv_heads,
               .head_dim = shape.head_dim,
               .slots = (cached + kMaxStepRows + kKvBlock - 1) / kKvBlock * kKvBlock,
               .dtype = DType::bf16};
    kv.value_offset = kv_key_bytes(kv);
    const auto layer = static_cast<size_t>(kv.value_offset + kv_value_bytes(kv));
    const auto count = std::clamp<int32_t>(static_cast<int32_t>(kPoolBytes / layer), 1, 32);
    const int32_t layers = options.shape == "tiny" ? 1 : count;
    const Buffer cache = device.random(layer * static_cast<size_t>(layers));
    for (const int32_t rows : options.rows) {
      const Step step(device, cached, rows, cache.data());
      AttentionArgs args{.rows = step.rows,
                         .q = q.view,
                         .kv = kv,
                         .heads = shape.heads,
                         .scale = 0.1f,
                         .out = out.view};
      const Buffer scratch = device.backend->alloc(device.backend->attention_scratch(args));
      args.scratch = {.data = scratch.data(), .bytes = scratch.size()};
      const double time = time_each(device, options, layers, [&](int32_t i) {
        args.kv.key_offset = static_cast<int64_t>(layer) * i;
        args.kv.value_offset = args.kv.key_offset + kv_key_bytes(kv);
        device.backend->attention(*device.stream, args);
      });
      const double position = static_cast<double>(layer) / kv.slots;
      print(
          {concat(shape.name, ".attention.c", cached, ".r", rows), time, "us", position * cached});
    }
  }
}

namespace {

struct Choice {
  const char* name;
  float temperature;
  int32_t top_k;
  float top_p;
  float min_p;
};
constexpr Choice kChoices[] = {
    {"greedy", 0.0f, 0, 1.0f, 0.0f}, {"sampled", 1.0f, 0, 1.0f, 0.0f},
    {"top_k", 1.0f, 50, 1.0f, 0.0f}, {"top_p", 1.0f, 0, 0.9f, 0.0f},
    {"min_p", 1.0f, 0, 1.0f, 0.05f},
};
constexpr int32_t kCommitted = 1025;
constexpr uint32_t kLogSlots = 8;

// A sequence whose tail a judge has to walk; every launch begins with the same cells.
struct Judged {
  Judged(const Device& d, const Choice& choice, int32_t rows, int32_t vocab)
      : device(d),
        begin(d.backend->alloc_shared(sizeof(Cells))),
        cells(d.backend->alloc(sizeof(Cells))),
        tok(d.backend->alloc(2 * kCommitted * sizeof(int32_t))),
        bias(d.backend->alloc(kMaxLogitBias * sizeof(LogitBias))),
        logprobs(d.backend->alloc(kLogSlots * sizeof(LogprobEntry))),
        log(d.backend->alloc_shared(kLogSlots * sizeof(LogEntry))),
        scratch(d.backend->alloc(d.backend->pick_scratch(vocab))),
        step(d, kCommitted - 1, rows) {
    Cells& s = *begin.as<Cells>();
    s.committed = kCommitted;
    s.tail = rows;
    s.limit = 2 * kCommitted;
    s.logit.prompt_length = 1;
    s.sampling.temperature = choice.temperature;
    s.sampling.top_k = choice.top_k;
    s.sampling.top_p = choice.top_p;
    s.sampling.min_p = choice.min_p;
  }

  void reset() const {
    device.backend->copy_to_device(
        *device.stream, {.device = cells.data(), .host = begin.data(), .bytes = sizeof(Cells)});
  }
  void judge(const RowsView& logits, int32_t vocab) const {
    device.backend->judge(*device.stream,
                          {.sequence = {.cells = cells.as<Cells>(),
                                        .tok = tok.as<Cell<int32_t>>(),
                                        .bias = bias.as<LogitBias>(),
                                        .logprobs = logprobs.as<LogprobEntry>(),
                                        .log = log.as<LogEntry>(),
                                        .log_slots = kLogSlots},
                           .span = step.span.as<StepSpan>(),
                           .logits = logits,
                           .vocab = vocab,
                           .scratch = {.data = scratch.data(), .bytes = scratch.size()}});
  }

  const Device& device;
  Buffer begin, cells, tok, bias, logprobs, log, scratch;
  Step step;
};

// Logits of a standard deviation of 3, as models have.
Buffer random_logits(const Device& device, size_t stride) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> values(stride * kMaxStepRows);
  for (size_t i = 0; i < stride; ++i) values[i] = normal(random);
  for (size_t i = stride; i < values.size(); ++i)
    values[i] = values[(i * 7919 + i / stride) % stride];
  return device.put(values);
}

}  // namespace

void judges(const Device& device, const Options& options) {
  const int32_t vocab = shape_named(options.shape).vocab, nodes = 10;
  const int64_t stride = padded_row_bytes(DType::f32, vocab);
  const Buffer values = random_logits(device, static_cast<size_t>(stride) / sizeof(float));
  const RowsView logits{
      .data = values.data(), .dtype = DType::f32, .cols = vocab, .stride = stride};
  for (const Choice& choice : kChoices) {
    for (const int32_t rows : options.rows) {
      const Judged judged(device, choice, rows, vocab);
      const double both = time_each(device, options, nodes, [&](int32_t) {
        judged.reset();
        judged.judge(logits, vocab);
      });
      const double resets = time_each(device, options, nodes, [&](int32_t) { judged.reset(); });
      print({concat("judge.", choice.name, ".r", rows), both - resets, "us"});
    }
  }
}

}  // namespace specrt::cuda::bench

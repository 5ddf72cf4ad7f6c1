// Streams on the CPU backend: rows that are fed, and the tokens of a request, have the same bits
// with streams and without.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>

#include "cpu/cpu_backend.h"
#include "decode/generator.h"
#include "tiny_engine.h"

namespace specrt::testing {
namespace {

constexpr int32_t kTokens = 40, kMost = 4;  // vocabulary and streams of the tiny engine

using Random = std::mt19937_64;

int32_t draw(Random& random, int32_t low, int32_t high) {  // both included
  return low + static_cast<int32_t>(random() % static_cast<uint64_t>(high - low + 1));
}

// What is random of a step: a prompt and a tree behind it.
struct Text {
  Text(uint64_t seed, int32_t rows) : random(seed) {
    prompt.resize(static_cast<size_t>(draw(random, 1, 60)));
    for (int32_t& token : prompt) token = draw(random, 0, kTokens - 1);
    for (auto& depth : candidates) {
      for (int32_t& token : depth) token = draw(random, 0, kTokens - 1);
    }
    root = draw(random, 0, kTokens - 1);
    std::set<std::pair<int32_t, int32_t>> taken;
    for (int32_t first = 0, end = 1; tree.rows < rows; first = end, end = tree.rows) {
      for (int32_t i = draw(random, 1, 6); i > 0 && tree.rows < rows; --i) {
        const int32_t parent = draw(random, first, end - 1), rank = draw(random, 0, kTreeWidth - 1);
        if (tree.depth[parent] == kMaxTreeDepth || !taken.emplace(parent, rank).second) continue;
        const int32_t row = tree.rows++;
        tree.parent[row] = parent;
        tree.depth[row] = tree.depth[parent] + 1;
        tree.rank[row] = rank;
        tree.sees[row] = tree.sees[parent] | uint64_t{1} << row;
      }
      if (tree.depth[tree.rows - 1] == kMaxTreeDepth) break;
    }
  }

  Random random;
  std::vector<int32_t> prompt;
  int32_t root = 0;
  int32_t candidates[kMaxTreeDepth][kTreeWidth];
  TreeShape tree;
};

// A model and the cells of one sequence, stepped by hand.
struct Bench {
  explicit Bench(DType dtype)
      : backend(make_cpu_backend({.threads = 2})),
        stream(backend->make_stream({})),
        model(open_engine(tiny_streaming(dtype, 3).bytes()), *backend),
        kv(model.make_kv()) {}

  Segment segment() { return {.span = &span, .tok = tok, .kv = kv.data(), .cells = &cells}; }

  void run(const StepRows& rows, Head head) {
    model.enqueue_step(*stream, rows, head);
    stream->record().wait();
  }

  // The prompt in one piece, and what the tree behind it is made of.
  void feed(const Text& text, SegmentStreams streams) {
    const auto length = static_cast<int32_t>(text.prompt.size());
    std::memset(kv.data(), 0, kv.size());
    for (int32_t p = 0; p < length; ++p) tok[p] = text.prompt[static_cast<size_t>(p)];
    span.base = 0;
    span.rows = length;
    StepRows rows{.segment_count = 1, .capacity = kMaxStepRows, .positions = length + kMost};
    rows.segments[0] = segment();
    rows.segments[0].streams = streams;
    run(rows, Head::last);
    span.base = length;
    span.rows = text.tree.rows;
    for (int32_t depth = 0; depth < kMaxTreeDepth; ++depth) {
      keep_candidates(tree, depth, text.candidates[depth]);
    }
    for (int32_t row = 0; row < text.tree.rows; ++row) {
      tree.token[row] =
          row == 0 ? text.root : text.candidates[text.tree.depth[row] - 1][text.tree.rank[row]];
    }
  }

  StepRows tree_rows(const TreeShape& shape) {
    StepRows rows{.segment_count = 1, .capacity = kMaxStepRows};
    rows.positions = span.base + shape.depth[shape.rows - 1] + 1;
    rows.segments[0] = segment();
    rows.segments[0].sees = shape.sees;
    rows.segments[0].depth = shape.depth;
    rows.segments[0].row_tokens = tree.token;
    return rows;
  }

  // A tree without streams.
  void step(const TreeShape& shape) { run(tree_rows(shape), Head::all); }

  void step(const StreamingShape& shape, Pruning pruning) {
    StepRows rows = tree_rows(shape.tree);
    rows.positions += kMost;
    rows.stream_capacity = kMaxStepRows;
    rows.pruning = pruning;
    rows.segments[0].streams = {.cells = &streaming, .tree = &tree, .shape = &shape};
    run(rows, Head::all);
  }

  std::vector<float> logits(int32_t row) const {
    const float* from = model.logits().row<float>(row);
    return {from, from + kTokens};
  }

  // Bytes of the keys and values of a layer.
  std::vector<std::byte> layer(int32_t id) const {
    const KvLayer own = kv_layer(model.plan(), id);
    return {kv.data() + own.key_offset, kv.data() + own.value_offset + kv_value_bytes(own)};
  }

  std::vector<std::byte> values(int32_t id, int32_t slot) const {
    const KvLayer own = kv_layer(model.plan(), id);
    const auto row = own.head_dim * static_cast<int64_t>(size_of(own.dtype));
    std::vector<std::byte> out;
    for (int64_t head = 0; head < own.kv_heads; ++head) {
      const std::byte* from = kv.data() + own.value_offset + (head * own.slots + slot) * row;
      out.insert(out.end(), from, from + row);
    }
    return out;
  }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;
  Model model;
  Buffer kv;
  Cells cells;
  Cell<int32_t> tok[kMaxStepRows * 2];
  TreeCells tree;
  StreamingCells streaming;
  StepSpan span;
};

// Of a step with streams beside one without, over the same text.
void check_main_rows(const Bench& with, const Bench& without, const StreamingShape& shape) {
  const int32_t kept = with.streaming.kept, base = with.span.base;
  REQUIRE_GE(kept, 1);
  REQUIRE_LE(kept, shape.kept);
  REQUIRE_EQ(with.streaming.span.rows, kept * (1 + shape.streams));
  CHECK(with.layer(0) == without.layer(0));  // the rows of the tree, and no others
  for (int32_t row = 0; row < kept; ++row) {
    const int32_t from = with.streaming.from[row];
    REQUIRE(with.logits(row) == without.logits(from));
    REQUIRE(with.values(1, base + row) == without.values(1, base + from));
  }
  for (int32_t slot = 0; slot < base; ++slot) {
    REQUIRE(with.values(1, slot) == without.values(1, slot));
  }
}

TEST_CASE("main rows have the same bits with any streams, kept rows and pruning") {
  int64_t pruned = 0;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Bench with(dtype), without(dtype);
    for (uint64_t index = 0; index < 120; ++index) {
      Text text(index, 1 + static_cast<int32_t>(index * 7 % 28));
      without.feed(text, {});
      without.step(text.tree);
      StreamingShape shape{.tree = text.tree};
      shape.streams = static_cast<int32_t>(index % (kMost + 1));
      const bool scores = index % 3 > 0;
      shape.kept = draw(text.random, 1, std::min(text.tree.rows, 64 / (1 + shape.streams)));
      if (index % 6 == 1) shape.least_score = 0.05f;
      with.feed(text, {});
      with.step(shape, scores ? Pruning::scored : Pruning::off);
      check_main_rows(with, without, shape);
      pruned += with.streaming.kept < text.tree.rows ? 1 : 0;
    }
  }
  CHECK(pruned > 100);
}

TEST_CASE("the last row of a prompt has the same bits with streams behind it") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Bench with(dtype), without(dtype);
    for (uint64_t index = 0; index < 60; ++index) {
      const Text text(500 + index, 1);
      without.feed(text, {});
      const auto last = static_cast<int32_t>(text.prompt.size()) - 1;
      const std::vector<float> wanted = without.logits(last);
      with.feed(text, {.cells = &with.streaming, .tree = &with.tree});
      REQUIRE(with.logits(last) == wanted);
      REQUIRE_EQ(with.streaming.span.rows, last + 1 + kMost);
      CHECK(with.layer(0) == without.layer(0));
      for (int32_t slot = 0; slot <= last; ++slot) {
        REQUIRE(with.values(1, slot) == without.values(1, slot));
      }
    }
  }
}

TEST_CASE("a stream has the same bits whatever streams and rows are beside it") {
  Bench all(DType::bf16), some(DType::bf16);
  for (uint64_t index = 0; index < 60; ++index) {
    const Text text(800 + index, 9);
    const int32_t rows = text.tree.rows;
    const StreamingShape whole{.tree = text.tree, .streams = kMost, .kept = rows};
    const StreamingShape part{.tree = text.tree,
                              .streams = 1 + static_cast<int32_t>(index % 4),
                              .kept = 1 + static_cast<int32_t>(index) % rows};
    all.feed(text, {});
    all.step(whole, Pruning::off);
    some.feed(text, {});
    some.step(part, Pruning::off);
    for (int32_t row = 0; row < part.kept; ++row) {
      for (int32_t stream = 0; stream < part.streams; ++stream) {
        const std::vector<float> own = some.logits(part.kept + row * part.streams + stream);
        REQUIRE(own == all.logits(rows + row * kMost + stream));
        REQUIRE(own != all.logits(row));
      }
    }
  }
}

// A request with streams and without.
struct Decoding {
  Decoding(Backend& backend, Stream& stream, Model& model, Streaming streaming,
           const GeneratorOptions& options)
      : sequence(backend, model.context(), kMaxRunAhead + 2),
        lane(model, stream, {&sequence}, {.streaming = streaming}),
        generator(lane, nullptr, options) {}

  Sequence sequence;
  Lane lane;
  Generator generator;
};

SamplingParams draw_params(Random& random) {
  SamplingParams params;
  params.temperature = draw(random, 0, 1) == 0 ? 0.0f : 0.8f;
  params.top_k = draw(random, 0, 1) * 7;
  params.repetition_penalty = draw(random, 0, 1) == 0 ? 1.0f : 1.3f;
  params.presence_penalty = draw(random, 0, 1) == 0 ? 0.0f : 0.5f;
  params.ignore_eos = draw(random, 0, 1) == 0;
  params.max_tokens = draw(random, 1, 40);
  params.seed = random();
  params.logprobs = 3;
  return params;
}

bool same(const std::vector<std::vector<Logprob>>& a, const std::vector<std::vector<Logprob>>& b) {
  const auto equal = [](const Logprob& x, const Logprob& y) {
    return x.token == y.token && x.logprob == y.logprob;
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](const auto& x, const auto& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), equal);
  });
}

TEST_CASE("requests with streams have the tokens and logprobs of those without") {
  int64_t accepted = 0;
  for (uint64_t index = 0; index < 160; ++index) {
    Random random(index);
    const auto backend = make_cpu_backend({.threads = 2});
    const auto stream = backend->make_stream({});
    const DType dtype = index % 2 == 0 ? DType::f32 : DType::bf16;
    Model model(open_engine(tiny_streaming(dtype, 1 + index / 8).bytes()), *backend);
    Decoding plain(*backend, *stream, model, Streaming::off, {});
    GeneratorOptions options{.draft_tokens = draw(random, 1, kMost),
                             .tree_nodes = draw(random, 0, 1) * draw(random, 1, 40),
                             .kept_nodes = draw(random, 0, 1) * draw(random, 2, 10),
                             .run_ahead = draw(random, 0, 2)};
    if (index % 3 == 0) options.step_costs = {.target = {{1, 1.0}, {64, 1.5}}, .draft = {}};
    Decoding streamed(*backend, *stream, model, Streaming::on, options);
    std::vector<int32_t> prompt(static_cast<size_t>(draw(random, 1, 80)));
    for (int32_t& token : prompt) token = draw(random, 0, kTokens - 1);
    const SamplingParams params = draw_params(random);
    const Completion wanted = plain.generator.generate(prompt, params, {});
    const Completion got = streamed.generator.generate(prompt, params, {});
    REQUIRE_MESSAGE(got.token_ids == wanted.token_ids, "request ", index);
    REQUIRE(same(got.logprobs, wanted.logprobs));
    REQUIRE(got.finish_reason == wanted.finish_reason);
    for (const RoundRecord& round : got.metrics.rounds) accepted += round.accepted;
  }
  CHECK(accepted > 50);
}

TEST_CASE("a step with streams reads every weight of its rows once, as one without") {
  const Plan streaming = parse_plan(tiny_streaming(DType::bf16, 1).bytes().data(),
                                    tiny_streaming(DType::bf16, 1).bytes().size());
  const Plan plain = parse_plan(tiny_engine(DType::bf16, 1).bytes().data(),
                                tiny_engine(DType::bf16, 1).bytes().size());
  const auto products = [](const Plan& plan, bool all) {
    std::vector<std::pair<int32_t, int32_t>> shapes;
    std::set<int32_t> tensors;
    for (const format::OpRecord& op : plan.ops) {
      if (op.kind != format::OpKind::linear || (op.rows == format::OpRows::all) != all) continue;
      const format::TensorRecord& tensor = plan.tensors[static_cast<size_t>(op.tensor)];
      CHECK(tensors.insert(op.tensor).second);
      shapes.emplace_back(tensor.rows, tensor.cols);
    }
    return shapes;
  };
  CHECK(products(streaming, true) == products(plain, true));
  CHECK_EQ(products(streaming, false).size(), 8);  // of scores, queries, outputs, feed-forward
  CHECK(products(plain, false).empty());
  const double share = streamed_share(streaming);
  CHECK(share > 0.4);
  CHECK(share < 0.8);
  CHECK_EQ(streamed_share(plain), 0);
  CHECK_EQ(layers_before_streams(streaming), 1);
  CHECK_EQ(layers_before_streams(plain), 2);
}

}  // namespace
}  // namespace specrt::testing

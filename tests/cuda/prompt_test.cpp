// Prompts through a whole model: steps of 256 rows, of 64 and of one give the same bits.
#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <span>

#include "decode/generator.h"
#include "devices.h"
#include "engine_image.h"

namespace specrt::testing {
namespace {

using format::OpKind;

constexpr int32_t kVocab = 40, kContext = 320, kWindow = 100;
constexpr int32_t kDim = 64, kHeads = 4, kKvHeads = 2, kHeadDim = 64, kFfn = 48;

// A model with grouped heads, of two layers: all positions, and a window.
class Writer {
 public:
  Writer() {
    image.header.backend = format::kBackendCuda;
    image.header.layout_version = format::kCudaLayoutVersion;
    image.header.dtype = static_cast<uint32_t>(DType::bf16);
    image.header.vocab = kVocab;
    image.header.context = kContext;
    image.header.logits_buffer = image.add_buffer(DType::f32, kVocab);
    op(OpKind::embed, format::kNone, x_, matrix(kVocab, kDim, 8));
    op(OpKind::rope_angles, format::kNone, angles_, vector(kHeadDim / 2, 0.8f)).real[0] = 1.0f;
    layer(0);
    layer(kWindow);
    image.header.head_begin = static_cast<int32_t>(image.ops.size());
    norm();
    linear(normed_, image.header.logits_buffer, matrix(kVocab, kDim, 8), Epilogue::store);
  }

  EngineImage image;

 private:
  void layer(int32_t window) {
    const int32_t kv = image.add_kv(DType::bf16, kKvHeads, kHeadDim, window);
    norm();
    linear(normed_, qkv_, matrix((kHeads + 2 * kKvHeads) * kHeadDim, kDim, kHeadDim / 2),
           Epilogue::store);
    format::OpRecord& rope = op(OpKind::rope_kv, qkv_, q_, format::kNone);
    rope.in[1] = angles_;
    rope.kv = kv;
    rope.integer[0] = kHeads;
    format::OpRecord& attention = op(OpKind::attention, q_, mixed_, format::kNone);
    attention.kv = kv;
    attention.integer[0] = kHeads;
    attention.real[0] = 0.125f;
    linear(mixed_, x_, matrix(kDim, kHeads * kHeadDim, 8), Epilogue::add);
    norm();
    linear(normed_, ffn_, matrix(2 * kFfn, kDim, kFfn), Epilogue::swiglu);
    linear(ffn_, x_, matrix(kDim, kFfn, 8), Epilogue::add);
  }

  format::OpRecord& op(OpKind kind, int32_t in, int32_t out, int32_t tensor) {
    format::OpRecord& record = image.add_op(kind, out);
    record.in[0] = in;
    record.tensor = tensor;
    return record;
  }

  void norm() { op(OpKind::rms_norm, x_, normed_, vector(kDim, 1.0f)).real[0] = 1e-5f; }

  void linear(int32_t in, int32_t out, int32_t tensor, Epilogue epilogue) {
    op(OpKind::linear, in, out, tensor).integer[0] = static_cast<int32_t>(epilogue);
  }

  int32_t vector(int32_t cols, float factor) {
    std::vector<float> values;
    float value = 1.0f;
    for (int32_t i = 0; i < cols; ++i, value *= factor) values.push_back(value);
    const auto data = std::as_bytes(std::span(values));
    return image.add_tensor(DType::f32, Layout::row_major, 1, cols, {data.begin(), data.end()});
  }

  int32_t matrix(int32_t rows, int32_t cols, int32_t pair_stride) {
    std::normal_distribution<float> normal(0.0f, 2.0f / std::sqrt(static_cast<float>(cols)));
    const int64_t bytes = weight_bytes(DType::bf16, Layout::tiles16x32, rows, cols);
    std::vector<bf16_bits> values(static_cast<size_t>(bytes) / sizeof(bf16_bits));
    for (bf16_bits& value : values) value = to_bf16(normal(random_));
    const auto data = std::as_bytes(std::span(values));
    const int32_t id =
        image.add_tensor(DType::bf16, Layout::tiles16x32, rows, cols, {data.begin(), data.end()});
    image.tensors.back().record.pair_stride = pair_stride;
    return id;
  }

  std::mt19937_64 random_{5};
  int32_t x_ = image.add_buffer(DType::f32, kDim);
  int32_t normed_ = image.add_buffer(DType::bf16, kDim);
  int32_t angles_ = image.add_buffer(DType::f32, kHeadDim);
  int32_t qkv_ = image.add_buffer(DType::f32, (kHeads + 2 * kKvHeads) * kHeadDim);
  int32_t q_ = image.add_buffer(DType::bf16, kHeads* kHeadDim);
  int32_t mixed_ = image.add_buffer(DType::bf16, kHeads* kHeadDim);
  int32_t ffn_ = image.add_buffer(DType::bf16, kFfn);
};

std::vector<int32_t> prompt_of(int32_t length) {
  std::mt19937 random(9);
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % kVocab);
  return tokens;
}

struct Loaded {
  std::unique_ptr<Backend> backend = make_backend();
  Sequence sequence{*backend, kContext, kMaxRunAhead + 2};
  std::unique_ptr<Stream> stream = backend->make_stream({});
  Model model{open_engine(Writer().image.bytes()), *backend};
  Lane lane{model, *stream, {&sequence}};

  void begin(const std::vector<int32_t>& tokens) {
    sequence.begin(*stream, {.prompt = tokens}, {});
  }

  // Feeds [begin, end) in steps of `rows`; the logits of the last row.
  std::vector<float> feed(int32_t begin, int32_t end, int32_t rows) {
    int32_t fed = 0;
    for (; begin < end; begin += fed) {
      fed = std::min(rows, end - begin);
      lane.enqueue_prompt_chunk(0, begin, fed, begin + fed < end ? Head::none : Head::last);
    }
    std::vector<float> logits(kVocab);
    backend->copy_to_host(
        *stream, {.host = logits.data(),
                  .device = model.logits().row<const std::byte>(std::min(fed, kMaxStepRows) - 1),
                  .bytes = logits.size() * sizeof(float)});
    stream->record().wait();
    return logits;
  }
};

TEST_CASE("prompts in steps of 256 rows, of 64 and of one: the same logits, there and behind") {
  constexpr int32_t kLongest = 300;
  const Devices one;
  Loaded loaded;
  CHECK_EQ(loaded.lane.prompt_rows(), 256);
  const std::vector<int32_t> tokens = prompt_of(kLongest + 1);
  loaded.begin(tokens);
  // Of the prompts of every length, one by one where lengths are tried.
  std::map<int32_t, std::vector<float>> alone;
  for (int32_t length = 1; length <= 66; ++length)
    alone[length] = loaded.feed(length - 1, length, 1);
  loaded.feed(66, 254, 8);
  for (int32_t length = 255; length <= 258; ++length) {
    alone[length] = loaded.feed(length - 1, length, 1);
  }
  loaded.feed(258, 299, 8);
  for (const int32_t length : {300, 301}) alone[length] = loaded.feed(length - 1, length, 1);
  for (const auto& [rows, lengths] :
       {std::pair{64, std::vector{64, 65, 300}}, {256, {1, 63, 64, 65, 255, 256, 257, 300}}}) {
    for (const int32_t length : lengths) {
      CAPTURE(length);
      CAPTURE(rows);
      loaded.begin(tokens);
      CHECK(loaded.feed(0, length, rows) == alone[length]);
      // The next token sees all that the steps have cached.
      CHECK(loaded.feed(length, length + 1, 1) == alone[length + 1]);
    }
  }
  CHECK(alone[1] != alone[2]);
}

TEST_CASE("a step over a prompt that begins anywhere has the bits of one row at a time") {
  const Devices one;
  Loaded loaded;
  const std::vector<int32_t> tokens = prompt_of(300);
  loaded.begin(tokens);
  const std::vector<float> want = loaded.feed(0, 300, 64);
  for (const int32_t begin : {1, 45, 100}) {
    loaded.begin(tokens);
    loaded.feed(0, begin, 64);
    CHECK(loaded.feed(begin, 300, 256) == want);
  }
}

TEST_CASE("steps of more prompt rows than the backend has are refused") {
  const Devices one;
  Loaded loaded;
  loaded.begin(prompt_of(300));
  CHECK_REFUSED(loaded.lane.enqueue_prompt_chunk(0, 0, 257, Head::none),
                "a step feeds 1 to 256 prompt tokens, not 257");
  CHECK_REFUSED(loaded.lane.enqueue_prompt_chunk(0, 0, 0, Head::none), "not 0");
}

TEST_CASE("a long prompt generates the tokens of its steps, fresh or after a cached prefix") {
  const Devices one;
  Loaded loaded;
  SamplingParams params;
  params.max_tokens = 4;
  params.temperature = 0;
  const auto generate = [&](Generator& generator, const std::vector<int32_t>& prompt) {
    return generator.generate(prompt, params, {}).token_ids;
  };
  const std::vector<int32_t> prompt = prompt_of(300);
  Generator generator(loaded.lane, nullptr, {});
  const std::vector<int32_t> fresh = generate(generator, prompt);
  loaded.begin(prompt);
  const std::vector<float> logits = loaded.feed(0, 300, 64);
  const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  CHECK_EQ(fresh.front(), best);
  for (const int32_t cached : {43, 45, 200}) {
    Generator again(loaded.lane, nullptr, {});
    generate(again, {prompt.begin(), prompt.begin() + cached});
    CHECK(generate(again, prompt) == fresh);
  }
}

TEST_CASE("activations of a prompt's rows, but logits of 64") {
  const auto engine = open_engine(Writer().image.bytes());
  const Plan& plan = engine->plan();
  const int64_t logits = padded_row_bytes(DType::f32, kVocab);
  CHECK_EQ(arena_bytes(plan, 256), 4 * arena_bytes(plan, 64) - 3 * 64 * logits);
}

}  // namespace
}  // namespace specrt::testing

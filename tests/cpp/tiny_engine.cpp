#include "tiny_engine.h"

#include <cstring>
#include <random>
#include <span>

namespace specrt::testing {
namespace {

using format::OpKind;

constexpr int32_t kVocab = 40, kContext = 96, kWindow = 13;
constexpr int32_t kDim = 24, kHeads = 4, kKvHeads = 2, kHeadDim = 8, kFfn = 32;
constexpr int32_t kMaskToken = 1;
constexpr int32_t kStreams = 4, kRank = 4;

enum class Features { none, keep, load, estimate };
enum class Layers { plain, streamed };  // of the second one

struct Writer {
  Writer(DType weights, uint64_t seed) : dtype(weights), random(seed) {}

  void store(std::vector<std::byte>& bytes, float value, DType as) {
    const bf16_bits half = to_bf16(value);
    const auto* from = as == DType::f32 ? reinterpret_cast<const std::byte*>(&value)
                                        : reinterpret_cast<const std::byte*>(&half);
    bytes.insert(bytes.end(), from, from + size_of(as));
  }

  // Random values in any order: which of them are padding does not matter here.
  int32_t matrix(Layout layout, int32_t rows, int32_t cols) {
    std::vector<std::byte> bytes;
    const auto size = static_cast<size_t>(weight_bytes(dtype, layout, rows, cols));
    while (bytes.size() < size) store(bytes, spread(random), dtype);
    return image.add_tensor(dtype, layout, rows, cols, std::move(bytes));
  }

  int32_t vector(int32_t cols, float first, float factor) {
    std::vector<std::byte> bytes;
    for (int32_t i = 0; i < cols; ++i, first *= factor) store(bytes, first, DType::f32);
    return image.add_tensor(DType::f32, Layout::row_major, 1, cols, std::move(bytes));
  }

  format::OpRecord& op(OpKind kind, int32_t in, int32_t out, int32_t tensor) {
    format::OpRecord& record = image.add_op(kind, out);
    record.in[0] = in;
    record.tensor = tensor;
    return record;
  }

  void norm(int32_t in, int32_t out) {
    op(OpKind::rms_norm, in, out, vector(kDim, 1.0f, 1.0f)).real[0] = 1e-5f;
  }

  format::OpRecord& linear(int32_t in, int32_t out, int32_t rows, int32_t cols, Epilogue epilogue) {
    format::OpRecord& record = op(OpKind::linear, in, out, matrix(Layout::panels16, rows, cols));
    record.integer[0] = static_cast<int32_t>(epilogue);
    return record;
  }

  // With a bias, norms of heads and, unless it is 0, a window.
  void layer(int32_t window) {
    const int32_t kv = image.add_kv(dtype, kKvHeads, kHeadDim, window);
    const int32_t rows = (kHeads + 2 * kKvHeads) * kHeadDim;
    norm(x, xn);
    linear(xn, qkv, rows, kDim, Epilogue::store).integer[1] = vector(rows, 0.3f, -0.9f) + 1;
    adapt(xn, qkv, rows, kDim);
    format::OpRecord& rope = op(OpKind::rope_kv, qkv, q, format::kNone);
    rope.in[1] = angles;
    rope.kv = kv;
    rope.integer[0] = kHeads;
    rope.integer[1] = vector(kHeadDim, 1.0f, 1.1f) + 1;
    rope.integer[2] = vector(kHeadDim, 1.0f, 0.9f) + 1;
    rope.real[0] = 1e-5f;
    format::OpRecord& attention = op(OpKind::attention, q, mixed, format::kNone);
    attention.kv = kv;
    attention.integer[0] = kHeads;
    attention.real[0] = 0.35355339f;
    linear(mixed, x, kDim, kHeads * kHeadDim, Epilogue::add);
    adapt(mixed, x, kDim, kHeads * kHeadDim);
    norm(x, xn);
    linear(xn, ffn, 2 * kFfn, kDim, Epilogue::swiglu);
    linear(ffn, x, kDim, kFfn, Epilogue::add);
    adapt(ffn, x, kDim, kFfn);
  }

  // out += B (A in).
  void low_rank(int32_t in, int32_t out, int32_t rows, int32_t cols, format::OpRows run_for) {
    linear(in, low, kRank, cols, Epilogue::store).rows = run_for;
    linear(low, out, rows, kRank, Epilogue::add).rows = run_for;
  }

  // In a layer with streams, what they add to a product.
  void adapt(int32_t in, int32_t out, int32_t rows, int32_t cols) {
    if (image.header.streams > 0) low_rank(in, out, rows, cols, format::OpRows::streams);
  }

  int32_t head() {
    if (head_weight == format::kNone) head_weight = matrix(Layout::panels16, kVocab, kDim);
    return head_weight;
  }

  // Angles of all rows.
  void rotate() {
    op(OpKind::rope_angles, format::kNone, angles, vector(kHeadDim / 2, 1.0f, 0.1f)).real[0] = 1.0f;
  }

  // What stands between the layers without and those with streams.
  void begin_streams() {
    const int32_t exit = image.add_buffer(DType::f32, kDim);
    low = image.add_buffer(dtype, kRank);
    norm(x, exit);
    image.ops.back().rows = format::OpRows::scored;
    norm(x, xn);
    image.ops.back().rows = format::OpRows::scored;
    low_rank(xn, exit, kDim, kDim, format::OpRows::scored);
    op(OpKind::plan_streams, exit, format::kNone, head());
    image.header.streams = kStreams;
    image.header.stream_positions = static_cast<uint32_t>(StreamPositions::shifted);
    std::vector<std::byte> values;
    for (int32_t i = 0; i < kStreams * kDim; ++i) store(values, spread(random), DType::f32);
    const int32_t streamed = image.add_buffer(DType::f32, kDim);
    op(OpKind::insert_streams, x, streamed,
       image.add_tensor(DType::f32, Layout::row_major, kStreams, kDim, std::move(values)));
    x = streamed;
    rotate();
  }

  void keep(int32_t first) {
    op(OpKind::keep_features, x, format::kNone, format::kNone).integer[0] = first;
  }

  // Adds a product of the features to the residual, or of masks or estimates in their place.
  void load(Features use) {
    const int32_t features = image.add_buffer(dtype, 2 * kDim);
    const auto add = [&](MissingFeatures missing, int32_t mask) {
      op(OpKind::load_features, format::kNone, features, mask).integer[1] =
          static_cast<int32_t>(missing);
    };
    if (use == Features::load) {
      add(MissingFeatures::mask, vector(2 * kDim, 0.5f, -0.9f));
    } else {
      add(MissingFeatures::last, format::kNone);
      add(MissingFeatures::estimates, format::kNone);
    }
    linear(features, x, kDim, 2 * kDim, Epilogue::add);
  }

  // Of a block x + silu(W x + b) and an output matrix each.
  void heads(int32_t count) {
    const int32_t features = image.add_buffer(dtype, kDim), block = image.add_buffer(dtype, kDim);
    format::OpRecord& load = op(OpKind::load_features, format::kNone, features, format::kNone);
    load.integer[0] = kDim;
    load.integer[1] = static_cast<int32_t>(MissingFeatures::last);
    for (int32_t head = 0; head < count; ++head) {
      const size_t first = image.ops.size();
      linear(features, block, kDim, kDim, Epilogue::silu_add).integer[1] =
          vector(kDim, 0.3f, -0.9f) + 1;
      linear(block, logits, kVocab, kDim, Epilogue::store);
      for (size_t i = first; i < image.ops.size(); ++i) {
        image.ops[i].rows = format::OpRows::draft;
        image.ops[i].draft = head;
      }
    }
  }

  DType dtype;
  std::mt19937_64 random;
  std::uniform_real_distribution<float> spread{-0.4f, 0.4f};
  EngineImage image;
  int32_t x = image.add_buffer(DType::f32, kDim);
  int32_t xn = image.add_buffer(dtype, kDim);
  int32_t angles = image.add_buffer(DType::f32, kHeadDim);
  int32_t qkv = image.add_buffer(DType::f32, (kHeads + 2 * kKvHeads) * kHeadDim);
  int32_t q = image.add_buffer(dtype, kHeads* kHeadDim);
  int32_t mixed = image.add_buffer(dtype, kHeads* kHeadDim);
  int32_t ffn = image.add_buffer(dtype, kFfn);
  int32_t logits = image.add_buffer(DType::f32, kVocab);
  int32_t head_weight = format::kNone;
  int32_t low = format::kNone;
};

// A token table in which every token is one letter.
std::vector<std::byte> letters(int32_t vocab) {
  std::vector<uint32_t> words(static_cast<size_t>(vocab) + 2);
  for (size_t i = 1; i < words.size(); ++i) words[i] = static_cast<uint32_t>(i - 1);
  const auto head = std::as_bytes(std::span(words));
  std::vector<std::byte> table(head.begin(), head.end());
  for (int32_t token = 0; token < vocab; ++token) {
    table.push_back(static_cast<std::byte>('a' + token % 26));
  }
  return table;
}

// What all engines here have in common.
void describe(Writer& writer) {
  EngineImage& image = writer.image;
  image.header.vocab = kVocab;
  image.header.context = kContext;
  image.header.dtype = static_cast<uint32_t>(writer.dtype);
  image.header.logits_buffer = writer.logits;
  image.header.eos_count = 1;
  image.header.eos[0] = 2;
  image.meta = R"({"name": "tiny"})";
  image.token_table = letters(kVocab);
}

void read_features(Writer& writer) {
  EngineImage& image = writer.image;
  image.header.feature_cols = 2 * kDim;
  image.header.feature_dtype = static_cast<uint32_t>(writer.dtype);
  image.header.context = kContext - 1;
  image.header.mask_token = 1 + kMaskToken;
}

EngineImage decoder(DType dtype, uint64_t seed, Features features, Layers layers) {
  Writer writer(dtype, seed);
  EngineImage& image = writer.image;
  describe(writer);
  writer.op(OpKind::embed, format::kNone, writer.x, writer.matrix(Layout::panels16, kVocab, kDim));
  writer.rotate();
  if (features == Features::keep) {
    image.header.feature_cols = 2 * kDim;
    image.header.feature_dtype = static_cast<uint32_t>(dtype);
  }
  if (features == Features::load || features == Features::estimate) {
    read_features(writer);
    writer.load(features);
  }
  for (const int32_t layer : {0, 1}) {
    if (features == Features::keep) writer.keep(layer * kDim);
    if (layer == 1 && layers == Layers::streamed) writer.begin_streams();
    writer.layer(layer == 0 ? 0 : kWindow);
  }
  image.header.head_begin = static_cast<int32_t>(image.ops.size());
  if (features == Features::estimate) {
    image.header.mask_token = 0;
    writer.keep(kDim);
    image.ops.back().integer[1] = 1;
    writer.op(OpKind::convert, writer.x, writer.xn, format::kNone);
  }
  writer.norm(writer.x, writer.xn);
  writer.op(OpKind::linear, writer.xn, writer.logits, writer.head());
  return std::move(writer.image);
}

}  // namespace

EngineImage tiny_engine(DType dtype, uint64_t seed) {
  return decoder(dtype, seed, Features::none, Layers::plain);
}
EngineImage tiny_target(DType dtype, uint64_t seed) {
  return decoder(dtype, seed, Features::keep, Layers::plain);
}
EngineImage tiny_eagle(DType dtype, uint64_t seed) {
  return decoder(dtype, seed, Features::load, Layers::plain);
}
EngineImage tiny_estimating(DType dtype, uint64_t seed) {
  return decoder(dtype, seed, Features::estimate, Layers::plain);
}
EngineImage tiny_medusa(DType dtype, uint64_t seed) {
  Writer writer(dtype, seed);
  describe(writer);
  read_features(writer);
  writer.heads(3);
  return std::move(writer.image);
}
EngineImage tiny_streaming(DType dtype, uint64_t seed) {
  return decoder(dtype, seed, Features::none, Layers::streamed);
}

}  // namespace specrt::testing

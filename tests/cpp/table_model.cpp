#include "table_model.h"

#include <algorithm>
#include <cstring>

#include "base/rng.h"

namespace specrt::testing {

uint64_t mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15ull;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ull;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBull;
  return value ^ (value >> 31);
}

uint64_t extend_context(uint64_t hash, int32_t token) {
  return mix(hash ^ (static_cast<uint64_t>(static_cast<uint32_t>(token)) + 1) * 0xD1342543DE82EF95);
}

void table_logits(const TableParams& params, uint64_t context_hash, float* logits) {
  const double share = static_cast<double>(mix(context_hash ^ params.own) >> 11) * 0x1p-53;
  const uint64_t seed = share < params.error ? params.own : params.truth;
  for (int32_t v = 0; v < params.vocab; ++v) {
    const uint64_t bits = mix(context_hash ^ mix(seed + static_cast<uint64_t>(v) * 0x632BE5AB));
    logits[v] = static_cast<float>(bits >> 40) * (6.0f / 16777216.0f) - 3.0f;
  }
}

namespace {

using format::OpKind;

void add_features(EngineImage& image, TableFeatures use, int32_t row, int32_t cols) {
  if (use == TableFeatures::none) return;
  image.header.feature_cols = 2 * cols;  // the target's, and estimates of a drafter
  if (use == TableFeatures::kept) {
    image.add_op(OpKind::keep_features, format::kNone).in[0] = row;
    return;
  }
  const int32_t out = image.add_buffer(DType::f32, cols);
  format::OpRecord& load = image.add_op(OpKind::load_features, out);
  if (use == TableFeatures::read) {
    load.tensor = image.add_tensor(DType::f32, Layout::row_major, 1, cols, {});
    return;
  }
  load.integer[1] = static_cast<int32_t>(MissingFeatures::last);
  format::OpRecord& estimates = image.add_op(OpKind::load_features, out);
  estimates.integer[0] = cols;
  estimates.integer[1] = static_cast<int32_t>(MissingFeatures::estimates);
}

constexpr int32_t kHeadDim = 2;  // two 4-byte words: token and position, or a 64-bit hash
constexpr int32_t kRowCols = 3 * kHeadDim;  // a TableRow and room

// Adds the ops of a table model to an image.
struct TableWriter {
  TableWriter(const TableParams& params, int32_t context) {
    image.header.vocab = vocab = params.vocab + params.mask_tokens;
    image.header.mask_token = params.mask_tokens > 0 ? params.vocab + 1 : 0;
    image.header.context = context;
  }

  void embed() {
    table = image.add_tensor(DType::f32, Layout::row_major, vocab, kRowCols, {});
    image.add_op(OpKind::embed, x).tensor = table;
  }

  void attend(int32_t rows) {
    const int32_t kv = image.add_kv(DType::f32, 1, kHeadDim, 0);
    format::OpRecord& rope = image.add_op(OpKind::rope_kv, q);
    rope.in[0] = rows;
    rope.in[1] = angles;
    rope.kv = kv;
    rope.integer[0] = 1;
    format::OpRecord& attention = image.add_op(OpKind::attention, hash);
    attention.in[0] = q;
    attention.kv = kv;
    attention.integer[0] = 1;
    attention.real[0] = 1.0f;
  }

  // A product of the hashes, with the weight of `words`.
  format::OpRecord& product(int32_t out, int32_t cols, std::vector<std::byte> words) {
    const int32_t weight =
        image.add_tensor(DType::f32, Layout::panels16, cols, kHeadDim, std::move(words));
    format::OpRecord& linear = image.add_op(OpKind::linear, out);
    linear.in[0] = hash;
    linear.tensor = weight;
    return linear;
  }

  void head(const TableParams& params, TableFeatures features = TableFeatures::none) {
    std::vector<std::byte> words(sizeof(TableParams));
    std::memcpy(words.data(), &params, sizeof(params));
    image.header.head_begin = static_cast<int32_t>(image.ops.size());
    image.header.logits_buffer = logits;
    if (features == TableFeatures::estimated) {
      format::OpRecord& keep = image.add_op(OpKind::keep_features, format::kNone);
      keep.in[0] = x;
      keep.integer[0] = kRowCols;
      keep.integer[1] = 1;
    }
    product(logits, vocab, std::move(words));
  }

  EngineImage image;
  int32_t vocab = 0;
  int32_t x = image.add_buffer(DType::f32, kRowCols);
  int32_t angles = image.add_buffer(DType::f32, kHeadDim);
  int32_t q = image.add_buffer(DType::f32, kHeadDim);
  int32_t hash = image.add_buffer(DType::f32, kHeadDim);
  int32_t logits = 0, table = 0;
};

}  // namespace

EngineImage table_engine(const TableParams& params, int32_t context, TableFeatures features) {
  TableWriter writer(params, context);
  writer.logits = writer.image.add_buffer(DType::f32, writer.vocab);
  writer.embed();
  add_features(writer.image, features, writer.x, kRowCols);
  writer.attend(writer.x);
  writer.head(params, features);
  return std::move(writer.image);
}

EngineImage streaming_table_engine(const TableParams& params, int32_t context,
                                   const TableStreams& streams) {
  TableWriter writer(params, context);
  EngineImage& image = writer.image;
  const int32_t exit = image.add_buffer(DType::f32, kRowCols);
  const int32_t upper = image.add_buffer(DType::f32, kRowCols);
  writer.logits = image.add_buffer(DType::f32, writer.vocab);
  image.header.streams = streams.count;
  image.header.stream_positions = static_cast<uint32_t>(streams.positions);
  writer.embed();
  writer.attend(writer.x);
  writer.product(writer.x, kRowCols, {}).integer[0] = static_cast<int32_t>(Epilogue::add);
  writer.product(exit, kRowCols, {}).rows = format::OpRows::scored;
  format::OpRecord& plan = image.add_op(OpKind::plan_streams, format::kNone);
  plan.in[0] = exit;
  plan.tensor = writer.table;
  const int32_t embeddings =
      image.add_tensor(DType::f32, Layout::row_major, streams.count, kRowCols, {});
  format::OpRecord& insert = image.add_op(OpKind::insert_streams, upper);
  insert.in[0] = writer.x;
  insert.tensor = embeddings;
  writer.attend(upper);
  format::OpRecord& mark = writer.product(writer.hash, kHeadDim, {});
  mark.in[0] = writer.q;
  mark.rows = format::OpRows::streams;
  mark.integer[0] = static_cast<int32_t>(Epilogue::add);
  writer.head(params);
  return std::move(writer.image);
}

std::vector<int32_t> sample_directly(const TableParams& params, const DirectRequest& request) {
  uint64_t context = kEmptyContext;
  for (const int32_t token : request.prompt) context = extend_context(context, token);
  std::vector<int32_t> out;
  float scores[16];
  for (auto position = static_cast<int32_t>(request.prompt.size()); position < request.limit;
       ++position) {
    table_logits(params, context, scores);
    if (request.temperature > 0) {
      for (int32_t v = 0; v < params.vocab; ++v) {
        scores[v] = scores[v] / request.temperature +
                    token_gumbel(request.seed, static_cast<uint32_t>(position), Purpose::token,
                                 static_cast<uint32_t>(v), 0);
      }
    }
    const auto token =
        static_cast<int32_t>(std::max_element(scores, scores + params.vocab) - scores);
    out.push_back(token);
    if (std::find(request.eos.begin(), request.eos.end(), token) != request.eos.end()) break;
    context = extend_context(context, token);
  }
  return out;
}

}  // namespace specrt::testing

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
  image.header.feature_cols = cols;
  if (use == TableFeatures::kept) {
    image.add_op(OpKind::keep_features, format::kNone).in[0] = row;
    return;
  }
  const int32_t mask = image.add_tensor(DType::f32, Layout::row_major, 1, cols, {});
  image.add_op(OpKind::load_features, image.add_buffer(DType::f32, cols)).tensor = mask;
}

}  // namespace

EngineImage table_engine(const TableParams& params, int32_t context, TableFeatures features) {
  constexpr int32_t kHeadDim = 2;  // two 4-byte words: token and position, or a 64-bit hash
  EngineImage image;
  const int32_t vocab = params.vocab + params.mask_tokens;
  image.header.vocab = vocab;
  image.header.mask_token = params.mask_tokens > 0 ? params.vocab + 1 : 0;
  image.header.context = context;
  const int32_t qkv = image.add_buffer(DType::f32, 3 * kHeadDim);
  const int32_t angles = image.add_buffer(DType::f32, kHeadDim);
  const int32_t q = image.add_buffer(DType::f32, kHeadDim);
  const int32_t hash = image.add_buffer(DType::f32, kHeadDim);
  const int32_t logits = image.add_buffer(DType::f32, vocab);
  const int32_t kv = image.add_kv(DType::f32, 1, kHeadDim, 0);
  std::vector<std::byte> words(sizeof(TableParams));
  std::memcpy(words.data(), &params, sizeof(params));
  const int32_t table = image.add_tensor(DType::f32, Layout::row_major, vocab, 3 * kHeadDim, {});
  const int32_t head =
      image.add_tensor(DType::f32, Layout::panels16, vocab, kHeadDim, std::move(words));
  image.add_op(OpKind::embed, qkv).tensor = table;
  add_features(image, features, qkv, 3 * kHeadDim);
  format::OpRecord& rope = image.add_op(OpKind::rope_kv, q);
  rope.in[0] = qkv;
  rope.in[1] = angles;
  rope.kv = kv;
  rope.integer[0] = 1;
  format::OpRecord& attention = image.add_op(OpKind::attention, hash);
  attention.in[0] = q;
  attention.kv = kv;
  attention.integer[0] = 1;
  attention.real[0] = 1.0f;
  image.header.head_begin = static_cast<int32_t>(image.ops.size());
  image.header.logits_buffer = logits;
  format::OpRecord& linear = image.add_op(OpKind::linear, logits);
  linear.in[0] = hash;
  linear.tensor = head;
  return image;
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

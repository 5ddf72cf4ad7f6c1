// move_kv on the CPU backend: the path of a tree moves down, the rest stays.
#include <doctest/doctest.h>

#include <vector>

#include "cpu/cpu_backend.h"

namespace specrt {
namespace {

constexpr int32_t kSlots = 48, kBase = 13;

KvLayer layer_of(DType dtype, int64_t offset) {
  KvLayer kv{.key_offset = offset, .kv_heads = 2, .head_dim = 6, .slots = kSlots, .dtype = dtype};
  kv.value_offset = offset + kv_key_bytes(kv);
  return kv;
}

// Where the word of components (2 i, 2 i + 1) in bf16, or i in f32, of a key lies.
int64_t key_word(const KvLayer& kv, int32_t head, int32_t slot, int32_t i) {
  const int64_t head_bytes = kv_key_bytes(kv) / kv.kv_heads;
  return kv.key_offset + head * head_bytes + slot / kKvBlock * panel_bytes(kv.dtype, kv.head_dim) +
         i * 64 + slot % kKvBlock * 4;
}

int64_t value_word(const KvLayer& kv, int32_t head, int32_t slot, int32_t i) {
  const int64_t row = kv.head_dim * static_cast<int64_t>(size_of(kv.dtype));
  return kv.value_offset + (static_cast<int64_t>(head) * kv.slots + slot) * row + 4 * i;
}

int32_t words_of(const KvLayer& kv) { return kv.dtype == DType::f32 ? 6 : 3; }

TEST_CASE("a path moves down in every layer and head, and nothing else changes") {
  const KvLayer first = layer_of(DType::bf16, 0);
  const KvLayer second = layer_of(DType::f32, first.value_offset + kv_value_bytes(first));
  const KvLayer layers[] = {first, second};
  std::vector<uint32_t> cache(static_cast<size_t>(second.value_offset + kv_value_bytes(second)) /
                              4);
  for (size_t i = 0; i < cache.size(); ++i) cache[i] = static_cast<uint32_t>(i * 2654435761u);
  const std::vector<uint32_t> before = cache;

  const int32_t path_of[] = {0, 2, 5, 11};
  Cell<int32_t> path[kMaxStepRows], count;
  for (int32_t d = 0; d < 4; ++d) path[d] = path_of[d];
  count = 4;
  StepSpan span;
  span.base = kBase;
  const auto backend = make_cpu_backend({.threads = 1});
  const auto stream = backend->make_stream({});
  backend->move_kv(*stream, {.span = &span,
                             .kv = reinterpret_cast<std::byte*>(cache.data()),
                             .layers = layers,
                             .layer_count = 2,
                             .path = path,
                             .count = &count});
  stream->record().wait();

  std::vector<uint32_t> wanted = before;
  for (const KvLayer& kv : layers) {
    for (int32_t head = 0; head < 2; ++head) {
      for (int32_t d = 0; d < 4; ++d) {
        for (int32_t i = 0; i < words_of(kv); ++i) {
          for (const auto word : {&key_word, &value_word}) {
            wanted[static_cast<size_t>(word(kv, head, kBase + d, i)) / 4] =
                before[static_cast<size_t>(word(kv, head, kBase + path_of[d], i)) / 4];
          }
        }
      }
    }
  }
  CHECK(cache == wanted);
  CHECK(cache != before);
}

}  // namespace
}  // namespace specrt

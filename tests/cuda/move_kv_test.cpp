// move_kv: the path of a tree moves down in every layer and head, and nothing else changes.
#include <algorithm>
#include <random>

#include "cuda/kernels.h"
#include "rig.h"

namespace specrt::cuda {
namespace {

constexpr int32_t kSlots = 96, kBase = 13;

// Layers of different shapes, one behind the other.
std::vector<KvLayer> make_layers(int32_t count) {
  std::vector<KvLayer> layers;
  int64_t offset = 0;
  for (int32_t i = 0; i < count; ++i) {
    KvLayer kv{.key_offset = offset,
               .kv_heads = 1 + i % 3,
               .head_dim = i % 2 == 0 ? 64 : 96,
               .slots = kSlots,
               .dtype = DType::bf16};
    kv.value_offset = offset + kv_key_bytes(kv);
    offset = kv.value_offset + kv_value_bytes(kv);
    layers.push_back(kv);
  }
  return layers;
}

// `from` is null, or has the row of the step of each row that a path may have.
void check_move(const std::vector<int32_t>& path, int32_t layer_count, uint64_t seed,
                const std::vector<int32_t>* from = nullptr) {
  const std::vector<KvLayer> layers = make_layers(layer_count);
  const int64_t bytes = layers.back().value_offset + kv_value_bytes(layers.back());
  std::mt19937 random(static_cast<unsigned>(seed));
  std::vector<bf16_bits> before(static_cast<size_t>(bytes) / sizeof(bf16_bits));
  for (bf16_bits& v : before) v = static_cast<bf16_bits>(random());

  emulation::Settings settings = Rig::quiet();
  settings.seed = seed;
  Rig rig(settings);
  const DeviceArray<bf16_bits> cache(rig, before);
  std::vector<int32_t> cells{kBase, 0, static_cast<int32_t>(path.size())};
  cells.insert(cells.end(), path.begin(), path.end());
  cells.resize(3 + kMaxStepRows, -1000000);  // beyond the count nothing is read
  const DeviceArray<int32_t> device_cells(rig, cells);
  const DeviceArray<int32_t> device_from(rig, from == nullptr ? std::vector<int32_t>{0} : *from);
  const auto* words = reinterpret_cast<const Cell<int32_t>*>(device_cells.data());
  const MoveKvArgs args{.span = reinterpret_cast<const StepSpan*>(device_cells.data()),
                        .kv = reinterpret_cast<std::byte*>(cache.data()),
                        .layers = layers.data(),
                        .layer_count = layer_count,
                        .path = words + 3,
                        .count = words + 2,
                        .from = from == nullptr
                                    ? nullptr
                                    : reinterpret_cast<const Cell<int32_t>*>(device_from.data())};
  check(args);
  move_kv(rig.stream(), args);

  std::vector<bf16_bits> wanted = before;
  for (const KvLayer& kv : layers) {
    for (const int64_t offset : {kv.key_offset, kv.value_offset}) {
      for (int32_t head = 0; head < kv.kv_heads; ++head) {
        for (size_t d = 0; d < path.size(); ++d) {
          const int64_t plane = offset / 2 + int64_t{head} * kSlots * kv.head_dim;
          const int32_t row = from == nullptr ? path[d] : (*from)[static_cast<size_t>(path[d])];
          const int64_t source = plane + int64_t{kBase + row} * kv.head_dim;
          const int64_t to = plane + (kBase + static_cast<int64_t>(d)) * kv.head_dim;
          std::copy_n(before.begin() + source, kv.head_dim, wanted.begin() + to);
        }
      }
    }
  }
  CHECK(cache.read(rig) == wanted);
}

TEST_CASE("a path moves down in every layer and head, and nothing else changes") {
  std::vector<int32_t> chain, odd, last;
  for (int32_t i = 0; i < 64; ++i) chain.push_back(i);
  for (int32_t i = 1; i < 64; i += 2) odd.push_back(i);
  for (int32_t i = 32; i < 64; ++i) last.push_back(i);
  uint64_t seed = 0;
  for (const std::vector<int32_t>& path :
       {std::vector<int32_t>{}, {0}, {63}, {0, 2, 5, 11}, {1, 2, 3, 4}, chain, odd, last}) {
    check_move(path, 3, ++seed);
  }
}

TEST_CASE("the path is that of rows that were kept of others") {
  std::vector<int32_t> thirds, all;
  for (int32_t i = 0; i < 21; ++i) thirds.push_back(3 * i);
  for (int32_t i = 0; i < 21; ++i) all.push_back(i);
  uint64_t seed = 20;
  for (const std::vector<int32_t>& path : {std::vector<int32_t>{}, {0}, {0, 2, 5, 11}, all}) {
    check_move(path, 3, ++seed, &thirds);
  }
  check_move(all, 70, ++seed, &thirds);
}

TEST_CASE("more layers than one launch takes") { check_move({2, 3, 7}, 130, 9); }

TEST_CASE("caches of other types are refused") {
  Rig rig;
  const KvLayer layer{.kv_heads = 1, .head_dim = 64, .slots = 16, .dtype = DType::f32};
  MoveKvArgs args;
  args.layers = &layer;
  args.layer_count = 1;
  CHECK_THROWS_WITH(move_kv(rig.stream(), args),
                    "move_kv: CUDA needs bf16 heads of a multiple of 8 components, not f32 of 64");
}

}  // namespace
}  // namespace specrt::cuda

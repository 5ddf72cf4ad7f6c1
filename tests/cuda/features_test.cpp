// Features: which rows and columns are kept and loaded, the mask, and what moves.
#include <limits>

#include "cuda/kernels.h"
#include "step_rig.h"

namespace specrt::cuda {
namespace {

constexpr int32_t kCols = 70, kSlots = 40;

float value_of(int32_t row, int32_t col) { return 0.37f * static_cast<float>(row * 97 + col); }

constexpr FeatureRows kFeatures{.dtype = DType::bf16, .cols = kCols, .slots = kSlots};
constexpr auto kStride = static_cast<size_t>(feature_row_bytes(kFeatures)) / sizeof(bf16_bits);

std::byte* bytes_of(const DeviceArray<bf16_bits>& features) {
  return reinterpret_cast<std::byte*>(features.data());
}

TEST_CASE("keep_features rounds the rows that exist into their slots and touches nothing else") {
  constexpr bf16_bits kOld = 0x4242;
  constexpr int32_t kFirst = 7, kWidth = 50;
  Rig rig(seeded(3));
  StepRig step(rig, 8, {3, 5}, RowSelect::all, {10, 0});
  const std::vector<bf16_bits> old(kStride * kSlots, kOld);
  const DeviceArray<bf16_bits> first(rig, old), second(rig, old);
  step.rows().segments[0].features = bytes_of(first);
  step.rows().segments[1].features = bytes_of(second);
  std::vector<float> values;
  for (int32_t i = 0; i < 16 * kWidth; ++i) values.push_back(value_of(i / kWidth, i % kWidth));
  const DeviceRows<float> x(rig, 16, kWidth, 0.0f, values);
  const KeepFeaturesArgs args{
      .rows = step.rows(), .x = x.view(), .features = kFeatures, .first = kFirst};
  check(args);
  keep_features(rig.stream(), args);
  for (const int32_t s : {0, 1}) {
    const int32_t base = s == 0 ? 10 : 0, count = s == 0 ? 3 : 5;
    const std::vector<bf16_bits> kept = (s == 0 ? first : second).read(rig);
    rig.sync();
    for (size_t i = 0; i < kept.size(); ++i) {
      const auto slot = static_cast<int32_t>(i / kStride);
      const auto col = static_cast<int32_t>(i % kStride) - kFirst;
      const bool written = slot >= base && slot < base + count && col >= 0 && col < kWidth;
      REQUIRE(kept[i] == (written ? to_bf16(value_of(8 * s + slot - base, col)) : kOld));
    }
  }
}

// Cells of a sequence in device memory.
DeviceArray<int64_t> committed_cells(Rig& rig, int32_t committed) {
  Cells cells;
  cells.committed = committed;
  std::vector<int64_t> words((sizeof(Cells) + 7) / 8);
  std::memcpy(words.data(), static_cast<const void*>(&cells), sizeof(Cells));
  return {rig, words};
}

TEST_CASE("estimates are kept one slot ahead, but not in place of features") {
  constexpr bf16_bits kOld = 0x4242;
  constexpr int32_t kBase = 10, kRows = 5, kCommitted = 14, kWidth = 50;
  Rig rig(seeded(9));
  StepRig step(rig, 8, {kRows}, RowSelect::all, {kBase});
  const DeviceArray<bf16_bits> features(rig, std::vector<bf16_bits>(kStride * kSlots, kOld));
  const DeviceArray<int64_t> cells = committed_cells(rig, kCommitted);
  step.rows().segments[0].features = bytes_of(features);
  step.rows().segments[0].cells = reinterpret_cast<const Cells*>(cells.data());
  std::vector<float> values;
  for (int32_t i = 0; i < 8 * kWidth; ++i) values.push_back(value_of(i / kWidth, i % kWidth));
  const DeviceRows<float> x(rig, 8, kWidth, 0.0f, values);
  const KeepFeaturesArgs args{
      .rows = step.rows(), .x = x.view(), .features = kFeatures, .ahead = 1};
  check(args);
  keep_features(rig.stream(), args);
  const std::vector<bf16_bits> kept = features.read(rig);
  for (size_t i = 0; i < kept.size(); ++i) {
    const auto slot = static_cast<int32_t>(i / kStride), col = static_cast<int32_t>(i % kStride);
    const bool written = slot >= kCommitted - 1 && slot <= kBase + kRows && col < kWidth;
    REQUIRE(kept[i] == (written ? to_bf16(value_of(slot - kBase - 1, col)) : kOld));
  }
}

template <typename T>
T stored(float value) {
  if constexpr (sizeof(T) == 2) {
    return to_bf16(value);
  } else {
    return value;
  }
}

template <typename T>
void check_loaded(Rig& rig, MissingFeatures missing) {
  constexpr int32_t kFirst = 3, kWidth = 60, kBase = 10, kRows = 6, kCommitted = 14;
  StepRig step(rig, 8, {kRows}, RowSelect::all, {kBase});
  std::vector<bf16_bits> kept;
  for (size_t i = 0; i < kStride * kSlots; ++i) kept.push_back(to_bf16(static_cast<float>(i)));
  const DeviceArray<bf16_bits> features(rig, kept);
  const DeviceArray<int64_t> cells = committed_cells(rig, kCommitted);
  step.rows().segments[0].features = bytes_of(features);
  step.rows().segments[0].cells = reinterpret_cast<const Cells*>(cells.data());
  std::vector<float> mask;
  for (int32_t k = 0; k < kWidth; ++k) mask.push_back(-value_of(1, k));
  const DeviceArray<float> mask_row(rig, mask);
  const DeviceRows<T> out(rig, 8, kWidth, T{});
  const LoadFeaturesArgs args{.rows = step.rows(),
                              .features = kFeatures,
                              .first = kFirst,
                              .missing = missing,
                              .mask = mask_row.data(),
                              .out = out.view()};
  check(args);
  load_features(rig.stream(), args);
  const std::vector<T> loaded = out.read(rig);
  for (int32_t i = 0; i < 8; ++i) {
    const bool is_real = kBase + i < kCommitted - 1;
    const bool takes_last = !is_real && missing == MissingFeatures::last;
    const bool left = is_real && missing == MissingFeatures::estimates;
    const auto position = static_cast<size_t>(takes_last ? kCommitted - 2 : kBase + i);
    for (int32_t k = 0; k < kWidth; ++k) {
      float want = mask[static_cast<size_t>(k)];
      if (is_real || missing != MissingFeatures::mask) {
        want = to_float(kept[position * kStride + static_cast<size_t>(kFirst + k)]);
      }
      if (i >= kRows || left) want = 0.0f;
      REQUIRE(loaded[static_cast<size_t>(i * out.stride() + k)] == stored<T>(want));
    }
  }
}

TEST_CASE("load_features gives what was kept, and the mask from the last committed token on") {
  Rig rig(seeded(5));
  check_loaded<bf16_bits>(rig, MissingFeatures::mask);
  check_loaded<float>(rig, MissingFeatures::mask);
}

TEST_CASE("what stands for missing features: the last ones, or estimates for them alone") {
  Rig rig(seeded(6));
  for (const auto missing : {MissingFeatures::last, MissingFeatures::estimates}) {
    check_loaded<bf16_bits>(rig, missing);
    check_loaded<float>(rig, missing);
  }
}

TEST_CASE("a row of a drafted tree loads what its parent has kept") {
  constexpr int32_t kBase = 12, kRows = 6, kCommitted = kBase + 2, kWidth = 60;
  TreeShape shape{.rows = kRows};
  constexpr int32_t kParents[kRows] = {0, 0, 0, 1, 1, 2};
  for (int32_t row = 1; row < kRows; ++row) {
    shape.parent[row] = kParents[row];
    shape.depth[row] = row < 3 ? 1 : 2;
  }
  Rig rig(seeded(11));
  std::vector<int64_t> words((sizeof(TreeShape) + 7) / 8);
  std::memcpy(words.data(), &shape, sizeof(TreeShape));
  const DeviceArray<int64_t> device_shape(rig, words);
  StepRig step(rig, 8, {kRows}, RowSelect::all, {kBase});
  std::vector<bf16_bits> kept;
  for (size_t i = 0; i < kStride * kSlots; ++i) kept.push_back(to_bf16(static_cast<float>(i)));
  const DeviceArray<bf16_bits> features(rig, kept);
  const DeviceArray<int64_t> cells = committed_cells(rig, kCommitted);
  Segment& segment = step.rows().segments[0];
  segment.features = bytes_of(features);
  segment.cells = reinterpret_cast<const Cells*>(cells.data());
  segment.tree = reinterpret_cast<const TreeShape*>(device_shape.data());
  segment.depth = segment.tree->depth;
  const DeviceRows<bf16_bits> out(rig, 8, kWidth, 0);
  const LoadFeaturesArgs args{.rows = step.rows(),
                              .features = kFeatures,
                              .missing = MissingFeatures::estimates,
                              .out = out.view()};
  check(args);
  load_features(rig.stream(), args);
  const std::vector<bf16_bits> loaded = out.read(rig);
  for (int32_t i = 0; i < kRows; ++i) {
    const auto slot = static_cast<size_t>(kBase + 1 + kParents[i]);
    for (int32_t k = 0; k < kWidth; ++k) {
      const bool has_own = i == 0;  // which are loaded beside the estimates
      const bf16_bits want = has_own ? bf16_bits{} : kept[slot * kStride + static_cast<size_t>(k)];
      REQUIRE(loaded[static_cast<size_t>(i * out.stride() + k)] == want);
    }
  }
}

TEST_CASE("scatter puts scores in the places of their tokens") {
  constexpr int32_t kVocab = 2500, kKnown = 1200;
  Rig rig(seeded(10));
  StepRig step(rig, 3, {2});
  std::vector<float> values, ids, wanted(2 * kVocab, -std::numeric_limits<float>::infinity());
  for (int32_t k = 0; k < kKnown; ++k) ids.push_back(static_cast<float>(2 * k + 1));
  ids[7] = -1;      // what is no column is left out
  ids[8] = kVocab;  // likewise
  for (int32_t i = 0; i < 3 * kKnown; ++i) values.push_back(value_of(i / kKnown, i % kKnown));
  for (int32_t i = 0; i < 2 * kKnown; ++i) {
    const int32_t k = i % kKnown;
    if (k == 7 || k == 8) continue;
    wanted[static_cast<size_t>(i / kKnown * kVocab + 2 * k + 1)] = values[static_cast<size_t>(i)];
  }
  const DeviceArray<float> device_ids(rig, ids);
  const DeviceRows<float> x(rig, 3, kKnown, 0.0f, values);
  const DeviceRows<float> out(rig, 3, kVocab, 5.0f);
  const ScatterArgs args{
      .rows = step.rows(), .x = x.view(), .ids = device_ids.data(), .out = out.view()};
  check(args);
  scatter(rig.stream(), args);
  const auto got = out.read(rig);
  for (int32_t i = 0; i < 3; ++i) {
    for (int32_t v = 0; v < kVocab; ++v) {
      const float want = i < 2 ? wanted[static_cast<size_t>(i * kVocab + v)] : 5.0f;
      REQUIRE(got[static_cast<size_t>(i * out.stride() + v)] == want);
    }
  }
}

TEST_CASE("convert rounds the rows that exist") {
  Rig rig(seeded(8));
  StepRig step(rig, 4, {3});
  std::vector<float> values;
  for (int32_t i = 0; i < 4 * 60; ++i) values.push_back(value_of(i / 60, i % 60));
  const DeviceRows<float> x(rig, 4, 60, 0.0f, values);
  const DeviceRows<bf16_bits> out(rig, 4, 60, bf16_bits{});
  const ConvertArgs args{.rows = step.rows(), .x = x.view(), .out = out.view()};
  check(args);
  convert(rig.stream(), args);
  const auto got = out.read(rig);
  for (int32_t i = 0; i < 4; ++i) {
    for (int32_t k = 0; k < 60; ++k) {
      REQUIRE(got[static_cast<size_t>(i * out.stride() + k)] ==
              (i < 3 ? to_bf16(value_of(i, k)) : bf16_bits{}));
    }
  }
}

// Rows of more than one block.
TEST_CASE("move_features moves a path down and touches nothing else") {
  constexpr FeatureRows kWide{.dtype = DType::bf16, .cols = 2100, .slots = kSlots};
  constexpr auto kRow = static_cast<size_t>(feature_row_bytes(kWide)) / sizeof(bf16_bits);
  constexpr int32_t kBase = 7;
  for (const std::vector<int32_t>& path : {std::vector<int32_t>{}, {0, 2, 5, 11}, {1, 2, 3, 4}}) {
    Rig rig(seeded(7 + path.size()));
    std::vector<bf16_bits> before;
    for (size_t i = 0; i < kRow * kSlots; ++i) before.push_back(static_cast<bf16_bits>(i * 40503));
    const DeviceArray<bf16_bits> features(rig, before);
    std::vector<int32_t> words{kBase, 0, static_cast<int32_t>(path.size())};
    words.insert(words.end(), path.begin(), path.end());
    words.resize(3 + kMaxStepRows, -1000000);  // beyond the count nothing is read
    const DeviceArray<int32_t> cells(rig, words);
    const auto* of_path = reinterpret_cast<const Cell<int32_t>*>(cells.data());
    const MoveFeaturesArgs args{.span = reinterpret_cast<const StepSpan*>(cells.data()),
                                .features = bytes_of(features),
                                .rows = kWide,
                                .path = of_path + 3,
                                .count = of_path + 2};
    check(args);
    move_features(rig.stream(), args);
    std::vector<bf16_bits> wanted = before;
    for (size_t d = 0; d < path.size(); ++d) {
      const auto from = before.begin() + static_cast<int64_t>(kRow) * (kBase + path[d]);
      std::copy_n(from, kRow, wanted.begin() + static_cast<int64_t>(kRow * (kBase + d)));
    }
    CHECK(features.read(rig) == wanted);
  }
}

}  // namespace
}  // namespace specrt::cuda

// keep_features and load_features: which rows, which columns, and the mask.
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

template <typename T>
T stored(float value) {
  if constexpr (sizeof(T) == 2) {
    return to_bf16(value);
  } else {
    return value;
  }
}

template <typename T>
void check_loaded(Rig& rig) {
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
                              .mask = mask_row.data(),
                              .out = out.view()};
  check(args);
  load_features(rig.stream(), args);
  const std::vector<T> loaded = out.read(rig);
  for (int32_t i = 0; i < 8; ++i) {
    const auto position = static_cast<size_t>(kBase + i);
    for (int32_t k = 0; k < kWidth; ++k) {
      float want = mask[static_cast<size_t>(k)];
      if (kBase + i < kCommitted - 1) {
        want = to_float(kept[position * kStride + static_cast<size_t>(kFirst + k)]);
      }
      if (i >= kRows) want = 0.0f;
      REQUIRE(loaded[static_cast<size_t>(i * out.stride() + k)] == stored<T>(want));
    }
  }
}

TEST_CASE("load_features gives what was kept, and the mask from the last committed token on") {
  Rig rig(seeded(5));
  check_loaded<bf16_bits>(rig);
  check_loaded<float>(rig);
}

}  // namespace
}  // namespace specrt::cuda

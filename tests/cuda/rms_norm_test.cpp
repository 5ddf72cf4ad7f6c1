// rms_norm against double, and row by row.
#include <cmath>
#include <limits>
#include <random>

#include "cuda/kernels.h"
#include "step_rig.h"

namespace specrt::cuda {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kUntouched = 12345.0f;
constexpr float kEps = 1e-5f;

std::vector<float> random_f32(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

template <typename T>
std::vector<T> normed(Rig& rig, int32_t capacity, int32_t rows, int32_t cols,
                      const std::vector<float>& x, T filler) {
  StepRig step(rig, capacity, {rows});
  const DeviceRows<float> in(rig, capacity, cols, kNaN, x);
  const DeviceArray<float> gain(rig, random_f32(static_cast<size_t>(cols), 99));
  const DeviceRows<T> out(rig, capacity, cols, filler);
  const RmsNormArgs args{
      .rows = step.rows(), .x = in.view(), .gain = gain.data(), .eps = kEps, .out = out.view()};
  check(args);
  rms_norm(rig.stream(), args);
  return out.read(rig);
}

TEST_CASE("rms_norm equals its formula in double") {
  for (const int32_t cols : {1, 3, 64, 255, 257, 1000, 4096}) {
    CAPTURE(cols);
    Rig rig(seeded(static_cast<uint64_t>(cols)));
    const std::vector<float> x = random_f32(static_cast<size_t>(2 * cols), 3);
    const std::vector<float> gain = random_f32(static_cast<size_t>(cols), 99);
    const std::vector<float> wide = normed<float>(rig, 2, 2, cols, x, kUntouched);
    const std::vector<bf16_bits> narrow = normed<bf16_bits>(rig, 2, 2, cols, x, 0);
    const int64_t f32_stride = padded_row_bytes(DType::f32, cols) / 4;
    const int64_t bf16_stride = padded_row_bytes(DType::bf16, cols) / 2;
    for (int32_t i = 0; i < 2; ++i) {
      double square = 0;
      for (int32_t k = 0; k < cols; ++k) {
        square += std::pow(static_cast<double>(x[static_cast<size_t>(i * cols + k)]), 2);
      }
      const double factor = 1 / std::sqrt(square / cols + kEps);
      for (int32_t k = 0; k < cols; ++k) {
        const double want =
            x[static_cast<size_t>(i * cols + k)] * factor * gain[static_cast<size_t>(k)];
        const float got = wide[static_cast<size_t>(i * f32_stride + k)];
        REQUIRE(std::abs(got - want) <= 1e-6 * std::abs(want));
        REQUIRE(narrow[static_cast<size_t>(i * bf16_stride + k)] == to_bf16(got));
      }
      for (int64_t k = cols; k < f32_stride; ++k) {
        REQUIRE(wide[static_cast<size_t>(i * f32_stride + k)] == kUntouched);
      }
    }
  }
}

TEST_CASE("rms_norm of a row is the same among others, and missing rows are not written") {
  constexpr int32_t cols = 300;
  const int64_t stride = padded_row_bytes(DType::f32, cols) / 4;
  const std::vector<float> x = random_f32(64 * cols, 4);
  Rig rig(seeded(9));
  const std::vector<float> all = normed<float>(rig, 64, 40, cols, x, kUntouched);
  for (int32_t i = 0; i < 40; i += 3) {
    const std::vector<float> row(x.begin() + i * cols, x.begin() + (i + 1) * cols);
    const std::vector<float> alone = normed<float>(rig, 1, 1, cols, row, kUntouched);
    CHECK(std::memcmp(alone.data(), all.data() + i * stride, cols * sizeof(float)) == 0);
  }
  for (size_t at = static_cast<size_t>(40 * stride); at < all.size(); ++at) {
    REQUIRE(all[at] == kUntouched);
  }
}

}  // namespace
}  // namespace specrt::cuda

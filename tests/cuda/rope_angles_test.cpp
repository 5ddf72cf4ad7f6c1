// rope_angles against long double.
#include <cmath>

#include "cuda/kernels.h"
#include "step_rig.h"

namespace specrt::cuda {
namespace {

constexpr float kUntouched = 12345.0f;

std::vector<float> angles(Rig& rig, StepRig& step, const std::vector<float>& inv_freq,
                          float scaling) {
  const auto half = static_cast<int32_t>(inv_freq.size());
  const DeviceArray<float> frequencies(rig, inv_freq);
  const DeviceRows<float> out(rig, step.capacity(), 2 * half, kUntouched);
  const RopeAnglesArgs args{.rows = step.rows(),
                            .inv_freq = frequencies.data(),
                            .half = half,
                            .scaling = scaling,
                            .out = out.view()};
  check(args);
  rope_angles(rig.stream(), args);
  return out.read(rig);
}

std::vector<float> frequencies(int32_t half) {
  std::vector<float> values;
  for (int32_t d = 0; d < half; ++d) {
    values.push_back(static_cast<float>(std::pow(10000.0, -static_cast<double>(d) / half)));
  }
  return values;
}

TEST_CASE("rope_angles are within an ulp of the exact values up to the longest context") {
  const std::vector<float> inv_freq = frequencies(64);
  const int32_t bases[] = {0, 1, 2, 3, 22, 355, 4095, 131071, 1000003, (1 << 22) - 64};
  for (const int32_t base : bases) {
    Rig rig(seeded(static_cast<uint64_t>(base)));
    StepRig step(rig, 64, {64}, RowSelect::all, {base});
    const std::vector<float> out = angles(rig, step, inv_freq, 1.0f);
    for (int32_t i = 0; i < 64; ++i) {
      for (size_t d = 0; d < 64; ++d) {
        const float angle = static_cast<float>(base + i) * inv_freq[d];
        const auto cos = std::cos(static_cast<long double>(angle));
        const auto sin = std::sin(static_cast<long double>(angle));
        const float* row = out.data() + i * 128;
        REQUIRE(std::abs(row[d] - cos) <= 6.1e-8L * std::abs(cos));
        REQUIRE(std::abs(row[d + 64] - sin) <= 6.1e-8L * std::abs(sin));
      }
    }
  }
}

TEST_CASE("rope_angles of trees, several segments, scaling, missing rows") {
  Rig rig(seeded(7));
  StepRig step(rig, 4, {3, 2}, RowSelect::all, {10, 100});
  const DeviceArray<int32_t> depth(rig, {0, 1, 1, 0});
  const DeviceArray<uint64_t> sees(rig, {1, 3, 5, 0});
  step.rows().segments[0].depth = depth.data();
  step.rows().segments[0].sees = sees.data();
  const std::vector<float> inv_freq = frequencies(5);
  const std::vector<float> out = angles(rig, step, inv_freq, 0.5f);
  const int32_t positions[] = {10, 11, 11, -1, 100, 101, -1, -1};
  for (int32_t r = 0; r < 8; ++r) {
    const float* row = out.data() + r * 16;
    for (int32_t d = 0; d < 10; ++d) {
      const float angle = static_cast<float>(positions[r]) * inv_freq[static_cast<size_t>(d % 5)];
      const double exact = d < 5 ? std::cos(static_cast<double>(angle)) : std::sin(angle + 0.0);
      const float want = positions[r] < 0 ? kUntouched : 0.5f * static_cast<float>(exact);
      REQUIRE(row[d] == want);
    }
    for (int32_t d = 10; d < 16; ++d) REQUIRE(row[d] == kUntouched);
  }
}

}  // namespace
}  // namespace specrt::cuda

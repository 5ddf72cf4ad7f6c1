// Small kernels of every kind against plain loops.
#include <cmath>
#include <random>

#include "rig.h"
#include "sample_kernels.h"

namespace specrt::cuda {
namespace {

TEST_CASE("saxpy equals a loop") {
  Rig rig;
  std::vector<float> x(1000), y(1000);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(i);
    y[i] = 0.5f * static_cast<float>(i) - 3.0f;
  }
  DeviceArray<float> device_x(rig, x), device_y(rig, y);
  launch(rig.stream(), saxpy, 8, 128, 0, {device_x.data(), device_y.data(), 1.25f, 1000});
  const std::vector<float> out = device_y.read(rig);
  for (size_t i = 0; i < x.size(); ++i) CHECK(out[i] == std::fma(1.25f, x[i], y[i]));
}

TEST_CASE("sums of blocks through shared memory") {
  for (uint64_t seed = 1; seed < 20; ++seed) {
    emulation::Settings settings = Rig::quiet();
    settings.seed = seed;
    Rig rig(settings);
    std::vector<float> x(1024);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17);
    DeviceArray<float> device_x(rig, x), sums(4);
    launch(rig.stream(), block_sums, 4, 256, 0, {device_x.data(), sums.data(), 1024});
    const std::vector<float> out = sums.read(rig);
    for (size_t block = 0; block < 4; ++block) {
      float want = 0;
      for (size_t i = 0; i < 256; ++i) want += x[256 * block + i];
      CHECK(out[block] == want);
    }
  }
}

TEST_CASE("a matrix product by mma equals a loop") {
  constexpr int m = 48, n = 24, k = 64;
  std::mt19937 random(7);
  std::uniform_int_distribution<int> small(-8, 8);  // every sum is exact
  std::vector<bf16_bits> a(m * k), b(n * k);
  for (bf16_bits& v : a) v = to_bf16(static_cast<float>(small(random)));
  for (bf16_bits& v : b) v = to_bf16(static_cast<float>(small(random)));
  for (const auto order : {emulation::MmaOrder::ascending, emulation::MmaOrder::descending,
                           emulation::MmaOrder::pairwise}) {
    emulation::Settings settings = Rig::quiet();
    settings.mma_order = order;
    Rig rig(settings);
    DeviceArray<bf16_bits> device_a(rig, a), device_b(rig, b);
    DeviceArray<float> c(m * n);
    launch(rig.stream(), gemm_tiles, dim3(n / 8, m / 16), 32, 512,
           {device_a.data(), device_b.data(), c.data(), n, k});
    const std::vector<float> out = c.read(rig);
    for (int i = 0; i < m; ++i) {
      for (int j = 0; j < n; ++j) {
        float want = 0;
        for (int l = 0; l < k; ++l) want += to_float(a[i * k + l]) * to_float(b[j * k + l]);
        CHECK(out[i * n + j] == want);
      }
    }
  }
}

}  // namespace
}  // namespace specrt::cuda

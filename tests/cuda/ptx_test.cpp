// Every function of cuda/ptx.h against a scalar model.
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/dtype.h"
#include "ptx_kernels.h"
#include "rig.h"

namespace specrt::cuda {
namespace {

constexpr size_t kLanes = 32;

std::vector<uint32_t> counting(size_t n) {
  std::vector<uint32_t> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<uint32_t>(i + 1);
  return values;
}

std::vector<uint4> counting16(size_t n) {
  std::vector<uint4> values(n);
  const std::vector<uint32_t> words = counting(4 * n);
  std::memcpy(values.data(), words.data(), 16 * n);
  return values;
}

bool same(const uint4& a, const uint4& b) { return std::memcmp(&a, &b, 16) == 0; }

// One element of A (16,16) or B (16,8) from the fragments, by the PTX ISA's layout.
float element_a(const std::vector<uint32_t>& a, size_t row, size_t k) {
  const size_t lane = 4 * (row % 8) + k % 8 / 2;
  const uint32_t pair = a[4 * lane + row / 8 + 2 * (k / 8)];
  return to_float(static_cast<bf16_bits>(k % 2 == 0 ? pair : pair >> 16));
}
float element_b(const std::vector<uint32_t>& b, size_t k, size_t col) {
  const size_t lane = 4 * col + k % 8 / 2;
  const uint32_t pair = b[2 * lane + k / 8];
  return to_float(static_cast<bf16_bits>(k % 2 == 0 ? pair : pair >> 16));
}

float ordered_sum(float start, std::vector<float> products, emulation::MmaOrder order) {
  if (order == emulation::MmaOrder::pairwise) {
    for (size_t n = products.size(); n > 1; n /= 2) {
      for (size_t i = 0; i < n / 2; ++i) products[i] = products[2 * i] + products[2 * i + 1];
    }
    return start + products[0];
  }
  if (order == emulation::MmaOrder::descending) std::reverse(products.begin(), products.end());
  for (const float product : products) start += product;
  return start;
}

TEST_CASE("mma adds exact products in the order that is set") {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const auto pair = [&] {
    return to_bf16(normal(random)) | static_cast<uint32_t>(to_bf16(normal(random))) << 16;
  };
  std::vector<uint32_t> a(4 * kLanes), b(2 * kLanes);
  std::vector<float> d(4 * kLanes);
  for (uint32_t& v : a) v = pair();
  for (uint32_t& v : b) v = pair();
  for (float& v : d) v = normal(random);
  for (const auto order : {emulation::MmaOrder::ascending, emulation::MmaOrder::descending,
                           emulation::MmaOrder::pairwise}) {
    emulation::Settings settings = Rig::quiet();
    settings.mma_order = order;
    Rig rig(settings);
    DeviceArray<uint32_t> device_a(rig, a), device_b(rig, b);
    DeviceArray<float> device_d(rig, d);
    launch(rig.stream(), mma_once, 1, 32, 0, {device_a.data(), device_b.data(), device_d.data()});
    const std::vector<float> out = device_d.read(rig);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      for (size_t i = 0; i < 4; ++i) {
        const size_t row = lane / 4 + 8 * (i / 2);
        const size_t col = 2 * (lane % 4) + i % 2;
        std::vector<float> products(16);
        for (size_t k = 0; k < 16; ++k) products[k] = element_a(a, row, k) * element_b(b, k, col);
        CHECK(out[4 * lane + i] == ordered_sum(d[4 * lane + i], products, order));
      }
    }
  }
}

TEST_CASE("ldmatrix gives rows, and columns when transposed") {
  Rig rig;
  std::vector<uint4> rows(kLanes);
  std::vector<uint16_t> elements(8 * kLanes);  // (matrix, row, column)
  for (size_t i = 0; i < elements.size(); ++i) elements[i] = static_cast<uint16_t>(7 * i + 1);
  std::memcpy(rows.data(), elements.data(), 16 * kLanes);
  DeviceArray<uint4> in(rig, rows);
  DeviceArray<uint32_t> plain(4 * kLanes), transposed(4 * kLanes);
  launch(rig.stream(), ldmatrix_both, 1, 32, 0, {in.data(), plain.data(), transposed.data()});
  const std::vector<uint32_t> got = plain.read(rig), got_t = transposed.read(rig);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    for (size_t m = 0; m < 4; ++m) {
      const size_t i = lane / 4, t = 2 * (lane % 4);
      const auto at = [&](size_t row, size_t col) { return elements[64 * m + 8 * row + col]; };
      CHECK(got[4 * lane + m] == (at(i, t) | static_cast<uint32_t>(at(i, t + 1)) << 16));
      CHECK(got_t[4 * lane + m] == (at(t, i) | static_cast<uint32_t>(at(t + 1, i)) << 16));
    }
  }
}

TEST_CASE("shuffles and votes") {
  Rig rig;
  const std::vector<uint32_t> values = counting(kLanes);
  DeviceArray<uint32_t> in(rig, values), out(8 * kLanes);
  launch(rig.stream(), exchange_all, 1, 32, 0, {in.data(), out.data()});
  const std::vector<uint32_t> got = out.read(rig);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const uint32_t* mine = &got[8 * lane];
    CHECK(mine[0] == values[lane ^ 5]);
    CHECK(mine[1] == values[31 - lane]);
    CHECK(mine[2] == values[lane + 3 < kLanes ? lane + 3 : lane]);
    CHECK(mine[3] == values[lane >= 4 ? lane - 4 : lane]);
    CHECK(mine[4] == 0x55555555u);
    CHECK(mine[5] == 1);
    CHECK(mine[6] == 1);
    CHECK(mine[7] == values[lane ^ 1]);
  }
}

TEST_CASE("cp.async groups come when they are waited for, short ones filled with zeros") {
  const std::vector<uint4> values = counting16(128);
  for (const int bytes : {0, 8, 16}) {
    for (uint64_t seed = 1; seed <= 8; ++seed) {
      emulation::Settings settings = Rig::quiet();
      settings.seed = seed;
      Rig rig(settings);
      DeviceArray<uint4> in(rig, values), out(128);
      launch(rig.stream(), copy_groups, 1, 32, 0, {in.data(), out.data(), bytes});
      const std::vector<uint4> got = out.read(rig);
      for (size_t i = 0; i < got.size(); ++i) {
        uint4 want{};
        std::memcpy(&want, &values[i], i % kLanes == 31 ? static_cast<size_t>(bytes) : 16);
        CHECK(same(got[i], want));
      }
    }
  }
}

TEST_CASE("bulk copies through a ring, some as late as they can be") {
  const std::vector<uint4> values = counting16(32 * 40);
  int64_t late = 0;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    emulation::Settings settings = Rig::quiet();
    settings.seed = seed;
    Rig rig(settings);
    DeviceArray<uint4> in(rig, values), out(values.size());
    launch(rig.stream(), copy_ring, 1, 64, 3 * 512, {in.data(), out.data(), 40});
    const std::vector<uint4> got = out.read(rig);
    for (size_t i = 0; i < got.size(); ++i) CHECK(same(got[i], values[i]));
    late += emulation::counters().late_copies;
  }
  CHECK(late > 0);
}

TEST_CASE("one of many blocks is last, and the host sees what it wrote") {
  Rig rig;
  DeviceArray<uint32_t> counter(rig, {0}), last(rig, {0}), order(40);
  uint64_t* host = nullptr;
  CUDA_CHECK(cudaHostAlloc(reinterpret_cast<void**>(&host), 16, cudaHostAllocMapped));
  std::memset(host, 0, 16);
  launch(rig.stream(), count_blocks, 40, 32, 0, {counter.data(), order.data(), last.data(), host});
  while (std::atomic_ref(host[1]).load(std::memory_order_acquire) == 0) {
  }
  CHECK(host[0] == 40);
  CHECK(last.read(rig)[0] == 1);
  CHECK(counter.read(rig)[0] == 0);
  std::vector<uint32_t> seen = order.read(rig);
  const bool in_grid_order = std::is_sorted(seen.begin(), seen.end());
  CHECK_FALSE(in_grid_order);
  std::sort(seen.begin(), seen.end());
  for (size_t i = 0; i < seen.size(); ++i) CHECK(seen[i] == i);
  CUDA_CHECK(cudaFreeHost(host));
}

TEST_CASE("loads and stores") {
  Rig rig;
  const std::vector<uint4> values = counting16(kLanes);
  DeviceArray<uint4> in(rig, values), out(3 * kLanes);
  launch(rig.stream(), load_ways, 1, 32, 0, {in.data(), out.data(), 0});
  const std::vector<uint4> got = out.read(rig);
  for (size_t i = 0; i < got.size(); ++i) CHECK(same(got[i], values[i % kLanes]));
}

TEST_CASE("numbers") {
  Rig rig;
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> x(kLanes);
  for (size_t i = 0; i < kLanes; ++i) x[i] = 0.37f * static_cast<float>(i + 1);
  x[0] = 0.0f;
  x[1] = -infinity;
  x[2] = -140.0f;
  DeviceArray<float> in(rig, x), out(3 * kLanes);
  DeviceArray<uint32_t> packed(kLanes);
  launch(rig.stream(), numbers, 1, 32, 0, {in.data(), out.data(), packed.data()});
  const std::vector<float> got = out.read(rig);
  const std::vector<uint32_t> pairs = packed.read(rig);
  CHECK(got[0] == 1.0f);
  CHECK(got[3] == 0.0f);
  CHECK(got[6] == 0.0f);  // flushed
  for (size_t i = 0; i < kLanes; ++i) {
    CHECK(pairs[i] == (to_bf16(x[i]) | static_cast<uint32_t>(to_bf16(-x[i])) << 16));
    if (i < 3) continue;
    CHECK(got[3 * i] == doctest::Approx(std::exp2(x[i])).epsilon(1e-6));
    CHECK(got[3 * i + 1] == doctest::Approx(1.0 / std::sqrt(x[i])).epsilon(1e-6));
    CHECK(got[3 * i + 2] == 1.0f / x[i]);
  }
}

}  // namespace
}  // namespace specrt::cuda

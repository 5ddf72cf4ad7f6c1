// linear against its contract: one output at a time, in the order of cuda/chains.h.
#include "cuda/linear.h"

#include <cmath>
#include <limits>

#include "cuda/kernels.h"
#include "linear_rig.h"

namespace specrt::cuda {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kUntouched = 12345.0f;

double exact(const Matrix& w, const bf16_bits* x, int32_t output) {
  double sum = 0;
  for (int32_t col = 0; col < w.k; ++col) {
    sum += static_cast<double>(to_float(w.values[static_cast<size_t>(output * w.k + col)])) *
           to_float(x[col]);
  }
  return sum;
}

// Rows of `x` (n,k) at the places that `at` gives among `capacity`, NaN elsewhere.
std::vector<bf16_bits> placed(const std::vector<bf16_bits>& x, int32_t k, int32_t capacity,
                              const std::vector<int32_t>& at) {
  std::vector<bf16_bits> rows(static_cast<size_t>(capacity * k), kNaNBits);
  for (size_t i = 0; i < at.size(); ++i) {
    std::copy_n(x.begin() + static_cast<int64_t>(i) * k, k, rows.begin() + int64_t{at[i]} * k);
  }
  return rows;
}

std::vector<int32_t> first_rows(int32_t n) {
  std::vector<int32_t> rows(static_cast<size_t>(n));
  for (int32_t i = 0; i < n; ++i) rows[static_cast<size_t>(i)] = i;
  return rows;
}

// Stored f32 products of `n` rows in a step of `capacity`; (capacity, stride).
std::vector<float> stored(Rig& rig, const Matrix& w, const std::vector<bf16_bits>& x, int32_t n,
                          int32_t capacity, const LinearSchedule& schedule) {
  StepRig step(rig, capacity, {n});
  DeviceRows<bf16_bits> in(rig, capacity, w.k, kNaNBits, placed(x, w.k, capacity, first_rows(n)));
  DeviceRows<float> out(rig, capacity, w.m, kUntouched);
  const LinearArgs args{.rows = step.rows(), .x = in.view(), .w = w.weight(), .out = out.view()};
  check(args);
  linear(rig.stream(), args, schedule);
  return out.read(rig);
}

bool same_bits(const float* a, const float* b, int32_t n) {
  return std::memcmp(a, b, static_cast<size_t>(n) * sizeof(float)) == 0;
}

int64_t row_floats(int32_t cols) { return padded_row_bytes(DType::f32, cols) / 4; }

TEST_CASE("linear gives the bits of its contract") {
  const int32_t shapes[][3] = {{1, 1, 8},   {16, 32, 8},   {17, 31, 8},  {40, 33, 8},  {48, 300, 8},
                               {5, 517, 8}, {128, 72, 32}, {96, 40, 48}, {80, 264, 40}};
  uint64_t seed = 1;
  for (const auto& [m, k, pair_stride] : shapes) {
    Rig rig(seeded(++seed));
    CAPTURE(m);
    CAPTURE(k);
    const Matrix w(rig, m, k, pair_stride);
    const int32_t n = 3;
    const std::vector<bf16_bits> x = random_bf16(static_cast<size_t>(n * k), 5);
    StepRig step(rig, n, {n});
    DeviceRows<bf16_bits> in(rig, n, k, kNaNBits, x);
    DeviceRows<float> out(rig, n, m, kUntouched);
    linear(rig.stream(), {.rows = step.rows(), .x = in.view(), .w = w.weight(), .out = out.view()});
    const std::vector<float> y = out.read(rig);
    for (int32_t i = 0; i < n; ++i) {
      const bf16_bits* row = x.data() + i * k;
      for (int32_t o = 0; o < m; ++o) {
        const float got = y[static_cast<size_t>(i * out.stride() + o)];
        const float want = product(w, row, o);
        REQUIRE(same_sum(got, want));
        REQUIRE(std::abs(got - exact(w, row, o)) < 1e-4 * std::sqrt(k));
      }
      for (int64_t o = m; o < out.stride(); ++o) {
        REQUIRE(y[static_cast<size_t>(i * out.stride() + o)] == kUntouched);
      }
    }
  }
}

TEST_CASE("every schedule of linear gives the same bits") {
  constexpr int32_t m = 72, k = 360;  // 5 panels; chains of 1 and 2 blocks
  std::vector<float> first;
  uint64_t seed = 10;
  for (const int32_t row_tiles : {1, 2, 4, 8}) {
    for (const int32_t panels : {1, 2, 4}) {
      for (const int32_t blocks : {1, 2, 5}) {
        Rig rig(seeded(++seed));
        const Matrix w(rig, m, k);
        const std::vector<bf16_bits> x = random_bf16(static_cast<size_t>(7 * k), 6);
        const std::vector<float> y = stored(rig, w, x, 7, 8, {row_tiles, panels, blocks});
        if (first.empty()) first = y;
        CHECK(same_bits(first.data(), y.data(), static_cast<int32_t>(y.size())));
      }
    }
  }
}

TEST_CASE("long chains refill every slot of their ring") {
  constexpr int32_t m = 32, k = 8 * 32 * 13 + 9;  // chains of 13 and 14 blocks
  uint64_t seed = 50;
  for (const int32_t row_tiles : {1, 2, 4, 8}) {
    for (const int32_t panels : {1, 2, 4}) {
      Rig rig(seeded(++seed));
      const Matrix w(rig, m, k);
      const std::vector<bf16_bits> x = random_bf16(k, 7);
      const std::vector<float> y = stored(rig, w, x, 1, 1, {row_tiles, panels, 1});
      for (int32_t o = 0; o < m; o += 5) {
        CHECK(same_sum(y[static_cast<size_t>(o)], product(w, x.data(), o)));
      }
    }
  }
}

TEST_CASE("a row alone equals the row among others, and missing rows are not written") {
  constexpr int32_t m = 24, k = 70;
  Rig rig;
  const Matrix w(rig, m, k);
  const std::vector<bf16_bits> x = random_bf16(64 * k, 8);
  std::vector<float> alone;
  const int64_t stride = row_floats(m);
  for (int32_t i = 0; i < 64; ++i) {
    const std::vector<bf16_bits> row(x.begin() + i * k, x.begin() + (i + 1) * k);
    const std::vector<float> y = stored(rig, w, row, 1, 1, {1, 1, 2});
    alone.insert(alone.end(), y.begin(), y.end());
  }
  for (const int32_t capacity : {1, 2, 7, 8, 9, 16, 17, 32, 33, 64}) {
    for (const int32_t n : {0, 1, capacity / 2, capacity}) {
      StepRig step(rig, capacity, {n});
      LinearArgs args;
      args.rows = step.rows();
      args.w = w.weight();
      const LinearSchedule schedule = linear_schedule(args, 4);
      REQUIRE(schedule.row_tiles * 8 >= capacity);
      const std::vector<float> y = stored(rig, w, x, n, capacity, schedule);
      for (int32_t i = 0; i < n; ++i) {
        REQUIRE(same_bits(y.data() + i * stride, alone.data() + i * stride, m));
      }
      for (size_t at = static_cast<size_t>(n * stride); at < y.size(); ++at) {
        REQUIRE(y[at] == kUntouched);
      }
    }
  }
}

TEST_CASE("a row has the same bits at each of 64 places among rows of NaN") {
  constexpr int32_t m = 16, k = 40;
  Rig rig;
  const Matrix w(rig, m, k);
  const std::vector<bf16_bits> x = random_bf16(k, 9);
  const std::vector<float> alone = stored(rig, w, x, 1, 1, {1, 1, 1});
  StepRig step(rig, 64, {64});
  for (int32_t place = 0; place < 64; place += 3) {
    DeviceRows<bf16_bits> in(rig, 64, k, kNaNBits, placed(x, k, 64, {place}));
    DeviceRows<float> out(rig, 64, m, kUntouched);
    linear(rig.stream(), {.rows = step.rows(), .x = in.view(), .w = w.weight(), .out = out.view()});
    const std::vector<float> y = out.read(rig);
    CHECK(same_bits(y.data() + place * out.stride(), alone.data(), m));
    CHECK(std::isnan(y[static_cast<size_t>((place + 1) % 64 * out.stride())]));
  }
}

TEST_CASE("several segments, and only the last row of each") {
  constexpr int32_t m = 24, k = 36, capacity = 12;
  const std::vector<int32_t> rows = {5, 0, 12, 1, 20};  // more rows than capacity count as all
  for (const RowSelect select : {RowSelect::all, RowSelect::last}) {
    Rig rig(seeded(select == RowSelect::all ? 3 : 4));
    const Matrix w(rig, m, k);
    const std::vector<bf16_bits> x = random_bf16(5 * capacity * k, 10);
    StepRig step(rig, capacity, rows, select);
    DeviceRows<bf16_bits> in(rig, 5 * capacity, k, kNaNBits, x);
    DeviceRows<float> out(rig, 5 * capacity, m, kUntouched);
    const LinearArgs args{.rows = step.rows(), .x = in.view(), .w = w.weight(), .out = out.view()};
    CHECK(linear_schedule(args, 4).row_tiles == (select == RowSelect::all ? 8 : 1));
    linear(rig.stream(), args);
    const std::vector<float> y = out.read(rig);
    for (int32_t r = 0; r < 5 * capacity; ++r) {
      const int32_t count = std::min(rows[static_cast<size_t>(r / capacity)], capacity);
      const int32_t index = r % capacity;
      const bool exists = select == RowSelect::all ? index < count : index == count - 1;
      for (int32_t o = 0; o < m; ++o) {
        const float want = exists ? product(w, x.data() + r * k, o) : kUntouched;
        REQUIRE(same_sum(y[static_cast<size_t>(r * out.stride() + o)], want));
      }
    }
  }
}

float silu_reference(float x) {
  return static_cast<float>(x / (1 + std::exp(-static_cast<double>(x))));
}

TEST_CASE("epilogues: bias, sum, bf16, swiglu") {
  constexpr int32_t m = 48, k = 50, n = 10;
  Rig rig(seeded(5));
  const Matrix w(rig, m, k, 24);
  const std::vector<bf16_bits> x = random_bf16(n * k, 11);
  const std::vector<float> bias = random_f32(m, 12), before = random_f32(n * m, 13);
  const DeviceArray<float> device_bias(rig, bias);
  StepRig step(rig, n, {n});
  const DeviceRows<bf16_bits> in(rig, n, k, kNaNBits, x);
  const DeviceRows<float> wide(rig, n, m, kNaN), sum(rig, n, m, kNaN, before);
  const DeviceRows<bf16_bits> narrow(rig, n, m, kNaNBits), gated(rig, n, m / 2, kNaNBits);
  LinearArgs args{
      .rows = step.rows(), .x = in.view(), .w = w.weight(), .bias = device_bias.data(), .out = {}};
  const auto run = [&](Epilogue epilogue, const RowsView& out) {
    args.epilogue = epilogue;
    args.out = out;
    check(args);
    linear(rig.stream(), args);
  };
  run(Epilogue::store, wide.view());
  run(Epilogue::store, narrow.view());
  run(Epilogue::add, sum.view());
  run(Epilogue::swiglu, gated.view());
  const auto y = wide.read(rig), added = sum.read(rig);
  const auto rounded = narrow.read(rig), product_of_halves = gated.read(rig);
  for (int32_t i = 0; i < n; ++i) {
    const float* row = y.data() + i * wide.stride();
    for (int32_t o = 0; o < m; ++o) {
      const float want = product(w, x.data() + i * k, o) + bias[static_cast<size_t>(o)];
      REQUIRE(same_sum(row[o], want));
      REQUIRE(rounded[static_cast<size_t>(i * narrow.stride() + o)] == to_bf16(row[o]));
      REQUIRE(added[static_cast<size_t>(i * sum.stride() + o)] ==
              before[static_cast<size_t>(i * m + o)] + row[o]);
    }
    for (int32_t o = 0; o < m / 2; ++o) {
      const float got = to_float(product_of_halves[static_cast<size_t>(i * gated.stride() + o)]);
      const float want = silu_reference(row[o]) * row[o + m / 2];
      REQUIRE(std::abs(got - want) <= 0.004f * std::abs(want));
    }
  }
}

TEST_CASE("a block of Medusa: x and silu of its product, of the row that drafts one token") {
  constexpr int32_t n = 48, rows = 6, drafts = 4;
  const std::vector<bf16_bits> x = random_bf16(rows * n, 21);
  const std::vector<float> bias = random_f32(n, 22);
  Cells cells;
  cells.snap_count = drafts;
  std::vector<int64_t> words((sizeof(Cells) + 7) / 8);
  std::memcpy(words.data(), static_cast<const void*>(&cells), sizeof(Cells));
  for (const int32_t token : {0, 2, 3, drafts}) {
    Rig rig(seeded(23));
    const Matrix w(rig, n, n, 8);
    const DeviceArray<float> device_bias(rig, bias);
    const DeviceArray<int64_t> device_cells(rig, words);
    StepRig step(rig, rows, {rows}, RowSelect::draft);
    step.rows().draft = token;
    step.rows().segments[0].cells = reinterpret_cast<const Cells*>(device_cells.data());
    const DeviceRows<bf16_bits> in(rig, rows, n, kNaNBits, x);
    const DeviceRows<float> out(rig, rows, n, kNaN);
    const LinearArgs args{.rows = step.rows(),
                          .x = in.view(),
                          .w = w.weight(),
                          .bias = device_bias.data(),
                          .epilogue = Epilogue::silu_add,
                          .out = out.view()};
    check(args);
    linear(rig.stream(), args);
    const auto got = out.read(rig);
    for (int32_t i = 0; i < rows; ++i) {
      for (int32_t o = 0; o < n; ++o) {
        const float value = got[static_cast<size_t>(i * out.stride() + o)];
        if (i != rows - drafts + token) {
          REQUIRE(std::isnan(value));
          continue;
        }
        const float y = product(w, x.data() + i * n, o) + bias[static_cast<size_t>(o)];
        const float want = to_float(x[static_cast<size_t>(i * n + o)]) + silu_reference(y);
        REQUIRE(std::abs(value - want) <= 1e-5f * (1 + std::abs(want)));
      }
    }
  }
}

TEST_CASE("swiglu of extreme gates is finite where its value is") {
  // y = w x with one column and x = 1: the gates are the weights themselves.
  const std::vector<float> gates = {0.0f, -1e4f, -100.0f, -88.0f, -20.0f, 20.0f, 100.0f, 1e4f};
  Rig rig;
  Matrix w(rig, 16, 1, 8);
  for (size_t i = 0; i < 8; ++i) {
    w.values[i] = to_bf16(gates[i]);
    w.values[8 + i] = to_bf16(2.0f);
  }
  const DeviceArray<bf16_bits> tiles(rig, w.packed());
  Weight weight = w.weight();
  weight.data = reinterpret_cast<const std::byte*>(tiles.data());
  StepRig step(rig, 1, {1});
  const DeviceRows<bf16_bits> in(rig, 1, 1, kNaNBits, {to_bf16(1.0f)}), out(rig, 1, 8, kNaNBits);
  linear(rig.stream(), {.rows = step.rows(),
                        .x = in.view(),
                        .w = weight,
                        .epilogue = Epilogue::swiglu,
                        .out = out.view()});
  const std::vector<bf16_bits> y = out.read(rig);
  for (size_t i = 0; i < 8; ++i) {
    const float want = 2 * silu_reference(to_float(to_bf16(gates[i])));
    CHECK(std::abs(to_float(y[i]) - want) <= 0.004f * std::abs(want) + 1e-30f);
  }
}

TEST_CASE("schedules fit the shape: one block a multiprocessor, with equal groups of panels") {
  LinearArgs args;
  args.rows.segment_count = 1;
  args.w.rows = 28672;
  for (const auto& [capacity, tiles] :
       {std::pair{1, 1}, {8, 1}, {9, 2}, {17, 4}, {33, 8}, {64, 8}}) {
    args.rows.capacity = capacity;
    const LinearSchedule schedule = linear_schedule(args, 132);
    CHECK(schedule.row_tiles == tiles);
    CHECK(schedule.panels == 4);
    CHECK(schedule.blocks == 132);
  }
  args.w.rows = 4096;
  CHECK(linear_schedule(args, 132).panels == 2);
  args.w.rows = 100;
  CHECK(linear_schedule(args, 132).panels == 1);
  CHECK(linear_schedule(args, 132).blocks == 7);
}

TEST_CASE("groups of panels are few and equal") {
  for (const int32_t most : {1, 2, 4}) {
    for (int32_t count = 0; count < 20; ++count) {
      const PanelGroups groups(3, 3 + count, most);
      int32_t found = 0, least = most, greatest = 0;
      for (int32_t panel = 3; panel < groups.end(); panel += groups.size(panel)) {
        REQUIRE(groups.size(panel) > 0);
        least = std::min(least, groups.size(panel));
        greatest = std::max(greatest, groups.size(panel));
        ++found;
      }
      CHECK(found == (count + most - 1) / most);
      CHECK(greatest <= most);
      CHECK((count == 0 || greatest - least <= 1));
      CHECK(groups.size(groups.end()) == 0);
    }
  }
}

TEST_CASE("what linear cannot run is refused") {
  Rig rig;
  LinearArgs args;
  args.w.layout = Layout::panels16;
  CHECK_THROWS_WITH_AS(linear(rig.stream(), args), doctest::Contains("--backend cuda"), Error);
  CHECK_THROWS_AS(linear(rig.stream(), args, {3, 1, 1}), Error);
  CHECK_THROWS_AS(linear(rig.stream(), args, {1, 3, 1}), Error);
  // SwiGLU of gate and up that do not meet in a tile.
  const Matrix w(rig, 48, 32, 8);
  StepRig step(rig, 1, {1});
  const DeviceRows<bf16_bits> x(rig, 1, 32, kNaNBits), out(rig, 1, 24, kNaNBits);
  args = {.rows = step.rows(),
          .x = x.view(),
          .w = w.weight(),
          .epilogue = Epilogue::swiglu,
          .out = out.view()};
  CHECK_THROWS_WITH_AS(check(args), doctest::Contains("pairs of stride 8"), Error);
}

}  // namespace
}  // namespace specrt::cuda

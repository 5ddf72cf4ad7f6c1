// linear of more than 64 rows: the bits of steps of 64, which tests of linear hold to its contract.
#include <cmath>

#include "cuda/kernels.h"
#include "cuda/linear.h"
#include "linear_rig.h"

namespace specrt::cuda {
namespace {

constexpr int32_t kCapacity = kMaxStepRows;
constexpr float kUntouched = 12345.0f;

RowsView from_row(RowsView view, int64_t row) {
  if (view.data != nullptr) view.data += row * view.stride;
  return view;
}

// The op on segment `s` alone.
LinearArgs segment_of(const LinearArgs& args, int32_t s) {
  const int64_t row = s * kCapacity;
  LinearArgs own = args;
  own.rows.segments[0] = args.rows.segments[static_cast<size_t>(s)];
  own.rows.segment_count = 1;
  own.x = from_row(args.x, row);
  own.out = from_row(args.out, row);
  own.factor.squares = from_row(args.factor.squares, row);
  own.gain.scaled = from_row(args.gain.scaled, row);
  own.gain.squares = from_row(args.gain.squares, row);
  return own;
}

// Runs `args` on all rows at once, or on one segment after another.
void run_whole(Rig& rig, const LinearArgs& args) {
  check(args);
  linear(rig.stream(), args);
}
void run_in_steps(Rig& rig, const LinearArgs& args) {
  for (int32_t s = 0; s < args.rows.segment_count; ++s) run_whole(rig, segment_of(args, s));
}

TEST_CASE("rows of a prompt have the bits of steps of 64 rows, in every schedule") {
  // Chains without blocks, of one or two, and of five and six, which end within slots.
  const int32_t shapes[][2] = {{16, 31}, {72, 360}, {40, 8 * 32 * 5 + 70}};
  const std::vector<int32_t> counts[] = {{64, 1}, {64, 64}, {9, 0, 64}, {64, 64, 64, 64}};
  uint64_t seed = 300;
  for (const auto& [m, k] : shapes) {
    for (const std::vector<int32_t>& rows : counts) {
      Rig rig(seeded(++seed));
      const auto n = static_cast<int32_t>(rows.size()) * kCapacity;
      const Matrix w(rig, m, k);
      const std::vector<bf16_bits> x = random_bf16(static_cast<size_t>(n * k), 60);
      StepRig step(rig, kCapacity, rows);
      const DeviceRows<bf16_bits> in(rig, n, k, kNaNBits, x);
      const DeviceRows<float> want(rig, n, m, kUntouched);
      LinearArgs args{.rows = step.rows(), .x = in.view(), .w = w.weight(), .out = want.view()};
      run_in_steps(rig, args);
      const std::vector<float> expected = want.read(rig);
      for (const int32_t blocks : {1, 2, 5}) {
        const DeviceRows<float> out(rig, n, m, kUntouched);
        args.out = out.view();
        linear(rig.stream(), args, {n <= 128 ? 16 : 32, kPromptPanels, blocks});
        CHECK(out.read(rig) == expected);  // rows that do not exist stay as they were
      }
      REQUIRE(expected[0] != kUntouched);
      REQUIRE(same_sum(expected[0], product(w, x.data(), 0)));
    }
  }
}

TEST_CASE("a row has the same bits at any place in a prompt, among rows of NaN") {
  constexpr int32_t m = 24, k = 70, n = kMaxPromptRows;
  Rig rig;
  const Matrix w(rig, m, k);
  const std::vector<bf16_bits> x = random_bf16(k, 61);
  StepRig step(rig, kCapacity, {64, 64, 64, 64});
  for (const int32_t place : {0, 31, 32, 63, 64, 130, 199, 255}) {
    std::vector<bf16_bits> values(static_cast<size_t>(n * k), kNaNBits);
    std::copy(x.begin(), x.end(), values.begin() + int64_t{place} * k);
    const DeviceRows<bf16_bits> in(rig, n, k, kNaNBits, values);
    const DeviceRows<float> out(rig, n, m, kUntouched);
    run_whole(rig, {.rows = step.rows(), .x = in.view(), .w = w.weight(), .out = out.view()});
    const std::vector<float> y = out.read(rig);
    for (int32_t o = 0; o < m; ++o) {
      const float got = y[static_cast<size_t>(place * out.stride() + o)];
      REQUIRE(same_sum(got, product(w, x.data(), o)));
    }
    CHECK(std::isnan(y[static_cast<size_t>((place + 1) % n * out.stride())]));
  }
}

// Activations that an op of `rows` writes, the same before each run.
struct Outputs {
  Outputs(Rig& rig, int32_t n, int32_t m, const std::vector<float>& before)
      : sum(rig, n, m, kUntouched, before),
        scaled(rig, n, m, kNaNBits),
        squares(rig, n, m / kSquareCols, kUntouched),
        gated(rig, n, m / 2, kNaNBits) {}

  DeviceRows<float> sum;
  DeviceRows<bf16_bits> scaled;
  DeviceRows<float> squares;
  DeviceRows<bf16_bits> gated;
};

TEST_CASE("epilogues of a prompt: a residual with a norm before and behind it, swiglu") {
  constexpr int32_t m = 96, k = 80;
  for (const auto& rows : {std::vector<int32_t>{64, 40}, {64, 64, 64, 17}}) {
    Rig rig(seeded(rows.size()));
    const auto n = static_cast<int32_t>(rows.size()) * kCapacity;
    const Matrix plain(rig, m, k), gates(rig, m, k, m / 2);
    const DeviceRows<bf16_bits> in(rig, n, k, kNaNBits,
                                   random_bf16(static_cast<size_t>(n * k), 62));
    const DeviceArray<float> bias(rig, random_f32(m, 63)), gain(rig, random_f32(m, 64));
    std::vector<float> squares(static_cast<size_t>(n * k / kSquareCols), 3.0f);
    for (size_t i = 0; i < squares.size(); ++i) squares[i] += static_cast<float>(i % 19);
    const DeviceRows<float> norm(rig, n, k / kSquareCols, NAN, squares);
    StepRig step(rig, kCapacity, rows);
    const std::vector<float> before = random_f32(static_cast<size_t>(n * m), 65);
    const Outputs whole(rig, n, m, before), in_steps(rig, n, m, before);
    const auto run = [&](const Outputs& to, const auto& enqueue) {
      LinearArgs args{.rows = step.rows(),
                      .x = in.view(),
                      .w = plain.weight(),
                      .bias = bias.data(),
                      .epilogue = Epilogue::add,
                      .out = to.sum.view(),
                      .factor = {.squares = norm.view(), .eps = 1e-5f}};
      args.gain = {.gain = gain.data(), .scaled = to.scaled.view(), .squares = to.squares.view()};
      enqueue(rig, args);
      args.w = gates.weight();
      args.epilogue = Epilogue::swiglu;
      args.out = to.gated.view();
      args.gain = {};
      enqueue(rig, args);
    };
    run(whole, run_whole);
    run(in_steps, run_in_steps);
    CHECK(whole.sum.read(rig) == in_steps.sum.read(rig));
    CHECK(whole.scaled.read(rig) == in_steps.scaled.read(rig));
    CHECK(whole.squares.read(rig) == in_steps.squares.read(rig));
    CHECK(whole.gated.read(rig) == in_steps.gated.read(rig));
    CHECK(whole.sum.read(rig)[0] != before[0]);
  }
}

TEST_CASE("a prompt's schedules: four panels at once, and no more blocks than that needs") {
  LinearArgs args;
  args.rows.capacity = kCapacity;
  args.w.rows = 28672;
  for (const auto& [segments, tiles] : {std::pair{1, 8}, {2, 16}, {3, 32}, {4, 32}}) {
    args.rows.segment_count = segments;
    CHECK_EQ(linear_schedule(args, 132).row_tiles, tiles);
    CHECK_EQ(linear_schedule(args, 132).panels, 4);
    CHECK_EQ(linear_schedule(args, 132).blocks, 132);
  }
  args.w.rows = 4096;
  CHECK_EQ(linear_schedule(args, 132).blocks, 64);
  args.w.rows = 70;
  CHECK_EQ(linear_schedule(args, 132).blocks, 2);
}

TEST_CASE("heads of more than 64 rows and unknown schedules are refused") {
  Rig rig;
  StepRig step(rig, kCapacity, {64, 1});
  std::byte best{};
  LinearArgs args;
  args.rows = step.rows();
  CHECK_THROWS_WITH_AS(linear(rig.stream(), args, {16, 2, 1}),
                       doctest::Contains("16 row tiles of 2 panels"), Error);
  CHECK_THROWS_WITH_AS(linear(rig.stream(), args, {24, 4, 1}), doctest::Contains("24 row tiles"),
                       Error);
  args.best = &best;
  CHECK_THROWS_WITH_AS(linear(rig.stream(), args, {16, 4, 1}),
                       doctest::Contains("a head has at most 64 rows"), Error);
  args.w.rows = 8;
  args.w.cols = 8;
  args.rows.segment_count = 5;
  CHECK_THROWS_WITH_AS(check(args), doctest::Contains("1 to 256 rows, not 5 x 64"), Error);
  args.rows.capacity = 65;
  CHECK_THROWS_WITH_AS(check(args), doctest::Contains("a segment has 1 to 64 rows, not 65"), Error);
}

}  // namespace
}  // namespace specrt::cuda

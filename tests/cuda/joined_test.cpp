// Ops that do the work of their neighbours, against those neighbours.
#include <cmath>

#include "cuda/kernels.h"
#include "cuda/linear.h"
#include "linear_rig.h"

namespace specrt::cuda {
namespace {

constexpr float kEps = 1e-5f;
constexpr int32_t kDim = 80;  // of the model: 5 panels

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof(float)) == 0; }

// x (n,d) f32, what a norm with a gain makes of it, and room for what the joined ops give.
struct NormRig {
  NormRig(Rig& rig, int32_t n_, uint32_t seed)
      : n(n_),
        values(random_f32(static_cast<size_t>(n * kDim), seed)),
        gains(random_f32(kDim, seed + 1)),
        x(rig, n, kDim, NAN, values),
        gain(rig, gains),
        scaled(rig, n, kDim, kNaNBits),
        squares(rig, n, kDim / kSquareCols, NAN) {}

  NormGain norm_gain() const {
    return {.gain = gain.data(), .scaled = scaled.view(), .squares = squares.view()};
  }
  NormFactor factor() const { return {.squares = squares.view(), .eps = kEps}; }

  int32_t n;
  std::vector<float> values, gains;
  DeviceRows<float> x;
  DeviceArray<float> gain;
  DeviceRows<bf16_bits> scaled;
  DeviceRows<float> squares;
};

// The sum of 16 squares as the lanes of a warp add them: i and i + 8, then 4, 2 and 1 apart.
float tree_of_squares(const float* x) {
  float sum[8];
  for (int i = 0; i < 8; ++i) sum[i] = x[i] * x[i] + x[i + 8] * x[i + 8];
  for (int apart = 4; apart > 0; apart /= 2) {
    for (int i = 0; i < apart; ++i) sum[i] = sum[i] + sum[i + apart];
  }
  return sum[0];
}

TEST_CASE("a residual with a gain: the same sum, and what the norm behind it needs") {
  constexpr int32_t k = 50, n = 19;
  for (const int32_t panels : {1, 2, 4}) {
    Rig rig(seeded(static_cast<uint64_t>(panels)));
    NormRig norm(rig, n, 30);
    const Matrix w(rig, kDim, k);
    const DeviceRows<bf16_bits> in(rig, n, k, kNaNBits, random_bf16(n * k, 31));
    const DeviceRows<float> plain(rig, n, kDim, NAN, norm.values);
    StepRig step(rig, n, {n - 1});  // the last row does not exist
    LinearArgs args{.rows = step.rows(),
                    .x = in.view(),
                    .w = w.weight(),
                    .epilogue = Epilogue::add,
                    .out = plain.view()};
    linear(rig.stream(), args, {4, panels, 2});
    args.out = norm.x.view();
    args.gain = norm.norm_gain();
    check(args);
    linear(rig.stream(), args, {4, panels, 2});
    const auto want = plain.read(rig), x = norm.x.read(rig), squares = norm.squares.read(rig);
    const auto scaled = norm.scaled.read(rig);
    REQUIRE(std::memcmp(x.data(), want.data(), x.size() * sizeof(float)) == 0);
    for (int32_t i = 0; i < n - 1; ++i) {
      const float* row = x.data() + i * norm.x.stride();
      for (int32_t o = 0; o < kDim; ++o) {
        const float product = row[o] * norm.gains[static_cast<size_t>(o)];
        REQUIRE(scaled[static_cast<size_t>(i * norm.scaled.stride() + o)] == to_bf16(product));
      }
      for (int32_t p = 0; p < kDim / 16; ++p) {
        REQUIRE(same_bits(squares[static_cast<size_t>(i * norm.squares.stride() + p)],
                          tree_of_squares(row + 16 * p)));
      }
    }
    CHECK(scaled[static_cast<size_t>((n - 1) * norm.scaled.stride())] == kNaNBits);
    CHECK(std::isnan(squares[static_cast<size_t>((n - 1) * norm.squares.stride())]));
  }
}

TEST_CASE("an embedding with a gain gives the norm behind it the same") {
  constexpr int32_t vocab = 20, n = 5;
  Rig rig;
  NormRig norm(rig, n, 40);
  const Matrix table(rig, vocab, kDim);
  const std::vector<int32_t> tokens = {3, 19, 0, 7, 7};
  const DeviceArray<int32_t> tok(rig, tokens);
  StepRig step(rig, n, {n});
  step.rows().segments[0].tok = reinterpret_cast<const Cell<int32_t>*>(tok.data());
  const EmbedArgs args{
      .rows = step.rows(), .table = table.weight(), .out = norm.x.view(), .gain = norm.norm_gain()};
  check(args);
  embed(rig.stream(), args);
  const auto x = norm.x.read(rig), squares = norm.squares.read(rig);
  const auto scaled = norm.scaled.read(rig);
  for (int32_t i = 0; i < n; ++i) {
    const float* row = x.data() + i * norm.x.stride();
    float sum = 0;
    for (int32_t o = 0; o < kDim; ++o) {
      const int32_t token = tokens[static_cast<size_t>(i)];
      REQUIRE(row[o] == to_float(table.values[static_cast<size_t>(token * kDim + o)]));
      const float product = row[o] * norm.gains[static_cast<size_t>(o)];
      REQUIRE(scaled[static_cast<size_t>(i * norm.scaled.stride() + o)] == to_bf16(product));
      sum = std::fma(row[o], row[o], o % 16 == 0 ? 0.0f : sum);
      if (o % 16 == 15) {
        REQUIRE(squares[static_cast<size_t>(i * norm.squares.stride() + o / 16)] == sum);
      }
    }
  }
}

// Products of the norm of x: by rms_norm and linear, and joined, both with a bias.
struct Normed {
  std::vector<float> apart, joined;
};

Normed normed_products(Rig& rig, const NormRig& norm, const Matrix& w, int32_t capacity,
                       const StepRows& rows, const LinearSchedule& schedule) {
  const DeviceArray<float> bias(rig, random_f32(static_cast<size_t>(w.m), 52));
  const DeviceRows<bf16_bits> xn(rig, capacity, kDim, kNaNBits);
  const DeviceRows<float> apart(rig, capacity, w.m, NAN), joined(rig, capacity, w.m, NAN);
  StepRows all = rows;
  all.select = RowSelect::all;
  rms_norm(
      rig.stream(),
      {.rows = all, .x = norm.x.view(), .gain = norm.gain.data(), .eps = kEps, .out = xn.view()});
  LinearArgs args{
      .rows = rows, .x = xn.view(), .w = w.weight(), .bias = bias.data(), .out = apart.view()};
  linear(rig.stream(), args, schedule);
  // A product with zeros adds nothing to x.
  const Matrix none(rig, kDim, 32);
  const DeviceRows<bf16_bits> zeros(rig, capacity, 32, 0);
  linear(rig.stream(), {.rows = all,
                        .x = zeros.view(),
                        .w = none.weight(),
                        .epilogue = Epilogue::add,
                        .out = norm.x.view(),
                        .gain = norm.norm_gain()});
  args.x = norm.scaled.view();
  args.factor = norm.factor();
  args.out = joined.view();
  check(args);
  linear(rig.stream(), args, schedule);
  return {apart.read(rig), joined.read(rig)};
}

TEST_CASE("a norm without a pass is the norm within the rounding of bf16") {
  constexpr int32_t m = 40;
  for (const int32_t n : {1, 9, 30, 64}) {
    Rig rig(seeded(static_cast<uint64_t>(n)));
    const NormRig norm(rig, n, 50);
    const Matrix w(rig, m, kDim);
    StepRig step(rig, n, {n});
    const LinearSchedule schedule{n > 32 ? 8 : 4, 2, 2};
    const Normed y = normed_products(rig, norm, w, n, step.rows(), schedule);
    double squares = 0;
    for (int32_t i = 0; i < n; ++i) {
      for (int32_t o = 0; o < m; ++o) {
        const auto at = static_cast<size_t>(i * padded_row_bytes(DType::f32, m) / 4 + o);
        // 80 products, each off by at most 2^-8 of it, in random directions.
        const double off = y.joined[at] - y.apart[at];
        REQUIRE(std::abs(off) < 0.25);
        squares += off * off;
      }
    }
    CHECK(std::sqrt(squares / (n * m)) < 0.05);
  }
}

TEST_CASE(
    "a norm without a pass: a row alone equals the row among others, of each of which the last") {
  constexpr int32_t m = 24, capacity = 6;
  Rig rig;
  const Matrix w(rig, m, kDim);
  const NormRig norm(rig, 3 * capacity, 60);
  StepRig step(rig, capacity, {4, 0, 6});
  const auto all = normed_products(rig, norm, w, 3 * capacity, step.rows(), {4, 1, 2}).joined;
  step.rows().select = RowSelect::last;
  const auto last = normed_products(rig, norm, w, 3 * capacity, step.rows(), {1, 2, 1}).joined;
  const auto stride = static_cast<size_t>(padded_row_bytes(DType::f32, m) / 4);
  for (const size_t row : {size_t{3}, size_t{2 * capacity + 5}}) {
    CHECK(std::memcmp(&all[row * stride], &last[row * stride], m * sizeof(float)) == 0);
  }
  CHECK(std::isnan(last[0]));
  CHECK(!std::isnan(all[0]));
}

TEST_CASE("queries, keys and values go where rope_kv brings them, with the same bits") {
  constexpr int32_t k = 70, capacity = 7, slots = 64;
  for (const int32_t e : {64, 96, 128}) {
    Rig rig(seeded(static_cast<uint64_t>(e)));
    const int32_t heads = 3, kv_heads = 1, m = (heads + 2 * kv_heads) * e, n = 2 * capacity;
    const Matrix w(rig, m, k, e / 2);
    const DeviceRows<bf16_bits> in(rig, n, k, kNaNBits,
                                   random_bf16(static_cast<size_t>(n * k), 70));
    const DeviceArray<float> bias(rig, random_f32(static_cast<size_t>(m), 71));
    const DeviceRows<float> angles(rig, n, e, NAN, random_f32(static_cast<size_t>(n * e), 72));
    const DeviceRows<float> qkv(rig, n, m, NAN);
    KvLayer kv{.kv_heads = kv_heads, .head_dim = e, .slots = slots, .dtype = DType::bf16};
    kv.value_offset = kv_key_bytes(kv);
    const auto cache_values = static_cast<size_t>(2 * slots * e);
    std::vector<bf16_bits> results[2];
    for (const bool joined : {false, true}) {
      const DeviceRows<bf16_bits> q(rig, n, heads * e, kNaNBits);
      const DeviceArray<bf16_bits> first(rig, std::vector<bf16_bits>(cache_values, 1));
      const DeviceArray<bf16_bits> second(rig, std::vector<bf16_bits>(cache_values, 2));
      StepRig step(rig, capacity, {capacity, 3}, RowSelect::all, {20, 5});
      step.rows().segments[0].kv = reinterpret_cast<std::byte*>(first.data());
      step.rows().segments[1].kv = reinterpret_cast<std::byte*>(second.data());
      LinearArgs args{.rows = step.rows(),
                      .x = in.view(),
                      .w = w.weight(),
                      .bias = bias.data(),
                      .out = qkv.view()};
      if (joined) {
        args.epilogue = Epilogue::rope_kv;
        args.out = {};
        args.rope = {.angles = angles.view(), .q = q.view(), .kv = kv, .heads = heads};
      }
      check(args);
      linear(rig.stream(), args);
      if (!joined) {
        rope_kv(rig.stream(), {.rows = step.rows(),
                               .qkv = qkv.view(),
                               .angles = angles.view(),
                               .q = q.view(),
                               .kv = kv,
                               .heads = heads});
      }
      results[joined] = q.read(rig);
      for (const auto* cache : {&first, &second}) {
        const auto values = cache->read(rig);
        rig.sync();
        results[joined].insert(results[joined].end(), values.begin(), values.end());
      }
    }
    CHECK(results[0] == results[1]);
  }
}

TEST_CASE("joined ops of the wrong shape are refused") {
  Rig rig;
  const Matrix w(rig, 40, 32);
  StepRig step(rig, 1, {1});
  const DeviceRows<bf16_bits> x(rig, 1, 32, 0);
  const DeviceRows<float> out(rig, 1, 40, 0);
  LinearArgs args{.rows = step.rows(),
                  .x = x.view(),
                  .w = w.weight(),
                  .epilogue = Epilogue::add,
                  .out = out.view()};
  const float gain = 1;
  args.gain.gain = &gain;
  CHECK_THROWS_WITH_AS(check(args), doctest::Contains("a gain of 40 columns"), Error);
  args.gain = {};
  args.epilogue = Epilogue::rope_kv;
  args.rope.kv = {.kv_heads = 1, .head_dim = 8, .slots = 16, .dtype = DType::bf16};
  args.rope.heads = 3;
  CHECK_THROWS_WITH_AS(check(args), doctest::Contains("40 rows in pairs of stride 8"), Error);
}

}  // namespace
}  // namespace specrt::cuda

// rope_kv: every written value against plain loops in the same order; everything else untouched.
#include <cmath>
#include <random>

#include "cuda/kernels.h"
#include "rig.h"

namespace specrt::cuda {
namespace {

constexpr bf16_bits kUntouched = 0x7b7b;
constexpr int32_t kSlots = 48;

struct RopeShape {
  int32_t heads;
  int32_t kv_heads;
  int32_t dim;
  int32_t capacity;
};

struct RopeSpan {
  int32_t base;
  int32_t rows;
};

// A step of two sequences on random activations.
struct RopeStep {
  RopeShape shape;
  std::vector<RopeSpan> spans;
  std::vector<float> qkv;     // (n,(h+2g)e), rows padded to `stride`
  std::vector<float> angles;  // (n,e)
  std::vector<float> q_gain, k_gain;

  int64_t width() const { return int64_t{shape.heads + 2 * shape.kv_heads} * shape.dim; }
  int64_t stride() const { return padded_row_bytes(DType::f32, width()); }
  int64_t angle_stride() const { return padded_row_bytes(DType::f32, shape.dim); }
  size_t rows() const { return spans.size() * static_cast<size_t>(shape.capacity); }
  size_t cache_values() const {
    return static_cast<size_t>(shape.kv_heads) * kSlots * static_cast<size_t>(shape.dim);
  }
};

struct RopeResult {
  std::vector<bf16_bits> q;                    // (n,he)
  std::vector<std::vector<bf16_bits>> caches;  // keys, then values (g,slots,e)
};

RopeStep make_step(const RopeShape& shape, const std::vector<RopeSpan>& spans, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  RopeStep step{shape, spans, {}, {}, {}, {}};
  const auto fill = [&](std::vector<float>& values, size_t n) {
    values.resize(n);
    for (float& v : values) v = normal(random);
  };
  fill(step.qkv, step.rows() * static_cast<size_t>(step.stride()) / sizeof(float));
  fill(step.angles, step.rows() * static_cast<size_t>(step.angle_stride()) / sizeof(float));
  return step;
}

RopeResult run(Rig& rig, const RopeStep& step) {
  const auto e = static_cast<size_t>(step.shape.dim);
  const DeviceArray<float> qkv(rig, step.qkv), angles(rig, step.angles);
  const std::vector<float> ones(e, 1.0f);
  const DeviceArray<float> q_gain(rig, step.q_gain.empty() ? ones : step.q_gain);
  const DeviceArray<float> k_gain(rig, step.k_gain.empty() ? ones : step.k_gain);
  const auto q_cols = static_cast<size_t>(step.shape.heads) * e;
  const auto q_stride = padded_row_bytes(DType::bf16, static_cast<int64_t>(q_cols));
  const size_t q_values = step.rows() * static_cast<size_t>(q_stride) / sizeof(bf16_bits);
  const DeviceArray<bf16_bits> q(rig, std::vector<bf16_bits>(q_values, kUntouched));
  const std::vector<bf16_bits> empty(2 * step.cache_values(), kUntouched);
  const DeviceArray<bf16_bits> first(rig, empty), second(rig, empty);
  std::vector<int32_t> cells;
  for (const RopeSpan& span : step.spans) cells.insert(cells.end(), {span.base, span.rows});
  const DeviceArray<int32_t> spans(rig, cells);

  RopeKvArgs args;
  args.rows.segment_count = static_cast<int32_t>(step.spans.size());
  args.rows.capacity = step.shape.capacity;
  args.rows.positions = kSlots;
  for (size_t s = 0; s < step.spans.size(); ++s) {
    args.rows.segments[s].span = reinterpret_cast<const StepSpan*>(spans.data()) + s;
    args.rows.segments[s].kv = reinterpret_cast<std::byte*>((s == 0 ? first : second).data());
  }
  const auto view = [](auto& array, DType dtype, int64_t cols, int64_t stride) {
    return RowsView{reinterpret_cast<std::byte*>(array.data()), dtype, static_cast<int32_t>(cols),
                    stride};
  };
  args.qkv = view(qkv, DType::f32, step.width(), step.stride());
  args.angles = view(angles, DType::f32, step.shape.dim, step.angle_stride());
  args.q = view(q, DType::bf16, static_cast<int64_t>(q_cols), q_stride);
  args.kv = {.value_offset = static_cast<int64_t>(step.cache_values() * sizeof(bf16_bits)),
             .kv_heads = step.shape.kv_heads,
             .head_dim = step.shape.dim,
             .slots = kSlots,
             .dtype = DType::bf16};
  args.heads = step.shape.heads;
  if (!step.q_gain.empty()) args.q_gain = q_gain.data();
  if (!step.k_gain.empty()) args.k_gain = k_gain.data();
  args.eps = 1e-5f;
  check(args);
  rope_kv(rig.stream(), args);
  RopeResult result;
  const std::vector<bf16_bits> padded = q.read(rig);
  for (size_t row = 0; row < step.rows(); ++row) {
    const auto begin = padded.begin() + static_cast<ptrdiff_t>(row) * q_stride / 2;
    result.q.insert(result.q.end(), begin, begin + static_cast<ptrdiff_t>(q_cols));
  }
  result.caches.push_back(first.read(rig));
  result.caches.push_back(second.read(rig));
  return result;
}

// 1 / sqrt(mean(x^2) + eps): 32 sums over pairs (d, d + e/2), then a butterfly.
float norm_factor(const float* x, size_t half) {
  std::vector<float> sums(32, 0.0f);
  for (size_t d = 0; d < half; ++d) {
    sums[d % 32] = std::fma(x[d], x[d], sums[d % 32]);
    sums[d % 32] = std::fma(x[d + half], x[d + half], sums[d % 32]);
  }
  for (size_t apart = 16; apart > 0; apart /= 2) {
    const std::vector<float> before = sums;
    for (size_t lane = 0; lane < 32; ++lane) sums[lane] = before[lane] + before[lane ^ apart];
  }
  return 1.0f / std::sqrt(sums[0] / static_cast<float>(2 * half) + 1e-5f);
}

std::vector<bf16_bits> rotated(const float* x, const float* angles, size_t e,
                               const std::vector<float>& gain) {
  const size_t half = e / 2;
  std::vector<float> v(x, x + e);
  if (!gain.empty()) {
    const float factor = norm_factor(x, half);
    for (size_t d = 0; d < e; ++d) v[d] = x[d] * factor * gain[d];
  }
  std::vector<bf16_bits> out(e);
  for (size_t d = 0; d < half; ++d) {
    out[d] = to_bf16(v[d] * angles[d] - v[d + half] * angles[d + half]);
    out[d + half] = to_bf16(v[d + half] * angles[d] + v[d] * angles[d + half]);
  }
  return out;
}

RopeResult model(const RopeStep& step) {
  const auto e = static_cast<size_t>(step.shape.dim);
  const auto heads = static_cast<size_t>(step.shape.heads);
  const auto kv_heads = static_cast<size_t>(step.shape.kv_heads);
  RopeResult want;
  want.q.assign(step.rows() * heads * e, kUntouched);
  want.caches.assign(2, std::vector<bf16_bits>(2 * step.cache_values(), kUntouched));
  const auto put = [](std::vector<bf16_bits>& to, size_t at, const std::vector<bf16_bits>& from) {
    std::copy(from.begin(), from.end(), to.begin() + static_cast<ptrdiff_t>(at));
  };
  for (size_t s = 0; s < step.spans.size(); ++s) {
    for (int32_t i = 0; i < std::min(step.spans[s].rows, step.shape.capacity); ++i) {
      const size_t row = s * static_cast<size_t>(step.shape.capacity) + static_cast<size_t>(i);
      const float* x = step.qkv.data() + row * static_cast<size_t>(step.stride()) / sizeof(float);
      const float* angles =
          step.angles.data() + row * static_cast<size_t>(step.angle_stride()) / sizeof(float);
      for (size_t head = 0; head < heads; ++head, x += e) {
        put(want.q, (row * heads + head) * e, rotated(x, angles, e, step.q_gain));
      }
      const auto slot = static_cast<size_t>(step.spans[s].base + i);
      for (size_t g = 0; g < kv_heads; ++g, x += e) {
        put(want.caches[s], (g * kSlots + slot) * e, rotated(x, angles, e, step.k_gain));
      }
      for (size_t g = 0; g < kv_heads; ++g, x += e) {
        std::vector<bf16_bits> values(e);
        for (size_t d = 0; d < e; ++d) values[d] = to_bf16(x[d]);
        put(want.caches[s], step.cache_values() + (g * kSlots + slot) * e, values);
      }
    }
  }
  return want;
}

TEST_CASE("queries, keys and values of every shape go where they belong") {
  uint64_t seed = 0;
  for (const int32_t dim : {64, 96, 128}) {
    for (const RopeShape& shape : {RopeShape{1, 1, dim, 1}, {4, 2, dim, 5}, {9, 3, dim, 32}}) {
      for (const int32_t rows : {0, 1, 5, 40}) {
        RopeStep step = make_step(shape, {{3, rows}, {kSlots - 32, rows / 2}}, ++seed);
        if (seed % 3 > 0) step.q_gain = {step.qkv.begin(), step.qkv.begin() + dim};
        if (seed % 3 > 1) step.k_gain = {step.qkv.begin() + 8, step.qkv.begin() + 8 + dim};
        emulation::Settings settings = Rig::quiet();
        settings.seed = seed;
        Rig rig(settings);
        const RopeResult got = run(rig, step), want = model(step);
        CHECK(got.q == want.q);
        CHECK(got.caches == want.caches);
      }
    }
  }
}

TEST_CASE("a norm is that of double within rounding") {
  RopeStep step = make_step({2, 1, 128, 1}, {{0, 1}}, 5);
  step.q_gain.assign(128, 1.0f);
  for (size_t d = 0; d < 128; ++d) step.angles[d] = d < 64 ? 1.0f : 0.0f;
  Rig rig;
  const RopeResult got = run(rig, step);
  double sum = 0.0;
  for (size_t d = 0; d < 128; ++d) sum += double{step.qkv[d]} * step.qkv[d];
  for (size_t d = 0; d < 128; ++d) {
    const double want = step.qkv[d] / std::sqrt(sum / 128 + 1e-5);
    CHECK(to_float(got.q[d]) == doctest::Approx(want).epsilon(0.004));
  }
}

TEST_CASE("caches of other types are refused") {
  Rig rig;
  RopeKvArgs args;
  CHECK_THROWS_WITH(rope_kv(rig.stream(), args), "rope_kv: CUDA needs a bf16 cache, not f32");
}

}  // namespace
}  // namespace specrt::cuda

// embed against a table written element by element.
#include <cmath>
#include <limits>

#include "cuda/kernels.h"
#include "step_rig.h"

namespace specrt::cuda {
namespace {

constexpr float kUntouched = 12345.0f;
constexpr int32_t kVocab = 37;

// Element (token, col) of a table: distinct, exact in bf16.
bf16_bits element(int32_t token, int32_t col) {
  return static_cast<bf16_bits>(0x3f00 + (token * 131 + col * 7) % 4096);
}

// Written from the text of Layout::tiles16x32; pair stride 8.
std::vector<bf16_bits> table_of(Layout layout, int32_t cols) {
  const int32_t blocks = (cols + 31) / 32;
  const bool is_tiles = layout == Layout::tiles16x32;
  std::vector<bf16_bits> table(
      static_cast<size_t>(is_tiles ? (kVocab + 15) / 16 * blocks * 512 : kVocab * cols), 0);
  for (int32_t v = 0; v < kVocab; ++v) {
    for (int32_t k = 0; k < cols; ++k) {
      const int32_t lane = 4 * (v % 8) + k % 32 / 8;
      const int32_t tile = v / 16 * blocks + k / 32;
      const int32_t at = is_tiles ? tile * 512 + v % 16 / 8 * 256 + lane * 8 + k % 8 : v * cols + k;
      table[static_cast<size_t>(at)] = element(v, k);
    }
  }
  return table;
}

struct EmbedCase {
  Layout layout;
  int32_t cols;
  std::vector<int32_t> tok;  // of one sequence
};

std::vector<float> embedded(Rig& rig, const EmbedCase& c, StepRig& step, int64_t* stride) {
  const DeviceArray<bf16_bits> table(rig, table_of(c.layout, c.cols));
  const DeviceArray<int32_t> tok(rig, c.tok);
  for (int32_t s = 0; s < step.rows().segment_count; ++s) {
    step.rows().segments[static_cast<size_t>(s)].tok =
        reinterpret_cast<const Cell<int32_t>*>(tok.data());
  }
  const DeviceRows<float> out(rig, step.capacity(), c.cols, kUntouched);
  const EmbedArgs args{.rows = step.rows(),
                       .table = {.data = reinterpret_cast<const std::byte*>(table.data()),
                                 .dtype = DType::bf16,
                                 .layout = c.layout,
                                 .rows = kVocab,
                                 .cols = c.cols},
                       .out = out.view()};
  check(args);
  embed(rig.stream(), args);
  *stride = out.stride();
  return out.read(rig);
}

TEST_CASE("embed reads both layouts") {
  for (const Layout layout : {Layout::row_major, Layout::tiles16x32}) {
    for (const int32_t cols : {1, 7, 32, 33, 100, 2100}) {
      CAPTURE(cols);
      Rig rig(seeded(static_cast<uint64_t>(cols)));
      // Segment 0: positions 2 .. 4; segment 1: position 5; the rest does not exist.
      StepRig step(rig, 4, {3, 1}, RowSelect::all, {2, 5});
      const std::vector<int32_t> tok = {9, 9, 0, 36, 17, 15, 9, 9};
      int64_t stride = 0;
      const std::vector<float> out = embedded(rig, {layout, cols, tok}, step, &stride);
      const int32_t tokens[] = {0, 36, 17, -1, 15, -1, -1, -1};
      for (int32_t r = 0; r < 8; ++r) {
        for (int32_t k = 0; k < cols; ++k) {
          const float want = tokens[r] < 0 ? kUntouched : to_float(element(tokens[r], k));
          REQUIRE(out[static_cast<size_t>(r * stride + k)] == want);
        }
      }
    }
  }
}

TEST_CASE("embed reads nothing for a token outside of the table") {
  for (const int32_t token : {-1, kVocab, std::numeric_limits<int32_t>::max()}) {
    Rig rig;
    StepRig step(rig, 2, {2});
    int64_t stride = 0;
    const EmbedCase c{Layout::tiles16x32, 40, {token, 3}};
    const std::vector<float> out = embedded(rig, c, step, &stride);
    CHECK(std::isnan(out[0]));
    CHECK(std::isnan(out[39]));
    CHECK(out[static_cast<size_t>(stride)] == to_float(element(3, 0)));
  }
}

TEST_CASE("tables that CUDA does not read are refused") {
  Rig rig;
  EmbedArgs args;
  args.table.dtype = DType::f32;
  CHECK_THROWS_WITH_AS(embed(rig.stream(), args), doctest::Contains("bf16"), Error);
  StepRig step(rig, 1, {1});
  const DeviceRows<float> out(rig, 1, 32, 0.0f);
  args = {.rows = step.rows(),
          .table = {.dtype = DType::bf16,
                    .layout = Layout::tiles16x32,
                    .rows = 64,
                    .cols = 32,
                    .pair_stride = 16},
          .out = out.view()};
  CHECK_THROWS_WITH_AS(check(args), doctest::Contains("stride 16"), Error);
}

}  // namespace
}  // namespace specrt::cuda

// plan_streams and insert_streams against the functions of device/streaming.h and plain loops.
#include <array>
#include <cmath>
#include <limits>

#include "linear_rig.h"
#include "stream_rig.h"

namespace specrt::cuda {
namespace {

constexpr int32_t kVocab = 37;
constexpr float kUntouched = 12345.0f;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

bool same_plan(const StreamMemory& a, const StreamMemory& b) {
  const size_t bytes = offsetof(StreamingCells, score);
  return same_bytes(a.tree, b.tree) && std::memcmp(static_cast<const void*>(&a.cells),
                                                   static_cast<const void*>(&b.cells), bytes) == 0;
}

TEST_CASE("without pruning the first rows are kept, as on the CPU") {
  for (uint64_t index = 0; index < 60; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(index);
    Pinned<StreamMemory> first, second;
    for (const Pinned<StreamMemory>* each : {&first, &second}) {
      StreamMemory& memory = **each;
      const int32_t streams = dice.between(0, 5), most = kMaxStepRows / (1 + streams);
      memory.draw(dice, dice.between(1, most), kVocab);
      memory.shape.streams = streams;
      memory.shape.kept = dice.between(memory.shape.tree.rows, most);
      memory.span.rows =
          dice.one_in(4) ? dice.between(0, memory.shape.tree.rows) : memory.span.rows;
    }
    const StreamPositions positions = dice.of({StreamPositions::same, StreamPositions::shifted});
    auto wanted = std::make_unique<std::array<StreamMemory, 2>>();
    copy_bytes((*wanted)[0], *first);
    copy_bytes((*wanted)[1], *second);
    plan_streams(rig.stream(), {.rows = step_of({first->segment(), {}, second->segment()}, 64),
                                .streams = 5,
                                .positions = positions});
    rig.sync();
    for (StreamMemory& w : *wanted) {
      plan_tree_streams(w.shape, w.span, w.tree, w.cells, positions, nullptr);
    }
    REQUIRE(same_plan(*first, (*wanted)[0]));
    REQUIRE(same_plan(*second, (*wanted)[1]));
  }
}

TEST_CASE("the last row of a prompt gets streams, as on the CPU") {
  for (const StreamPositions positions : {StreamPositions::same, StreamPositions::shifted}) {
    for (const int32_t rows : {1, 2, 17, 60}) {
      Rig rig(seeded(static_cast<uint64_t>(rows)));
      Pinned<StreamMemory> memory;
      memory->span.base = 7;
      memory->span.rows = rows;
      auto wanted = std::make_unique<StreamMemory>();
      copy_bytes(*wanted, *memory);
      plan_streams(
          rig.stream(),
          {.rows = step_of({memory->prompt(), {}}, 64), .streams = 4, .positions = positions});
      rig.sync();
      plan_prompt_streams(wanted->span, wanted->tree, wanted->cells, 4, positions);
      REQUIRE(same_plan(*memory, *wanted));
    }
  }
}

// The rows that row i sees by its place: the way to its main row, and that row's streams up to it.
uint64_t seen_from(const StreamingCells& cells, int32_t i) {
  uint64_t seen = uint64_t{1} << i;
  const int32_t streams = cells.streams, kept = cells.kept;
  int32_t main = i < kept ? i : cells.first + (i - kept) / streams;
  for (int32_t row = i; row >= kept && (row - kept) / streams == main - cells.first; --row) {
    seen |= uint64_t{1} << row;
  }
  for (; main != 0; main = cells.shape.parent[main]) seen |= uint64_t{1} << main;
  return seen | 1;
}

TEST_CASE("a row sees the way to its main row and the streams before it") {
  for (uint64_t index = 0; index < 20; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(50 + index);
    Pinned<StreamMemory> memory;
    memory->draw(dice, dice.between(1, 64), kVocab);
    plan_streams(rig.stream(), {.rows = step_of({memory->segment()}, 64), .streams = 5});
    rig.sync();
    const StreamingCells& cells = memory->cells;
    REQUIRE(cells.span.base == memory->span.base);
    for (int32_t i = 0; i < cells.span.rows; ++i) {
      const int32_t main = main_row(cells, i);
      const int32_t ahead = i < cells.kept ? 0 : 1 + stream_of(cells, i);
      REQUIRE(cells.shape.sees[i] == seen_from(cells, i));
      REQUIRE(cells.shape.depth[i] == memory->shape.tree.depth[cells.from[main]] + ahead);
    }
  }
}

// A table and exits, random, for steps of 2 x 64 rows.
struct ScoreRig {
  ScoreRig(Rig& rig, Layout layout, int32_t cols_)
      : cols(cols_),
        table(rig, kVocab, cols),
        plain(rig, table.values),
        exits(random_f32(static_cast<size_t>(128 * cols), 5)),
        exit(rig, 128, cols, kNaN, exits) {
    args = {.rows = {}, .exit = exit.view(), .table = table.weight(), .streams = 5};
    if (layout != Layout::row_major) return;
    args.table.layout = layout;
    args.table.data = reinterpret_cast<const std::byte*>(plain.data());
  }

  double logit(int32_t token, int32_t row) const {
    double sum = 0;
    for (int32_t k = 0; k < cols; ++k) {
      sum += static_cast<double>(to_float(table.values[static_cast<size_t>(token * cols + k)])) *
             exits[static_cast<size_t>(row * cols + k)];
    }
    return sum;
  }

  // The probability of row `row` behind its parent; `first` is the segment's first row.
  float score(const StreamMemory& memory, int32_t row, int32_t first) const {
    const TreeShape& tree = memory.shape.tree;
    const int32_t parent = tree.parent[row], depth = tree.depth[parent];
    double own = 0, sum = 0;
    for (int32_t rank = 0; rank < kTreeWidth; ++rank) {
      const double weight = std::exp(logit(memory.tree.candidate[depth][rank], first + parent));
      sum += weight;
      if (rank == tree.rank[row]) own = weight;
    }
    return static_cast<float>(own / sum);
  }

  int32_t cols;
  Matrix table;
  DeviceArray<bf16_bits> plain;
  std::vector<float> exits;
  DeviceRows<float> exit;
  PlanStreamsArgs args;
};

TEST_CASE("pruning keeps the rows that the exits hold for likeliest") {
  int32_t pruned = 0, unlikely = 0;
  for (uint64_t index = 0; index < 40; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(100 + index);
    ScoreRig scores(rig, dice.of({Layout::row_major, Layout::tiles16x32}), dice.of({1, 8, 33, 50}));
    Pinned<StreamMemory> first, second;
    first->draw(dice, dice.between(1, 64), kVocab);
    second->draw(dice, dice.between(1, 64), kVocab);
    for (const auto* each : {&first, &second}) {
      (*each)->shape.least_score = dice.of({0.0f, 1e-3f, 0.05f});
      (*each)->shape.kept = dice.between(1, 64);  // more than have room
    }
    auto wanted = std::make_unique<std::array<StreamMemory, 2>>();
    copy_bytes((*wanted)[0], *first);
    copy_bytes((*wanted)[1], *second);
    scores.args.rows = step_of({first->segment(), second->segment()}, 64);
    scores.args.rows.pruning = Pruning::scored;
    check(scores.args);
    plan_streams(rig.stream(), scores.args);
    rig.sync();
    for (int32_t s = 0; s < 2; ++s) {
      StreamMemory& w = (*wanted)[static_cast<size_t>(s)];
      const StreamMemory& got = s == 0 ? *first : *second;
      const int32_t rows = w.span.rows;
      std::array<float, kMaxStepRows> ways{};
      for (int32_t row = 1; row < rows; ++row) {
        ways[static_cast<size_t>(row)] = scores.score(w, row, 64 * s);
      }
      plan_tree_streams(w.shape, w.span, w.tree, w.cells, scores.args.positions, ways.data());
      REQUIRE(same_plan(got, w));
      for (int32_t row = 0; row < rows; ++row) {
        const float way = ways[static_cast<size_t>(row)];
        REQUIRE(std::abs(got.cells.score[row] - way) <= 1e-4f * way + 1e-30f);
      }
      const int32_t kept = w.cells.kept, most = kMaxStepRows / (1 + w.shape.streams);
      pruned += kept < rows ? 1 : 0;
      unlikely += kept < std::min({rows, int32_t{w.shape.kept}, most}) ? 1 : 0;
    }
  }
  CHECK(pruned > 40);
  CHECK(unlikely > 10);
}

TEST_CASE("candidates outside of the table have no score") {
  Rig rig;
  Dice dice(1);
  ScoreRig scores(rig, Layout::tiles16x32, 40);
  Pinned<StreamMemory> memory;
  memory->draw(dice, 40, kVocab);
  memory->shape.least_score = 1e-20f;
  memory->shape.kept = 64;
  memory->tree.candidate[0][5] = kVocab;
  scores.args.rows = step_of({memory->segment()}, 64);
  scores.args.rows.pruning = Pruning::scored;
  plan_streams(rig.stream(), scores.args);
  rig.sync();
  CHECK(memory->cells.kept == 1);
}

TEST_CASE("tables that CUDA does not read are refused") {
  Rig rig;
  Pinned<StreamMemory> memory;
  PlanStreamsArgs args{.rows = step_of({memory->segment()}, 64), .table = {.dtype = DType::f32}};
  args.rows.pruning = Pruning::scored;
  CHECK_THROWS_WITH_AS(plan_streams(rig.stream(), args), doctest::Contains("bf16"), Error);
}

TEST_CASE("rows of streams are their row's and an embedding") {
  constexpr int32_t kCapacity = 20, kAbove = 64, kStreams = 5;
  for (const int32_t cols : {1, 50, 300}) {
    Rig rig(seeded(static_cast<uint64_t>(cols)));
    Dice dice(static_cast<uint64_t>(cols));
    Pinned<StreamMemory> tree, plain, prompt;
    tree->draw(dice, kCapacity, kVocab);
    tree->shape.kept = 7;
    plain->span.rows = 9;
    prompt->span.rows = kCapacity;
    StepRows step = step_of({tree->segment(), {.span = &plain->span}, prompt->prompt()}, kCapacity);
    step.stream_capacity = kAbove;
    plan_streams(rig.stream(), {.rows = step, .streams = kStreams});
    const std::vector<float> x = random_f32(static_cast<size_t>(3 * kCapacity * cols), 6);
    const std::vector<float> embedding = random_f32(static_cast<size_t>(kStreams * cols), 7);
    const DeviceRows<float> in(rig, 3 * kCapacity, cols, kNaN, x);
    const DeviceRows<float> out(rig, 3 * kAbove, cols, kUntouched);
    const DeviceArray<float> device_embedding(rig, embedding);
    const InsertStreamsArgs args{.rows = step,
                                 .x = in.view(),
                                 .embedding = device_embedding.data(),
                                 .streams = kStreams,
                                 .out = out.view()};
    insert_streams(rig.stream(), args);
    const std::vector<float> y = out.read(rig);
    for (int32_t r = 0; r < 3 * kAbove; ++r) {
      const int32_t s = r / kAbove, i = r % kAbove;
      const StreamingCells& cells = s == 0 ? tree->cells : prompt->cells;
      const int32_t rows = s == 1 ? 9 : int32_t{cells.span.rows};
      const int32_t from = s == 1 || i >= rows ? i : int32_t{cells.from[main_row(cells, i)]};
      const bool streams = s != 1 && i >= cells.kept && i < rows;
      for (int32_t k = 0; k < cols; ++k) {
        const auto at = static_cast<size_t>((s * kCapacity + from) * cols + k);
        float want = i < rows ? x[at] : kUntouched;
        if (streams) want += embedding[static_cast<size_t>(stream_of(cells, i) * cols + k)];
        REQUIRE(y[static_cast<size_t>(r * out.stride() + k)] == want);
      }
    }
  }
}

}  // namespace
}  // namespace specrt::cuda

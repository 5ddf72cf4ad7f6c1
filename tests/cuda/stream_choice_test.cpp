// Ops that read the rows of the layers with streams: products for some of them, the candidates for
// the next tree, and verdicts on what was kept of a tree.
#include <algorithm>
#include <limits>

#include "cuda/linear.h"
#include "linear_rig.h"
#include "stream_rig.h"

namespace specrt::cuda {
namespace {

constexpr float kUntouched = 12345.0f;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Whether a step of these rows has row i of the segment.
bool selects(RowSelect select, const StreamingCells& cells, int32_t i) {
  if (i >= cells.span.rows) return false;
  if (select == RowSelect::streams) return i >= cells.kept;
  return select == RowSelect::all || i >= cells.kept - 1;
}

TEST_CASE("low-rank products have the rows of streams alone, those of a prompt's end its last") {
  const int32_t shapes[][2] = {{8, 100}, {32, 100}, {11, 40}, {100, 8}, {100, 32}, {40, 11}};
  for (const RowSelect select : {RowSelect::streams, RowSelect::last, RowSelect::all}) {
    for (const auto [m, k] : shapes) {
      CAPTURE(m);
      CAPTURE(k);
      Rig rig(seeded(static_cast<uint64_t>(m * 100 + k)));
      Dice dice(static_cast<uint64_t>(m));
      Pinned<StreamMemory> first, second;
      for (const auto* each : {&first, &second}) {
        (*each)->draw(dice, 6, 10);
        (*each)->shape.streams = 3;
        (*each)->shape.kept = dice.between(1, 6);
        plan_tree_streams((*each)->shape, (*each)->span, (*each)->tree, (*each)->cells,
                          StreamPositions::shifted, nullptr);
      }
      StepRows step = step_of({first->segment(), second->segment(), {.span = &first->span}}, 6);
      step.stream_capacity = 24;
      step = with_streams(step);
      step.segment_count = 2;
      step.select = select;
      const Matrix w(rig, m, k);
      const std::vector<bf16_bits> x = random_bf16(static_cast<size_t>(48 * k), 3);
      const std::vector<float> before = random_f32(static_cast<size_t>(48 * m), 4);
      const DeviceRows<bf16_bits> in(rig, 48, k, kNaNBits, x);
      const DeviceRows<float> out(rig, 48, m, kUntouched, before);
      const LinearArgs args{.rows = step,
                            .x = in.view(),
                            .w = w.weight(),
                            .epilogue = Epilogue::add,
                            .out = out.view()};
      check(args);
      linear(rig.stream(), args);
      const std::vector<float> y = out.read(rig);
      for (int32_t r = 0; r < 48; ++r) {
        const bool exists = selects(select, r < 24 ? first->cells : second->cells, r % 24);
        for (int32_t o = 0; o < m; ++o) {
          const float old = before[static_cast<size_t>(r * m + o)];
          const float want = exists ? old + product(w, x.data() + r * k, o) : old;
          REQUIRE(same_sum(y[static_cast<size_t>(r * out.stride() + o)], want));
        }
      }
    }
  }
}

TEST_CASE("of a prompt only the segments that have streams count among their rows") {
  Pinned<StreamMemory> memory;
  StepRows step = with_streams(step_of({memory->prompt(), {}, {}, {}}, kMaxStepRows));
  step.select = RowSelect::streams;
  LinearArgs args;
  args.rows = step;
  args.w.rows = 32;
  CHECK(linear_schedule(args, 4).row_tiles == 8);
  args.rows.segments[0].streams = {};
  CHECK(linear_schedule(args, 4).row_tiles == 1);
}

// A sequence behind a verdict on a tree with streams, and the logits of its rows.
struct ChoiceRig {
  ChoiceRig(Rig& rig, Dice& dice, StreamPositions positions_)
      : vocab(draw_vocab(dice)), positions(positions_), sequence(rig), logits(rig, vocab) {
    memory->draw(dice, dice.between(1, 12), vocab);
    memory->shape.streams = dice.between(1, 4);
    memory->shape.kept = dice.between(1, 12);
    Cells& s = sequence.start().cells;
    s.committed = dice.between(20, 200);
    s.tail = 1;
    s.limit = s.committed + dice.of({1, 4, 80, 80});
    s.stop = dice.one_in(12) ? Stop::eos : Stop::running;
    for (Cell<int32_t>& token : sequence.start().tok) token = dice.between(0, vocab - 1);
    draw_options(dice, sequence.start(), vocab);
    s.logit.prompt_length = dice.between(1, 20);
    memory->span.base = s.committed - 1;
    memory->tree.levels = dice.between(0, 4);
    plan_tree_streams(memory->shape, memory->span, memory->tree, memory->cells, positions, nullptr);
    for (int32_t row = 0; row < memory->cells.span.rows; ++row) {
      draw_logits(dice, logits.row(row), vocab);
    }
    logits.upload();
    scratch = std::make_unique<DeviceArray<std::byte>>(pick_scratch(vocab));
    CUDA_CHECK(cudaMemsetAsync(scratch->data(), 0, 4, rig.stream()));
  }

  // As if the verdict had gone `rows` rows down some path.
  void walk(Dice& dice) {
    const TreeShape& kept = memory->cells.shape;
    int32_t row = dice.between(0, kept.rows - 1);
    const int32_t length = kept.depth[row] + 1;
    for (int32_t d = length - 1; d >= 0; --d, row = kept.parent[row]) memory->tree.path[d] = row;
    memory->tree.path_length = length;
    sequence.start().cells.committed = memory->span.base + 1 + length;
  }

  PickCandidatesArgs candidates(SequenceMemory& state, StreamMemory& streams) {
    PickCandidatesArgs args{.sequence = state.view(),
                            .span = &streams.span,
                            .logits = logits.on_cpu(),
                            .vocab = vocab,
                            .lists = 4,
                            .streams = &streams.cells};
    args.sequence.tree = &streams.tree;
    return args;
  }
  PickCandidatesArgs on_device() {
    PickCandidatesArgs args = candidates(sequence.on_device(), *memory);
    args.logits = logits.on_device();
    args.scratch = {scratch->data(), scratch->size()};
    return args;
  }

  int32_t vocab;
  StreamPositions positions;
  SequenceRig sequence;
  Pinned<StreamMemory> memory;
  Logits logits;
  std::unique_ptr<DeviceArray<std::byte>> scratch;
};

TEST_CASE("the candidates for the next tree are those that the CPU chooses first") {
  int32_t depths = 0, none = 0;
  for (uint64_t index = 0; index < 120; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(300 + index);
    ChoiceRig choice(rig, dice, StreamPositions::shifted);
    choice.walk(dice);
    SequenceRig& sequence = choice.sequence;
    sequence.upload();
    auto host = std::make_unique<StreamMemory>();
    copy_bytes(*host, *choice.memory);
    sequence.cpu().pick_candidates(sequence.cpu_stream(),
                                   choice.candidates(sequence.on_cpu(), *host));
    pick_candidates(rig.stream(), choice.on_device());
    sequence.sync();
    REQUIRE(sequence.same());  // nothing goes to the tokens
    const TreeCells& tree = choice.memory->tree;
    REQUIRE(tree.levels == host->tree.levels);
    for (int32_t d = 0; d < kMaxTreeDepth; ++d) {
      REQUIRE(tree.candidate[d][0] == host->tree.candidate[d][0]);
      const bool is_new = d < tree.levels;
      for (int32_t rank = 0; rank < kTreeWidth && !is_new; ++rank) {
        REQUIRE(tree.candidate[d][rank] == host->tree.candidate[d][rank]);
      }
    }
    depths += tree.levels;
    none += tree.levels == 0 ? 1 : 0;
  }
  CHECK(depths > 100);
  CHECK(none > 10);
}

TEST_CASE("a head's keys of streams have the noise of the tokens that they stand for") {
  for (uint64_t index = 0; index < 40; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(600 + index);
    ChoiceRig choice(rig, dice, dice.of({StreamPositions::same, StreamPositions::shifted}));
    choice.walk(dice);
    SequenceMemory& start = choice.sequence.start();
    start.cells.stop = Stop::running;
    start.cells.sampling = {};
    start.cells.sampling.temperature = dice.of({0.0f, 1.0f});
    start.cells.sampling.top_p = 1.0f;
    start.cells.logit = {};
    start.cells.eos_count = 0;
    choice.sequence.upload();
    const int32_t rows = choice.memory->cells.span.rows;
    const Matrix w(rig, choice.vocab, rows);  // row i has column i as its logits
    std::vector<bf16_bits> ones(static_cast<size_t>(rows * rows), 0);
    for (int32_t i = 0; i < rows; ++i) ones[static_cast<size_t>(i * (rows + 1))] = to_bf16(1.0f);
    const DeviceRows<bf16_bits> x(rig, rows, rows, kNaNBits, ones);
    const DeviceRows<float> logits(rig, rows, choice.vocab, kNaN),
        none(rig, rows, choice.vocab, kNaN);
    const DeviceArray<std::byte> best(head_bytes(choice.vocab));
    StepRows step = step_of({choice.memory->segment()}, 12);
    step.segments[0].cells = &choice.sequence.on_device().cells;
    step.stream_capacity = rows;
    linear(rig.stream(), {.rows = with_streams(step),
                          .x = x.view(),
                          .w = w.weight(),
                          .out = logits.view(),
                          .best = best.data()});
    PickCandidatesArgs args = choice.on_device();
    args.logits = logits.view();
    pick_candidates(rig.stream(), args);
    rig.sync();
    const int32_t levels = choice.memory->tree.levels;
    int32_t wanted[kMaxTreeDepth];
    for (int32_t d = 0; d < levels; ++d) wanted[d] = choice.memory->tree.candidate[d][0];
    args.logits = none.view();
    args.scratch.best = best.data();
    pick_candidates(rig.stream(), args);
    rig.sync();
    for (int32_t d = 0; d < levels; ++d) {
      REQUIRE(choice.memory->tree.candidate[d][0] == wanted[d]);
    }
  }
}

TEST_CASE("a verdict on what was kept of a tree is the CPU backend's") {
  int32_t accepted = 0, fewer = 0;
  for (uint64_t index = 0; index < 150; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(900 + index);
    ChoiceRig choice(rig, dice, StreamPositions::shifted);
    SequenceRig& sequence = choice.sequence;
    auto host = std::make_unique<StreamMemory>();
    const auto judge_on_cpu = [&] {
      copy_bytes(*host, *choice.memory);
      sequence.upload();
      JudgeArgs args{.sequence = sequence.on_cpu().view(),
                     .span = &host->span,
                     .logits = choice.logits.on_cpu(),
                     .vocab = choice.vocab,
                     .tree = &host->cells.shape};
      args.sequence.tree = &host->tree;
      sequence.cpu().judge(sequence.cpu_stream(), args);
      sequence.sync();
    };
    const uint32_t round = sequence.start().cells.round;
    const LogEntry& log = sequence.on_cpu().log[round % kLogSlots];
    for (int32_t step = 0; step < 3; ++step) {  // what the target chooses joins the tree
      judge_on_cpu();
      const TreeShape& kept = choice.memory->cells.shape;
      for (int32_t row = 1; row < kMaxStepRows && log.count > 0; ++row) {
        const bool behind = kept.parent[row] == host->tree.path[log.count - 1];
        if (behind) choice.memory->tree.token[row] = log.tokens[log.count - 1];
      }
    }
    judge_on_cpu();
    JudgeArgs args{.sequence = sequence.on_device().view(),
                   .span = &choice.memory->span,
                   .logits = choice.logits.on_device(),
                   .vocab = choice.vocab,
                   .scratch = {choice.scratch->data(), choice.scratch->size()},
                   .tree = &choice.memory->cells.shape};
    args.sequence.tree = &choice.memory->tree;
    judge_tree(rig.stream(), args);
    sequence.sync();
    REQUIRE(sequence.same());
    REQUIRE(same_bytes(choice.memory->tree, host->tree));
    accepted += log.accepted;
    fewer += choice.memory->cells.kept < choice.memory->span.rows ? 1 : 0;
  }
  CHECK(accepted > 60);
  CHECK(fewer > 40);
}

}  // namespace
}  // namespace specrt::cuda

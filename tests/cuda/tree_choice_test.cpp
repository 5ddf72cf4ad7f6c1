// Trees that are drafted depth by depth: the candidates behind rows, and verdicts on such trees.
#include "cuda/pick_scratch.h"
#include "stream_rig.h"

namespace specrt::cuda {
namespace {

// A sequence whose drafter has fed row 0 of a tree last, and logits for all of its rows.
struct TreeRig {
  TreeRig(Rig& rig, Dice& dice)
      : vocab(draw_vocab(dice)),
        token_shift(dice.between(0, 1)),
        sequence(rig),
        logits(rig, vocab) {
    memory->draw(dice, dice.between(2, 40), vocab);
    memory->shape.tree.branching = Branching::by_row;
    Cells& s = sequence.start().cells;
    s.committed = dice.between(20, 200);
    s.tail = 1;
    s.stop = dice.one_in(12) ? Stop::eos : Stop::running;
    s.snap_begin = s.committed;
    s.snap_count = running(s) ? dice.between(0, depth()) : 0;
    s.limit = s.committed + s.snap_count + dice.between(1, 3);
    s.drafted = static_cast<int32_t>(s.snap_count);
    for (Cell<int32_t>& token : sequence.start().tok) token = dice.between(0, vocab - 1);
    draw_options(dice, sequence.start(), vocab);
    s.logit.prompt_length = dice.between(1, 20);
    memory->span.rows = dice.between(1, 8);
    memory->span.base = s.committed - token_shift - memory->span.rows;
    for (int32_t row = 0; row < kMaxStepRows; ++row) draw_logits(dice, logits.row(row), vocab);
    logits.upload();
    sequence.upload();
    scratch = std::make_unique<DeviceArray<std::byte>>(pick_scratch(vocab));
    CUDA_CHECK(cudaMemsetAsync(scratch->data(), 0, sizeof(PickHead), rig.stream()));
    copy_bytes(*host, *memory);
  }

  int32_t depth() const { return memory->shape.tree.depth[memory->shape.tree.rows - 1]; }

  // The candidates behind the rows of a depth, on both.
  void pick(int32_t at) {
    PickCandidatesArgs args{.sequence = sequence.on_cpu().view(),
                            .span = &host->span,
                            .logits = logits.on_cpu(),
                            .vocab = vocab,
                            .lists = at == 0 ? 1 : 40,
                            .tree = &host->shape.tree,
                            .depth = at,
                            .token_shift = token_shift};
    args.sequence.tree = &host->tree;
    sequence.cpu().pick_candidates(sequence.cpu_stream(), args);
    args.sequence = sequence.on_device().view();
    args.sequence.tree = &memory->tree;
    args.span = &memory->span;
    args.logits = logits.on_device();
    args.scratch = {scratch->data(), scratch->size()};
    args.tree = &memory->shape.tree;
    pick_candidates(sequence.rig().stream(), args);
    sequence.sync();
  }

  // Grows the tree from the candidates, which are the same, and judges it, on both.
  void judge() {
    copy_bytes(*host, *memory);
    GrowTreeArgs grow{
        .sequence = sequence.on_cpu().view(), .span = &host->span, .shape = &host->shape.tree};
    grow.sequence.tree = &host->tree;
    sequence.cpu().grow_tree(sequence.cpu_stream(), grow);
    JudgeArgs args{.sequence = grow.sequence,
                   .span = grow.span,
                   .logits = logits.on_cpu(),
                   .vocab = vocab,
                   .tree = grow.shape};
    sequence.cpu().judge(sequence.cpu_stream(), args);
    grow.sequence = sequence.on_device().view();
    grow.sequence.tree = &memory->tree;
    grow.span = &memory->span;
    grow.shape = &memory->shape.tree;
    grow_tree(sequence.rig().stream(), grow);
    args.sequence = grow.sequence;
    args.span = grow.span;
    args.tree = grow.shape;
    args.logits = logits.on_device();
    args.scratch = {scratch->data(), scratch->size()};
    judge_tree(sequence.rig().stream(), args);
    sequence.sync();
  }

  int32_t vocab;
  int32_t token_shift;
  SequenceRig sequence;
  Pinned<StreamMemory> memory;
  std::unique_ptr<StreamMemory> host = std::make_unique<StreamMemory>();
  Logits logits;
  std::unique_ptr<DeviceArray<std::byte>> scratch;
};

// Lists of the rows that a draft of `count` tokens has candidates behind; the others stay as drawn.
void check_lists(const TreeRig& rig, const StreamMemory& before, int32_t count) {
  const TreeShape& shape = rig.memory->shape.tree;
  for (int32_t row = 0; row < kMaxStepRows; ++row) {
    const bool listed =
        row < shape.rows && list_behind(shape, row) == row && shape.depth[row] < count;
    REQUIRE(rig.memory->tree.candidate[row][0] == rig.host->tree.candidate[row][0]);
    for (int32_t rank = 0; rank < kTreeWidth && !listed; ++rank) {
      REQUIRE(rig.memory->tree.candidate[row][rank] == before.tree.candidate[row][rank]);
    }
  }
}

TEST_CASE("the candidates behind rows are those that the CPU chooses first, for their children") {
  int32_t children = 0, none = 0;
  for (uint64_t index = 0; index < 100; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(1200 + index);
    TreeRig tree(rig, dice);
    auto before = std::make_unique<StreamMemory>();
    copy_bytes(*before, *tree.memory);
    const int32_t count = tree.sequence.start().cells.snap_count;
    for (int32_t depth = 0; depth < tree.depth(); ++depth) {
      tree.pick(depth);
      REQUIRE(tree.memory->span.base == tree.host->span.base);
      REQUIRE(tree.memory->span.rows == tree.host->span.rows);
    }
    REQUIRE(tree.sequence.same());  // nothing goes to the tokens
    REQUIRE(tree.memory->span.base == tree.sequence.start().cells.committed - 1 - tree.token_shift);
    check_lists(tree, *before, count);
    const TreeShape& shape = tree.memory->shape.tree;
    for (int32_t row = 1; row < shape.rows; ++row) {
      if (shape.depth[row] > count) {
        REQUIRE(tree.memory->tree.token[row] == before->tree.token[row]);
        continue;
      }
      REQUIRE(tree.memory->tree.token[row] ==
              tree.memory->tree.candidate[shape.parent[row]][shape.rank[row]]);
      ++children;
    }
    none += count == 0 ? 1 : 0;
  }
  CHECK(children > 500);
  CHECK(none > 5);
}

TEST_CASE("a verdict on a tree that was drafted depth by depth is the CPU backend's") {
  int32_t accepted = 0, ranked = 0;
  for (uint64_t index = 0; index < 300; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(1500 + index);
    TreeRig tree(rig, dice);
    for (int32_t depth = 0; depth < tree.depth(); ++depth) tree.pick(depth);
    const uint32_t round = tree.sequence.start().cells.round;
    tree.judge();
    REQUIRE(tree.sequence.same());
    REQUIRE(same_bytes(tree.memory->tree, tree.host->tree));
    const LogEntry& log = tree.sequence.on_device().log[round % kLogSlots];
    REQUIRE(log.ranked <= log.count);
    accepted += log.accepted;
    ranked += log.ranked;
  }
  CHECK(accepted > 25);
  CHECK(ranked > 180);
}

}  // namespace
}  // namespace specrt::cuda

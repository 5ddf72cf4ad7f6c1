// propose_ngram and the ops that plan spans, against device/rules.h as the CPU backend runs it.
#include <bit>

#include "sequence_rig.h"

namespace specrt::cuda {
namespace {

// Cells in any state that the loops can be in, and tokens of a small alphabet.
void draw_state(Dice& dice, SequenceMemory& memory, int32_t alphabet) {
  Cells& s = memory.cells;
  s.committed = dice.between(1, 200);
  s.tail = dice.between(1, 8);
  s.drafted = dice.between(0, 4);
  s.appended = dice.between(0, 3);
  s.draft_kv = dice.between(0, s.committed - 1);
  s.draft_end = s.draft_kv;
  s.snap_begin = 7;
  s.snap_count = 3;
  s.limit = s.committed + s.tail + dice.between(0, 20);
  s.stop = dice.one_in(8) ? Stop::eos : Stop::running;
  memory.span.base = 5;
  memory.span.rows = 2;
  for (Cell<int32_t>& token : memory.tok) token = dice.between(1, alphabet);
  for (LogitBias& before : memory.bias) {  // like tokens, for a match that goes on in front of them
    before.token = 1;
    before.value = std::bit_cast<float>(1);
  }
}

// Runs an op on both sides from the same start and compares all memory.
template <typename OnCpu, typename OnDevice>
void compare(SequenceRig& sequence, const OnCpu& on_cpu, const OnDevice& on_device) {
  sequence.upload();
  on_cpu(sequence.on_cpu());
  on_device(sequence.on_device());
  sequence.sync();
  REQUIRE(sequence.same());
}

constexpr int32_t kSureSlots = 80;

// Room to note which drafts are sure.
SequenceCells with_sure(SequenceMemory& memory, Cell<int32_t>* sure) {
  SequenceCells cells = memory.view();
  cells.probabilities = {.sure = sure, .slots = kSureSlots};
  return cells;
}

TEST_CASE("propose_ngram equals the rule") {
  int32_t found = 0, looped = 0;
  bool noted_any = false;
  Rig rig;
  SequenceRig sequence(rig);
  const auto host_sure = std::make_unique<Cell<int32_t>[]>(kSureSlots);
  DeviceArray<int32_t> sure(rig, std::vector<int32_t>(kSureSlots));
  for (uint64_t index = 0; index < 300; ++index) {
    CAPTURE(index);
    Dice dice(index);
    SequenceMemory& memory = sequence.start();
    draw_state(dice, memory, dice.of({1, 2, 3, 12, 300}));
    if (dice.one_in(4)) memory.cells.committed = dice.between(1, 4);
    memory.cells.rule = dice.of({Rule::exact, Rule::rejection, Rule::block});
    const int32_t shortest = dice.between(1, 3);
    const NgramPlan plan{.capacity = dice.between(0, 40),
                         .bonus_rows = dice.between(0, 1),
                         .shortest = shortest,
                         .longest = shortest + dice.between(-1, 9)};
    compare(
        sequence,
        [&](SequenceMemory& m) {
          sequence.cpu().propose_ngram(sequence.cpu_stream(),
                                       {with_sure(m, host_sure.get()), plan});
        },
        [&](SequenceMemory& m) {
          auto* cells = reinterpret_cast<Cell<int32_t>*>(sure.data());
          propose_ngram(rig.stream(), {with_sure(m, cells), plan});
        });
    const std::vector<int32_t> noted = sure.read(rig);
    REQUIRE(std::equal(noted.begin(), noted.end(), host_sure.get()));
    noted_any |= noted[0] != 0;
    found += sequence.on_cpu().cells.drafted > 0 ? 1 : 0;
    looped += sequence.on_cpu().cells.drafted > 20 ? 1 : 0;
  }
  CHECK(found > 100);
  CHECK(looped > 0);
  CHECK(noted_any);
  CHECK_THROWS_WITH(propose_ngram(rig.stream(), {}), doctest::Contains("at least 1"));
}

TEST_CASE("spans of prompts, drafts and tails equal the rules") {
  Rig rig;
  SequenceRig sequence(rig);
  Backend& cpu = sequence.cpu();
  Stream& on_cpu = sequence.cpu_stream();
  for (uint64_t index = 0; index < 200; ++index) {
    CAPTURE(index);
    Dice dice(index);
    draw_state(dice, sequence.start(), 9);
    const int32_t begin = dice.between(0, 50), count = dice.between(0, 64);
    const DraftPlan plan{.capacity = dice.between(0, 8),
                         .bonus_rows = dice.between(0, 1),
                         .window = dice.between(1, 220),
                         .catch_up_rows = dice.between(1, 9),
                         .order = dice.of({DraftOrder::first, DraftOrder::after_ngram})};
    const TailSource source = dice.of({TailSource::committed, TailSource::appended});
    compare(
        sequence,
        [&](SequenceMemory& m) {
          cpu.feed_prompt(on_cpu, {&m.span, begin, count});
        },
        [&](SequenceMemory& m) {
          feed_prompt(rig.stream(), {&m.span, begin, count});
        });
    compare(
        sequence,
        [&](SequenceMemory& m) {
          cpu.begin_catch_up(on_cpu, {m.view(), &m.span, plan.catch_up_rows, plan.window});
        },
        [&](SequenceMemory& m) {
          begin_catch_up(rig.stream(), {m.view(), &m.span, plan.catch_up_rows, plan.window});
        });
    compare(
        sequence,
        [&](SequenceMemory& m) {
          cpu.begin_draft(on_cpu, {m.view(), &m.span, plan});
        },
        [&](SequenceMemory& m) {
          begin_draft(rig.stream(), {m.view(), &m.span, plan});
        });
    compare(
        sequence,
        [&](SequenceMemory& m) {
          cpu.feed_tail(on_cpu, {m.view(), &m.span, source});
        },
        [&](SequenceMemory& m) {
          feed_tail(rig.stream(), {m.view(), &m.span, source});
        });
  }
}

}  // namespace
}  // namespace specrt::cuda

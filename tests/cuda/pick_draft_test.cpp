// pick_draft against the CPU backend's: tokens, cells and span.
#include "sequence_rig.h"

namespace specrt::cuda {
namespace {

TEST_CASE("pick_draft equals the CPU backend's") {
  int32_t drafted = 0, idle = 0;
  for (uint64_t index = 0; index < 400; ++index) {
    CAPTURE(index);
    emulation::Settings settings = Rig::quiet();
    settings.seed = index;
    Rig rig(settings);
    Dice dice(1000 + index);
    const int32_t vocab = draw_vocab(dice);
    SequenceRig sequence(rig);
    SequenceMemory& memory = sequence.start();
    Cells& s = memory.cells;
    s.committed = dice.between(2, 200);
    s.tail = dice.between(1, 8);
    s.snap_begin = s.committed - 1 + s.tail + dice.between(-1, 0);  // commit may have moved on
    s.snap_count = dice.between(0, 6);
    for (Cell<int32_t>& token : memory.tok) token = dice.between(0, vocab - 1);
    draw_options(dice, memory, vocab);
    const int32_t step = dice.between(0, 6);
    const int32_t rows = dice.between(1, 5), first_row = dice.between(0, kMaxStepRows - 5);
    memory.span.base = s.snap_begin + step - rows;
    memory.span.rows = rows;
    Logits logits(rig, vocab);
    draw_logits(dice, logits.row(first_row + rows - 1), vocab);
    logits.upload();
    DeviceArray<std::byte> scratch(pick_scratch(vocab));  // poison: nothing of it need be zero
    sequence.upload();
    SequenceMemory &host = sequence.on_cpu(), &device = sequence.on_device();
    sequence.cpu().pick_draft(sequence.cpu_stream(), {.sequence = host.view(),
                                                      .span = &host.span,
                                                      .logits = logits.on_cpu(),
                                                      .first_row = first_row,
                                                      .vocab = vocab,
                                                      .index = step});
    pick_draft(rig.stream(), {.sequence = device.view(),
                              .span = &device.span,
                              .logits = logits.on_device(),
                              .first_row = first_row,
                              .vocab = vocab,
                              .index = step,
                              .scratch = {scratch.data(), scratch.size()}});
    sequence.sync();
    REQUIRE(sequence.same());
    (step < s.snap_count ? drafted : idle) += 1;
  }
  CHECK(drafted > 100);
  CHECK(idle > 100);
}

TEST_CASE("pick_draft refuses what it cannot choose from") {
  Rig rig;
  DeviceArray<std::byte> scratch(pick_scratch(100));
  PickDraftArgs args;
  args.scratch = {scratch.data(), scratch.size()};
  args.vocab = 117;
  CHECK_THROWS_WITH(pick_draft(rig.stream(), args), doctest::Contains("a vocabulary of 117 needs"));
  args.vocab = 1 << 22;
  CHECK_THROWS_WITH(pick_draft(rig.stream(), args), doctest::Contains("must be below"));
}

}  // namespace
}  // namespace specrt::cuda

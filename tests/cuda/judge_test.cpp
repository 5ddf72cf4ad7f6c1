// judge against the CPU backend's: tokens, cells, log and log-probabilities.
#include <cmath>
#include <cstring>

#include "sequence_rig.h"

namespace specrt::cuda {
namespace {

struct Case {
  int32_t vocab;
  int32_t first_row;
  int32_t rows;  // of the step; the tail is the last of them
};

// A sequence in the middle of a round, random in everything.
Case draw_case(Dice& dice, SequenceMemory& memory) {
  Case c{};
  c.vocab = draw_vocab(dice);
  Cells& s = memory.cells;
  const int32_t tail = dice.one_in(40) ? kMaxStepRows : dice.between(1, 8);
  c.rows = dice.between(tail, std::min(tail + 3, kMaxStepRows));
  c.first_row = dice.between(0, kMaxStepRows - std::max(c.rows, 4));  // or the next draft's 4
  s.tail = tail;
  s.committed = dice.between(c.rows, 200);
  s.drafted = dice.of({0, 0, 1, 4});
  s.appended = dice.between(0, tail - 1);
  s.draft_kv = dice.between(0, s.committed - 1);
  s.draft_end = dice.between(s.draft_kv, s.committed + tail);
  s.limit = s.committed + dice.of({1, 2, tail, 80});
  s.stop = dice.one_in(20) ? dice.of({Stop::eos, Stop::limit}) : Stop::running;
  s.round = static_cast<uint32_t>(dice.between(0, 1000));
  memory.span.base = s.committed - 1 - (c.rows - tail);
  memory.span.rows = c.rows;
  for (Cell<int32_t>& token : memory.tok) token = dice.between(0, c.vocab - 1);
  draw_options(dice, memory, c.vocab);
  return c;
}

class Bench {
 public:
  Bench(Rig& rig, Dice& dice) : sequence(rig), case_(draw_case(dice, sequence.start())) {
    logits = std::make_unique<Logits>(rig, case_.vocab);
    for (int32_t i = 0; i < case_.rows; ++i) {
      draw_logits(dice, logits->row(case_.first_row + i), case_.vocab);
    }
    logits->upload();
    const size_t bytes = pick_scratch(case_.vocab);
    scratch = std::make_unique<DeviceArray<std::byte>>(bytes);
    // Only what must be zero: the rest stays poison.
    CUDA_CHECK(cudaMemsetAsync(scratch->data(), 0, 4, rig.stream()));
  }

  void judge_on_cpu() {
    SequenceMemory& memory = sequence.on_cpu();
    sequence.cpu().judge(sequence.cpu_stream(), {.sequence = memory.view(),
                                                 .span = &memory.span,
                                                 .logits = logits->on_cpu(),
                                                 .first_row = case_.first_row,
                                                 .vocab = case_.vocab});
  }
  void judge_on_device() {
    SequenceMemory& memory = sequence.on_device();
    judge(sequence.rig().stream(), {.sequence = memory.view(),
                                    .span = &memory.span,
                                    .logits = logits->on_device(),
                                    .first_row = case_.first_row,
                                    .vocab = case_.vocab,
                                    .scratch = {scratch->data(), scratch->size()}});
  }

  // Puts into the tail what the target will choose, for the first `right` drafted tokens.
  void draft_right(int32_t right) {
    SequenceMemory& start = sequence.start();
    const uint32_t round = start.cells.round;
    for (int32_t i = 0; i < right; ++i) {
      sequence.upload();
      judge_on_cpu();
      sequence.sync();
      const LogEntry& entry = sequence.on_cpu().log[round % kLogSlots];
      if (entry.count != i + 1) return;
      start.tok[start.cells.committed + i] = entry.tokens[i];
    }
  }

  std::string wrong_logprobs() {
    const uint32_t round = sequence.start().cells.round;
    const LogEntry& log = sequence.on_cpu().log[round % kLogSlots];
    const LogprobEntry& want = sequence.on_cpu().logprobs[round % kLogSlots];
    const LogprobEntry& have = sequence.on_device().logprobs[round % kLogSlots];
    const int32_t entries = std::min<int32_t>(sequence.start().cells.logprobs, case_.vocab);
    for (int32_t i = 0; i < log.count; ++i) {
      for (int32_t j = 0; j < entries; ++j) {
        const TokenLogprob &a = want.tokens[i][j], &b = have.tokens[i][j];
        const bool same =
            a.logprob == b.logprob || (std::isnan(a.logprob) && std::isnan(b.logprob));
        if (a.token == b.token && (same || std::abs(a.logprob - b.logprob) <= 1e-6f)) continue;
        return concat("token ", i, " entry ", j, ": ", a.token, " ", a.logprob, " and ", b.token,
                      " ", b.logprob);
      }
    }
    return "";
  }

  const Case& shape() const { return case_; }
  SequenceRig sequence;
  std::unique_ptr<Logits> logits;
  std::unique_ptr<DeviceArray<std::byte>> scratch;

 private:
  Case case_;
};

TEST_CASE("judge equals the CPU backend's, and so do the rounds that follow") {
  int32_t accepted = 0, survived = 0, stopped = 0;
  for (uint64_t index = 0; index < 300; ++index) {
    CAPTURE(index);
    emulation::Settings settings = Rig::quiet();
    settings.seed = index;
    Rig rig(settings);
    Dice dice(index);
    Bench bench(rig, dice);
    bench.draft_right(dice.between(0, 9));
    SequenceRig& sequence = bench.sequence;
    sequence.upload();
    for (int round = 0; round < 3; ++round) {
      bench.judge_on_cpu();
      bench.judge_on_device();
      sequence.sync();
      REQUIRE(sequence.same());
      if (round == 0) {
        const LogEntry& entry = sequence.on_cpu().log[sequence.start().cells.round % kLogSlots];
        accepted += entry.accepted;
        survived += entry.accepted == sequence.start().cells.tail ? 1 : 0;
        stopped += entry.stop != Stop::running ? 1 : 0;
        if (entry.count > 0 && sequence.start().cells.logprobs > 0) {
          REQUIRE_EQ(bench.wrong_logprobs(), "");
        }
      }
      SequenceMemory &host = sequence.on_cpu(), &device = sequence.on_device();
      sequence.cpu().feed_tail(sequence.cpu_stream(), {host.view(), &host.span});
      feed_tail(rig.stream(), {device.view(), &device.span});
    }
    sequence.sync();
  }
  CHECK(accepted > 300);
  CHECK(survived > 10);
  CHECK(stopped > 50);
}

// The choice of a row, alone in a step of one row, from a device that knows nothing but this row.
int32_t alone(Rig& rig, SequenceMemory& state, const float* row, int32_t vocab, int32_t place) {
  SequenceRig sequence(rig);
  std::memcpy(static_cast<void*>(&sequence.start()), static_cast<const void*>(&state),
              sizeof(SequenceMemory));
  sequence.upload();
  Logits logits(rig, vocab);
  std::copy(row, row + vocab, logits.row(place));
  logits.upload();
  DeviceArray<std::byte> scratch(pick_scratch(vocab));
  CUDA_CHECK(cudaMemsetAsync(scratch.data(), 0, 4, rig.stream()));
  SequenceMemory& memory = sequence.on_device();
  judge(rig.stream(), {.sequence = memory.view(),
                       .span = &memory.span,
                       .logits = logits.on_device(),
                       .first_row = place,
                       .vocab = vocab,
                       .scratch = {scratch.data(), scratch.size()}});
  rig.sync();
  return memory.log[state.cells.round % kLogSlots].tokens[0];
}

TEST_CASE("a row alone gives the token that it gives among others") {
  int32_t rows = 0;
  for (uint64_t index = 0; index < 60; ++index) {
    CAPTURE(index);
    Rig rig;
    Dice dice(5000 + index);
    Bench bench(rig, dice);
    SequenceMemory& start = bench.sequence.start();
    start.cells.stop = Stop::running;
    bench.draft_right(8);
    bench.sequence.upload();
    bench.judge_on_device();
    bench.sequence.sync();
    const uint32_t round = start.cells.round;
    const LogEntry log = bench.sequence.on_device().log[round % kLogSlots];
    const Case shape = bench.shape();
    const int32_t begin = shape.first_row + shape.rows - start.cells.tail;
    start.cells.tail = 1;
    start.cells.drafted = 0;
    start.span.rows = 1;
    for (int32_t i = 0; i < log.count; ++i, ++rows) {
      const float* row = bench.logits->row(begin + i);
      REQUIRE_EQ(alone(rig, start, row, shape.vocab, dice.between(0, kMaxStepRows - 1)),
                 log.tokens[i]);
      start.cells.committed = start.cells.committed + 1;
    }
  }
  CHECK(rows > 100);
}

TEST_CASE("judge of a vocabulary of real size") {
  constexpr int32_t kVocab = 128256;
  Rig rig;
  Dice dice(3);
  SequenceRig sequence(rig);
  SequenceMemory& memory = sequence.start();
  memory.cells.committed = 9;
  memory.cells.tail = 1;
  memory.cells.limit = 100;
  memory.cells.seed = 77;
  memory.cells.sampling.temperature = 0.8f;
  memory.cells.sampling.top_k = 5000;
  memory.cells.sampling.top_p = 0.95f;
  memory.cells.sampling.min_p = 0.001f;
  memory.cells.logprobs = 6;
  memory.span.rows = 1;
  Logits logits(rig, kVocab);
  for (int32_t v = 0; v < kVocab; ++v) logits.row(0)[v] = 3.0f * dice.normal();
  logits.upload();
  DeviceArray<std::byte> scratch(pick_scratch(kVocab));
  CUDA_CHECK(cudaMemsetAsync(scratch.data(), 0, 4, rig.stream()));
  sequence.upload();
  SequenceMemory &host = sequence.on_cpu(), &device = sequence.on_device();
  sequence.cpu().judge(
      sequence.cpu_stream(),
      {.sequence = host.view(), .span = &host.span, .logits = logits.on_cpu(), .vocab = kVocab});
  judge(rig.stream(), {.sequence = device.view(),
                       .span = &device.span,
                       .logits = logits.on_device(),
                       .vocab = kVocab,
                       .scratch = {scratch.data(), scratch.size()}});
  sequence.sync();
  CHECK(sequence.same());
  CHECK(device.log[0].count == 1);
}

}  // namespace
}  // namespace specrt::cuda

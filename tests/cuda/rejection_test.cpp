// Rules `rejection` and `block`: probabilities, draws and verdicts against the CPU backend's, which
// sums in another order, and the law of the tokens.
#include <array>
#include <cmath>
#include <cstring>

#include "sequence_rig.h"

namespace specrt::cuda {
namespace {

constexpr int32_t kSlots = 18;

// ProbabilityRows of a sequence on the CPU backend and of the same one on the device.
class KeptOnBoth {
 public:
  KeptOnBoth(Rig& rig, int32_t vocab)
      : rig_(rig),
        vocab_(vocab),
        draft_(size(kSlots)),
        target_(size(kMaxStepRows)),
        sure_(std::make_unique<Cell<int32_t>[]>(kSlots)),
        device_draft_(size(kSlots)),
        device_target_(size(kMaxStepRows)),
        device_sure_(kSlots) {}

  SequenceCells on_cpu(SequenceMemory& memory) {
    return with(memory, {.draft = draft_.data(),
                         .sure = sure_.get(),
                         .slots = kSlots,
                         .target = target_.data(),
                         .vocab = vocab_});
  }
  SequenceCells on_device(SequenceMemory& memory) {
    return with(memory, {.draft = device_draft_.data(),
                         .sure = reinterpret_cast<Cell<int32_t>*>(device_sure_.data()),
                         .slots = kSlots,
                         .target = device_target_.data(),
                         .vocab = vocab_});
  }

  // What was drafted on the CPU, for the device to judge.
  void upload() {
    CUDA_CHECK(cudaMemcpyAsync(device_draft_.data(), draft_.data(), draft_.size() * sizeof(float),
                               cudaMemcpyHostToDevice, rig_.stream()));
    CUDA_CHECK(cudaMemcpyAsync(device_sure_.data(), sure_.get(), kSlots * sizeof(int32_t),
                               cudaMemcpyHostToDevice, rig_.stream()));
  }

  bool same_draft(int32_t slot) {
    return device_sure_.read(rig_)[static_cast<size_t>(slot)] == sure_[slot] &&
           same(draft_, device_draft_.read(rig_), slot, 1);
  }
  bool same_targets(int32_t rows) { return same(target_, device_target_.read(rig_), 0, rows); }

 private:
  size_t size(int32_t rows) const { return static_cast<size_t>(rows) * vocab_; }

  static SequenceCells with(SequenceMemory& memory, const ProbabilityRows& rows) {
    SequenceCells cells = memory.view();
    cells.probabilities = rows;
    return cells;
  }

  // Up to the rounding of a sum.
  bool same(const std::vector<float>& a, const std::vector<float>& b, int32_t first,
            int32_t rows) const {
    for (size_t i = size(first); i < size(first + rows); ++i) {
      if (!(std::abs(a[i] - b[i]) <= 2e-7f * a[i])) return false;
    }
    return true;
  }

  Rig& rig_;
  int32_t vocab_;
  std::vector<float> draft_, target_;
  std::unique_ptr<Cell<int32_t>[]> sure_;
  DeviceArray<float> device_draft_, device_target_;
  DeviceArray<int32_t> device_sure_;
};

// A round whose drafted tokens are in the tail, but for the first of the next draft.
struct Round {
  Round(Rig& rig, Dice& dice, int32_t vocab_of_round)
      : vocab(vocab_of_round),
        sequence(rig),
        logits(rig, vocab),
        scratch(pick_scratch(vocab)),
        kept(rig, vocab) {
    SequenceMemory& memory = sequence.start();
    Cells& s = memory.cells;
    s.committed = dice.between(2, 200);
    for (Cell<int32_t>& token : memory.tok) token = dice.between(0, vocab - 1);
    draw_options(dice, memory, vocab);
    s.rule = dice.of({Rule::rejection, Rule::block});
    s.sampling.temperature = dice.of({0.3f, 1.0f, 2.5f});
    s.limit = kContext;
    CUDA_CHECK(cudaMemsetAsync(scratch.data(), 0, 4, rig.stream()));
  }

  PickDraftArgs pick_args(const SequenceCells& cells, SequenceMemory& memory, const RowsView& rows,
                          int32_t row) {
    return {.sequence = cells,
            .span = &memory.span,
            .logits = rows,
            .first_row = row,
            .vocab = vocab,
            .scratch = {scratch.data(), scratch.size()}};
  }
  JudgeArgs judge_args(const SequenceCells& cells, SequenceMemory& memory, const RowsView& rows) {
    return {.sequence = cells,
            .span = &memory.span,
            .logits = rows,
            .vocab = vocab,
            .scratch = {scratch.data(), scratch.size()}};
  }

  // The next draft op drafts one token, at `position`, from a step of one row.
  static void plan(SequenceMemory& memory, int32_t position) {
    memory.cells.snap_begin = position;
    memory.cells.snap_count = 1;
    memory.span.rows = 1;
  }

  void pick_on_cpu(int32_t row) {
    SequenceMemory& memory = sequence.on_cpu();
    sequence.cpu().pick_draft(sequence.cpu_stream(),
                              pick_args(kept.on_cpu(memory), memory, logits.on_cpu(), row));
  }
  void pick_on_device(int32_t row) {
    SequenceMemory& memory = sequence.on_device();
    pick_draft(sequence.rig().stream(),
               pick_args(kept.on_device(memory), memory, logits.on_device(), row));
  }

  int32_t vocab;
  SequenceRig sequence;
  Logits logits;
  DeviceArray<std::byte> scratch;
  KeptOnBoth kept;
};

TEST_CASE("a token is drafted from the CPU backend's probabilities, which are kept") {
  int32_t idle = 0;
  for (uint64_t index = 0; index < 200; ++index) {
    CAPTURE(index);
    emulation::Settings settings = Rig::quiet();
    settings.seed = index;
    Rig rig(settings);
    Dice dice(7000 + index);
    Round round(rig, dice, draw_vocab(dice));
    SequenceMemory& start = round.sequence.start();
    const int32_t position = start.cells.committed + dice.between(0, 6);
    Round::plan(start, position);
    if (dice.one_in(8)) start.cells.snap_count = 0;
    const int32_t row = dice.between(0, kMaxStepRows - 1);
    draw_logits(dice, round.logits.row(row), round.vocab);
    round.logits.upload();
    round.sequence.upload();
    round.pick_on_cpu(row);
    round.pick_on_device(row);
    round.sequence.sync();
    REQUIRE(round.sequence.same());
    if (start.cells.snap_count == 0) {
      ++idle;
    } else {
      REQUIRE(round.kept.same_draft(position % kSlots));
    }
  }
  CHECK(idle > 5);
}

// Drafts the tail behind its first token, and with `behind` one token more, on the CPU: each from
// logits near the target's of its row, or now and then surely.
void draft_tail(Dice& dice, Round& round, int32_t tail, int32_t behind) {
  SequenceMemory& host = round.sequence.on_cpu();
  const ProbabilityRows rows = round.kept.on_cpu(host).probabilities;
  std::vector<float> target(static_cast<size_t>(round.vocab));
  for (int32_t i = 0; i < tail - 1 + behind; ++i) {
    const int32_t position = host.cells.committed + i;
    if (dice.one_in(4)) {
      rows.sure[position % kSlots] = static_cast<int32_t>(host.tok[position]);
      continue;
    }
    float* row = round.logits.row(i);
    std::copy_n(row, target.size(), target.begin());
    for (size_t v = 0; v < target.size(); ++v) row[v] += 0.5f * dice.normal();
    Round::plan(host, position);
    round.pick_on_cpu(i);
    round.sequence.cpu_stream().record().wait();
    std::copy(target.begin(), target.end(), row);
  }
}

TEST_CASE("the verdict is the CPU backend's, and so are the probabilities and what is logged") {
  int32_t judged = 0, accepted = 0, survived = 0, stopped = 0, logged = 0;
  for (uint64_t index = 0; index < 250; ++index) {
    CAPTURE(index);
    emulation::Settings settings = Rig::quiet();
    settings.seed = index;
    Rig rig(settings);
    Dice dice(9000 + index);
    Round round(rig, dice, draw_vocab(dice));
    SequenceMemory& start = round.sequence.start();
    const int32_t tail = dice.between(1, 8), behind = dice.between(0, 1);
    start.cells.tail = tail;
    start.cells.drafted = behind * dice.between(1, 5);
    start.cells.limit = start.cells.committed + dice.of({1, 2, tail, 80});
    start.cells.stop = dice.one_in(30) ? Stop::eos : Stop::running;
    for (int32_t i = 0; i < tail; ++i) draw_logits(dice, round.logits.row(i), round.vocab);
    round.logits.upload();
    std::memcpy(static_cast<void*>(&round.sequence.on_cpu()), static_cast<const void*>(&start),
                sizeof(SequenceMemory));
    draft_tail(dice, round, tail, behind);
    for (int32_t p = 0; p < kContext; ++p) {
      start.tok[p] = static_cast<int32_t>(round.sequence.on_cpu().tok[p]);
    }
    start.span.rows = tail;
    round.kept.upload();
    round.sequence.upload();
    SequenceMemory &host = round.sequence.on_cpu(), &device = round.sequence.on_device();
    round.sequence.cpu().judge(
        round.sequence.cpu_stream(),
        round.judge_args(round.kept.on_cpu(host), host, round.logits.on_cpu()));
    judge(rig.stream(),
          round.judge_args(round.kept.on_device(device), device, round.logits.on_device()));
    round.sequence.sync();
    REQUIRE(round.sequence.same());
    if (start.cells.stop != Stop::running) continue;
    REQUIRE(round.kept.same_targets(tail));
    const LogEntry& entry = device.log[0];
    judged += entry.judged;
    accepted += entry.accepted;
    survived += entry.accepted == tail ? 1 : 0;
    stopped += entry.stop != Stop::running ? 1 : 0;
    if (start.cells.logprobs == 0) continue;
    ++logged;
    for (int32_t i = 0; i < entry.count; ++i) {
      const TokenLogprob &want = host.logprobs[0].tokens[i][0],
                         &have = device.logprobs[0].tokens[i][0];
      REQUIRE_EQ(have.token, want.token);
      const bool both_nan = std::isnan(have.logprob) && std::isnan(want.logprob);
      const bool near = std::abs(have.logprob - want.logprob) <= 1e-6f;
      REQUIRE((both_nan || have.logprob == want.logprob || near));
    }
  }
  CHECK(judged > 300);
  CHECK(accepted > 100);
  CHECK(accepted < judged);
  CHECK(survived > 10);
  CHECK(stopped > 20);
  CHECK(logged > 50);
}

// The first token that a round of the device commits, which drafts one token and judges it.
int32_t first_token(Round& round, uint64_t seed) {
  SequenceMemory& start = round.sequence.start();
  start.cells.seed = seed;
  Round::plan(start, start.cells.committed);
  round.sequence.upload();
  round.pick_on_device(1);
  round.sequence.sync();
  SequenceMemory& device = round.sequence.on_device();
  device.span.rows = 1;
  judge(round.sequence.rig().stream(),
        round.judge_args(round.kept.on_device(device), device, round.logits.on_device()));
  round.sequence.sync();
  return device.log[0].tokens[0];
}

TEST_CASE("tokens follow the target's law, whatever the drafter's is, and repeat for a seed") {
  constexpr int32_t kVocab = 6, kSamples = 1500;
  for (const Rule rule : {Rule::rejection, Rule::block}) {
    Rig rig;
    Dice dice(5);
    Round round(rig, dice, kVocab);
    SequenceMemory& start = round.sequence.start();
    start.cells.rule = rule;
    start.cells.tail = 1;
    start.cells.drafted = 1;
    start.cells.eos_count = 0;
    start.cells.sampling.temperature = 1.0f;
    start.cells.sampling.top_k = 0;
    start.cells.sampling.top_p = 1.0f;
    start.cells.sampling.min_p = 0.0f;
    start.cells.logit.repetition_penalty = 0.0f;
    start.cells.logit.frequency_penalty = 0.0f;
    start.cells.logit.presence_penalty = 0.0f;
    start.cells.logit.bias_count = 0;
    std::array<double, kVocab> expected{};
    double sum = 0;
    for (int32_t v = 0; v < kVocab; ++v) {
      round.logits.row(0)[v] = dice.normal();
      round.logits.row(1)[v] = dice.normal();
      sum += std::exp(static_cast<double>(round.logits.row(0)[v]));
    }
    for (int32_t v = 0; v < kVocab; ++v) {
      expected[static_cast<size_t>(v)] =
          kSamples * std::exp(static_cast<double>(round.logits.row(0)[v])) / sum;
    }
    round.logits.upload();
    std::array<int32_t, kVocab> seen{};
    for (uint64_t seed = 0; seed < kSamples; ++seed) {
      ++seen[static_cast<size_t>(first_token(round, seed))];
    }
    double statistic = 0;
    for (size_t v = 0; v < kVocab; ++v) {
      REQUIRE(expected[v] > 5);
      statistic += (seen[v] - expected[v]) * (seen[v] - expected[v]) / expected[v];
    }
    CHECK(statistic < 25.74);  // the 99.99 % point for 5 degrees of freedom
    for (const uint64_t seed : {3, 44, 700}) {
      CHECK_EQ(first_token(round, seed), first_token(round, seed));
    }
  }
}

TEST_CASE("rows for another vocabulary are refused") {
  Rig rig;
  Dice dice(1);
  Round round(rig, dice, 40);
  PickDraftArgs args = round.pick_args(round.kept.on_device(round.sequence.on_device()),
                                       round.sequence.on_device(), round.logits.on_device(), 0);
  args.vocab = 39;
  CHECK_THROWS_WITH(pick_draft(rig.stream(), args),
                    doctest::Contains("a vocabulary of 39, but room for the probabilities of 40"));
}

}  // namespace
}  // namespace specrt::cuda

// What a head leaves for choosing: the same tokens as from all logits.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cuda/linear.h"
#include "cuda/rows.h"
#include "linear_rig.h"
#include "sequence_rig.h"

namespace specrt::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A sequence in the middle of a round, and a head whose row i has as logits column i of `w`, plus a
// bias: an activation is one in its own column.
struct HeadRig {
  HeadRig(Rig& rig, Dice& dice, int32_t vocab_, int32_t rows_)
      : vocab(vocab_),
        rows(rows_),
        w(rig, vocab, rows),
        x(rig, rows, rows, kNaNBits, ones(rows)),
        sequence(rig),
        scratch(pick_scratch(vocab)),
        best(rig, std::vector<std::byte>(head_bytes(vocab), std::byte{0xff})),
        logits(rig, rows, vocab, NAN) {
    std::vector<float> biases(static_cast<size_t>(vocab), 0.0f);
    for (float& b : biases) b = dice.one_in(9) ? dice.of({-kInfinity, NAN, 0.5f, -80.0f}) : 0.0f;
    if (dice.one_in(9)) biases[0] = kInfinity;
    // Ties of whole values, more often than bf16 has them.
    if (dice.one_in(3)) biases.assign(biases.size(), dice.of({1e5f, 300.0f}));
    bias = std::make_unique<DeviceArray<float>>(rig, biases);
    SequenceMemory& memory = sequence.start();
    Cells& s = memory.cells;
    s.tail = dice.between(1, rows);
    s.committed = dice.between(rows, 200);
    s.limit = s.committed + dice.of({1, 80});
    memory.span.base = s.committed - 1 - (rows - s.tail);
    memory.span.rows = rows;
    for (Cell<int32_t>& token : memory.tok) token = dice.between(0, vocab - 1);
    draw_options(dice, memory, vocab);
  }

  static std::vector<bf16_bits> ones(int32_t n) {
    std::vector<bf16_bits> x(static_cast<size_t>(n * n), 0);
    for (int32_t i = 0; i < n; ++i) x[static_cast<size_t>(i * (n + 1))] = to_bf16(1.0f);
    return x;
  }

  // Runs the head on a sequence that is then as at the start, and gives what the judge logs.
  LogEntry judged(Rig& rig, std::byte* keys, const RowsView& read, Dice& dice) {
    sequence.upload();
    SequenceMemory& memory = sequence.on_device();
    StepRows step;
    step.segment_count = 1;
    step.capacity = rows;
    step.segments[0] = {.span = &memory.span, .tok = memory.tok, .cells = &memory.cells};
    const LinearArgs head{.rows = step,
                          .x = x.view(),
                          .w = w.weight(),
                          .bias = bias->data(),
                          .out = logits.view(),
                          .best = keys};
    check(head);
    LinearSchedule schedule = linear_schedule(head, 4);
    schedule.panels = dice.of({1, 2, 4});
    linear(rig.stream(), head, schedule);
    CUDA_CHECK(cudaMemsetAsync(scratch.data(), 0, 4, rig.stream()));
    judge(rig.stream(), {.sequence = memory.view(),
                         .span = &memory.span,
                         .logits = read,
                         .vocab = vocab,
                         .scratch = {scratch.data(), scratch.size(), keys}});
    sequence.sync();
    return memory.log[sequence.start().cells.round % kLogSlots];
  }

  // Whether the tokens of all rows follow from the keys alone.
  bool needs_no_logits() {
    const Cells& s = sequence.start().cells;
    const LogitCells& change = s.logit;
    const bool changes = change.bias_count > 0 || s.eos_count > 0 ||
                         change.repetition_penalty != 0.0f || change.frequency_penalty != 0.0f ||
                         change.presence_penalty != 0.0f;
    const bool filters = s.sampling.temperature != 0.0f &&
                         (s.sampling.top_k > 0 || s.sampling.top_p < 1 || s.sampling.min_p > 0);
    return !changes && !filters && s.logprobs == 0;
  }

  int32_t vocab, rows;
  Matrix w;
  DeviceRows<bf16_bits> x;
  SequenceRig sequence;
  DeviceArray<std::byte> scratch;
  DeviceArray<std::byte> best;
  DeviceRows<float> logits;
  std::unique_ptr<DeviceArray<float>> bias;
};

bool same(const LogEntry& a, const LogEntry& b) {
  return std::memcmp(static_cast<const void*>(&a), static_cast<const void*>(&b),
                     sizeof(LogEntry)) == 0;
}

TEST_CASE("a head's keys choose the tokens that all logits choose") {
  int32_t alone = 0, sampled = 0;
  for (uint64_t index = 0; index < 150; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(7000 + index);
    HeadRig head(rig, dice, draw_vocab(dice), dice.between(1, 5));
    Cells& s = head.sequence.start().cells;
    if (dice.one_in(2)) {  // nothing but a temperature
      s.sampling = {};
      s.sampling.temperature = dice.of({0.0f, 0.3f, 1.0f, 2.5f});
      s.sampling.top_p = 1.0f;
      s.logit = {};
      s.logprobs = 0;
      s.eos_count = 0;
    }
    const LogEntry want = head.judged(rig, nullptr, head.logits.view(), dice);
    REQUIRE(same(head.judged(rig, head.best.data(), head.logits.view(), dice), want));
    if (!head.needs_no_logits()) continue;
    const DeviceRows<float> none(rig, head.rows, head.vocab, NAN);
    REQUIRE(same(head.judged(rig, head.best.data(), none.view(), dice), want));
    alone += 1;
    sampled += s.sampling.temperature > 0.0f ? 1 : 0;
  }
  CHECK(alone > 60);
  CHECK(sampled > 30);
}

// The noise of a choice is that of the position that the token is for.
TEST_CASE("a row predicts the token behind it, a row of pairs the one behind that") {
  StepSpan span;
  span.base = 10;
  span.rows = 4;
  StepRows step;
  step.segment_count = 1;
  step.capacity = 4;
  for (const int32_t ahead : {1, 2}) {
    step.segments[0] = {.span = &span, .ahead = ahead};
    for (int32_t r = 0; r < 4; ++r) {
      CHECK_EQ(predicted_position(step, row_at(step, r)), 10 + r + ahead);
    }
  }
}

// The `count` panels of a row of logits with the largest values; ties go to the lower panel.
std::vector<int32_t> best_panels(const float* row, int32_t vocab, int32_t count) {
  std::vector<std::pair<float, int32_t>> order;
  for (int32_t begin = 0; begin < vocab; begin += 16) {
    float most = -kInfinity;
    for (int32_t v = begin; v < std::min(begin + 16, vocab); ++v) most = std::fmax(most, row[v]);
    order.emplace_back(-most, begin / 16);
  }
  std::sort(order.begin(), order.end());
  std::vector<int32_t> panels;
  for (int32_t i = 0; i < count; ++i) panels.push_back(order[static_cast<size_t>(i)].second);
  return panels;
}

TEST_CASE("top_k reads the logits of no more than k panels") {
  for (uint64_t index = 0; index < 40; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(8000 + index);
    constexpr int32_t kVocab = 900;
    HeadRig head(rig, dice, kVocab, 1);
    Cells& s = head.sequence.start().cells;
    s.logit = {};
    s.eos_count = 0;
    s.logprobs = 0;
    s.sampling.temperature = dice.of({0.3f, 1.0f, 2.5f});
    s.sampling.top_k = dice.of({1, 3, 20, 56});
    const LogEntry want = head.judged(rig, nullptr, head.logits.view(), dice);
    const std::vector<float> row = head.logits.read(rig);
    std::vector<float> seen(kVocab, 1e30f);  // what would be chosen if it were read
    for (const int32_t panel : best_panels(row.data(), kVocab, s.sampling.top_k)) {
      const int32_t end = std::min(16 * panel + 16, kVocab);
      std::copy(row.begin() + 16 * panel, row.begin() + end, seen.begin() + 16 * panel);
    }
    const DeviceRows<float> narrowed(rig, 1, kVocab, NAN, seen);
    REQUIRE(same(head.judged(rig, head.best.data(), narrowed.view(), dice), want));
  }
}

// top_p and min_p in a vocabulary of more panels than they are tried with.
void draw_mass_filters(Dice& dice, Cells& s) {
  s.logit = {};
  s.eos_count = 0;
  s.logprobs = 0;
  s.sampling.top_k = 0;
  s.sampling.top_p = dice.of({0.0f, 0.3f, 0.9f, 0.999f, 1.0f});
  s.sampling.min_p = s.sampling.top_p == 1.0f || dice.one_in(3) ? dice.of({0.01f, 0.3f}) : 0.0f;
}

TEST_CASE("top_p and min_p keep what all logits keep") {
  for (uint64_t index = 0; index < 40; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(8500 + index);
    HeadRig head(rig, dice, dice.between(4097, 5000), dice.between(1, 3));
    Cells& s = head.sequence.start().cells;
    draw_mass_filters(dice, s);
    s.sampling.temperature = dice.of({0.05f, 0.3f, 1.0f, 30.0f});  // certain to flat
    const LogEntry want = head.judged(rig, nullptr, head.logits.view(), dice);
    REQUIRE(same(head.judged(rig, head.best.data(), head.logits.view(), dice), want));
  }
}

TEST_CASE("top_p and min_p read the logits of the best 256 panels where these are enough") {
  for (uint64_t index = 0; index < 30; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(8800 + index);
    constexpr int32_t kVocab = 4900, kPanels = 256;
    HeadRig head(rig, dice, kVocab, 1);
    head.bias = std::make_unique<DeviceArray<float>>(rig, std::vector<float>(kVocab, 0.0f));
    Cells& s = head.sequence.start().cells;
    draw_mass_filters(dice, s);
    s.sampling.temperature = dice.of({0.05f, 0.1f});
    if (s.sampling.top_p > 0.9f && s.sampling.top_p < 1.0f) s.sampling.top_p = 0.9f;  // no doubt
    const LogEntry want = head.judged(rig, nullptr, head.logits.view(), dice);
    const std::vector<float> row = head.logits.read(rig);
    std::vector<float> seen(kVocab, 1e30f);  // what would be chosen if it were read
    for (const int32_t panel : best_panels(row.data(), kVocab, kPanels)) {
      const int32_t end = std::min(16 * panel + 16, kVocab);
      std::copy(row.begin() + 16 * panel, row.begin() + end, seen.begin() + 16 * panel);
    }
    const DeviceRows<float> narrowed(rig, 1, kVocab, NAN, seen);
    REQUIRE(same(head.judged(rig, head.best.data(), narrowed.view(), dice), want));
  }
}

TEST_CASE("a drafter's head chooses its last row's token without logits") {
  for (uint64_t index = 0; index < 30; ++index) {
    CAPTURE(index);
    Rig rig(seeded(index));
    Dice dice(9000 + index);
    constexpr int32_t kRows = 3;
    HeadRig head(rig, dice, draw_vocab(dice), kRows);
    SequenceMemory& start = head.sequence.start();
    Cells& s = start.cells;
    s.sampling = {};
    s.sampling.temperature = dice.of({0.0f, 0.7f});
    s.sampling.top_p = 1.0f;
    s.logit = {};
    s.eos_count = 0;
    s.snap_begin = s.committed;
    s.snap_count = 2;
    start.span.base = s.snap_begin - kRows;
    int32_t tokens[2];
    for (const bool by_keys : {false, true}) {
      head.sequence.upload();
      SequenceMemory& memory = head.sequence.on_device();
      StepRows step;
      step.segment_count = 1;
      step.capacity = kRows;
      step.select = RowSelect::last;
      step.segments[0] = {.span = &memory.span, .tok = memory.tok, .cells = &memory.cells};
      std::byte* keys = by_keys ? head.best.data() : nullptr;
      const DeviceRows<float> none(rig, kRows, head.vocab, NAN);
      linear(rig.stream(), {.rows = step,
                            .x = head.x.view(),
                            .w = head.w.weight(),
                            .bias = head.bias->data(),
                            .out = head.logits.view(),
                            .best = keys});
      pick_draft(rig.stream(), {.sequence = memory.view(),
                                .span = &memory.span,
                                .logits = by_keys ? none.view() : head.logits.view(),
                                .vocab = head.vocab,
                                .scratch = {head.scratch.data(), head.scratch.size(), keys}});
      head.sequence.sync();
      tokens[by_keys] = memory.tok[s.snap_begin];
    }
    REQUIRE(tokens[0] == tokens[1]);
  }
}

TEST_CASE("only a head that is stored in plain tiles leaves keys") {
  Rig rig;
  const Matrix w(rig, 48, 32, 24);
  std::byte keys{};
  LinearArgs args;
  args.w = w.weight();
  args.best = &keys;
  CHECK_THROWS_WITH_AS(linear(rig.stream(), args), doctest::Contains("a head is stored"), Error);
}

}  // namespace
}  // namespace specrt::cuda

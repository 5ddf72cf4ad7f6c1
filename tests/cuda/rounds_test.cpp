// Recorded rounds on the device: each key is captured once, and the host waits for verdicts alone.
#include <deque>
#include <random>

#include "decode/generator.h"
#include "decode/lockstep.h"
#include "decode/model_drafter.h"
#include "devices.h"
#include "engine_image.h"

namespace specrt::testing {
namespace {

using format::OpKind;

constexpr int32_t kVocab = 40, kContext = 6000, kDim = 24;
constexpr int32_t kPrompt[] = {1, 2, 3};

// embed -> rms_norm -> linear: the next token depends on the last one. Few kernels, so that a
// thousand rounds take seconds; what is recorded does not depend on the number of layers.
EngineImage bigram_engine(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> spread{-0.4f, 0.4f};
  EngineImage image;
  image.header.backend = format::kBackendCuda;
  image.header.layout_version = format::kCudaLayoutVersion;
  image.header.dtype = static_cast<uint32_t>(DType::bf16);
  image.header.vocab = kVocab;
  image.header.context = kContext;
  const int32_t x = image.add_buffer(DType::f32, kDim), xn = image.add_buffer(DType::bf16, kDim);
  image.header.logits_buffer = image.add_buffer(DType::f32, kVocab);
  const auto matrix = [&] {
    const int64_t bytes = weight_bytes(DType::bf16, Layout::tiles16x32, kVocab, kDim);
    std::vector<bf16_bits> values(static_cast<size_t>(bytes) / sizeof(bf16_bits));
    for (bf16_bits& value : values) value = to_bf16(spread(random));
    const auto data = std::as_bytes(std::span(values));
    const int32_t id =
        image.add_tensor(DType::bf16, Layout::tiles16x32, kVocab, kDim, {data.begin(), data.end()});
    image.tensors.back().record.pair_stride = kPanelRows / 2;
    return id;
  };
  image.add_op(OpKind::embed, x).tensor = matrix();
  image.header.head_begin = 1;
  const std::vector<float> ones(kDim, 1.0f);
  const auto gain = std::as_bytes(std::span(ones));
  format::OpRecord& norm = image.add_op(OpKind::rms_norm, xn);
  norm.in[0] = x;
  norm.real[0] = 1e-5f;
  norm.tensor =
      image.add_tensor(DType::f32, Layout::row_major, 1, kDim, {gain.begin(), gain.end()});
  format::OpRecord& head = image.add_op(OpKind::linear, image.header.logits_buffer);
  head.in[0] = xn;
  head.tensor = matrix();
  head.integer[0] = static_cast<int32_t>(Epilogue::store);
  return image;
}

struct Loaded {
  Loaded(Backend& backend, Sequence& sequence, uint64_t seed)
      : stream(backend.make_stream({})),
        model(open_engine(bigram_engine(seed).bytes()), backend),
        lane(model, *stream, {&sequence}) {}

  std::unique_ptr<Stream> stream;
  Model model;
  Lane lane;
};

// A target, a drafter with a stream of its own, and a sequence.
struct Pair {
  std::unique_ptr<Backend> backend = make_backend();
  Sequence sequence{*backend, kContext, kMaxRunAhead + 2};
  Loaded target{*backend, sequence, 1}, draft{*backend, sequence, 2};
  ModelDrafter drafter{draft.lane};
};

emulation::Counters since(const emulation::Counters& before) {
  emulation::Counters now = emulation::counters();
  now.captures -= before.captures;
  now.event_waits -= before.event_waits;
  now.other_waits -= before.other_waits;
  return now;
}

TEST_CASE("a thousand rounds: one capture for each key, waits for verdicts and for nothing else") {
  constexpr int32_t kRounds = 1000, kLengths[] = {0, 1, 2, 8}, kLongest = 8;
  const Devices one;
  Pair pair;
  Lockstep loop(pair.target.lane, &pair.drafter);
  pair.sequence.begin(*pair.target.stream, {.prompt = kPrompt, .max_tokens = kContext}, {});
  loop.enqueue_prompt_verdict(0, 0, std::size(kPrompt));
  pair.target.stream->record().wait();

  const emulation::Counters before = emulation::counters();
  std::deque<Event> in_flight;
  int32_t most_committed = static_cast<int32_t>(std::size(kPrompt)) + 1;
  uint32_t read = 1;
  const auto read_verdict = [&] {
    in_flight.front().wait();
    in_flight.pop_front();
    const LogEntry& entry = pair.sequence.entry(read++);
    CHECK(entry.count >= 1);
    CHECK(entry.stop == Stop::running);
  };
  for (int32_t round = 0; round < kRounds; ++round) {
    const int32_t length = kLengths[round % std::size(kLengths)];
    in_flight.push_back(loop.enqueue_round(length, most_committed + kLongest));
    most_committed += length + 1;
    if (in_flight.size() > kMaxRunAhead) read_verdict();
  }
  while (!in_flight.empty()) read_verdict();

  const emulation::Counters counted = since(before);
  // In each of two classes of contexts: targets of 8 and 16 rows, drafts of 1, 2 and 8 tokens.
  CHECK_EQ(loop.recordings(), 2 * (2 + 3));
  CHECK_EQ(counted.captures, loop.recordings());
  CHECK_EQ(counted.event_waits, kRounds);
  CHECK_EQ(counted.other_waits, 0);
}

TEST_CASE(
    "a request waits for its rounds and for nothing else, and the next one captures nothing") {
  const Devices one;
  Pair pair;
  Generator generator(pair.target.lane, &pair.drafter, {.draft_tokens = 4, .run_ahead = 1});
  SamplingParams params;
  params.temperature = 1;
  params.max_tokens = 200;
  params.seed = 3;
  const auto generate = [&] {
    std::vector<emulation::Counters> seen;
    const Completion completion =
        generator.generate(kPrompt, params, [&](const Progress& progress) {
          if (!progress.tokens.empty()) seen.push_back(emulation::counters());
          return true;
        });
    CHECK_EQ(completion.token_ids.size(), 200);
    REQUIRE(seen.size() > 50);
    CHECK_EQ(seen.back().other_waits, seen.front().other_waits);
    CHECK_EQ(seen.back().event_waits - seen.front().event_waits, seen.size() - 1);
    return completion.token_ids;
  };
  const std::vector<int32_t> first = generate();
  const int64_t captures = emulation::counters().captures;
  CHECK(captures > 0);
  CHECK(generate() == first);
  CHECK_EQ(emulation::counters().captures, captures);
}

}  // namespace
}  // namespace specrt::testing

// engine_fuzz ITERATIONS SEED: damages a small engine, repairs its checksum, and loads it. What
// loads is run on the CPU backend. Anything but specrt::Error is a bug; best under
// AddressSanitizer.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>

#include "base/error.h"
#include "cpu/cpu_backend.h"
#include "decode/eagle_drafter.h"
#include "decode/generator.h"
#include "decode/model_drafter.h"
#include "tiny_engine.h"

namespace {

// A damaged file of some ten kilobytes must not make the reader ask for much memory.
constexpr size_t kReaderBytes = size_t{8} << 20;
std::atomic<bool> g_reading{false};

}  // namespace

[[gnu::noinline]] void* operator new(size_t size) {
  if (g_reading && size > kReaderBytes) {
    std::fprintf(stderr, "the engine reader allocates %zu bytes\n", size);
    std::abort();
  }
  void* memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace specrt::testing {
namespace {

using Random = std::mt19937_64;
using File = std::vector<std::byte>;

constexpr int64_t kRunBytes = int64_t{32} << 20;  // engines that need more memory are not run

size_t below(Random& random, size_t count) { return random() % count; }

format::FileHeader header_of(const File& file) {
  format::FileHeader header;
  std::memcpy(&header, file.data(), sizeof(header));
  return header;
}

// Bytes of header and tables of records.
size_t records_end(const File& file) {
  const format::FileHeader header = header_of(file);
  const size_t end = sizeof(header) + header.tensor_count * sizeof(format::TensorRecord) +
                     header.buffer_count * sizeof(format::BufferRecord) +
                     header.kv_count * sizeof(format::KvRecord) +
                     header.op_count * sizeof(format::OpRecord);
  return std::min(end, file.size());
}

// Where the token table lies: its flags, offsets and text.
std::pair<size_t, size_t> token_table(const File& file) {
  const format::FileHeader header = header_of(file);
  const size_t left = file.size() - records_end(file);
  const size_t meta = std::min<uint64_t>(header.meta_bytes, left);
  const size_t begin = records_end(file) + meta;
  return {begin, begin + std::min<uint64_t>(header.text_bytes, left - meta)};
}

// One word of [begin, end), at a multiple of four bytes.
void set_word(Random& random, File& file, size_t begin, size_t end) {
  static constexpr uint32_t kWords[] = {
      0,  1,          2,          3,          4, 7, 8,  16, 24,  32,   40,       63,       64, 65,
      96, 0x7fffffff, 0x80000000, 0xffffffff, 5, 6, 48, 80, 128, 4096, 1u << 20, 1u << 22, 12};
  if (end - begin < 4) return;
  const size_t at = begin + below(random, (end - begin) / 4) * 4;
  uint32_t word;
  std::memcpy(&word, file.data() + at, 4);
  switch (below(random, 4)) {
    case 0:
      word += static_cast<uint32_t>(below(random, 5)) - 2;
      break;
    case 1:
      word = static_cast<uint32_t>(random());
      break;
    default:
      word = kWords[below(random, std::size(kWords))];
  }
  std::memcpy(file.data() + at, &word, 4);
}

// One record of a table written over another, or two of them exchanged.
void move_record(Random& random, File& file, size_t begin, size_t count, size_t size) {
  if (count == 0 || begin + count * size > file.size()) return;
  const auto at = [&] {
    return file.begin() + static_cast<std::ptrdiff_t>(begin + below(random, count) * size);
  };
  const auto from = at(), to = at();
  if (below(random, 2) == 0) {
    std::swap_ranges(from, from + static_cast<std::ptrdiff_t>(size), to);
  } else if (from != to) {
    std::copy_n(from, size, to);
  }
}

void move_some_record(Random& random, File& file) {
  const format::FileHeader header = header_of(file);
  size_t begin = sizeof(header);
  const std::pair<size_t, size_t> tables[] = {{header.tensor_count, sizeof(format::TensorRecord)},
                                              {header.buffer_count, sizeof(format::BufferRecord)},
                                              {header.kv_count, sizeof(format::KvRecord)},
                                              {header.op_count, sizeof(format::OpRecord)}};
  const size_t chosen = below(random, std::size(tables));
  for (size_t i = 0; i < chosen; ++i) begin += tables[i].first * tables[i].second;
  move_record(random, file, begin, tables[chosen].first, tables[chosen].second);
}

void resize(Random& random, File& file) {
  const auto size = static_cast<std::ptrdiff_t>(file.size());
  const auto change = static_cast<std::ptrdiff_t>(below(random, 9000)) - 4500;
  file.resize(static_cast<size_t>(std::max<std::ptrdiff_t>(size + change, 0)));
  format::FileHeader header;
  if (file.size() < sizeof(header) || below(random, 4) == 0) return;
  header = header_of(file);
  header.file_bytes = file.size();
  std::memcpy(file.data(), &header, sizeof(header));
}

void damage(Random& random, File& file) {
  for (size_t i = 1 + below(random, 3); i > 0 && file.size() > 4096; --i) {
    const size_t records = records_end(file);
    const auto [table, table_end] = token_table(file);
    switch (below(random, 12)) {
      case 0:
        file[below(random, table_end)] = static_cast<std::byte>(random());
        break;
      case 1:
        move_some_record(random, file);
        break;
      case 2:
        resize(random, file);
        break;
      case 3:
      case 4:  // weights: infinities, NaNs, anything
        for (size_t j = below(random, 2000); j > 0; --j) {
          file[4096 +
               below(random, file.size() - 4096 + 1) % std::max<size_t>(file.size() - 4096, 1)] =
              static_cast<std::byte>(random());
        }
        break;
      case 5:
      case 6:
        set_word(random, file, table, table_end);
        break;
      default:
        set_word(random, file, 0, records);
    }
  }
}

// What runs beside an engine with features.
struct Partners {
  std::shared_ptr<const Engine> target;
  std::array<std::shared_ptr<const Engine>, 3> drafters;
};

struct Counts {
  size_t refused = 0, too_large = 0, run = 0, failed = 0;
};

SamplingParams random_params(Random& random) {
  const auto coin = [&] { return below(random, 2) == 0; };
  SamplingParams params;
  params.temperature = coin() ? 0.0f : 1.0f;
  params.top_k = static_cast<int32_t>(below(random, 5));
  params.top_p = coin() ? 1.0f : 0.5f;
  params.repetition_penalty = coin() ? 1.0f : 1.5f;
  params.max_tokens = 1 + static_cast<int32_t>(below(random, 8));
  params.ignore_eos = coin();
  params.seed = random();
  if (coin()) params.logprobs = static_cast<int32_t>(below(random, 21));
  if (coin()) params.stop = {"b", "cd"};
  return params;
}

std::unique_ptr<Drafter> drafter_of(Lane& draft, const Lane& target) {
  if (reads_features(draft.model().plan())) {
    if (estimates_features(draft.model().plan())) {
      return std::make_unique<EagleDrafter>(draft, target);
    }
    return std::make_unique<FeatureDrafter>(draft, target);
  }
  return std::make_unique<ModelDrafter>(draft);
}

// Rows of a prompt, in chunks, and a few rounds.
void generate(Random& random, Generator& generator, int32_t context, int32_t vocab) {
  std::vector<int32_t> prompt(1 + below(random, static_cast<size_t>(std::min(context - 1, 80))));
  for (int32_t& token : prompt)
    token = static_cast<int32_t>(below(random, static_cast<size_t>(vocab)));
  const Completion completion = generator.generate(prompt, random_params(random), {});
  for (const int32_t token : completion.token_ids) {
    if (token < 0 || token >= vocab) {
      std::fprintf(stderr, "token %d of a vocabulary of %d\n", token, vocab);
      std::abort();
    }
  }
}

// An engine with streams drafts with them: chains or trees, pruned or not.
void run_streaming(Random& random, const std::shared_ptr<const Engine>& engine, Backend& backend,
                   Stream& stream) {
  const format::FileHeader& header = engine->plan().header;
  Sequence sequence(backend, header.context, kMaxRunAhead + 2);
  Model target(engine, backend);
  Lane lane(target, stream, {&sequence}, {.streaming = Streaming::on});
  const auto draw = [&](size_t count) { return static_cast<int32_t>(below(random, count)); };
  const int32_t kept = draw(8);
  Generator generator(lane, nullptr,
                      {.draft_tokens = draw(static_cast<size_t>(header.streams) + 1),
                       .tree_nodes = draw(2) * draw(kMaxStepRows),
                       .kept_nodes = kept == 1 ? 0 : kept,
                       .run_ahead = 1});
  generate(random, generator, header.context, header.vocab);
}

// An engine is its own drafter, unless it keeps features or reads them: then an undamaged one is
// its partner.
void run_engine(Random& random, std::shared_ptr<const Engine> engine, const Partners& partners,
                Backend& backend, Stream& stream) {
  if (engine->plan().header.streams > 0 && below(random, 4) > 0) {
    run_streaming(random, engine, backend, stream);
    return;
  }
  const std::shared_ptr<const Engine> large =
      reads_features(engine->plan()) ? partners.target : engine;
  const std::shared_ptr<const Engine> small =
      keeps_features(engine->plan()) ? partners.drafters[below(random, partners.drafters.size())]
                                     : engine;
  const int32_t context = large->plan().header.context, vocab = large->plan().header.vocab;
  Sequence sequence(backend, context, kMaxRunAhead + 2);
  Model target(large, backend), draft(small, backend);
  Lane target_lane(target, stream, {&sequence}), draft_lane(draft, stream, {&sequence});
  SPECRT_CHECK(draft.vocab() == vocab, "as in an LLM");
  const std::unique_ptr<Drafter> drafter = drafter_of(draft_lane, target_lane);
  const size_t lengths = draft.token_shift() > 0 ? kMaxStepRows / 2 + 1 : kMaxStepRows;
  Generator generator(
      target_lane, drafter.get(),
      {.draft_tokens = static_cast<int32_t>(below(random, lengths)), .run_ahead = 1});
  generate(random, generator, context, vocab);
}

void try_file(Random& random, const File& file, const Partners& partners, Backend& backend,
              Stream& stream, Counts& counts) {
  std::shared_ptr<const Engine> engine;
  try {
    const auto exact = std::make_unique<std::byte[]>(file.size());
    std::copy(file.begin(), file.end(), exact.get());
    g_reading = true;
    parse_plan(exact.get(), file.size());
    g_reading = false;
    engine = open_engine(file);
  } catch (const Error&) {
    g_reading = false;
    ++counts.refused;
    return;
  }
  const Plan& plan = engine->plan();
  if (arena_bytes(plan, backend.prompt_rows()) + kv_bytes(plan) + feature_bytes(plan) > kRunBytes) {
    ++counts.too_large;
    return;
  }
  try {
    run_engine(random, engine, partners, backend, stream);
    ++counts.run;
  } catch (const Error&) {
    ++counts.failed;
  }
}

int fuzz(size_t iterations, uint64_t seed) {
  const File good[] = {
      tiny_engine(DType::bf16, 1).bytes(),   tiny_engine(DType::f32, 1).bytes(),
      tiny_target(DType::f32, 1).bytes(),    tiny_eagle(DType::f32, 1).bytes(),
      tiny_medusa(DType::f32, 1).bytes(),    tiny_estimating(DType::f32, 1).bytes(),
      tiny_streaming(DType::bf16, 1).bytes()};
  const Partners partners{open_engine(good[2]),
                          {open_engine(good[3]), open_engine(good[4]), open_engine(good[5])}};
  const auto backend = make_cpu_backend({.threads = 1});
  const auto stream = backend->make_stream({});
  Counts counts;
  for (size_t i = 0; i < iterations; ++i) {
    Random random(seed * 1'000'003 + i);  // so that one iteration can be run alone
    File file = good[i < std::size(good) ? i : below(random, std::size(good))];
    if (i >= std::size(good)) damage(random, file);
    seal(file);
    try_file(random, file, partners, *backend, *stream, counts);
    if (i < std::size(good) && counts.run != i + 1) {
      std::fprintf(stderr, "engine %zu does not run undamaged\n", i);
      return 1;
    }
  }
  std::printf("%zu engines: %zu refused, %zu too large to run, %zu run, %zu stopped by an error\n",
              iterations, counts.refused, counts.too_large, counts.run, counts.failed);
  return 0;
}

}  // namespace
}  // namespace specrt::testing

int main(int count, char** values) {
  const size_t iterations = count > 1 ? std::strtoull(values[1], nullptr, 10) : 4000;
  const uint64_t seed = count > 2 ? std::strtoull(values[2], nullptr, 10) : 1;
  return specrt::testing::fuzz(iterations, seed);
}

// An LLM as a service uses it: threads, limits, counters, memory.
#include "specrt/llm.h"

#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "specrt/bundle.h"
#include "tiny_bundle.h"

namespace specrt {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using testing::TinyBundle;

constexpr int32_t kVocab = 40;

LLMOptions options_of(const TinyBundle& files) {
  LLMOptions options = open_bundle(files.folder()).options();
  options.threads = 2;
  options.isa = "portable";
  return options;
}

std::vector<int32_t> prompt_of(int32_t length, int32_t seed) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < length; ++i) prompt.push_back((seed * 7 + i * 11 + i * i) % kVocab);
  return prompt;
}

SamplingParams tokens(int32_t count) {
  return {.temperature = 0, .max_tokens = count, .ignore_eos = true};
}

// What requests with all kinds of ends came to on one thread.
struct Ends {
  int complete = 0, cancelled = 0, late = 0, refused = 0;
};

// One request of the kind that `number` says, whose tokens must be a part of `expected`.
void ask(LLM& llm, int32_t number, const std::vector<int32_t>& expected, Ends& ends) {
  const std::vector<int32_t> prompt = prompt_of(5, number % 4);
  std::vector<int32_t> heard;
  std::stop_source source;
  RequestLimits limits;
  std::jthread canceller;
  if (number % 5 == 1) {
    limits.stop = source.get_token();
    canceller = std::jthread([&source] { source.request_stop(); });
  }
  if (number % 5 == 2) limits.deadline = Clock::now() + milliseconds(number % 3);
  if (number % 5 == 3) {
    CHECK_THROWS_AS(llm.generate({}, tokens(1)), Error);
    ++ends.refused;
    return;
  }
  const auto listen = [&](const Progress& progress) {
    heard.insert(heard.end(), progress.tokens.begin(), progress.tokens.end());
    return true;
  };
  const Completion out = llm.generate(prompt, tokens(20), listen, limits);
  CHECK(heard == out.token_ids);
  REQUIRE(out.token_ids.size() <= expected.size());
  CHECK(std::equal(out.token_ids.begin(), out.token_ids.end(), expected.begin()));
  if (out.finish_reason == FinishReason::length) CHECK(out.token_ids == expected);
  ends.complete += out.finish_reason == FinishReason::length;
  ends.cancelled += out.finish_reason == FinishReason::cancelled;
  ends.late += out.finish_reason == FinishReason::deadline;
}

TEST_CASE("threads share an LLM: every request ends, with the tokens that it has alone") {
  constexpr int kThreads = 8, kRequests = 25;
  const TinyBundle files;
  LLM llm(options_of(files));
  std::vector<std::vector<int32_t>> expected;
  for (int32_t seed = 0; seed < 4; ++seed) {
    expected.push_back(llm.generate(prompt_of(5, seed), tokens(20)).token_ids);
  }
  std::vector<Ends> ends(kThreads);
  std::atomic<bool> is_done = false;
  std::jthread watcher([&] {
    while (!is_done) {
      CHECK(llm.counters().active <= kThreads);
      std::this_thread::sleep_for(milliseconds(1));
    }
  });
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        for (int i = 0; i < kRequests; ++i) {
          const int32_t number = thread + i * kThreads;
          ask(llm, number, expected[static_cast<size_t>(number % 4)],
              ends[static_cast<size_t>(thread)]);
        }
      });
    }
  }
  is_done = true;
  Ends sum;
  for (const Ends& each : ends) {
    sum.complete += each.complete;
    sum.cancelled += each.cancelled;
    sum.late += each.late;
    sum.refused += each.refused;
  }
  const LLMCounters counters = llm.counters();
  CHECK(sum.complete + sum.cancelled + sum.late + sum.refused == kThreads * kRequests);
  CHECK(sum.complete >= kThreads * kRequests * 2 / 5);
  CHECK(counters.length == static_cast<uint64_t>(sum.complete + 4));
  CHECK(counters.cancelled == static_cast<uint64_t>(sum.cancelled));
  CHECK(counters.deadline == static_cast<uint64_t>(sum.late));
  CHECK(counters.failed == static_cast<uint64_t>(sum.refused));
  CHECK(counters.stopped == 0);
  CHECK(counters.active == 0);
  CHECK(counters.generated_tokens >= counters.length * 20);
}

TEST_CASE("a deadline ends a request within run_ahead + 1 rounds") {
  constexpr double kStepMs = 20;
  const TinyBundle files;
  for (const int32_t run_ahead : {0, 2}) {
    CAPTURE(run_ahead);
    LLMOptions options = options_of(files);
    options.run_ahead = run_ahead;
    options.pace_target_ms = kStepMs;
    LLM llm(options);
    const auto whole = llm.generate(prompt_of(4, 1), tokens(40));
    const auto begin = Clock::now();
    int rounds_after = 0;
    const auto deadline = begin + milliseconds(110);
    const auto count = [&](const Progress&) {
      rounds_after += Clock::now() >= deadline ? 1 : 0;
      return true;
    };
    const Completion out =
        llm.generate(prompt_of(4, 1), tokens(4000), count, {.deadline = deadline});
    const double late = std::chrono::duration<double, std::milli>(Clock::now() - deadline).count();
    CHECK(out.finish_reason == FinishReason::deadline);
    CHECK(rounds_after <= 1);  // the one that noticed
    CHECK(late < (run_ahead + 2) * kStepMs * 3);
    CHECK_FALSE(out.token_ids.empty());
    CHECK(llm.generate(prompt_of(4, 1), tokens(40)).token_ids == whole.token_ids);
  }
}

TEST_CASE("a deadline is noticed while a long prompt is read") {
  const TinyBundle files;
  LLM llm(options_of(files));
  const std::vector<int32_t> prompt = prompt_of(4000, 3);
  const auto begin = Clock::now();
  const Completion whole = llm.generate(prompt, tokens(1));
  const auto took = Clock::now() - begin;
  REQUIRE(whole.token_ids.size() == 1);
  LLM other(options_of(files));
  int calls = 0;
  const auto count = [&](const Progress& progress) {
    CHECK(progress.tokens.empty());
    ++calls;
    return true;
  };
  const Completion out =
      other.generate(prompt, tokens(1), count, {.deadline = Clock::now() + took / 10});
  CHECK(out.finish_reason == FinishReason::deadline);
  CHECK(out.token_ids.empty());
  CHECK(calls < 4000 / 64);
  CHECK(other.generate(prompt, tokens(1)).token_ids == whole.token_ids);
}

TEST_CASE("limits end the wait for a turn at once, and the line goes on") {
  const TinyBundle files;
  LLM llm(options_of(files));
  std::atomic<bool> has_begun = false, may_end = false;
  std::jthread first([&] {
    llm.generate(prompt_of(3, 1), tokens(2), [&](const Progress&) {
      has_begun = true;
      while (!may_end) std::this_thread::yield();
      return true;
    });
  });
  while (!has_begun) std::this_thread::yield();
  std::stop_source source;
  FinishReason cancelled{}, last{};
  std::jthread second([&] {
    cancelled =
        llm.generate(prompt_of(3, 2), tokens(2), {}, {.stop = source.get_token()}).finish_reason;
  });
  std::jthread third([&] { last = llm.generate(prompt_of(3, 3), tokens(2)).finish_reason; });
  while (llm.counters().active < 3) std::this_thread::yield();
  const Completion late =
      llm.generate(prompt_of(3, 4), tokens(2), {}, {.deadline = Clock::now() + milliseconds(5)});
  CHECK(late.finish_reason == FinishReason::deadline);
  CHECK(late.metrics.waiting_time >= 0.004);
  source.request_stop();
  second.join();
  CHECK(cancelled == FinishReason::cancelled);
  CHECK(llm.counters().active == 2);
  may_end = true;
  third.join();
  CHECK(last == FinishReason::length);
}

TEST_CASE("requests have their turns in the order in which they came") {
  const TinyBundle files;
  LLM llm(options_of(files));
  std::mutex mutex;
  std::vector<int> order;
  std::atomic<bool> has_begun = false, may_end = false;
  std::jthread first([&] {
    llm.generate(prompt_of(3, 1), tokens(1), [&](const Progress&) {
      has_begun = true;
      while (!may_end) std::this_thread::yield();
      return true;
    });
  });
  while (!has_begun) std::this_thread::yield();
  std::vector<std::jthread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      llm.generate(prompt_of(3, i), tokens(1), [&](const Progress&) {
        const std::lock_guard lock(mutex);
        order.push_back(i);
        return true;
      });
    });
    while (llm.counters().active < i + 2) std::this_thread::yield();
    std::this_thread::sleep_for(milliseconds(20));  // from counted to in line
  }
  may_end = true;
  threads.clear();
  CHECK(order == std::vector<int>{0, 1, 2, 3, 4, 5});
}

TEST_CASE("a request is checked without a turn") {
  const TinyBundle files;
  LLM llm(options_of(files));
  const std::vector<int32_t> prompt = prompt_of(3, 1);
  llm.generate(prompt, tokens(1), [&](const Progress&) {
    llm.check(prompt, tokens(1));
    CHECK_THROWS_AS(llm.check({}, tokens(1)), Error);
    CHECK_THROWS_AS(llm.check(prompt_of(4096, 1), tokens(1)), Error);
    CHECK_THROWS_AS(llm.check(prompt, tokens(0)), Error);
    CHECK_THROWS_AS(llm.check(std::vector<int32_t>{kVocab}, tokens(1)), Error);
    return true;
  });
}

TEST_CASE("what on_progress throws is thrown, and it cannot call its own LLM") {
  const TinyBundle files;
  LLM llm(options_of(files));
  const auto raise = [](const Progress&) -> bool { throw std::range_error("mine"); };
  CHECK_THROWS_AS(llm.generate(prompt_of(3, 1), tokens(2), raise), std::range_error);
  const auto nest = [&](const Progress&) {
    llm.generate(prompt_of(3, 1), tokens(2));
    return true;
  };
  CHECK_THROWS_AS(llm.generate(prompt_of(3, 1), tokens(2), nest), Error);
  CHECK(llm.generate(prompt_of(3, 1), tokens(2)).token_ids.size() == 2);
  CHECK(llm.counters().failed == 3);
}

TEST_CASE("the memory that a load takes is known before it, and may be limited") {
  const TinyBundle files;
  LLMOptions options = options_of(files);
  const MemoryBytes both = memory_needed(options);
  LLMOptions alone = options;
  alone.drafter = "";
  const MemoryBytes target = memory_needed(alone);
  // Two models of one shape: keys and values of 4096 + 64 positions, 2 layers, 2 heads of 8, bf16.
  CHECK(target.kv_cache == 2 * 2 * 2 * 8 * 2 * (4096 + 64));
  CHECK(both.kv_cache == 2 * target.kv_cache);
  CHECK(both.weights == 2 * target.weights);
  CHECK(both.total() == both.weights + both.kv_cache + both.buffers);
  CHECK(both.buffers > target.buffers);
  options.memory_limit = both.total();
  CHECK(LLM(options).generate(prompt_of(3, 1), tokens(2)).token_ids.size() == 2);
  --options.memory_limit;
  CHECK_THROWS_AS(LLM{options}, Error);
  options.target = "";
  CHECK_THROWS_AS(memory_needed(options), Error);
}

TEST_CASE("warnings reach the hook of their own LLM") {
  const TinyBundle files;
  LLMOptions options = options_of(files);
  std::vector<std::string> warnings;
  options.on_warning = [&](std::string_view text) { warnings.emplace_back(text); };
  LLM quiet(options);
  const size_t before = warnings.size();  // one where there is only one core
  options.threads = static_cast<int32_t>(std::thread::hardware_concurrency()) + 2;
  LLM loud(options);
  REQUIRE(warnings.size() == before + 1);
  CHECK(warnings.back().find("but the process may run on") != std::string::npos);
}

}  // namespace
}  // namespace specrt

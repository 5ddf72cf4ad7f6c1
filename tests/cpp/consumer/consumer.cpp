// Uses the whole C++ API from outside: exits with 1 and says so where something is not as promised.
#include <specrt/specrt.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "consumer: %s\n", what);
  std::exit(1);
}

void check_drafting(const specrt::Bundle& bundle, const std::vector<int32_t>& prompt) {
  const specrt::SamplingParams params{.temperature = 0.7f, .max_tokens = 24, .seed = 9};
  specrt::LLM drafting(bundle.options()), plain(bundle.options(""));
  std::vector<int32_t> heard;
  const specrt::Completion out = drafting.generate(prompt, params, [&](const auto& progress) {
    heard.insert(heard.end(), progress.tokens.begin(), progress.tokens.end());
    return true;
  });
  require(out.token_ids == heard, "the callback heard other tokens");
  require(out.token_ids == plain.generate(prompt, params).token_ids, "drafting changed the tokens");
  require(out.seed == 9 && out.metrics.prompt_tokens == 3, "seed or metrics are wrong");
  require(drafting.counters().generated_tokens == heard.size(), "the counters are wrong");
  require(out.metrics.total_time > 0, "no time passed");
}

void check_limits(const specrt::Bundle& bundle, const std::vector<int32_t>& prompt) {
  specrt::LLMOptions options = bundle.options();
  options.pace_target_ms = 5;
  specrt::LLM llm(options);
  const specrt::SamplingParams params{
      .temperature = 0, .max_tokens = llm.context() - 3, .ignore_eos = true};
  const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
  require(llm.generate(prompt, params, {}, {.deadline = soon}).finish_reason ==
              specrt::FinishReason::deadline,
          "the deadline ended nothing");
  std::stop_source source;
  std::atomic<bool> has_begun = false;
  std::jthread canceller([&] {
    while (!has_begun) std::this_thread::yield();
    source.request_stop();
  });
  const auto note = [&](const specrt::Progress&) { return has_begun = true; };
  require(llm.generate(prompt, params, note, {.stop = source.get_token()}).finish_reason ==
              specrt::FinishReason::cancelled,
          "the other thread cancelled nothing");
}

void check_errors(const specrt::Bundle& bundle) {
  try {
    specrt::open_bundle("/nonexistent");
    require(false, "opened what is not there");
  } catch (const specrt::Error& error) {
    require(error.kind() == specrt::ErrorKind::runtime, "another kind of error");
  }
  specrt::LLMOptions options = bundle.options();
  options.memory_limit = specrt::memory_needed(options).total() - 1;
  try {
    specrt::LLM llm(options);
    require(false, "the limit was passed");
  } catch (const specrt::Error& error) {
    require(std::string(error.what()).find("memory_limit") != std::string::npos, "no advice");
  }
}

}  // namespace

int main(int, char** arguments) {
  const specrt::Bundle bundle = specrt::open_bundle(arguments[1]);
  const std::vector<int32_t> prompt{3, 5, 7};
  check_drafting(bundle, prompt);
  check_limits(bundle, prompt);
  check_errors(bundle);
  std::puts("consumer: all holds");
}

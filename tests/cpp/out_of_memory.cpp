// Lets every allocation fail in turn, and all from a certain one on, while an LLM is made and while
// it generates. Nothing but an exception may come of it, and what follows must be as ever. Best
// under AddressSanitizer, which also sees what is lost on the way.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "base/error.h"
#include "engine_image.h"
#include "specrt/llm.h"
#include "tiny_engine.h"

namespace {

enum class Failures { none, one, all_from_there };

std::atomic<Failures> g_failures{Failures::none};
std::atomic<long> g_countdown{0};

bool fails() {
  const Failures failures = g_failures.load();
  if (failures == Failures::none) return false;
  const long left = g_countdown.fetch_sub(1) - 1;
  return failures == Failures::one ? left == 0 : left <= 0;
}

}  // namespace

[[gnu::noinline]] void* operator new(size_t size) {
  void* memory = fails() ? nullptr : std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace specrt::testing {
namespace {

// Runs `call` with the allocations failing from the `number`th on. True: an exception came of it.
template <typename Call>
bool thrown(Failures failures, long number, const Call& call) {
  bool caught = false;
  g_countdown = number;
  g_failures = failures;
  try {
    call();
  } catch (const std::bad_alloc&) {
    caught = true;
  } catch (const Error&) {  // a thread that could not be started, for example
    caught = true;
  }
  g_failures = Failures::none;
  return caught;
}

// Whether as many allocations as were asked for have been made.
bool reached() { return g_countdown.load() <= 0; }

[[noreturn]] void give_up(const char* what, Failures failures, long number) {
  std::fprintf(stderr, "%s (%s failure, allocation %ld)\n", what,
               failures == Failures::one ? "one" : "lasting", number);
  std::exit(1);
}

// Calls `attempt(number)` for every allocation that there is; returns how many calls failed.
template <typename Attempt>
long each_allocation(const Attempt& attempt) {
  long count = 0;
  for (long number = 1;; ++number) {
    count += attempt(number) ? 1 : 0;
    if (!reached()) return count;
  }
}

long fail_while_made(const LLMOptions& options, Failures failures) {
  return each_allocation([&](long number) {
    const bool caught = thrown(failures, number, [&] { LLM llm(options); });
    if (!caught && reached()) give_up("made without the memory", failures, number);
    return caught;
  });
}

// A new LLM each time, because the first request allocates what later ones use again.
long fail_while_generating(const LLMOptions& options, Failures failures) {
  const std::vector<int32_t> prompt(70, 7);
  SamplingParams params;
  params.max_tokens = 12;
  params.top_k = 8;
  params.repetition_penalty = 1.2f;
  params.ignore_eos = true;
  params.logprobs = 2;
  params.seed = 5;
  const std::vector<int32_t> expected = LLM(options).generate(prompt, params).token_ids;
  const auto check = [&](const Completion& completion, long number) {
    if (completion.token_ids != expected) give_up("other tokens", failures, number);
  };
  return each_allocation([&](long number) {
    LLM llm(options);
    Completion completion;
    const bool caught =
        thrown(failures, number, [&] { completion = llm.generate(prompt, params); });
    if (!caught) check(completion, number);
    check(llm.generate(prompt, params), number);
    return caught;
  });
}

int run() {
  const TempFile target(tiny_engine(DType::bf16, 1).bytes());
  const TempFile drafter(tiny_engine(DType::bf16, 2).bytes());
  const LLMOptions options{.target = target.path(),
                           .drafter = drafter.path(),
                           .prompt_lookup_min = 1,
                           .prompt_lookup_max = 3,
                           .num_speculative_tokens = 3,
                           .threads = 2,
                           .run_ahead = 2,
                           .isa = "portable"};
  for (const Failures failures : {Failures::one, Failures::all_from_there}) {
    const long made = fail_while_made(options, failures);
    const long generating = fail_while_generating(options, failures);
    std::printf("%s failures: %ld while made, %ld while generating\n",
                failures == Failures::one ? "single" : "lasting", made, generating);
    if (made == 0 || generating == 0) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace specrt::testing

int main() { return specrt::testing::run(); }

// The C ABI over the C++ API: sized structs in and out, exceptions turned into codes.
#include "specrt/specrt_c.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

#include "base/error.h"
#include "specrt/specrt.h"

struct specrt_llm {
  specrt::LLM llm;
};

struct specrt_canceller {
  std::stop_source source;
};

namespace {

using specrt::fail_argument;

void write(specrt_error* error, const char* message) {
  if (error == nullptr) return;
  std::strncpy(error->message, message, sizeof(error->message) - 1);
  error->message[sizeof(error->message) - 1] = '\0';
}

// Runs `call`; what it throws becomes a code and a message.
template <typename Call>
specrt_status guarded(specrt_error* error, const Call& call) noexcept {
  write(error, "");
  try {
    call();
    return SPECRT_OK;
  } catch (const specrt::Error& caught) {
    write(error, caught.what());
    return caught.kind() == specrt::ErrorKind::argument ? SPECRT_ERROR_ARGUMENT
                                                        : SPECRT_ERROR_RUNTIME;
  } catch (const std::bad_alloc&) {
    write(error, "specrt has no memory left for this call; free memory, or use a smaller one");
    return SPECRT_ERROR_MEMORY;
  } catch (const std::exception& caught) {
    write(error, caught.what());
  } catch (...) {
    write(error, "an exception of unknown type");
  }
  return SPECRT_ERROR_RUNTIME;
}

constexpr size_t kMaxStruct = 65536;  // no struct will ever be larger

void require(const void* pointer, const char* name) {
  if (pointer == nullptr) fail_argument(name, " is NULL");
}

// The caller's struct as this library knows it: missing fields from `known`, and none that it
// cannot know.
template <typename Struct>
Struct read(const Struct* given, Struct known, const char* name) {
  require(given, name);
  const size_t size = given->size;
  if (size < sizeof(size_t)) fail_argument(name, " has no size; call its init function first");
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  const bool has_more =
      size > kMaxStruct ||
      (size > sizeof(Struct) && std::any_of(bytes + sizeof(Struct), bytes + size,
                                            [](unsigned char byte) { return byte != 0; }));
  if (has_more) {
    fail_argument(name, " has fields that libspecrt ", SPECRT_VERSION, " does not know");
  }
  std::memcpy(&known, given, std::min(size, sizeof(Struct)));
  return known;
}

// Writes as much of `values` as the caller's struct of `size` bytes holds, and zeros behind it.
template <typename Struct>
void write(Struct values, Struct* out, size_t size) {
  values.size = size;
  std::memset(out, 0, size);
  std::memcpy(out, &values, std::min(size, sizeof(Struct)));
}

template <typename Struct>
void require_result(const Struct* out, const char* name) {
  require(out, name);
  if (out->size < sizeof(size_t) || out->size > kMaxStruct) {
    fail_argument(name, ".size must be the sizeof of the struct, not ", out->size);
  }
}

// Of a result that require_result let through.
template <typename Struct>
void give(const Struct& values, Struct* out) {
  write(values, out, out->size);
}

specrt_options default_options() {
  specrt_options options{};
  options.size = sizeof(options);
  options.num_speculative_tokens = -1;
  options.run_ahead = specrt::LLMOptions{}.run_ahead;
  return options;
}

specrt_params default_params() {
  const specrt::SamplingParams defaults;
  specrt_params params{};
  params.size = sizeof(params);
  params.temperature = defaults.temperature;
  params.top_p = defaults.top_p;
  params.max_tokens = defaults.max_tokens;
  params.deadline_ms = -1;
  return params;
}

template <typename Struct>
void init(const Struct& defaults, Struct* out, size_t size) {
  if (out != nullptr && size >= sizeof(size_t) && size <= kMaxStruct) write(defaults, out, size);
}

specrt::LLMOptions llm_options(const specrt_options* pointer) {
  const specrt_options given = read(pointer, default_options(), "options");
  require(given.bundle, "options.bundle");
  const specrt::Bundle bundle = specrt::open_bundle(given.bundle);
  specrt::LLMOptions options =
      given.drafter == nullptr ? bundle.options() : bundle.options(given.drafter);
  if (given.num_speculative_tokens != -1) {
    options.num_speculative_tokens = given.num_speculative_tokens;
  }
  options.threads = given.threads;
  options.device = given.device;
  options.run_ahead = given.run_ahead;
  options.memory_limit = given.memory_limit;
  if (given.on_warning != nullptr) {
    options.on_warning = [given](std::string_view text) {
      given.on_warning(std::string(text).c_str(), given.user);
    };
  }
  return options;
}

specrt::SamplingParams sampling_params(const specrt_params& given) {
  specrt::SamplingParams params;
  params.temperature = given.temperature;
  params.top_k = given.top_k;
  params.top_p = given.top_p;
  params.min_p = given.min_p;
  params.max_tokens = given.max_tokens;
  params.min_tokens = given.min_tokens;
  if (given.has_seed != 0) params.seed = given.seed;
  params.ignore_eos = given.ignore_eos != 0;
  if (given.stop_token_count > 0) {
    require(given.stop_token_ids, "params.stop_token_ids");
    params.stop_token_ids.assign(given.stop_token_ids,
                                 given.stop_token_ids + given.stop_token_count);
  }
  if (given.stop_count > 0) require(given.stop, "params.stop");
  for (size_t i = 0; i < given.stop_count; ++i) {
    require(given.stop[i], "a text of params.stop");
    params.stop.emplace_back(given.stop[i]);
  }
  return params;
}

specrt::RequestLimits request_limits(const specrt_params& given) {
  constexpr int64_t kLongest = int64_t{1000} * 3600 * 24 * 365;
  specrt::RequestLimits limits;
  if (given.deadline_ms < -1 || given.deadline_ms > kLongest) {
    fail_argument("params.deadline_ms must be in [0, ", kLongest, "] or -1, not ",
                  given.deadline_ms);
  }
  if (given.deadline_ms >= 0) {
    limits.deadline =
        std::chrono::steady_clock::now() + std::chrono::milliseconds(given.deadline_ms);
  }
  if (given.canceller != nullptr) limits.stop = given.canceller->source.get_token();
  return limits;
}

specrt_completion completion_of(const specrt::Completion& from) {
  specrt_completion completion{};
  completion.token_ids = from.token_ids.data();
  completion.token_count = from.token_ids.size();
  completion.text = from.text.c_str();
  completion.text_bytes = from.text.size();
  completion.finish_reason = static_cast<int32_t>(from.finish_reason);
  completion.seed = from.seed;
  completion.prompt_tokens = from.metrics.prompt_tokens;
  completion.cached_tokens = from.metrics.cached_tokens;
  completion.waiting_time = from.metrics.waiting_time;
  completion.time_to_first_token = from.metrics.time_to_first_token;
  completion.total_time = from.metrics.total_time;
  completion.rounds = from.metrics.rounds.size();
  for (const specrt::RoundRecord& round : from.metrics.rounds) {
    completion.drafted += static_cast<uint64_t>(round.drafted);
    completion.accepted += static_cast<uint64_t>(round.accepted);
  }
  return completion;
}

void generate(specrt_llm* llm, std::span<const int32_t> prompt, const specrt_params* pointer,
              specrt_completion* out) {
  const specrt_params params = read(pointer, default_params(), "params");
  std::function<bool(const specrt::Progress&)> on_progress;
  if (params.on_progress != nullptr) {
    on_progress = [&params](const specrt::Progress& progress) {
      return params.on_progress(progress.tokens.data(), progress.tokens.size(),
                                progress.text.data(), progress.text.size(), params.user) != 0;
    };
  }
  auto completion = std::make_unique<specrt::Completion>(
      llm->llm.generate(prompt, sampling_params(params), on_progress, request_limits(params)));
  specrt_completion values = completion_of(*completion);
  values.owner = completion.release();
  give(values, out);
}

// The completion of the first version; without an owner it could not be freed.
constexpr size_t kFirstCompletion =
    offsetof(specrt_completion, accepted) + sizeof(specrt_completion::accepted);

using specrt::FinishReason;
static_assert(static_cast<int>(FinishReason::stop) == SPECRT_FINISH_STOP);
static_assert(static_cast<int>(FinishReason::length) == SPECRT_FINISH_LENGTH);
static_assert(static_cast<int>(FinishReason::cancelled) == SPECRT_FINISH_CANCELLED);
static_assert(static_cast<int>(FinishReason::deadline) == SPECRT_FINISH_DEADLINE);

}  // namespace

const char* specrt_version(void) { return SPECRT_VERSION; }

void specrt_options_init(specrt_options* options, size_t size) {
  init(default_options(), options, size);
}

void specrt_params_init(specrt_params* params, size_t size) {
  init(default_params(), params, size);
}

specrt_status specrt_memory_needed(const specrt_options* options, specrt_memory* memory,
                                   specrt_error* error) {
  return guarded(error, [&] {
    require_result(memory, "memory");
    const specrt::MemoryBytes bytes = specrt::memory_needed(llm_options(options));
    give(
        {.size = 0, .weights = bytes.weights, .kv_cache = bytes.kv_cache, .buffers = bytes.buffers},
        memory);
  });
}

specrt_status specrt_open(const specrt_options* options, specrt_llm** llm, specrt_error* error) {
  return guarded(error, [&] {
    require(llm, "llm");
    *llm = nullptr;
    *llm = new specrt_llm{specrt::LLM(llm_options(options))};
  });
}

void specrt_llm_free(specrt_llm* llm) { delete llm; }

int32_t specrt_vocab(const specrt_llm* llm) { return llm->llm.vocab(); }
int32_t specrt_context(const specrt_llm* llm) { return llm->llm.context(); }

specrt_status specrt_generate(specrt_llm* llm, const int32_t* prompt, size_t prompt_count,
                              const specrt_params* params, specrt_completion* completion,
                              specrt_error* error) {
  return guarded(error, [&] {
    require_result(completion, "completion");
    if (completion->size < kFirstCompletion) {
      fail_argument("completion.size must be the sizeof of the struct, not ", completion->size);
    }
    give(specrt_completion{}, completion);
    require(llm, "llm");
    if (prompt_count > 0) require(prompt, "prompt");
    generate(llm, {prompt, prompt_count}, params, completion);
  });
}

void specrt_completion_free(specrt_completion* completion) {
  if (completion == nullptr || completion->size < kFirstCompletion) return;
  delete static_cast<specrt::Completion*>(completion->owner);
  give(specrt_completion{}, completion);
}

specrt_status specrt_get_counters(const specrt_llm* llm, specrt_counters* counters,
                                  specrt_error* error) {
  return guarded(error, [&] {
    require(llm, "llm");
    require_result(counters, "counters");
    const specrt::LLMCounters now = llm->llm.counters();
    give({.size = 0,
          .stopped = now.stopped,
          .length = now.length,
          .cancelled = now.cancelled,
          .deadline = now.deadline,
          .failed = now.failed,
          .prompt_tokens = now.prompt_tokens,
          .cached_tokens = now.cached_tokens,
          .generated_tokens = now.generated_tokens,
          .rounds = now.rounds,
          .drafted = now.drafted,
          .judged = now.judged,
          .accepted = now.accepted,
          .active = now.active},
         counters);
  });
}

specrt_status specrt_canceller_new(specrt_canceller** canceller, specrt_error* error) {
  return guarded(error, [&] {
    require(canceller, "canceller");
    *canceller = nullptr;
    *canceller = new specrt_canceller;
  });
}

void specrt_canceller_cancel(specrt_canceller* canceller) { canceller->source.request_stop(); }

void specrt_canceller_free(specrt_canceller* canceller) { delete canceller; }

#include "decode/generator.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <random>

#include "base/error.h"
#include "decode/text_stream.h"

namespace specrt {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Prompt chunks in flight before the host waits for the oldest, so that a cancelled request is
// noticed within a few chunks.
constexpr size_t kChunksAhead = 2;

void append_logprobs(Completion& completion, const LogprobEntry& entry, int32_t count,
                     int32_t most) {
  for (int32_t i = 0; i < count; ++i) {
    std::vector<Logprob>& row = completion.logprobs.emplace_back();
    for (int32_t n = 0; n <= most; ++n) {
      row.push_back({entry.tokens[i][n].token, entry.tokens[i][n].logprob});
    }
  }
}

}  // namespace

// What the host knows of the request that runs.
struct Generator::Request {
  const OnProgress* on_progress = nullptr;
  Completion completion;
  Clock::time_point begin = Clock::now();
  std::deque<Event> events;  // of the rounds in flight, oldest first
  uint32_t read = 0;         // log entries read
  int32_t committed = 0;     // as of the last entry read
  int32_t limit = 0;
  std::optional<int32_t> logprobs;
  std::vector<int32_t> stop_token_ids;
  std::optional<TextStream> text;
  bool ended = false;

  void end(FinishReason reason) {
    ended = true;
    completion.finish_reason = reason;
  }

  // False: the caller wants no more.
  bool report(const Progress& progress) const { return !*on_progress || (*on_progress)(progress); }
};

Generator::Generator(Lane& target, Drafter* drafter, const GeneratorOptions& options)
    : target_(target), drafter_(drafter), options_(options), loop_(target, drafter) {
  if (options.run_ahead < 0 || options.run_ahead > kMaxRunAhead) {
    fail_argument("run_ahead must be in [0, ", kMaxRunAhead, "], not ", options.run_ahead);
  }
  const int32_t most = drafter == nullptr ? 0 : kMaxStepRows - 1;
  if (options.draft_tokens < 0 || options.draft_tokens > most) {
    fail_argument("num_speculative_tokens must be in [0, ", most, "], not ", options.draft_tokens);
  }
}

void Generator::start(Request& request, std::span<const int32_t> prompt,
                      const SamplingParams& params) {
  validate(params);
  const Plan& plan = target_.model().plan();
  check_tokens(prompt, plan.header.vocab);
  check_tokens(params.stop_token_ids, plan.header.vocab);
  for (const auto& [token, bias] : params.logit_bias) check_tokens({&token, 1}, plan.header.vocab);
  if (!params.stop.empty() && plan.vocabulary.empty()) {
    fail_argument("stop strings need the token table that this engine lacks; use stop_token_ids");
  }
  std::vector<int32_t> eos = params.stop_token_ids;
  if (!params.ignore_eos) {
    eos.insert(eos.end(), plan.header.eos, plan.header.eos + plan.header.eos_count);
  }
  request.completion.seed = params.seed ? *params.seed : std::random_device{}();
  Sequence& sequence = target_.sequence(0);
  sequence.begin({.prompt = prompt,
                  .eos = eos,
                  .max_tokens = params.max_tokens,
                  .draft_window = drafter_ == nullptr ? 0 : drafter_->window(),
                  .seed = request.completion.seed},
                 params);
  request.completion.metrics.prompt_tokens = static_cast<int32_t>(prompt.size());
  request.committed = static_cast<int32_t>(prompt.size());
  request.stop_token_ids = params.stop_token_ids;
  request.text.emplace(plan.vocabulary, params);
  if (params.logprobs) {
    request.logprobs = std::min(*params.logprobs, plan.header.vocab - 1);
  }
  request.limit = sequence.cells().cells->limit;
}

Completion Generator::generate(std::span<const int32_t> prompt, const SamplingParams& params,
                               const OnProgress& on_progress) {
  Request request;
  request.on_progress = &on_progress;
  start(request, prompt, params);
  try {
    prefill(request, static_cast<int32_t>(prompt.size()));
    while (!request.ended) {
      enqueue_rounds(request);
      read_entry(request);
    }
  } catch (...) {
    drain(request);
    throw;
  }
  drain(request);
  request.completion.metrics.total_time = seconds_since(request.begin);
  return std::move(request.completion);
}

void Generator::prefill(Request& request, int32_t length) {
  std::deque<Event> chunks;
  for (int32_t begin = 0; begin < length && !request.ended; begin += kMaxStepRows) {
    const int32_t end = std::min(begin + kMaxStepRows, length);
    if (end < length) {
      loop_.enqueue_prompt_chunk(0, begin, end);
    } else {
      loop_.enqueue_prompt_verdict(0, begin, end);
    }
    chunks.push_back(target_.stream().record());
    if (chunks.size() <= kChunksAhead) continue;
    chunks.front().wait();
    chunks.pop_front();
    request.ended = !request.report({});
  }
  if (request.ended) {
    request.completion.finish_reason = FinishReason::cancelled;
    return;
  }
  request.events.push_back(target_.stream().record());
  if (drafter_ == nullptr || request.limit == length + 1) return;
  for (int32_t begin = 0, end = std::min(length, drafter_->window()); begin < end;
       begin += kMaxStepRows) {
    drafter_->enqueue_prompt_chunk(0, begin, std::min(kMaxStepRows, end - begin));
  }
}

void Generator::enqueue_rounds(Request& request) {
  // Every live round commits at least one token, so rounds beyond the limit are never needed.
  const auto wanted = [&] {
    const auto in_flight = static_cast<int32_t>(request.events.size());
    return !request.ended && in_flight <= options_.run_ahead &&
           request.committed + in_flight < request.limit;
  };
  while (wanted()) request.events.push_back(loop_.enqueue_round(options_.draft_tokens));
}

void Generator::read_entry(Request& request) {
  request.events.front().wait();
  request.events.pop_front();
  const LogEntry& entry = target_.sequence(0).entry(request.read++);
  request.committed = entry.committed_before + entry.count;
  if (entry.stop != Stop::running) {
    request.end(entry.stop == Stop::eos ? FinishReason::stop : FinishReason::length);
  }
  const int32_t kept = take_tokens(request, {entry.tokens, static_cast<size_t>(entry.count)});
  GenerationMetrics& metrics = request.completion.metrics;
  if (request.read == 1) {
    metrics.time_to_first_token = seconds_since(request.begin);
  } else {
    metrics.rounds.push_back(
        {.drafted = entry.drafted, .accepted = std::min(entry.accepted, kept), .committed = kept});
  }
  if (request.logprobs) {
    append_logprobs(request.completion, target_.sequence(0).logprobs(request.read - 1), kept,
                    *request.logprobs);
  }
  const std::string piece = request.ended ? request.text->finish() : request.text->take();
  request.completion.text += piece;
  const std::span<const int32_t> tokens(entry.tokens, static_cast<size_t>(kept));
  if (!request.report({.tokens = tokens, .text = piece}) && !request.ended) {
    request.end(FinishReason::cancelled);
    request.completion.text += request.text->finish();
  }
}

// Adds the tokens of a round up to the one that completes a stop; returns how many.
int32_t Generator::take_tokens(Request& request, std::span<const int32_t> tokens) {
  Completion& completion = request.completion;
  int32_t kept = 0;
  for (const int32_t token : tokens) {
    completion.token_ids.push_back(token);
    ++kept;
    if (!request.text->push(token)) continue;
    request.end(FinishReason::stop);
    completion.stop_reason = request.text->stop_reason();
    return kept;
  }
  if (request.ended && completion.finish_reason == FinishReason::stop) {
    const std::vector<int32_t>& stops = request.stop_token_ids;
    if (std::find(stops.begin(), stops.end(), tokens.back()) != stops.end()) {
      completion.stop_reason = tokens.back();
    }
  }
  return kept;
}

// The first error of a request is the one that its caller sees; work behind it was dropped.
void Generator::drain(Request& request) {
  request.events.clear();
  target_.stream().drain();
  if (drafter_ != nullptr) drafter_->stream().drain();
}

}  // namespace specrt

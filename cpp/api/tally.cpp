#include "api/tally.h"

namespace specrt {

void Tally::begin() {
  const std::lock_guard lock(mutex_);
  ++counters_.active;
}

void Tally::fail() {
  const std::lock_guard lock(mutex_);
  --counters_.active;
  ++counters_.failed;
}

void Tally::give_up(FinishReason reason) {
  const std::lock_guard lock(mutex_);
  count(reason);
}

void Tally::end(const Completion& completion) {
  const GenerationMetrics& metrics = completion.metrics;
  const std::lock_guard lock(mutex_);
  count(completion.finish_reason);
  counters_.prompt_tokens += static_cast<uint64_t>(metrics.prompt_tokens);
  counters_.cached_tokens += static_cast<uint64_t>(metrics.cached_tokens);
  counters_.generated_tokens += completion.token_ids.size();
  counters_.rounds += metrics.rounds.size();
  for (const RoundRecord& round : metrics.rounds) {
    counters_.drafted += static_cast<uint64_t>(round.drafted);
    counters_.judged += static_cast<uint64_t>(round.judged);
    counters_.accepted += static_cast<uint64_t>(round.accepted);
  }
}

LLMCounters Tally::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

void Tally::count(FinishReason reason) {
  --counters_.active;
  switch (reason) {
    case FinishReason::stop:
      ++counters_.stopped;
      break;
    case FinishReason::length:
      ++counters_.length;
      break;
    case FinishReason::cancelled:
      ++counters_.cancelled;
      break;
    case FinishReason::deadline:
      ++counters_.deadline;
      break;
  }
}

}  // namespace specrt

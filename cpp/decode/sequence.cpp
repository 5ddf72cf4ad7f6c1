#include "decode/sequence.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "base/error.h"
#include "device/rules.h"

namespace specrt {
namespace {

size_t log_bytes(uint32_t slots) { return sizeof(LogEntry) * slots; }
size_t cells_bytes() { return (sizeof(Cells) + 63) / 64 * 64; }

}  // namespace

void validate(const SamplingParams& params) {
  if (!(params.temperature >= 0.0f) || std::isinf(params.temperature)) {
    fail_argument("temperature must be a finite number >= 0, not ", params.temperature);
  }
  if (params.top_k < 0) fail_argument("top_k must be >= 0 (0 keeps all), not ", params.top_k);
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    fail_argument("top_p must be in (0, 1], not ", params.top_p);
  }
  if (!(params.min_p >= 0.0f && params.min_p <= 1.0f)) {
    fail_argument("min_p must be in [0, 1], not ", params.min_p);
  }
  if (params.max_tokens < 1) fail_argument("max_tokens must be >= 1, not ", params.max_tokens);
}

void check_tokens(std::span<const int32_t> tokens, int32_t vocab) {
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocab) {
      fail_argument("token ", token, " is outside of the vocabulary of ", vocab);
    }
  }
}

Sequence::Sequence(Backend& backend, int32_t context, uint32_t log_slots)
    : context_(context),
      memory_(backend.alloc_shared(log_bytes(log_slots) + cells_bytes() +
                                   sizeof(Cell<int32_t>) * static_cast<size_t>(context))) {
  std::byte* at = memory_.data();
  cells_.log = reinterpret_cast<LogEntry*>(at);
  cells_.log_slots = log_slots;
  at += log_bytes(log_slots);
  cells_.cells = new (at) Cells;
  at += cells_bytes();
  cells_.tok = reinterpret_cast<Cell<int32_t>*>(at);
}

void Sequence::begin(const Start& start, const SamplingParams& params) {
  const auto length = static_cast<int32_t>(start.prompt.size());
  if (length < 1) fail_argument("the prompt is empty; it needs at least one token");
  if (length >= context_) {
    fail_argument("the prompt has ", length, " tokens; the context of ", context_,
                  " leaves room for ", context_ - 1);
  }
  if (start.eos.size() > static_cast<size_t>(kMaxEos)) {
    fail_argument(start.eos.size(), " stop tokens; at most ", kMaxEos, " are possible");
  }
  Cells& s = *cells_.cells;
  s.committed = length;
  s.tail = 1;
  s.drafted = 0;
  s.appended = 0;
  s.draft_kv = std::min(length, start.draft_window);
  s.draft_end = std::min(length, start.draft_window);
  s.snap_begin = length;
  s.snap_count = 0;
  s.limit = length + std::min(start.max_tokens, context_ - length);
  s.stop = Stop::running;
  s.round = 0;
  s.seed = start.seed;
  s.eos_count = static_cast<int32_t>(start.eos.size());
  for (size_t i = 0; i < start.eos.size(); ++i) s.eos[i] = start.eos[i];
  s.sampling.temperature = params.temperature;
  s.sampling.top_k = params.top_k;
  s.sampling.top_p = params.top_p;
  s.sampling.min_p = params.min_p;
  for (int32_t i = 0; i < length; ++i) cells_.tok[i] = start.prompt[static_cast<size_t>(i)];
  for (uint32_t i = 0; i < cells_.log_slots; ++i) cells_.log[i].sequence = 0;
}

const LogEntry& Sequence::entry(uint32_t round) const {
  const LogEntry& entry = cells_.log[round % cells_.log_slots];
  const uint32_t written = load_acquire(&entry.sequence);
  SPECRT_CHECK(written == round + 1, "log entry of round ", round, " holds sequence ", written);
  return entry;
}

}  // namespace specrt

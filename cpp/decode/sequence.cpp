#include "decode/sequence.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "base/error.h"
#include "device/rules.h"

namespace specrt {
namespace {

// Hands out consecutive 64-byte aligned parts of a block; without a block it only counts. The host
// makes objects in its own memory; on the device, zeros are as good.
class Carver {
 public:
  enum class Memory { host, zeroed };

  explicit Carver(std::byte* block, Memory memory = Memory::host)
      : block_(block), memory_(memory) {}

  template <typename T>
  T* take(size_t count) {
    std::byte* part = block_ == nullptr ? nullptr : block_ + used_;
    used_ += (sizeof(T) * count + 63) / 64 * 64;
    if (part == nullptr || memory_ == Memory::zeroed) return reinterpret_cast<T*>(part);
    return new (part) T[count];
  }
  size_t used() const { return used_; }

 private:
  std::byte* block_;
  Memory memory_;
  size_t used_ = 0;
};

// The tokens lie last, so that a short prompt is a short copy.
void carve_state(Carver& memory, int32_t context, SequenceCells& cells) {
  cells.cells = memory.take<Cells>(1);
  cells.bias = memory.take<LogitBias>(kMaxLogitBias);
  cells.tok = memory.take<Cell<int32_t>>(static_cast<size_t>(context));
}

size_t state_bytes(int32_t context) {
  Carver counter(nullptr);
  SequenceCells cells;
  carve_state(counter, context, cells);
  return counter.used();
}

void carve_log(Carver& memory, uint32_t log_slots, SequenceCells& cells) {
  cells.log_slots = log_slots;
  cells.log = memory.take<LogEntry>(log_slots);
  cells.logprobs = memory.take<LogprobEntry>(log_slots);
}

size_t log_bytes(uint32_t log_slots) {
  Carver counter(nullptr);
  SequenceCells cells;
  carve_log(counter, log_slots, cells);
  return counter.used();
}

// Nothing under rule `exact`.
void carve_probabilities(Carver& memory, const JudgeOptions& judge, ProbabilityRows& rows) {
  if (judge.rule == Rule::exact) return;
  const auto vocab = static_cast<size_t>(judge.vocab);
  rows.vocab = judge.vocab;
  // A draft and, behind it, the next one.
  rows.slots = 2 * std::max(judge.draft_tokens, 1);
  rows.draft = memory.take<float>(static_cast<size_t>(rows.slots) * vocab);
  rows.sure = memory.take<Cell<int32_t>>(static_cast<size_t>(rows.slots));
  rows.target = memory.take<float>(static_cast<size_t>(kMaxStepRows) * vocab);
}

size_t probability_bytes(const JudgeOptions& judge) {
  Carver counter(nullptr);
  ProbabilityRows rows;
  carve_probabilities(counter, judge, rows);
  return counter.used();
}

void check_penalty(const char* name, float value) {
  if (!(value >= -2.0f && value <= 2.0f)) {
    fail_argument(name, " must be in [-2, 2], not ", value);
  }
}

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
  if (params.min_tokens < 0 || params.min_tokens > params.max_tokens) {
    fail_argument("min_tokens must be in [0, max_tokens = ", params.max_tokens, "], not ",
                  params.min_tokens);
  }
  if (!(params.repetition_penalty > 0.0f) || std::isinf(params.repetition_penalty)) {
    fail_argument("repetition_penalty must be a finite number > 0, not ",
                  params.repetition_penalty);
  }
  check_penalty("frequency_penalty", params.frequency_penalty);
  check_penalty("presence_penalty", params.presence_penalty);
  if (params.logit_bias.size() > static_cast<size_t>(kMaxLogitBias)) {
    fail_argument("logit_bias has ", params.logit_bias.size(), " tokens; at most ", kMaxLogitBias,
                  " are possible");
  }
  for (const std::string& stop : params.stop) {
    if (stop.empty()) fail_argument("stop holds an empty text; it would end every completion");
  }
  for (const std::vector<int32_t>& sequence : params.stop_sequences) {
    if (sequence.empty()) fail_argument("stop_sequences holds an empty sequence");
  }
  if (params.logprobs && (*params.logprobs < 0 || *params.logprobs > kMaxLogprobs)) {
    fail_argument("logprobs must be in [0, ", kMaxLogprobs, "], not ", *params.logprobs);
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

void check_length(size_t prompt_tokens, int32_t context) {
  if (prompt_tokens < 1) fail_argument("the prompt is empty; it needs at least one token");
  if (prompt_tokens >= static_cast<size_t>(context)) {
    fail_argument("the prompt has ", prompt_tokens, " tokens; the context of ", context,
                  " leaves room for ", context - 1);
  }
}

Sequence::Sequence(Backend& backend, int32_t context, uint32_t log_slots, const JudgeOptions& judge,
                   StateMemory memory)
    : backend_(backend),
      memory_(memory),
      context_(context),
      state_(alloc_state(backend, state_bytes(context), memory)),
      staged_(alloc_state(backend, state_bytes(context), StateMemory::shared)),
      log_(alloc_state(backend, log_bytes(log_slots), StateMemory::shared)),
      rule_(judge.rule),
      probabilities_(alloc_state(backend, probability_bytes(judge), memory)),
      tree_(alloc_state(backend, sizeof(TreeCells), memory)) {
  Carver on_device(state_.data(), Carver::Memory::zeroed), on_host(staged_.data()),
      log(log_.data()), probabilities(probabilities_.data(), Carver::Memory::zeroed);
  carve_state(on_device, context, cells_);
  carve_state(on_host, context, host_);
  carve_log(log, log_slots, cells_);
  carve_probabilities(probabilities, judge, cells_.probabilities);
  cells_.tree = tree_.as<TreeCells>();
}

size_t Sequence::bytes(int32_t context, uint32_t log_slots, const JudgeOptions& judge) {
  return 2 * state_bytes(context) + log_bytes(log_slots) + probability_bytes(judge) +
         sizeof(TreeCells);
}

void Sequence::begin(Stream& stream, const Start& start, const SamplingParams& params) {
  const auto length = static_cast<int32_t>(start.prompt.size());
  check_length(start.prompt.size(), context_);
  if (start.eos.size() > static_cast<size_t>(kMaxEos)) {
    fail_argument(start.eos.size(), " stop tokens; at most ", kMaxEos, " are possible");
  }
  ++begun_;
  reset(start);
  set_options(length, params);
  const auto* end = reinterpret_cast<const std::byte*>(host_.tok + length);
  const auto bytes = static_cast<size_t>(end - staged_.data());
  if (memory_ == StateMemory::shared) {  // `stream` may be another backend's
    std::memcpy(state_.data(), staged_.data(), bytes);
    return;
  }
  backend_.copy_to_device(stream,
                          {.device = state_.data(), .host = staged_.data(), .bytes = bytes});
}

void Sequence::reset(const Start& start) {
  const auto length = static_cast<int32_t>(start.prompt.size());
  limit_ = length + std::min(start.max_tokens, context_ - length);
  Cells& s = *host_.cells;
  s.committed = length - start.masks;
  s.tail = 1;
  s.drafted = 0;
  s.appended = 0;
  s.draft_kv = start.draft_kv;
  s.draft_end = start.draft_kv;
  s.snap_begin = length - start.masks;
  s.snap_count = start.masks + 1;  // the rows of the masks and the one before
  s.limit = limit_;
  s.stop = Stop::running;
  s.round = 0;
  s.seed = start.seed;
  s.phases = start.phases;
  s.eos_count = static_cast<int32_t>(start.eos.size());
  for (size_t i = 0; i < start.eos.size(); ++i) s.eos[i] = start.eos[i];
  for (int32_t i = 0; i < length; ++i) host_.tok[i] = start.prompt[static_cast<size_t>(i)];
  for (uint32_t i = 0; i < cells_.log_slots; ++i) cells_.log[i].sequence = 0;
}

void Sequence::set_options(int32_t length, const SamplingParams& params) {
  Cells& s = *host_.cells;
  s.rule = params.temperature == 0.0f ? Rule::exact : rule_;
  s.sampling.temperature = params.temperature;
  s.sampling.top_k = params.top_k;
  s.sampling.top_p = params.top_p;
  s.sampling.min_p = params.min_p;
  s.logit.prompt_length = length;
  s.logit.earliest_stop = length + params.min_tokens;
  s.logit.repetition_penalty = params.repetition_penalty == 1.0f ? 0.0f : params.repetition_penalty;
  s.logit.frequency_penalty = params.frequency_penalty;
  s.logit.presence_penalty = params.presence_penalty;
  s.logit.bias_count = static_cast<int32_t>(params.logit_bias.size());
  for (size_t i = 0; i < params.logit_bias.size(); ++i) {
    host_.bias[i].token = params.logit_bias[i].first;
    host_.bias[i].value = params.logit_bias[i].second;
  }
  s.logprobs = params.logprobs ? 1 + *params.logprobs : 0;
}

const LogprobEntry& Sequence::logprobs(uint32_t round) const {
  return cells_.logprobs[round % cells_.log_slots];
}

const LogEntry& Sequence::entry(uint32_t round) const {
  const LogEntry& entry = cells_.log[round % cells_.log_slots];
  const uint32_t written = load_acquire(&entry.sequence);
  SPECRT_CHECK(written == round + 1, "log entry of round ", round, " holds sequence ", written);
  return entry;
}

}  // namespace specrt

// One sequence: its cells and tokens in device memory, its verdict log where the host reads it.
#pragma once

#include <span>

#include "decode/state_memory.h"
#include "device/backend.h"
#include "specrt/types.h"

namespace specrt {

// Throws an argument error that names the field and its range.
void validate(const SamplingParams& params);

// Throws an argument error for a token outside of the vocabulary.
void check_tokens(std::span<const int32_t> tokens, int32_t vocab);

// Throws an argument error for a prompt that is empty or leaves no room in the context.
void check_length(size_t prompt_tokens, int32_t context);

// How a sequence is judged, and what that needs room for.
struct JudgeOptions {
  Rule rule = Rule::exact;   // at temperature 0, where all rules agree, `exact` is used
  int32_t draft_tokens = 0;  // drafted in a round at most
  int32_t vocab = 0;
};

class Sequence {
 public:
  // `context` is the largest length, `log_slots` must exceed the number of rounds in flight.
  Sequence(Backend& backend, int32_t context, uint32_t log_slots, const JudgeOptions& judge = {},
           StateMemory memory = StateMemory::device);

  // Bytes that one takes.
  static size_t bytes(int32_t context, uint32_t log_slots, const JudgeOptions& judge);

  struct Start {
    std::span<const int32_t> prompt = {};  // 1 .. context - 1 tokens
    std::span<const int32_t> eos = {};     // tokens that end the sequence, at most kMaxEos
    int32_t max_tokens = 1;                // the context ends a sequence earlier
    int32_t masks = 0;                     // of the last tokens: they stand for tokens to draft
    int32_t draft_kv = 0;                  // prompt tokens that the drafter's KV cache holds
    uint64_t seed = 0;
    Phases phases = Phases::both;  // as the loop's
  };

  // Enqueues writing the cells for a new sequence, before all of its other work. No work of the old
  // one may be in flight. Argument errors change nothing.
  void begin(Stream& stream, const Start& start, const SamplingParams& params);

  // The log entry of enqueued round `round`; its event must have been waited for.
  const LogEntry& entry(uint32_t round) const;

  // The log-probabilities beside `entry(round)`, if the sequence asked for them.
  const LogprobEntry& logprobs(uint32_t round) const;

  const SequenceCells& cells() const { return cells_; }
  int32_t context() const { return context_; }
  int32_t limit() const { return limit_; }   // largest length that the sequence may reach
  uint64_t begun() const { return begun_; }  // sequences so far: whose tokens and caches these are

 private:
  void reset(const Start& start);
  void set_options(int32_t length, const SamplingParams& params);

  Backend& backend_;
  StateMemory memory_;
  int32_t context_;
  int32_t limit_ = 0;
  uint64_t begun_ = 0;
  Buffer state_;   // cells, bias, tokens
  Buffer staged_;  // the same for the host to write
  Buffer log_;
  Rule rule_;
  Buffer probabilities_;  // nothing under `exact`
  Buffer tree_;
  SequenceCells cells_;
  SequenceCells host_;  // pointers into staged_
};

}  // namespace specrt

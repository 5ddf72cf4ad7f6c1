// One sequence: its cells, tokens and verdict log in memory that device and host share.
#pragma once

#include <span>

#include "device/backend.h"
#include "specrt/types.h"

namespace specrt {

// Throws an argument error that names the field and its range.
void validate(const SamplingParams& params);

// Throws an argument error for a token outside of the vocabulary.
void check_tokens(std::span<const int32_t> tokens, int32_t vocab);

class Sequence {
 public:
  // `context` is the largest length, `log_slots` must exceed the number of rounds in flight.
  Sequence(Backend& backend, int32_t context, uint32_t log_slots);

  struct Start {
    std::span<const int32_t> prompt = {};  // 1 .. context - 1 tokens
    std::span<const int32_t> eos = {};     // tokens that end the sequence, at most kMaxEos
    int32_t max_tokens = 1;                // the context ends a sequence earlier
    int32_t draft_kv = 0;                  // prompt tokens that the drafter's KV cache holds
    uint64_t seed = 0;
  };

  // Writes the cells for a new sequence. No work of the old one may be in flight.
  void begin(const Start& start, const SamplingParams& params);

  // The log entry of enqueued round `round`; its event must have been waited for.
  const LogEntry& entry(uint32_t round) const;

  // The log-probabilities beside `entry(round)`, if the sequence asked for them.
  const LogprobEntry& logprobs(uint32_t round) const;

  const SequenceCells& cells() const { return cells_; }
  int32_t context() const { return context_; }
  uint64_t begun() const { return begun_; }  // sequences so far: whose tokens and caches these are

 private:
  void reset(const Start& start);
  void set_options(int32_t length, const SamplingParams& params);

  int32_t context_;
  uint64_t begun_ = 0;
  Buffer memory_;
  SequenceCells cells_;
};

}  // namespace specrt

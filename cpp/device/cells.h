// The state of one sequence as it lies in device memory, and the verdict log that the host reads.
// Positions are absolute, prompt included, from 0. The row at position t chooses token t + 1.
// What each cell means and who writes it: CONTRIBUTING.md, "Cells".
#pragma once

#include <cstdint>

#include "base/hd.h"

namespace specrt {

inline constexpr int32_t kMaxStepRows = 64;  // rows of a step are bits of a 64-bit ancestor mask
inline constexpr int32_t kMaxEos = 16;
inline constexpr int32_t kMaxLogitBias = 1024;
inline constexpr int32_t kMaxLogprobs = 20;
inline constexpr int32_t kMaxTreeDepth = 16;  // of a tree of drafts (device/tree.h)
inline constexpr int32_t kTreeWidth = 8;      // candidates for a token of a tree

#ifdef SPECRT_TRACE_CELLS
enum class CellAccess { read, write };
void trace_cell(const void* cell, CellAccess access);  // defined by the test that looks for races
#endif

// One small word of device memory that later work reads.
template <typename T>
class Cell {
 public:
  SPECRT_HD operator T() const {
#ifdef SPECRT_TRACE_CELLS
    trace_cell(this, CellAccess::read);
#endif
    return value_;
  }
  SPECRT_HD Cell& operator=(T value) {
#ifdef SPECRT_TRACE_CELLS
    trace_cell(this, CellAccess::write);
#endif
    value_ = value;
    return *this;
  }
  SPECRT_HD Cell& operator=(const Cell& other) { return *this = static_cast<T>(other); }
  Cell() = default;
  Cell(const Cell&) = delete;

 private:
  T value_{};
};

enum class Stop : int32_t { running = 0, eos = 1, limit = 2 };

// How drafts are judged.
enum class Rule : int32_t {
  exact = 0,      // the target's token for the noise of its position: the same tokens as without
  rejection = 1,  // speculative sampling: the same distribution (device/rejection.h)
  block = 2,      // the same, judging the drafted tokens together
};

// What Pearl does ahead; one phase alone is for studies of what the other gives (decode/pearl.h).
enum class Phases : int32_t {
  both = 0,
  pre_verify_only = 1,   // nothing is drafted while a draft is verified
  post_verify_only = 2,  // the first drafted token is not judged while the others are drafted
};

// Which rows a step really has: row i is position base + i (chain), for i < rows.
struct StepSpan {
  Cell<int32_t> base;
  Cell<int32_t> rows;
};

// temperature 0 is greedy. Filters apply in this order: temperature, top_k (0: off), top_p, min_p.
struct SamplingCells {
  Cell<float> temperature;
  Cell<int32_t> top_k;
  Cell<float> top_p;
  Cell<float> min_p;
};

// What changes logits before they are chosen from: device/ops.h, "How a token is chosen". Zeros
// change nothing.
struct LogitCells {
  Cell<int32_t> prompt_length;
  Cell<int32_t> earliest_stop;  // tokens at smaller positions may not end the sequence
  Cell<float> repetition_penalty;
  Cell<float> frequency_penalty;
  Cell<float> presence_penalty;
  Cell<int32_t> bias_count;
};

struct LogitBias {
  Cell<int32_t> token;
  Cell<float> value;
};

struct Cells {
  Cell<int32_t> committed;   // C: tok[0 .. C-1] is final
  Cell<int32_t> tail;        // m >= 1: tok[C-1 .. C-2+m]; tail[0] is committed and not yet fed
  Cell<int32_t> drafted;     // c: tokens drafted this round and not in the tail, tok[E .. E-1+c]
  Cell<int32_t> appended;    // tokens that joined the tail this round (for the log)
  Cell<int32_t> draft_kv;    // D: tokens in the drafter's KV cache
  Cell<int32_t> draft_end;   // drafter KV length when this round's drafting is done
  Cell<int32_t> snap_begin;  // E and c as the first draft op saw them, for the later draft ops
  Cell<int32_t> snap_count;
  Cell<int32_t> limit;  // largest C allowed
  Cell<Stop> stop;
  Cell<uint32_t> round;
  Cell<uint64_t> seed;
  Cell<Rule> rule;
  Cell<Phases> phases;
  Cell<int32_t> eos_count;
  Cell<int32_t> eos[kMaxEos];
  SamplingCells sampling;
  LogitCells logit;
  Cell<int32_t> logprobs;  // entries to log for each token: itself and the likeliest; 0: none
};

// One entry for each enqueued round; `sequence` = round + 1 is written last, with release order.
struct alignas(64) LogEntry {
  uint32_t sequence;
  uint32_t round;
  int32_t committed_before;
  int32_t count;     // tokens committed by this round
  int32_t drafted;   // tokens that the drafter proposed in this round
  int32_t judged;    // speculative tokens that were judged
  int32_t accepted;  // of those, committed because they were right
  int32_t draft_kv;  // tokens in the drafter's KV cache after this round
  Stop stop;
  int32_t tokens[kMaxStepRows + 1];
  // Of a tree: the ranks of the first tokens among the candidates; kTreeWidth: none of them.
  int32_t ranked;
  int32_t ranks[kMaxTreeDepth];
};

struct TokenLogprob {
  int32_t token;
  float logprob;
};

// Beside a log entry, written before it: for each committed token itself and the likeliest ones, by
// logprob, then by id. Natural logarithms under softmax of the logits as the model gave them.
struct LogprobEntry {
  TokenLogprob tokens[kMaxStepRows + 1][1 + kMaxLogprobs];
};

// When a step ran: nanoseconds of the device's clock (Backend::clock_offset).
struct StepMark {
  int64_t begin = 0;
  int64_t end = 0;
};

// The last steps of a lane, in memory that the host reads; `count` is written behind each mark,
// with release order.
struct StepClock {
  static constexpr uint32_t kMarks = 4096;
  int64_t begun = 0;
  uint32_t count = 0;
  StepMark marks[kMarks];  // of step number i: marks[i % kMarks]
};

// Probabilities for the rules that need them; null where the rule is `exact`.
struct ProbabilityRows {
  // What drafted tokens were drawn from, by position modulo `slots`; the drafter writes it, the
  // verdict of this round or the next reads it.
  float* draft = nullptr;         // (slots, vocab)
  Cell<int32_t>* sure = nullptr;  // (slots,) the token that was certain, or -1: see the row
  int32_t slots = 0;              // twice the longest draft
  float* target = nullptr;        // (kMaxStepRows, vocab), for the verdict alone
  int32_t vocab = 0;
};

struct TreeCells;  // device/tree.h

// The device memory of one sequence.
struct SequenceCells {
  Cells* cells = nullptr;
  Cell<int32_t>* tok = nullptr;      // (context,) position p is tok[p]
  LogitBias* bias = nullptr;         // (kMaxLogitBias,) of which logit.bias_count are set
  LogprobEntry* logprobs = nullptr;  // ring, as `log`
  ProbabilityRows probabilities{};
  TreeCells* tree = nullptr;
  LogEntry* log = nullptr;  // ring of `log_slots` entries, in memory that the host reads
  uint32_t log_slots = 0;
};

}  // namespace specrt

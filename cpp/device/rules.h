// The decoding rules on cells: what to draft, what to feed, what to accept, what to commit.
// Pure functions, run by the CPU backend, by CUDA kernels and by the scripted backend of the tests,
// so that there is one state machine. Letters as in CONTRIBUTING.md: C committed, m tail, c
// drafted, E = C-1+m the first undrafted position, D drafter KV length.
#pragma once

#include "base/hd.h"
#include "device/cells.h"

namespace specrt {

SPECRT_HD inline bool running(const Cells& s) { return s.stop == Stop::running; }

// Without post-verify, nothing is drafted behind a tail that has a draft.
SPECRT_HD inline bool may_draft(const Cells& s) {
  if (!running(s)) return false;
  return s.phases != Phases::pre_verify_only || s.tail == 1;
}

SPECRT_HD inline int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }
SPECRT_HD inline int32_t max_i32(int32_t a, int32_t b) { return a > b ? a : b; }

// Who may have drafted before a drafter in the same round.
enum class DraftOrder : int32_t {
  first,
  after_ngram,  // where the n-gram lookup found something, only keep the own KV cache up to date
};

// How a drafter makes the tokens of a draft.
enum class Drafting : int32_t {
  one_by_one,  // a step for each
  at_once,     // one step, in which a mask stands for each token that is not there yet
  by_depth,    // of a tree: a step for all tokens of a depth
};

// What the host fixes for a draft of a model.
struct DraftPlan {
  int32_t capacity = 0;       // g or k: tokens asked for, an upper bound
  int32_t bonus_rows = 0;     // 1 in Lockstep, where a bonus row follows the draft; 0 in Pearl
  int32_t window = 0;         // positions that the drafter can feed
  int32_t catch_up_rows = 0;  // F: rows of the first draft step
  DraftOrder order = DraftOrder::first;
  Drafting drafting = Drafting::one_by_one;
  int32_t mask_token = 0;   // of drafts made at once
  int32_t token_shift = 0;  // 1: the rows are pairs; position p reads feature p and token p + 1
  int32_t heads = 0;        // each drafts one of the tokens behind the committed ones; 0: none
};

// Whether the target has left its hidden states of `position`: those of all that is committed but
// the last token. What a pair without them takes says MissingFeatures.
SPECRT_HD inline bool has_features(const Cells& s, int32_t position) {
  return position < s.committed - 1;
}

SPECRT_HD inline int32_t last_with_features(const Cells& s) { return s.committed - 2; }

// Where a drafter's KV cache may end of the rows below `end` that were fed: pairs that stand behind
// the target's features are fed again when it has computed them.
SPECRT_HD inline int32_t settled_end(const Cells& s, int32_t end, int32_t token_shift) {
  return token_shift > 0 ? min_i32(end, s.committed - token_shift) : end;
}

// What the host fixes for an n-gram lookup.
struct NgramPlan {
  int32_t capacity = 0;    // tokens asked for, an upper bound
  int32_t bonus_rows = 0;  // as in DraftPlan
  int32_t shortest = 0;    // tokens that must match, from `longest` down to `shortest`
  int32_t longest = 0;
};

// First position of the latest earlier occurrence of tok[end - n .. end-1], or -1.
SPECRT_HD inline int32_t find_ngram(const Cell<int32_t>* tok, int32_t end, int32_t n) {
  for (int32_t begin = end - n - 1; begin >= 0; --begin) {
    int32_t same = 0;
    while (same < n && tok[begin + same] == tok[end - n + same]) ++same;
    if (same == n) return begin;
  }
  return -1;
}

// How many tokens an n-gram lookup may draft.
SPECRT_HD inline int32_t ngram_room(const Cells& s, const NgramPlan& plan) {
  if (!may_draft(s)) return 0;
  const int32_t end = s.committed - 1 + s.tail;
  return max_i32(0, min_i32(plan.capacity, s.limit - end - plan.bonus_rows));
}

// Drafts what followed the last tokens when they occurred before (prompt lookup decoding). Where
// that reaches the end of the tokens it goes on into its own draft, so a loop is drafted as a loop.
SPECRT_HD inline void propose_ngram(Cells& s, Cell<int32_t>* tok, const NgramPlan& plan) {
  s.drafted = 0;
  s.snap_count = 0;
  const int32_t room = ngram_room(s, plan);
  if (room == 0) return;
  const int32_t end = s.committed - 1 + s.tail;
  for (int32_t n = plan.longest; n >= plan.shortest; --n) {
    const int32_t begin = find_ngram(tok, end, n);
    if (begin < 0) continue;
    for (int32_t i = 0; i < room; ++i) tok[end + i] = static_cast<int32_t>(tok[begin + n + i]);
    s.drafted = room;
    return;
  }
}

// What was looked up was certain; called where a rule asks for probabilities.
SPECRT_HD inline void note_sure_drafts(const SequenceCells& sequence) {
  const Cells& s = *sequence.cells;
  if (s.rule == Rule::exact) return;
  const ProbabilityRows& rows = sequence.probabilities;
  const int32_t begin = s.committed - 1 + s.tail, count = s.drafted;
  for (int32_t i = 0; i < count; ++i) {
    rows.sure[(begin + i) % rows.slots] = static_cast<int32_t>(sequence.tok[begin + i]);
  }
}

// Catch-up step of an autoregressive drafter: feeds tokens that its KV cache lacks, at most `rows`
// and all but the last, which the first draft step needs. Nothing is proposed.
SPECRT_HD inline void begin_catch_up(Cells& s, StepSpan& span, int32_t rows, int32_t window,
                                     int32_t token_shift) {
  const int32_t kv = s.draft_kv;
  const int32_t unsettled = min_i32(s.committed - 2 + s.tail - token_shift, window);
  const int32_t end = settled_end(s, unsettled, token_shift);
  const int32_t fed = running(s) ? max_i32(0, min_i32(rows, end - kv)) : 0;
  span.base = kv;
  span.rows = fed;
  if (fed == 0) return;
  s.draft_kv = kv + fed;
  s.draft_end = kv + fed;
}

// Behind the tokens that the drafter must feed stand c - 1 masks, at the positions of the tokens
// that they stand for; the last token's row and theirs draft (ParallelSpec, arXiv 2410.05589). What
// the KV cache holds of masks is written over by the next step.
SPECRT_HD inline void place_masks(Cells& s, Cell<int32_t>* tok, StepSpan& span,
                                  const DraftPlan& plan) {
  const int32_t count = s.snap_count, begin = s.snap_begin;
  if (count == 0) return;
  for (int32_t i = 0; i < count - 1; ++i) tok[begin + i] = plan.mask_token;
  span.rows = span.rows + count - 1;
  s.draft_end = settled_end(s, begin - plan.token_shift, plan.token_shift);
}

// First draft op: decides c, plans the drafter's KV length, and gives the span of the first step.
SPECRT_HD inline void begin_draft(Cells& s, Cell<int32_t>* tok, StepSpan& span,
                                  const DraftPlan& plan) {
  if (!running(s)) {
    s.drafted = 0;
    s.snap_count = 0;
    span.rows = 0;
    return;
  }
  const int32_t end = s.committed - 1 + s.tail, kv = s.draft_kv;
  const int32_t rows_end = end - plan.token_shift;  // behind the last row that can be fed as it is
  const int32_t need = rows_end - kv;
  span.base = kv;
  if (plan.order == DraftOrder::after_ngram && s.drafted > 0) {
    span.rows = max_i32(0, min_i32(min_i32(need, plan.catch_up_rows), plan.window - kv));
    s.draft_end = settled_end(s, kv + span.rows, plan.token_shift);
    return;
  }
  int32_t count =
      min_i32(plan.capacity, min_i32(s.limit - end - plan.bonus_rows, plan.window - rows_end + 1));
  if (plan.heads > 0) count = min_i32(count, plan.heads - (s.tail - 1));
  count = may_draft(s) ? max_i32(count, 0) : 0;
  const int32_t fed = count > 0 ? min_i32(need, plan.catch_up_rows) : 0;
  if (fed < need) count = 0;
  s.drafted = count;
  // Of a tree, and of pairs whose features were estimates, the KV cache keeps nothing.
  const bool drops = plan.token_shift > 0 || plan.drafting == Drafting::by_depth;
  const int32_t kept = drops ? 0 : count - 1;
  s.draft_end = settled_end(s, count > 0 ? rows_end + kept : kv + fed, plan.token_shift);
  s.snap_begin = end;
  s.snap_count = count;
  span.rows = fed;
  if (plan.drafting == Drafting::at_once) place_masks(s, tok, span, plan);
}

// Whether draft step `index` (from 0) proposes a token. Reads the snapshot only, because in an
// overlapping loop commit may already have moved C and m.
SPECRT_HD inline bool drafts(const Cells& s, int32_t index) { return index < s.snap_count; }

SPECRT_HD inline int32_t draft_position(const Cells& s, int32_t index) {
  return s.snap_begin + index;
}

// Row of the step, from its first, whose logits draft token `index`.
SPECRT_HD inline int32_t draft_row(const Cells& s, const StepSpan& span, int32_t index,
                                   Drafting drafting) {
  return drafting == Drafting::at_once ? span.rows - s.snap_count + index : span.rows - 1;
}

// Stores token `index` of the draft. One by one, it gives the span of the next step, which feeds
// it; the last drafted token is never fed.
SPECRT_HD inline void finish_draft_step(Cells& s, Cell<int32_t>* tok, StepSpan& span, int32_t index,
                                        Drafting drafting, int32_t token_shift, int32_t token) {
  if (drafts(s, index)) tok[draft_position(s, index)] = token;
  if (drafting == Drafting::at_once) return;
  span.base = draft_position(s, index) - token_shift;
  span.rows = drafts(s, index + 1) ? 1 : 0;
}

// Lockstep: the draft joins the tail before the target step.
SPECRT_HD inline void append_draft(Cells& s) {
  if (!running(s)) return;
  s.appended = s.drafted;
  s.tail = s.tail + s.drafted;
  s.drafted = 0;
}

// Span of the target step: the whole tail at its own positions.
SPECRT_HD inline void feed_tail(const Cells& s, StepSpan& span) {
  span.base = s.committed - 1;
  span.rows = running(s) ? static_cast<int32_t>(s.tail) : 0;
}

// Span of prompt tokens [begin, begin + count). Reads no cell of the sequence: the drafter may
// still read the prompt while the target commits its first token.
SPECRT_HD inline void feed_prompt(StepSpan& span, int32_t begin, int32_t count) {
  span.base = begin;
  span.rows = count;
}

struct Verdict {
  int32_t count = 0;     // tokens chosen: tokens[0 .. count-1], accepted ones first
  int32_t accepted = 0;  // drafted tokens found right; the last of `tokens` may be one of them
  int32_t judged = 0;
  bool survive = false;  // everything held and the first token of the next draft holds too
  Stop stop = Stop::running;
  int32_t tokens[kMaxStepRows + 1] = {};
  int32_t ranked = 0;  // of a tree, as in LogEntry
  int32_t ranks[kMaxTreeDepth] = {};
};

SPECRT_HD inline bool is_eos(const Cells& s, int32_t token) {
  const int32_t count = s.eos_count;
  for (int32_t i = 0; i < count; ++i) {
    if (s.eos[i] == token) return true;
  }
  return false;
}

// Rule `exact` on a chain. `pick(i, position)` chooses the target's token from the row of tail[i].
// The committed token is always the target's; the draft only decides how far the walk goes.
template <typename Pick>
SPECRT_HD inline Verdict walk_chain(const Cells& s, const Cell<int32_t>* tok, Pick&& pick) {
  Verdict v;
  const int32_t committed = s.committed, tail = s.tail, limit = s.limit;
  const int32_t drafted = s.drafted;
  for (int32_t row = 0;; ++row) {
    const int32_t position = committed + v.count;
    const int32_t y = pick(row, position);
    const bool has_draft = row + 1 < tail || drafted > 0;
    const bool right = has_draft && tok[position] == y;
    v.tokens[v.count++] = y;
    v.judged += has_draft ? 1 : 0;
    v.accepted += right ? 1 : 0;
    if (is_eos(s, y)) v.stop = Stop::eos;
    if (v.stop == Stop::running && position + 1 == limit) v.stop = Stop::limit;
    if (v.stop != Stop::running || !right) return v;
    if (row + 1 == tail) {
      v.survive = true;
      return v;
    }
  }
}

// Publishes a log entry from the host; a device has a store of its own that the host sees.
struct StoreRelease {
  void operator()(uint32_t* word, uint32_t value) const {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
  }
};

inline uint32_t load_acquire(const uint32_t* word) {
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

// Adds a mark for the step that ends at `end`. `publish(word, value)` stores with release order, as
// the host sees it.
template <typename Publish>
SPECRT_HD inline void finish_step(StepClock& clock, int64_t end, const Publish& publish) {
  StepMark& mark = clock.marks[clock.count % StepClock::kMarks];
  mark.begin = clock.begun;
  mark.end = end;
  publish(&clock.count, clock.count + 1);
}

// `publish` as for finish_step.
template <typename Publish>
SPECRT_HD inline void write_log(const SequenceCells& sequence, const Verdict& v, int32_t before,
                                int32_t drafted, const Publish& publish) {
  Cells& s = *sequence.cells;
  const uint32_t round = s.round;
  LogEntry& entry = sequence.log[round % sequence.log_slots];
  entry.round = round;
  entry.committed_before = before;
  entry.count = v.count;
  entry.drafted = drafted;
  entry.judged = v.judged;
  entry.accepted = v.accepted;
  entry.draft_kv = s.draft_kv;
  entry.stop = s.stop;
  for (int32_t i = 0; i < v.count; ++i) entry.tokens[i] = v.tokens[i];
  entry.ranked = v.ranked;
  for (int32_t i = 0; i < v.ranked; ++i) entry.ranks[i] = v.ranks[i];
  s.round = round + 1;
  publish(&entry.sequence, round + 1);
}

// Commits a verdict and appends its log entry. After a stop, a round only logs an empty entry.
template <typename Publish>
SPECRT_HD inline void commit(const SequenceCells& sequence, const Verdict& v,
                             const Publish& publish) {
  Cells& s = *sequence.cells;
  const int32_t before = s.committed;
  if (!running(s)) {
    write_log(sequence, Verdict{}, before, 0, publish);
    return;
  }
  const int32_t proposed = s.appended + s.drafted;
  const int32_t after = before + v.count;
  if (!v.survive) sequence.tok[after - 1] = v.tokens[v.count - 1];
  s.committed = after;
  s.tail = v.survive ? static_cast<int32_t>(s.drafted) : 1;
  const int32_t draft_kv = min_i32(s.draft_end, v.survive ? after - 1 + s.tail : after - 1);
  s.draft_kv = draft_kv;
  s.draft_end = draft_kv;  // for rounds without a draft op
  s.drafted = 0;
  s.appended = 0;
  s.stop = v.stop;
  write_log(sequence, v, before, proposed, publish);
}

inline void commit(const SequenceCells& sequence, const Verdict& v) {
  commit(sequence, v, StoreRelease{});
}

// Without pre-verify, a draft behind a single token joins the tail instead of being judged.
inline bool postpones_verdict(const Cells& s) {
  return running(s) && s.phases == Phases::post_verify_only && s.tail == 1 && s.drafted > 0;
}

// The round of a postponed verdict: all of the draft survives, nothing is committed.
inline void postpone_verdict(const SequenceCells& sequence) {
  Cells& s = *sequence.cells;
  const int32_t drafted = s.drafted;
  s.tail = 1 + drafted;
  s.draft_kv = s.draft_end;
  s.drafted = 0;
  write_log(sequence, Verdict{}, s.committed, drafted, StoreRelease{});
}

}  // namespace specrt

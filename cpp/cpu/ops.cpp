#include "cpu/ops.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>

#include "base/error.h"
#include "cpu/adjust.h"
#include "cpu/logprobs.h"
#include "cpu/pick.h"
#include "cpu/streaming.h"
#include "device/candidates.h"
#include "device/rejection.h"

namespace specrt::cpu {
namespace {

Row describe(const StepRows& step, int32_t s, int32_t i) {
  const Segment& segment = step.segments[static_cast<size_t>(s)];
  const uint64_t own = uint64_t{1} << i;
  Row row{};
  row.row = s * step.capacity + i;
  row.segment = s;
  row.base = segment.span->base;
  row.slot = row.base + i;
  row.position = row.base + (segment.depth != nullptr ? segment.depth[i] : i);
  row.sees = segment.sees != nullptr ? segment.sees[i] : own | (own - 1);
  return row;
}

RowList list_rows(const StepRows& step) {
  SPECRT_CHECK(step.segment_count * step.capacity <= kMaxStepRows, "a step on the CPU has 1 to ",
               kMaxStepRows, " rows, not ", step.segment_count, " x ", step.capacity);
  RowList list;
  for (int32_t s = 0; s < step.segment_count; ++s) {
    const RowRange range = rows_of(step, s);
    for (int32_t i = range.begin; i < range.end; ++i) {
      list.rows[static_cast<size_t>(list.count++)] = describe(step, s, i);
    }
  }
  return list;
}

void check_slots(const char* op, const RowList& list, const KvLayer& kv) {
  for (int32_t i = 0; i < list.count; ++i) {
    const Row& row = list.rows[static_cast<size_t>(i)];
    SPECRT_CHECK(row.base >= 0 && row.slot < kv.slots, op, ": slot ", row.slot, " of a cache of ",
                 kv.slots);
    SPECRT_CHECK(row.sees >> (row.slot - row.base) == 1, op, ": row ", row.slot - row.base,
                 " sees rows after itself or not itself");
  }
}

void store_row(const float* row, int32_t cols, DType dtype, std::byte* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, row, static_cast<size_t>(cols) * sizeof(float));
    return;
  }
  auto* halves = reinterpret_cast<bf16_bits*>(out);
  for (int32_t k = 0; k < cols; ++k) halves[k] = to_bf16(row[k]);
}

void widen_row(const bf16_bits* row, int32_t cols, float* out) {
  for (int32_t k = 0; k < cols; ++k) out[k] = to_float(row[k]);
}

void run(const Kernels& kernels, const EmbedArgs& args, Team&) {
  SPECRT_CHECK(args.gain.gain == nullptr, "embed: CPU does not join ops");
  RowList list = list_rows(args.rows);
  for (int32_t i = 0; i < list.count; ++i) {
    Row& row = list.rows[static_cast<size_t>(i)];
    const Segment& segment = args.rows.segments[static_cast<size_t>(row.segment)];
    const int32_t token = segment.row_tokens != nullptr ? segment.row_tokens[row.slot - row.base]
                                                        : segment.tok[row.position];
    SPECRT_CHECK(token >= 0 && token < args.table.rows, "embed: token ", token,
                 " of a vocabulary of ", args.table.rows);
    row.token = token;
  }
  kernels.embed(args, list);
}

void run(const Kernels& kernels, const RopeAnglesArgs& args, Team&) {
  kernels.rope_angles(args, list_rows(args.rows));
}

void run(const Kernels& kernels, const RmsNormArgs& args, Team& team) {
  kernels.rms_norm(args, list_rows(args.rows), team);
}

void run(const Kernels& kernels, const LinearArgs& args, Team& team) {
  SPECRT_CHECK(args.epilogue != Epilogue::rope_kv && args.gain.gain == nullptr &&
                   args.factor.squares.data == nullptr,
               "linear: CPU does not join ops");
  const RowList list = list_rows(args.rows);
  if (list.count > 0) kernels.linear(args, list, team);
}

void run(const Kernels& kernels, const RopeKvArgs& args, Team& team) {
  const RowList list = list_rows(args.rows);
  check_slots("rope_kv", list, args.kv);
  kernels.rope_kv(args, list, team);
}

void run(const Kernels& kernels, const AttentionArgs& args, Team& team) {
  const RowList list = list_rows(args.rows);
  check_slots("attention", list, args.kv);
  if (list.count > 0) kernels.attention(args, list, team);
}

std::byte* features_of(const char* op, const StepRows& rows, const Row& row,
                       const FeatureRows& features, int32_t at, int32_t first) {
  std::byte* data = rows.segments[static_cast<size_t>(row.segment)].features;
  SPECRT_CHECK(data != nullptr, op, ": the segment has no features");
  SPECRT_CHECK(at >= 0 && at < features.slots, op, ": slot ", at, " of ", features.slots);
  return data + at * feature_row_bytes(features) +
         first * static_cast<int64_t>(size_of(features.dtype));
}

bool has_features_ahead(const KeepFeaturesArgs& args, const Row& row) {
  const Cells* cells = args.rows.segments[static_cast<size_t>(row.segment)].cells;
  SPECRT_CHECK(cells != nullptr, "keep_features: the segment has no cells");
  return has_features(*cells, row.slot + args.ahead);
}

void run(const Kernels&, const KeepFeaturesArgs& args, Team&) {
  const RowList list = list_rows(args.rows);
  for (int32_t i = 0; i < list.count; ++i) {
    const Row& row = list.rows[static_cast<size_t>(i)];
    if (args.ahead > 0 && has_features_ahead(args, row)) continue;
    std::byte* out = features_of("keep_features", args.rows, row, args.features,
                                 row.slot + args.ahead, args.first);
    store_row(args.x.row<float>(row.row), args.x.cols, args.features.dtype, out);
  }
}

void run(const Kernels&, const LoadFeaturesArgs& args, Team&) {
  const RowList list = list_rows(args.rows);
  const DType from = args.features.dtype, to = args.out.dtype;
  for (int32_t i = 0; i < list.count; ++i) {
    const Row& row = list.rows[static_cast<size_t>(i)];
    auto* out = args.out.row<std::byte>(row.row);
    const Segment& segment = args.rows.segments[static_cast<size_t>(row.segment)];
    const Cells* cells = segment.cells;
    SPECRT_CHECK(cells != nullptr, "load_features: the segment has no cells");
    const bool real = has_features(*cells, row.position);
    if (real && args.missing == MissingFeatures::estimates) continue;
    if (!real && args.missing == MissingFeatures::mask) {
      store_row(args.mask, args.out.cols, to, out);
      continue;
    }
    const bool takes_last = args.missing == MissingFeatures::last;
    const int32_t instead =
        takes_last ? last_with_features(*cells) : estimate_slot(segment, row.slot - row.base);
    const std::byte* kept = features_of("load_features", args.rows, row, args.features,
                                        real ? row.position : instead, args.first);
    if (from == to) {
      std::memcpy(out, kept, static_cast<size_t>(args.out.cols) * size_of(to));
    } else {
      widen_row(reinterpret_cast<const bf16_bits*>(kept), args.out.cols,
                reinterpret_cast<float*>(out));
    }
  }
}

void run(const Kernels&, const ConvertArgs& args, Team&) {
  const RowList list = list_rows(args.rows);
  for (int32_t i = 0; i < list.count; ++i) {
    const int32_t row = list.rows[static_cast<size_t>(i)].row;
    store_row(args.x.row<float>(row), args.x.cols, args.out.dtype, args.out.row<std::byte>(row));
  }
}

void run(const Kernels&, const ScatterArgs& args, Team&) {
  const RowList list = list_rows(args.rows);
  const auto cols = static_cast<float>(args.out.cols);
  for (int32_t i = 0; i < list.count; ++i) {
    const int32_t row = list.rows[static_cast<size_t>(i)].row;
    const auto* x = args.x.row<float>(row);
    auto* out = args.out.row<float>(row);
    std::fill_n(out, args.out.cols, -std::numeric_limits<float>::infinity());
    for (int32_t k = 0; k < args.x.cols; ++k) {
      if (args.ids[k] >= 0 && args.ids[k] < cols) out[static_cast<int32_t>(args.ids[k])] = x[k];
    }
  }
}

void run(const Kernels& kernels, const PlanStreamsArgs& args, Team& team) {
  for (int32_t s = 0; s < args.rows.segment_count; ++s) {
    plan_streams(kernels, args, s, team);
  }
}

void run(const Kernels&, const InsertStreamsArgs& args, Team&) {
  const StepRows above = with_streams(args.rows);
  const RowList list = list_rows(above);
  const int32_t cols = args.x.cols;
  for (int32_t i = 0; i < list.count; ++i) {
    const Row& row = list.rows[static_cast<size_t>(i)];
    const int32_t first = row.segment * args.rows.capacity, own = row.slot - row.base;
    const StreamingCells* streams =
        args.rows.segments[static_cast<size_t>(row.segment)].streams.cells;
    auto* out = args.out.row<float>(row.row);
    if (streams == nullptr) {
      store_row(args.x.row<float>(first + own), cols, DType::f32,
                reinterpret_cast<std::byte*>(out));
      continue;
    }
    const float* x = args.x.row<float>(first + streams->from[main_row(*streams, own)]);
    if (own < streams->kept) {
      store_row(x, cols, DType::f32, reinterpret_cast<std::byte*>(out));
      continue;
    }
    const int32_t stream = stream_of(*streams, own);
    SPECRT_CHECK(stream < args.streams, "insert_streams: stream ", stream, " of ", args.streams);
    const float* embedding = args.embedding + static_cast<int64_t>(stream) * cols;
    for (int32_t k = 0; k < cols; ++k) out[k] = x[k] + embedding[k];
  }
}

// Slot `from` of a cache to slot `to`: a column of a key block, a row of the values.
void move_slot(std::byte* cache, const KvLayer& kv, int32_t head, int32_t from, int32_t to) {
  const auto size = static_cast<int64_t>(size_of(kv.dtype));
  const int64_t row = kv.head_dim * size;
  std::byte* values = cache + kv.value_offset + head * (kv_value_bytes(kv) / kv.kv_heads);
  std::memcpy(values + to * row, values + from * row, static_cast<size_t>(row));
  const int64_t line = 64, word = line / kKvBlock;  // a line holds a word of every slot
  const int64_t block_bytes = panel_bytes(kv.dtype, kv.head_dim);
  std::byte* keys = cache + kv.key_offset + head * (kv_key_bytes(kv) / kv.kv_heads);
  const std::byte* source = keys + from / kKvBlock * block_bytes + from % kKvBlock * word;
  std::byte* target = keys + to / kKvBlock * block_bytes + to % kKvBlock * word;
  for (int64_t at = 0; at < block_bytes; at += line) {
    std::memcpy(target + at, source + at, static_cast<size_t>(word));
  }
}

void run(const Kernels&, const MoveKvOp& op, Team&) {
  const int32_t base = op.args.span->base, count = *op.args.count;
  for (const KvLayer& kv : op.layers) {
    for (int32_t d = 0; d < count; ++d) {
      const int32_t row = op.args.path[d];
      const int32_t from = op.args.from == nullptr ? row : static_cast<int32_t>(op.args.from[row]);
      SPECRT_CHECK(from >= d && base + from < kv.slots, "move_kv: row ", from, " of a path at ", d);
      for (int32_t head = 0; from != d && head < kv.kv_heads; ++head) {
        move_slot(op.args.kv, kv, head, base + from, base + d);
      }
    }
  }
}

void run(const Kernels&, const MoveFeaturesArgs& args, Team&) {
  const int32_t base = args.span->base, count = *args.count;
  const int64_t bytes = feature_row_bytes(args.rows);
  for (int32_t d = 0; d < count; ++d) {
    const int32_t row = args.path[d];
    SPECRT_CHECK(row >= d && base + row < args.rows.slots, "move_features: row ", row,
                 " of a path at ", d);
    if (row == d) continue;
    std::memcpy(args.features + (base + d) * bytes, args.features + (base + row) * bytes,
                static_cast<size_t>(bytes));
  }
}

void run(const Kernels&, const CopyToDeviceArgs& args, Team&) {
  std::memcpy(args.device, args.host, args.bytes);
}

void run(const Kernels&, const CopyToHostArgs& args, Team&) {
  std::memcpy(args.host, args.device, args.bytes);
}

void run(const Kernels&, const FeedPromptArgs& args, Team&) {
  feed_prompt(*args.span, args.begin, args.count);
}

void run(const Kernels&, const ProposeNgramArgs& args, Team&) {
  propose_ngram(*args.sequence.cells, args.sequence.tok, args.plan);
  note_sure_drafts(args.sequence);
}

void run(const Kernels&, const BeginCatchUpArgs& args, Team&) {
  begin_catch_up(*args.sequence.cells, *args.span, args.rows, args.window, args.token_shift);
}

void run(const Kernels&, const BeginDraftArgs& args, Team&) {
  begin_draft(*args.sequence.cells, args.sequence.tok, *args.span, args.plan);
}

void pick_lists(const Kernels& kernels, const PickCandidatesArgs& args, const CandidateLists& lists,
                Team& team) {
  const Cells& cells = *args.sequence.cells;
  TreeCells& tree = *args.sequence.tree;
  const int32_t vocab = args.vocab, begin = draft_position(cells, 0);
  const size_t adjusting = adjust_scratch_bytes(vocab);
  team.parallel(lists.count, int64_t{lists.count} * vocab * 64, [&](int i, int member) {
    std::byte* scratch =
        team.scratch(member, adjusting + static_cast<size_t>(vocab) * sizeof(float));
    const float* logits = args.logits.row<float>(args.first_row + lists.row + i);
    const int32_t position = lists.position + i * lists.stride;
    const int32_t known = args.streams == nullptr ? begin : lists.position;
    int32_t best[kTreeWidth];
    pick_several(kernels, adjust(args.sequence, logits, vocab, known, scratch), vocab, cells,
                 position, kTreeWidth, reinterpret_cast<float*>(scratch + adjusting), best);
    keep_candidates(tree, lists.first + i, best);
    if (args.tree != nullptr) place_children(tree, *args.tree, lists.first + i);
    const bool was_mask = args.tree == nullptr && args.streams == nullptr;
    if (was_mask) args.sequence.tok[position] = best[0];
  });
}

void run(const Kernels& kernels, const PickCandidatesArgs& args, Team& team) {
  const CandidateLists lists = candidate_lists(args);
  SPECRT_CHECK(lists.count <= args.lists && (lists.count == 0 || lists.row >= 0),
               "pick_candidates: ", lists.count, " lists of at most ", args.lists, " from row ",
               lists.row, " on");
  if (args.streams != nullptr) args.sequence.tree->levels = lists.count;
  if (lists.count > 0) pick_lists(kernels, args, lists, team);
  if (args.tree != nullptr && args.depth == 0) {
    begin_depths(*args.sequence.cells, *args.tree, *args.span, args.token_shift);
  }
}

void run(const Kernels&, const GrowTreeArgs& args, Team&) {
  grow_tree(*args.sequence.cells, args.sequence.tok, *args.sequence.tree, *args.shape, *args.span,
            args.candidates);
}

void run(const Kernels&, const FeedTailArgs& args, Team&) {
  Cells& cells = *args.sequence.cells;
  if (args.source == TailSource::appended) append_draft(cells);
  feed_tail(cells, *args.span);
}

// The token at `position` from row `row` of the logits.
int32_t choose(const Kernels& kernels, const SequenceCells& sequence, const RowsView& logits,
               int32_t row, int32_t position, Team& team, int member) {
  std::byte* scratch = team.scratch(member, adjust_scratch_bytes(logits.cols));
  const float* adjusted = adjust(sequence, logits.row<float>(row), logits.cols, position, scratch);
  return pick(kernels, adjusted, logits.cols, *sequence.cells, position);
}

// The probabilities of the token at `position` from its row of logits.
void row_probabilities(const SequenceCells& sequence, const float* logits, int32_t position,
                       Team& team, int member, float* out) {
  const int32_t vocab = sequence.probabilities.vocab;
  std::byte* scratch = team.scratch(member, adjust_scratch_bytes(vocab));
  probabilities(adjust(sequence, logits, vocab, position, scratch), vocab, *sequence.cells, out);
}

// Draws the token at `position` from row `row` and keeps the probabilities for the verdict.
int32_t draw_draft(const PickDraftArgs& args, int32_t row, int32_t position, Team& team) {
  const Cells& cells = *args.sequence.cells;
  const ProbabilityRows& rows = args.sequence.probabilities;
  const int32_t slot = position % rows.slots;
  float* kept = rows.draft + static_cast<int64_t>(slot) * rows.vocab;
  row_probabilities(args.sequence, args.logits.row<float>(row), position, team, 0, kept);
  rows.sure[slot] = -1;
  return KeyedDraws(cells.seed).draw(draft_key(cells, position), rows.vocab, [&](int32_t token) {
    return static_cast<double>(kept[token]);
  });
}

void run(const Kernels& kernels, const PickDraftArgs& args, Team& team) {
  Cells& cells = *args.sequence.cells;
  int32_t token = 0;
  if (drafts(cells, args.index)) {
    const int32_t own = draft_row(cells, *args.span, args.index, args.drafting);
    SPECRT_CHECK(own >= 0, "pick_draft: step ", args.index, " drafts but fed no row");
    const int32_t position = draft_position(cells, args.index), row = args.first_row + own;
    token = cells.rule == Rule::exact
                ? choose(kernels, args.sequence, args.logits, row, position, team, 0)
                : draw_draft(args, row, position, team);
  }
  finish_draft_step(cells, args.sequence.tok, *args.span, args.index, args.drafting,
                    args.token_shift, token);
}

Verdict judge_by_probabilities(const JudgeArgs& args, int32_t begin, Team& team) {
  const Cells& cells = *args.sequence.cells;
  const ProbabilityRows& rows = args.sequence.probabilities;
  const int32_t tail = cells.tail, committed = cells.committed;
  SPECRT_CHECK(rows.target != nullptr && rows.vocab == args.vocab,
               "judge: the sequence has no room for probabilities");
  const int64_t bytes = static_cast<int64_t>(tail) * args.vocab * 64;
  team.parallel(tail, bytes, [&](int i, int member) {
    row_probabilities(args.sequence, args.logits.row<float>(args.first_row + begin + i),
                      committed + i, team, member,
                      rows.target + static_cast<int64_t>(i) * rows.vocab);
  });
  return walk_rejection(cells, args.sequence.tok, KeptRows{rows}, KeyedDraws(cells.seed));
}

// Fills the round's entry of the logprob ring, which the log entry then publishes; `row_of` gives
// the row of the step that each token was chosen from.
template <typename RowOf>
void log_verdict(const JudgeArgs& args, const Verdict& verdict, Team& team, const RowOf& row_of) {
  const Cells& cells = *args.sequence.cells;
  LogprobEntry& entry = args.sequence.logprobs[cells.round % args.sequence.log_slots];
  const int32_t most = min_i32(cells.logprobs - 1, args.vocab - 1);
  const int64_t bytes = static_cast<int64_t>(verdict.count) * args.vocab * sizeof(float);
  team.parallel(verdict.count, bytes, [&](int i, int) {
    log_probabilities(args.logits.row<float>(args.first_row + row_of(i)), args.vocab,
                      verdict.tokens[i], most, entry.tokens[i]);
  });
}

// The tokens of all tail rows are chosen side by side, then the walk reads those that it needs.
Verdict judge_by_tokens(const Kernels& kernels, const JudgeArgs& args, int32_t begin, Team& team) {
  const Cells& cells = *args.sequence.cells;
  const int32_t tail = cells.tail, committed = cells.committed;
  std::array<int32_t, kMaxStepRows> chosen{};
  // Drawing noise for a token costs about as much as reading 64 bytes.
  const bool greedy = cells.sampling.temperature == 0.0f;
  const int64_t bytes = static_cast<int64_t>(tail) * args.vocab * (greedy ? 4 : 64);
  team.parallel(tail, bytes, [&](int i, int member) {
    chosen[static_cast<size_t>(i)] =
        choose(kernels, args.sequence, args.logits, args.first_row + begin + i, committed + i, team,
               member);
  });
  return walk_chain(cells, args.sequence.tok,
                    [&](int32_t i, int32_t) { return chosen[static_cast<size_t>(i)]; });
}

// Of a tree only the rows on the way of the target's tokens are chosen from, few of many.
void judge_tree(const Kernels& kernels, const JudgeArgs& args, Team& team) {
  const SequenceCells& sequence = args.sequence;
  const Cells& cells = *sequence.cells;
  SPECRT_CHECK(cells.rule == Rule::exact, "judge: trees are judged by the rule exact");
  const Verdict verdict = walk_tree(
      cells, sequence.tok, *sequence.tree, *args.tree, min_i32(args.span->rows, args.tree->rows),
      [&](int32_t row, int32_t position) {
        return choose(kernels, sequence, args.logits, args.first_row + row, position, team, 0);
      });
  if (cells.logprobs > 0) {
    log_verdict(args, verdict, team, [&](int32_t i) -> int32_t { return sequence.tree->path[i]; });
  }
  commit(sequence, verdict);
}

void run(const Kernels& kernels, const JudgeArgs& args, Team& team) {
  const Cells& cells = *args.sequence.cells;
  if (!running(cells)) {
    if (args.tree != nullptr) args.sequence.tree->path_length = 0;
    commit(args.sequence, Verdict{});
    return;
  }
  if (args.tree != nullptr) {
    judge_tree(kernels, args, team);
    return;
  }
  if (postpones_verdict(cells)) {
    postpone_verdict(args.sequence);
    return;
  }
  const int32_t tail = cells.tail, begin = args.span->rows - tail;
  SPECRT_CHECK(tail >= 1 && tail <= kMaxStepRows && begin >= 0, "judge: a tail of ", tail,
               " tokens after a step of ", begin + tail, " rows");
  const Verdict verdict = cells.rule == Rule::exact ? judge_by_tokens(kernels, args, begin, team)
                                                    : judge_by_probabilities(args, begin, team);
  if (cells.logprobs > 0) {
    log_verdict(args, verdict, team, [&](int32_t i) { return begin + i; });
  }
  commit(args.sequence, verdict);
}

int64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// Sleeps for most of the time, as other streams may need the core, and spins for the rest, because
// sleep ends late.
void wait_until(int64_t end) {
  constexpr int64_t kSpinNs = 100'000;
  const int64_t left = end - now_ns();
  if (left > kSpinNs) std::this_thread::sleep_for(std::chrono::nanoseconds(left - kSpinNs));
  while (now_ns() < end) {
  }
}

void run(const Kernels&, const ClockStepArgs& args, Team&) {
  if (list_rows(args.rows).count == 0) return;
  StepClock& clock = *args.clock;
  if (args.edge == ClockEdge::begin) {
    clock.begun = now_ns();
    return;
  }
  wait_until(clock.begun + static_cast<int64_t>(args.least_ms * 1e6));
  finish_step(clock, now_ns(), StoreRelease{});
}

}  // namespace

void run(const Kernels& kernels, const Op& op, Team& team) {
  std::visit([&](const auto& args) { run(kernels, args, team); }, op);
}

}  // namespace specrt::cpu

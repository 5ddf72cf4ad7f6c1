#include "scripted_backend.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "device/candidates.h"

namespace specrt {
namespace {

testing::RaceDetector* g_races = nullptr;  // of the one scripted backend that exists

}  // namespace

void trace_cell(const void* cell, CellAccess access) {
  if (g_races != nullptr) g_races->access(cell, access);
}

}  // namespace specrt

namespace specrt::testing {

struct ScriptedBackend::Recorded final : RecordedWork {
  Recorded(ScriptedBackend& owner, std::vector<std::shared_ptr<const Op>> work)
      : backend(owner), ops(std::move(work)) {}

  void launch(Stream& stream) override {
    ++backend.launches_;
    for (const auto& op : ops) static_cast<ScriptedStream&>(stream).push(op);
  }

  ScriptedBackend& backend;
  std::vector<std::shared_ptr<const Op>> ops;
};

ScriptedBackend::ScriptedBackend(uint64_t schedule_seed, Fault fault)
    : fault_(fault),
      races_([this](const std::string& what) { violate(what); }),
      scheduler_(schedule_seed, races_) {
  SPECRT_CHECK(g_races == nullptr, "one scripted backend at a time");
  g_races = &races_;
}

ScriptedBackend::~ScriptedBackend() { g_races = nullptr; }

Buffer ScriptedBackend::alloc(size_t bytes) {
  constexpr size_t kAlign = 64;
  memory_.push_back(std::make_unique<std::byte[]>(bytes + kAlign));
  const auto address = reinterpret_cast<uintptr_t>(memory_.back().get());
  std::byte* data = memory_.back().get() + (kAlign - address % kAlign) % kAlign;
  races_.watch(data, bytes);
  return {data, bytes, [](std::byte*, size_t) {}};
}

Buffer ScriptedBackend::place_weights(const std::byte* host, size_t bytes) {
  return {const_cast<std::byte*>(host), bytes, [](std::byte*, size_t) {}};
}

std::unique_ptr<Stream> ScriptedBackend::make_stream(const StreamShare&) {
  const size_t index = scheduler_.stream_count();
  auto stream = scheduler_.make_stream();
  if ((index == 0 && fault_ == Fault::target_does_not_wait) ||
      (index == 1 && fault_ == Fault::draft_does_not_wait)) {
    scheduler_.stream(index).ignore_waits();
  }
  return stream;
}

std::unique_ptr<RecordedWork> ScriptedBackend::record(Stream& stream,
                                                      const std::function<void()>& enqueue) {
  ++recordings_;
  return std::make_unique<Recorded>(*this, static_cast<ScriptedStream&>(stream).capture(enqueue));
}

void ScriptedBackend::push(Stream& stream, Op op) {
  auto counted = [this, op = std::move(op)] {
    SPECRT_CHECK(++ops_run_ != fail_at_, "this op was told to fail");
    op();
  };
  static_cast<ScriptedStream&>(stream).push(std::make_shared<const Op>(std::move(counted)));
}

void ScriptedBackend::violate(const std::string& what) {
  if (violations_.size() < 64) violations_.push_back(what);
}

void ScriptedBackend::embed(Stream& stream, const EmbedArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::rope_angles(Stream&, const RopeAnglesArgs&) {
  fail("a table model has no rope_angles");
}

void ScriptedBackend::keep_features(Stream& stream, const KeepFeaturesArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::load_features(Stream& stream, const LoadFeaturesArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::convert(Stream&, const ConvertArgs&) { fail("a table model has no convert"); }

void ScriptedBackend::scatter(Stream&, const ScatterArgs&) { fail("a table model has no scatter"); }

void ScriptedBackend::plan_streams(Stream& stream, const PlanStreamsArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::insert_streams(Stream& stream, const InsertStreamsArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::move_kv(Stream& stream, const MoveKvArgs& args) {
  check(args);
  push(stream, [this, args, layers = std::vector(args.layers, args.layers + args.layer_count)] {
    run(args, layers);
  });
}

void ScriptedBackend::move_features(Stream& stream, const MoveFeaturesArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::copy_to_device(Stream& stream, const CopyToDeviceArgs& args) {
  push(stream, [this, args] {
    for (size_t at = 0; at < args.bytes; at += sizeof(int32_t)) {
      races_.access(args.host + at, CellAccess::read);
      races_.access(args.device + at, CellAccess::write);
    }
    std::memcpy(args.device, args.host, args.bytes);
  });
}

void ScriptedBackend::copy_to_host(Stream&, const CopyToHostArgs&) {
  fail("a table model has nothing to copy");
}

void ScriptedBackend::rms_norm(Stream&, const RmsNormArgs&) {
  fail("a table model has no rms_norm");
}

void ScriptedBackend::linear(Stream& stream, const LinearArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::rope_kv(Stream& stream, const RopeKvArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::attention(Stream& stream, const AttentionArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::feed_prompt(Stream& stream, const FeedPromptArgs& args) {
  push(stream, [args] { specrt::feed_prompt(*args.span, args.begin, args.count); });
}

void ScriptedBackend::propose_ngram(Stream& stream, const ProposeNgramArgs& args) {
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::begin_catch_up(Stream& stream, const BeginCatchUpArgs& args) {
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::begin_draft(Stream& stream, const BeginDraftArgs& args) {
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::pick_draft(Stream& stream, const PickDraftArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::pick_candidates(Stream& stream, const PickCandidatesArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::grow_tree(Stream& stream, const GrowTreeArgs& args) {
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::feed_tail(Stream& stream, const FeedTailArgs& args) {
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::clock_step(Stream& stream, const ClockStepArgs& args) {
  push(stream, [this, args] { run(args); });
}

void ScriptedBackend::judge(Stream& stream, const JudgeArgs& args) {
  check(args);
  push(stream, [this, args] { run(args); });
}

// Decoding ops.

void ScriptedBackend::run(const BeginCatchUpArgs& args) {
  Cells& s = *args.sequence.cells;
  draft_spans_[&s] = args.span;
  const int32_t kv = peek(s.draft_kv), end = peek(s.committed) - 1 + peek(s.tail);
  check_cache("drafter before it catches up", args.span, args.sequence.tok, kv);
  specrt::begin_catch_up(s, *args.span, args.rows, args.window, args.token_shift);
  const int32_t fed = peek(args.span->rows);
  require(fed >= 0 && fed <= args.rows && kv + fed == peek(s.draft_kv), "a step of ", fed,
          " rows behind ", kv, " made D ", peek(s.draft_kv));
  require(fed == 0 || (peek(s.draft_kv) < end && peek(s.draft_kv) <= args.window), "caught up to ",
          peek(s.draft_kv), " where E is ", end);
}

void ScriptedBackend::run(const BeginDraftArgs& args) {
  Cells& s = *args.sequence.cells;
  draft_spans_[&s] = args.span;
  DraftPlan plan = args.plan;
  if (fault_ == Fault::draft_beyond_limit) plan.bonus_rows = -1;
  if (running(s)) {
    const int32_t end = peek(s.committed) - 1 + peek(s.tail);
    require(peek(s.draft_kv) <= end - 1, "D is ", peek(s.draft_kv), " where E is ", end);
    require(end <= peek(s.limit), "E is ", end, " behind the limit ", peek(s.limit));
    check_cache("drafter at the start of a round", args.span, args.sequence.tok, peek(s.draft_kv));
  }
  specrt::begin_draft(s, args.sequence.tok, *args.span, plan);
  require(peek(s.drafted) >= 0 && peek(s.drafted) <= args.plan.capacity, "c is ", peek(s.drafted));
  require(peek(args.span->base) + peek(args.span->rows) <= args.plan.window || !running(s),
          "the drafter is fed behind its window of ", args.plan.window);
}

void ScriptedBackend::run(const PickDraftArgs& args) {
  Cells& s = *args.sequence.cells;
  const int32_t own = draft_row(s, *args.span, args.index, args.drafting);
  int32_t token = 0;
  if (drafts(s, args.index)) {
    const int32_t position = draft_position(s, args.index);
    const int32_t ahead = pair_spans_.contains(args.span) ? 2 : 1;
    require(own >= 0 && peek(args.span->base) + own + ahead == position, "the token of position ",
            position, " is drafted by the row at ", peek(args.span->base) + own);
    const int32_t row = args.first_row + own;
    token = s.rule == Rule::exact ? pick(s, args.logits, row, position)
                                  : draw_draft(args, row, position);
  }
  specrt::finish_draft_step(s, args.sequence.tok, *args.span, args.index, args.drafting,
                            args.token_shift, token);
}

void ScriptedBackend::run(const PickCandidatesArgs& args) {
  Cells& s = *args.sequence.cells;
  if (args.streams != nullptr) {
    pick_streamed(args);
    return;
  }
  if (args.tree != nullptr) {
    pick_behind_rows(args);
    return;
  }
  for (int32_t depth = 0; depth < args.lists && drafts(s, depth); ++depth) {
    const int32_t own = draft_row(s, *args.span, depth, Drafting::at_once);
    const int32_t position = draft_position(s, depth);
    const int32_t ahead = pair_spans_.contains(args.span) ? 2 : 1;
    require(own >= 0 && peek(args.span->base) + own + ahead == position,
            "the candidates of position ", position, " come from the row at ",
            peek(args.span->base) + own);
    const std::vector<int32_t> order = in_order(s, args.logits, args.first_row + own, position);
    int32_t best[kTreeWidth];
    keep_best(args, depth, order, best);
    args.sequence.tok[position] = order[0];
  }
}

// The logits behind each row are those that the tokens on the way to it have as a chain.
void ScriptedBackend::pick_behind_rows(const PickCandidatesArgs& args) {
  const Cells& s = *args.sequence.cells;
  TreeCells& cells = *args.sequence.tree;
  const CandidateLists lists = candidate_lists(args);
  require(lists.count <= args.lists, lists.count, " lists of at most ", args.lists);
  for (int32_t i = 0; i < lists.count; ++i) {
    const int32_t row = lists.first + i;
    uint64_t hash = kEmptyContext;
    for (int32_t p = 0; p < s.snap_begin; ++p) hash = extend_context(hash, args.sequence.tok[p]);
    for (int32_t node = 1; node <= row; ++node) {
      if (((args.tree->sees[row] >> node) & 1) != 0) {
        hash = extend_context(hash, peek(cells.token[node]));
      }
    }
    std::vector<float> wanted(static_cast<size_t>(args.vocab));
    table_logits(head_params_.at(args.span), hash, wanted.data());
    const float* logits = args.logits.row<float>(args.first_row + lists.row + i);
    require(std::equal(wanted.begin(), wanted.end(), logits), "row ", row, " of a drafted tree of ",
            args.tree->rows, " has not the logits of the path to it");
    const auto order = in_order(s, args.logits, args.first_row + lists.row + i, lists.position);
    int32_t best[kTreeWidth];
    keep_best(args, row, order, best);
    place_children(cells, *args.tree, row);
    ++rows_drafted_;
  }
  if (args.depth == 0) begin_depths(s, *args.tree, *args.span, args.token_shift);
}

void ScriptedBackend::run(const GrowTreeArgs& args) {
  Cells& s = *args.sequence.cells;
  require(!running(s) || peek(s.tail) == 1, "a tree grows behind a tail of ", peek(s.tail));
  specrt::grow_tree(s, args.sequence.tok, *args.sequence.tree, *args.shape, *args.span,
                    args.candidates);
  const int32_t rows = peek(args.span->rows);
  if (rows == 0) return;
  require(peek(s.committed) + args.shape->depth[rows - 1] < peek(s.limit),
          "a tree reaches the limit ", peek(s.limit));
  if (args.candidates == Candidates::streamed) {
    check_candidates(args.sequence);
    check_cache("target before a tree", args.span, args.sequence.tok, peek(s.committed) - 1);
    return;
  }
  if (args.shape->branching == Branching::by_row) return;
  for (int32_t depth = 0; depth < args.shape->depth[rows - 1]; ++depth) {
    const int32_t position = peek(s.committed) + depth;
    require(peek(args.sequence.tok[position]) == peek(args.sequence.tree->candidate[depth][0]),
            "position ", position, " still holds a mask");
  }
}

void ScriptedBackend::run(const MoveKvArgs& args, const std::vector<KvLayer>& layers) {
  if (fault_ == Fault::tree_not_moved) return;
  const int32_t base = args.span->base, count = *args.count;
  const bool maps = args.from != nullptr && fault_ != Fault::levels_moved_alike;
  for (const KvLayer& layer : layers) {
    const auto move = [&](int32_t row, int32_t depth) {
      require(row >= depth, "row ", row, " moves to depth ", depth);
      const std::byte* from = slot_of(args.kv, layer, base + row);
      std::byte* to = slot_of(args.kv, layer, base + depth);
      races_.access(from, CellAccess::read);
      races_.access(to, CellAccess::write);
      std::memcpy(to, from, sizeof(FedToken));
    };
    for (int32_t d = 0; d < count; ++d) {
      const int32_t row = args.path[d];
      move(maps ? static_cast<int32_t>(args.from[row]) : row, d);
    }
    const bool keeps = fault_ == Fault::stream_kept && args.from == nullptr && count > 0;
    if (keeps && streaming_.at(args.span)->streams > 0) {
      move(streaming_.at(args.span)->kept, count - 1);
    }
  }
}

void ScriptedBackend::run(const MoveFeaturesArgs& args) {
  if (fault_ == Fault::features_not_moved) return;
  const int32_t base = args.span->base, count = *args.count;
  const int64_t bytes = feature_row_bytes(args.rows);
  for (int32_t d = 0; d < count; ++d) {
    const int32_t row = args.path[d];
    require(row >= d, "features of row ", row, " move to depth ", d);
    const std::byte* from = args.features + (base + row) * bytes;
    std::byte* to = args.features + (base + d) * bytes;
    races_.access(from, CellAccess::read);
    races_.access(to, CellAccess::write);
    std::memmove(to, from, sizeof(FedToken));
  }
}

void ScriptedBackend::run(const FeedTailArgs& args) {
  Cells& s = *args.sequence.cells;
  if (args.source == TailSource::appended) specrt::append_draft(s);
  specrt::feed_tail(s, *args.span);
  if (!running(s)) return;
  const int32_t tail = peek(s.tail), end = peek(s.committed) - 1 + tail;
  require(tail >= 1 && end <= peek(s.limit), "m is ", tail, ", E ", end, ", the limit ",
          peek(s.limit));
  require(args.source != TailSource::appended || end < peek(s.limit),
          "there is no position left for the bonus row: E is ", end);
}

void ScriptedBackend::run(const JudgeArgs& args) {
  Cells& s = *args.sequence.cells;
  ++verdicts_;
  target_spans_[&s] = args.span;
  if (!running(s) && fault_ != Fault::judged_after_stop) {
    if (args.tree != nullptr) args.sequence.tree->path_length = 0;
    commit_checked(args, Verdict{});
    return;
  }
  if (args.tree != nullptr) {
    judge_tree(args);
    return;
  }
  const int32_t first = args.first_row + args.span->rows - s.tail;
  const int32_t eos_count = peek(s.eos_count);
  if (fault_ == Fault::eos_ignored) s.eos_count = 0;
  if (fault_ == Fault::judged_after_stop) s.stop = Stop::running;
  require(first >= args.first_row, "the tail has more tokens than the step rows");
  const auto choose = [&](int32_t i, int32_t position) {
    const int32_t off = fault_ == Fault::judged_at_next_position ? 1 : 0;
    return pick(s, args.logits, first + i, position + off);
  };
  const Verdict verdict = s.rule == Rule::exact ? walk_chain(s, args.sequence.tok, choose)
                                                : judge_by_probabilities(args, first);
  if (fault_ == Fault::eos_ignored) s.eos_count = eos_count;
  commit_checked(args, verdict);
  if (fault_ == Fault::draft_kv_too_long) s.draft_kv = s.draft_kv + 1;
}

void ScriptedBackend::judge_tree(const JudgeArgs& args) {
  Cells& s = *args.sequence.cells;
  const Verdict verdict = walk_tree(
      s, args.sequence.tok, *args.sequence.tree, *args.tree,
      std::min<int32_t>(args.span->rows, args.tree->rows), [&](int32_t row, int32_t position) {
        const int32_t off = fault_ == Fault::tree_judged_by_row ? row : 0;
        return pick(s, args.logits, args.first_row + row, position + off);
      });
  commit_checked(args, verdict);
}

void ScriptedBackend::run(const ClockStepArgs& args) {
  ScriptedStream& stream = scheduler_.stream(races_.actor() - 1);
  int32_t rows = 0;
  each_row(args.rows, [&](const Segment&, int32_t, int32_t) { ++rows; });
  if (rows == 0) return;
  if (args.edge == ClockEdge::begin) {
    args.clock->begun = stream.now();
    return;
  }
  stream.sleep_until(args.clock->begun + static_cast<int64_t>(args.least_ms * 1e6));
  finish_step(*args.clock, stream.now(), StoreRelease{});
}

// Commits, logs, and compares the new state with the old one.
void ScriptedBackend::commit_checked(const JudgeArgs& args, const Verdict& verdict) {
  const SequenceCells& sequence = args.sequence;
  const Cells& s = *sequence.cells;
  const bool live = peek(s.stop) == Stop::running;
  std::byte before[sizeof(Cells)];
  std::memcpy(before, static_cast<const void*>(&s), sizeof(Cells));
  const int32_t committed = peek(s.committed);
  const uint32_t round = peek(s.round);
  races_.access(&sequence.log[round % sequence.log_slots], CellAccess::write);
  const bool postponed = postpones_verdict(s);
  if (postponed) postpone_verdict(sequence);
  if (!postponed) specrt::commit(sequence, verdict);
  require(peek(s.round) == round + 1, "round ", round, " is followed by ", peek(s.round));
  if (!live) {
    std::byte after[sizeof(Cells)];
    std::memcpy(after, static_cast<const void*>(&s), sizeof(Cells));
    const size_t at = offsetof(Cells, round);
    std::memcpy(after + at, before + at, sizeof(uint32_t));
    require(std::memcmp(before, after, sizeof(Cells)) == 0, "a round after the stop wrote a cell");
    return;
  }
  require(
      peek(s.committed) >= committed + (postponed ? 0 : 1) && peek(s.committed) <= peek(s.limit),
      "C went from ", committed, " to ", peek(s.committed), ", the limit is ", peek(s.limit));
  require(peek(s.draft_kv) <= peek(s.committed) - 1 + peek(s.tail), "D is ", peek(s.draft_kv));
  if (args.tree != nullptr) return;  // the cache is right once the path has moved
  check_cache("target after a commit", args.span, sequence.tok, peek(s.committed) - 1);
}

// In every layer of the cache.
void ScriptedBackend::check_cache(const char* what, const StepSpan* span, const Cell<int32_t>* tok,
                                  int32_t length) {
  const auto found = caches_.find(span);
  if (found == caches_.end()) {
    require(length == 0, "nothing was fed to the ", what);
    return;
  }
  if (pair_spans_.contains(span)) ++tok;
  for (const auto& [offset, layer] : layers_[found->second]) {
    for (int32_t slot = 0; slot < length; ++slot) {
      const auto fed = load<FedToken>(slot_of(found->second, layer, slot));
      require(fed.token == peek(tok[slot]) && fed.position == slot, "KV of the ", what, " at byte ",
              offset, ": slot ", slot, " holds token ", fed.token, " of position ", fed.position,
              " instead of ", peek(tok[slot]));
    }
  }
}

void ScriptedBackend::check_target_cache(const SequenceCells& sequence) {
  const Cells& s = *sequence.cells;
  check_cache("target at the end", target_spans_[&s], sequence.tok, s.committed - 1);
}

void ScriptedBackend::check_draft_cache(const SequenceCells& sequence) {
  const Cells& s = *sequence.cells;
  const auto draft = draft_spans_.find(&s);
  if (draft == draft_spans_.end()) return;
  require(s.draft_kv <= s.committed - 1, "D is ", peek(s.draft_kv), " at the end");
  check_cache("drafter at the end", draft->second, sequence.tok, s.draft_kv);
}

}  // namespace specrt::testing

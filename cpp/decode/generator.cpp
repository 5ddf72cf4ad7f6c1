#include "decode/generator.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <random>
#include <utility>

#include "base/error.h"
#include "decode/lockstep.h"
#include "decode/pearl.h"
#include "decode/text_stream.h"
#include "device/rules.h"

namespace specrt {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Prompt chunks in flight before the host waits for the oldest, so that a cancelled request is
// noticed within a few chunks.
constexpr size_t kChunksAhead = 2;

// Lets a long prompt be cancelled: waits for all but the newest chunks in a stream, and asks the
// caller before each wait whether to go on.
class Pace {
 public:
  explicit Pace(Stream& stream) : stream_(stream) {}

  // After a chunk was enqueued; whether to enqueue the next.
  template <typename GoOn>
  bool chunk(const GoOn& go_on) {
    chunks_.push_back(stream_.record());
    if (chunks_.size() <= kChunksAhead) return true;
    chunks_.front().wait();
    chunks_.pop_front();
    return go_on();
  }

 private:
  Stream& stream_;
  std::deque<Event> chunks_;
};

int32_t most_draft_tokens(const Lane& target, const Drafter* drafter) {
  if (target.streams() > 0) return target.streams();
  return drafter == nullptr ? 0 : kMaxStepRows - 1;
}

const GeneratorOptions& checked(const GeneratorOptions& options, const Lane& target,
                                const Drafter* drafter) {
  if (options.run_ahead < 0 || options.run_ahead > kMaxRunAhead) {
    fail_argument("run_ahead must be in [0, ", kMaxRunAhead, "], not ", options.run_ahead);
  }
  const int32_t most = most_draft_tokens(target, drafter);
  if (options.draft_tokens < 0 || options.draft_tokens > most) {
    fail_argument("num_speculative_tokens must be in [0, ", most, "], not ", options.draft_tokens);
  }
  if (target.streams() > 0) {
    if (options.loop != LoopKind::lockstep || drafter != nullptr) {
      fail_argument(
          "a target that drafts with its streams has no other drafter and no pearl loop, ",
          "as one step verifies a draft and makes the next");
    }
    return options;
  }
  if (options.tree_nodes > 0 &&
      (options.loop != LoopKind::lockstep || drafter == nullptr ||
       drafter->branching() == Branching::none || options.draft_tokens == 0)) {
    fail_argument(
        "trees of drafts need a drafter with a model, no lookup before it, and drafts that are "
        "verified in turn with it; set tree_nodes to 0");
  }
  return options;
}

std::unique_ptr<Loop> make_loop(const GeneratorOptions& options, Lane& target, Drafter* drafter) {
  if (options.loop == LoopKind::lockstep) return std::make_unique<Lockstep>(target, drafter);
  if (drafter == nullptr) fail_argument("the pearl loop needs a drafter");
  return std::make_unique<Pearl>(target, drafter, options.phases);
}

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
  struct Enqueued {
    Event done;
    int32_t most_tokens;   // that it can commit
    StreamingPlan plan{};  // with streams
  };
  std::deque<Enqueued> in_flight;  // rounds, oldest first
  uint32_t read = 0;               // log entries read
  int32_t committed = 0;           // as of the last entry read
  double read_time = 0;            // of the last entry, in seconds since `begin`
  int32_t limit = 0;
  int32_t unfed = 0;  // tokens that the drafter's KV cache lacks at most when the next round begins
  std::optional<int32_t> next_draft;   // length of the next round's draft, once chosen
  std::optional<TreeShape> next_tree;  // of that draft; none: it is a chain
  std::optional<int32_t> logprobs;
  std::vector<int32_t> stop_token_ids;
  std::optional<TextStream> text;
  bool ended = false;

  void end(FinishReason reason) {
    ended = true;
    completion.finish_reason = reason;
  }

  // Largest length that the sequence can have when all enqueued rounds are done.
  int32_t most_committed() const {
    int32_t length = committed;
    for (const Enqueued& round : in_flight) length += round.most_tokens;
    return std::min(length, limit);
  }

  // False: the caller wants no more.
  bool report(const Progress& progress) const { return !*on_progress || (*on_progress)(progress); }
};

Generator::Generator(Lane& target, Drafter* drafter, const GeneratorOptions& options)
    : target_(target),
      drafter_(drafter),
      options_(checked(options, target, drafter)),
      loop_(make_loop(options_, target, drafter)),
      draft_length_(options_.loop, options_.step_costs, options_.draft_tokens) {
  if (target.streams() > 0) {
    if (options_.draft_tokens > 0) {
      streaming_planner_.emplace(options_.step_costs,
                                 StreamingLimits{.streams = options_.draft_tokens,
                                                 .nodes = options_.tree_nodes,
                                                 .kept = options_.kept_nodes,
                                                 .share = streamed_share(target.model().plan())});
    }
  } else if (options_.tree_nodes > 0) {
    tree_planner_.emplace(options_.step_costs,
                          TreeLimits{.depth = options_.draft_tokens, .nodes = options_.tree_nodes});
  }
  if (target.clock() != nullptr)
    clocks_.push_back({EngineRole::target, target.clock(), &target.backend()});
  if (drafter == nullptr || drafter->clock() == nullptr) return;
  clocks_.push_back({EngineRole::drafter, drafter->clock(), &drafter->backend()});
}

void check_request(const Plan& plan, std::span<const int32_t> prompt,
                   const SamplingParams& params) {
  validate(params);
  check_tokens(prompt, plan.header.vocab);
  check_tokens(params.stop_token_ids, plan.header.vocab);
  for (const auto& [token, bias] : params.logit_bias) check_tokens({&token, 1}, plan.header.vocab);
  if (!params.stop.empty() && plan.vocabulary.empty()) {
    fail_argument("stop strings need the token table that this engine lacks; use stop_token_ids");
  }
  check_length(prompt.size(), plan.header.context);
}

void Generator::start(Request& request, std::span<const int32_t> prompt,
                      const SamplingParams& params) {
  const Plan& plan = target_.model().plan();
  check_request(plan, prompt, params);
  std::vector<int32_t> eos = params.stop_token_ids;
  if (!params.ignore_eos) {
    eos.insert(eos.end(), plan.header.eos, plan.header.eos + plan.header.eos_count);
  }
  request.completion.seed = params.seed ? *params.seed : std::random_device{}();
  Sequence& sequence = target_.sequence(0);
  const auto length = static_cast<int32_t>(prompt.size());
  const int32_t cached = cached_prefix(prompt);
  const int32_t shift = drafter_ == nullptr ? 0 : drafter_->token_shift();
  const int32_t draft_kv = std::min(std::max(0, cached - shift), cached_.draft_kv);
  sequence.begin(target_.stream(),
                 {.prompt = prompt,
                  .eos = eos,
                  .max_tokens = params.max_tokens,
                  .draft_kv = draft_kv,
                  .seed = request.completion.seed,
                  .phases = options_.phases},
                 params);
  cached_ = {.text = {prompt.begin(), prompt.end()}, .draft_kv = 0, .begun = 0};
  request.completion.metrics.prompt_tokens = length;
  request.completion.metrics.cached_tokens = std::min(cached, length - 1);
  request.committed = length;
  request.unfed = length + 1 - draft_kv;
  request.stop_token_ids = params.stop_token_ids;
  request.text.emplace(plan.vocabulary, params);
  if (params.logprobs) {
    request.logprobs = std::min(*params.logprobs, plan.header.vocab - 1);
  }
  request.limit = sequence.limit();
  for (ReadMarks& read : clocks_) {
    read.count = load_acquire(&read.clock->count);
    read.offset = read.backend->clock_offset();
  }
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
  read_steps(request);
  if (request.read > 0) cached_.begun = target_.sequence(0).begun();
  request.completion.metrics.total_time = seconds_since(request.begin);
  return std::move(request.completion);
}

// Tokens at the beginning of the prompt whose keys and values the caches hold from the last
// sequence: all that is committed but for the last token, which was not fed. A row's keys and
// values do not depend on the step that fed it, so they are those of a fresh prompt, bit for bit.
int32_t Generator::cached_prefix(std::span<const int32_t> prompt) const {
  if (options_.prefix_caching == PrefixCaching::off || cached_.begun == 0 ||
      cached_.begun != target_.sequence(0).begun()) {
    return 0;
  }
  const auto end = cached_.text.end() - 1;
  const auto same = std::mismatch(cached_.text.begin(), end, prompt.begin(), prompt.end());
  return static_cast<int32_t>(same.first - cached_.text.begin());
}

// With Pearl the drafter has a stream of its own, which is idle while the target reads the prompt:
// where the first round will draft, the drafter reads beside it.
bool Generator::reads_beside(Request& request) {
  const int32_t left = request.limit - request.committed - 1;  // behind the prompt's verdict
  if (options_.loop != LoopKind::pearl || drafter_->catch_up_rows() == 0 || left <= 0) return false;
  if (drafter_->token_shift() > 0) return false;  // it reads what the target has computed
  request.next_draft = draft_length_.choose({.unfed = request.unfed, .left = left});
  return *request.next_draft > 0;
}

// Enqueues for the drafter about as much of the prompt as the target's next `count` tokens. It
// waits for the target's work so far, so it does not run ahead.
void Generator::feed_beside(Request& request, int32_t count) {
  const int32_t rows = drafter_->catch_up_rows(), slack = drafter_->slack(*request.next_draft);
  for (int32_t fed = 0; fed < count && request.unfed > slack; fed += rows) {
    loop_->enqueue_catch_up(request.most_committed());
    request.unfed = std::max(2, request.unfed - rows);  // the verdict's token and the one before
  }
}

void Generator::prefill(Request& request, int32_t length) {
  const bool beside = reads_beside(request);
  Pace pace(target_.stream());
  const int32_t rows = target_.prompt_rows();
  for (int32_t begin = request.completion.metrics.cached_tokens; begin < length; begin += rows) {
    const int32_t end = std::min(begin + rows, length);
    if (beside) feed_beside(request, end - begin);
    if (end < length) {
      loop_->enqueue_prompt_chunk(0, begin, end);
    } else {
      loop_->enqueue_prompt_verdict(0, begin, end);
    }
    if (pace.chunk([&] { return request.report({}); })) continue;
    request.end(FinishReason::cancelled);
    return;
  }
  request.in_flight.push_back({target_.stream().record(), 1});
}

void Generator::enqueue_rounds(Request& request) {
  while (!request.ended) {
    // A live round commits at least one token, so rounds beyond the limit are never needed. Where a
    // verdict is postponed it commits none; then fewer run ahead here, until that entry is read.
    const auto in_flight = static_cast<int32_t>(request.in_flight.size());
    const int32_t left = request.limit - request.committed - in_flight;
    if (in_flight > options_.run_ahead || left <= 0) return;
    if (streaming_planner_) {
      enqueue_streamed_round(request);
    } else if (!enqueue_round(request, left)) {
      return;
    }
  }
}

// False: not now.
bool Generator::enqueue_round(Request& request, int32_t left) {
  if (!request.next_draft) choose_draft(request, left);
  const int32_t draft_tokens = *request.next_draft;
  if (draft_tokens > 0 && !catch_up(request, draft_tokens)) return false;
  request.next_draft.reset();
  const Loop::Bounds bounds = loop_->bounds(draft_tokens);
  const int32_t positions = std::min(request.most_committed() + bounds.reach, request.limit);
  const Event done = request.next_tree ? loop_->enqueue_tree_round(*request.next_tree, positions)
                                       : loop_->enqueue_round(draft_tokens, positions);
  request.in_flight.push_back({done, bounds.commits});
  request.unfed = draft_tokens > 0 ? draft_tokens + 2 : request.unfed + 1;
  // With a tail behind what was committed, whose features follow later.
  const bool keeps_tail = options_.loop == LoopKind::pearl && draft_tokens > 0;
  if (keeps_tail && drafter_->token_shift() > 0) request.unfed += bounds.commits - 1;
  return true;
}

void Generator::enqueue_streamed_round(Request& request) {
  const StreamingPlan plan = streaming_planner_->next();
  const Loop::Bounds bounds = loop_->bounds(plan.depth);
  const int32_t positions = std::min(request.most_committed() + bounds.reach, request.limit);
  const Event done = loop_->enqueue_streamed_round(plan.shape, plan.pruning, positions);
  request.in_flight.push_back({done, bounds.commits, plan});
}

// A tree where there are trees and one of them pays; else the length says, which also tries now and
// then.
void Generator::choose_draft(Request& request, int32_t left) {
  const DraftLength::Round round{.unfed = request.unfed, .left = left};
  request.next_tree.reset();
  if (!tree_planner_) {
    request.next_draft = draft_length_.choose(round);
    return;
  }
  const TreeShape tree = tree_planner_->plan();
  const bool pays = left > 1 && draft_length_.pays(round, tree_planner_->ms_per_token(tree));
  request.next_draft = 0;
  if (!pays && draft_length_.choose(round) == 0) return;
  request.next_tree = tree;
  request.next_draft = tree.depth[tree.rows - 1];
}

// Enqueues what the drafter must feed before it can draft; false: not now. Behind a long prompt
// that takes a while, so tokens that are there already are read before it.
bool Generator::catch_up(Request& request, int32_t draft_tokens) {
  const int32_t rows = drafter_->catch_up_rows(), slack = drafter_->slack(draft_tokens);
  const int32_t steps = rows == 0 ? 0 : std::max(0, (request.unfed - slack + rows - 1) / rows);
  if (steps > static_cast<int32_t>(kChunksAhead) && !request.in_flight.empty()) return false;
  Pace pace(drafter_->stream());
  for (int32_t i = 0; i < steps; ++i) {
    loop_->enqueue_catch_up(request.most_committed());
    if (pace.chunk([&] { return request.report({}); })) continue;
    request.end(FinishReason::cancelled);
    return false;
  }
  return true;
}

// A tree shows as well how far a chain of the best candidates would have come.
void Generator::observe(const LogEntry& entry, const StreamingPlan& plan) {
  const std::span<const int32_t> ranks(entry.ranks, static_cast<size_t>(entry.ranked));
  if (streaming_planner_) {
    streaming_planner_->observe(plan, ranks, entry.accepted);
    return;
  }
  if (entry.ranked == 0) {
    draft_length_.observe(entry.judged, entry.accepted);
    return;
  }
  tree_planner_->observe(ranks);
  const auto held = static_cast<int32_t>(
      std::find_if(ranks.begin(), ranks.end(), [](int32_t rank) { return rank > 0; }) -
      ranks.begin());
  draft_length_.observe(std::min(held + 1, entry.ranked), held);
}

void Generator::read_entry(Request& request) {
  request.in_flight.front().done.wait();
  const StreamingPlan plan = request.in_flight.front().plan;
  request.in_flight.pop_front();
  const LogEntry& entry = target_.sequence(0).entry(request.read++);
  request.committed = entry.committed_before + entry.count;
  if (entry.stop != Stop::running) {
    request.end(entry.stop == Stop::eos ? FinishReason::stop : FinishReason::length);
  }
  const int32_t kept = take_tokens(request, {entry.tokens, static_cast<size_t>(entry.count)});
  observe(entry, plan);
  cached_.text.insert(cached_.text.end(), entry.tokens, entry.tokens + entry.count);
  cached_.draft_kv = entry.draft_kv;
  GenerationMetrics& metrics = request.completion.metrics;
  const double before = std::exchange(request.read_time, seconds_since(request.begin));
  if (request.read == 1) {
    metrics.time_to_first_token = request.read_time;
  } else {
    metrics.rounds.push_back({.drafted = entry.drafted,
                              .judged = std::min(entry.judged, kept),
                              .accepted = std::min(entry.accepted, kept),
                              .committed = kept,
                              .seconds = request.read_time - before,
                              .ranks = {entry.ranks, entry.ranks + entry.ranked}});
  }
  if (request.logprobs) {
    append_logprobs(request.completion, target_.sequence(0).logprobs(request.read - 1), kept,
                    *request.logprobs);
  }
  read_steps(request);
  const std::string piece = request.ended ? request.text->finish() : request.text->take();
  request.completion.text += piece;
  const std::span<const int32_t> tokens(entry.tokens, static_cast<size_t>(kept));
  if (!request.report({.tokens = tokens, .text = piece}) && !request.ended) {
    request.end(FinishReason::cancelled);
    request.completion.text += request.text->finish();
  }
}

// Adds the steps whose marks are new. As few rounds are in flight, the ring holds all of them.
void Generator::read_steps(Request& request) {
  const auto begin = std::chrono::duration<double>(request.begin.time_since_epoch());
  for (ReadMarks& read : clocks_) {
    for (const uint32_t end = load_acquire(&read.clock->count); read.count != end; ++read.count) {
      const StepMark& mark = read.clock->marks[read.count % StepClock::kMarks];
      request.completion.metrics.steps.push_back(
          {.role = read.role,
           .begin = static_cast<double>(mark.begin + read.offset) * 1e-9 - begin.count(),
           .end = static_cast<double>(mark.end + read.offset) * 1e-9 - begin.count()});
    }
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
  request.in_flight.clear();
  target_.stream().drain();
  if (drafter_ != nullptr) drafter_->stream().drain();
}

}  // namespace specrt

// Puts a backend, models and a generator together: the only part that chooses a backend.
#include "specrt/llm.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "api/cuda_library.h"
#include "api/line.h"
#include "api/tally.h"
#include "base/error.h"
#include "cpu/cpu_backend.h"
#include "decode/eagle_drafter.h"
#include "decode/generator.h"
#include "decode/logits.h"
#include "decode/model_drafter.h"
#include "decode/ngram_drafter.h"
#include "decode/step_timer.h"

namespace specrt {
namespace {

// One engine loaded on a stream.
struct Loaded {
  Loaded(std::shared_ptr<const Engine> engine, Backend& backend, Stream& stream, Sequence* sequence,
         const LaneOptions& options)
      : model(std::move(engine), backend), lane(model, stream, {sequence}, options) {}

  Model model;
  Lane lane;
};

// A mask token may stand behind the target's vocabulary.
void check_pair(const Model& target, const Model& drafter) {
  const bool has_own_token = drafter.mask_token() >= target.vocab();
  SPECRT_CHECK(target.vocab() + (has_own_token ? 1 : 0) == drafter.vocab(),
               "the drafter has a vocabulary of ", drafter.vocab(), " tokens, the target one of ",
               target.vocab(), "; build the bundle with a draft model of the same tokenizer");
}

std::unique_ptr<Drafter> make_drafter(Lane& lane, const Lane& target) {
  if (reads_features(lane.model().plan())) {
    if (estimates_features(lane.model().plan())) {
      return std::make_unique<EagleDrafter>(lane, target);
    }
    return std::make_unique<FeatureDrafter>(lane, target);
  }
  if (lane.model().mask_token() < 0) return std::make_unique<ModelDrafter>(lane);
  return std::make_unique<ParallelDrafter>(lane, target.model().vocab());
}

bool is_cuda(const Engine& engine) { return engine.plan().header.backend == format::kBackendCuda; }

// An engine names what it is packed for.
std::unique_ptr<Backend> make_backend(const LLMOptions& options, const Engine& engine) {
  if (is_cuda(engine)) {
    if (!options.isa.empty()) fail_argument("isa \"", options.isa, "\" is for CPU engines");
    return make_cuda_backend({.device = options.device});
  }
  return make_cpu_backend({.threads = options.threads, .isa = options.isa});
}

// The drafter's own backend; null where it runs on the target's, or there is none.
std::unique_ptr<Backend> make_draft_backend(const LLMOptions& options, const Engine& target,
                                            const Engine* drafter) {
  if (drafter == nullptr || is_cuda(*drafter) == is_cuda(target)) return nullptr;
  SPECRT_CHECK(is_cuda(target),
               "a drafter on a GPU cannot serve a target on the CPU; build the bundle with "
               "--draft-backend cpu");
  return make_cpu_backend({.threads = options.threads});
}

JudgeOptions judge_options(const LLMOptions& options, const Engine& engine) {
  const format::FileHeader& header = engine.plan().header;
  if (options.num_speculative_tokens < 0 || options.num_speculative_tokens >= kMaxStepRows) {
    fail_argument("num_speculative_tokens must be in [0, ", kMaxStepRows - 1, "], not ",
                  options.num_speculative_tokens);
  }
  constexpr Rule kRules[] = {Rule::exact, Rule::rejection, Rule::block};
  return {.rule = kRules[static_cast<size_t>(options.rule)],
          .draft_tokens = options.num_speculative_tokens,
          .vocab = header.vocab};
}

int32_t tree_nodes(const LLMOptions& options) {
  if (options.tree_nodes < 0 || options.tree_nodes >= kMaxStepRows) {
    fail_argument("tree_nodes must be in [0, ", kMaxStepRows - 1, "], not ", options.tree_nodes);
  }
  if (options.tree_nodes > 0 && options.rule != AcceptanceRule::exact) {
    fail_argument("trees of drafts are judged by the rule exact only; set tree_nodes to 0");
  }
  return options.tree_nodes;
}

Phases phases(const LLMOptions& options, const Plan& plan) {
  if (options.phases == PearlPhases::both) return Phases::both;
  if (options.loop != LoopKind::pearl) {
    fail_argument("phases belong to the pearl loop; without it they must be both");
  }
  if (options.rule != AcceptanceRule::exact) {
    fail_argument("one of pearl's phases alone is judged by the rule exact only");
  }
  if (plan.header.backend == format::kBackendCuda) {
    fail_argument("one of pearl's phases alone runs on CPU engines only, not on CUDA");
  }
  constexpr Phases kPhases[] = {Phases::both, Phases::pre_verify_only, Phases::post_verify_only};
  return kPhases[static_cast<size_t>(options.phases)];
}

LaneOptions lane_options(const LLMOptions& options, double pace_ms) {
  constexpr double kSlowest = 60'000;
  if (!(pace_ms >= 0 && pace_ms <= kSlowest)) {
    fail_argument("a paced step must last 0 to ", kSlowest, " ms, not ", pace_ms);
  }
  const bool clocked = options.trace_steps || pace_ms > 0;
  return {.clocking = clocked ? StepClocking::on : StepClocking::off, .least_step_ms = pace_ms};
}

LaneOptions target_options(const LLMOptions& options, const Plan& plan) {
  LaneOptions lane = lane_options(options, options.pace_target_ms);
  if (!options.streaming) {
    if (options.kept_nodes != 0) fail_argument("kept_nodes belong to streaming; set it to 0");
    return lane;
  }
  if (plan.header.streams == 0) {
    fail_argument("the target has no streams; build the bundle with a streaming adapter");
  }
  if (options.rule != AcceptanceRule::exact) {
    fail_argument("streaming drafts trees, which are judged by the rule exact only");
  }
  if (!options.drafter.empty() || options.prompt_lookup_max > 0) {
    fail_argument("streaming drafts with the target itself; give no drafter and no lookup");
  }
  lane.streaming = Streaming::on;
  return lane;
}

constexpr uint32_t kLogSlots = kMaxRunAhead + 2;

std::shared_ptr<const Engine> open_drafter(const LLMOptions& options) {
  return options.drafter.empty() ? nullptr : Engine::open(options.drafter);
}

const LLMOptions& within_memory_limit(const LLMOptions& options) {
  if (options.memory_limit == 0) return options;
  const MemoryBytes bytes = memory_needed(options);
  if (bytes.total() <= options.memory_limit) return options;
  fail(options.target, " needs ", bytes.total(), " bytes of memory (weights ", bytes.weights,
       ", KV cache ", bytes.kv_cache, ", buffers ", bytes.buffers, "), more than the limit of ",
       options.memory_limit, "; raise memory_limit, or build the bundle with a smaller ",
       "--max-context");
}

void warn(const LLMOptions& options, std::string_view message) {
  if (options.on_warning) options.on_warning(message);
}

// The streams of an LLM: one, or with Pearl or on two backends one for the target and one for the
// drafter.
struct Streams {
  Streams(const LLMOptions& options, Backend& backend, Backend* draft_backend) {
    if (options.loop == LoopKind::lockstep && options.draft_threads != 0) {
      fail_argument("draft_threads belong to the pearl loop; without it all threads do all work");
    }
    if (draft_backend != nullptr) {
      if (options.draft_threads != 0) {
        fail_argument("beside a GPU a drafter on the CPU has all threads; leave draft_threads 0");
      }
      target = backend.make_stream({});
      draft = draft_backend->make_stream({});
      return;
    }
    if (options.loop == LoopKind::lockstep) {
      target = backend.make_stream({});
      return;
    }
    const Shares shares = divide(backend.cores(), options.draft_threads);
    target = backend.make_stream(shares.target);
    draft = backend.make_stream(shares.draft);
  }

  Stream& for_drafter() const { return draft ? *draft : *target; }

  std::unique_ptr<Stream> target;
  std::unique_ptr<Stream> draft;

 private:
  struct Shares {
    StreamShare target, draft;
  };

  // Of a single core both get the whole. On a GPU the drafter's blocks go first: they are few, and
  // the verdict waits for them.
  static Shares divide(int cores, int32_t asked) {
    constexpr int kDraftPriority = 1;
    if (cores == 0) return {{}, {.priority = kDraftPriority}};
    if (asked < 0 || (asked > 0 && asked >= cores)) {
      fail_argument("draft_threads must be in [1, ", cores - 1, "] of ", cores,
                    " threads, or 0, not ", asked);
    }
    if (cores == 1) return {{.cores = 1}, {.cores = 1}};
    const int drafting = asked > 0 ? asked : std::max(1, cores / kDraftShare);
    return {{.cores = cores - drafting}, {.first_core = cores - drafting, .cores = drafting}};
  }

  static constexpr int kDraftShare = 4;
};

}  // namespace

struct LLM::State {
  // `draft_engine` may be null.
  State(const LLMOptions& options, const std::shared_ptr<const Engine>& engine,
        std::shared_ptr<const Engine> draft_engine)
      : backend(make_backend(options, *engine)),
        draft_backend(make_draft_backend(options, *engine, draft_engine.get())),
        streams(options, *backend, draft_backend.get()),
        sequence(*backend, engine->plan().header.context, kLogSlots,
                 judge_options(options, *engine),
                 draft_backend ? StateMemory::shared : StateMemory::device),
        target(engine, *backend, *streams.target, &sequence,
               target_options(options, engine->plan())) {
    Backend& drafting = draft_backend ? *draft_backend : *backend;
    if (draft_engine) {
      draft = std::make_unique<Loaded>(std::move(draft_engine), drafting, streams.for_drafter(),
                                       &sequence, lane_options(options, options.pace_draft_ms));
      check_pair(target.model, draft->model);
      model_drafter = make_drafter(draft->lane, target.lane);
    }
    if (options.prompt_lookup_max > 0) {
      ngram_drafter = std::make_unique<NgramDrafter>(
          drafting, streams.for_drafter(), std::vector<Sequence*>{&sequence},
          NgramOptions{.shortest = options.prompt_lookup_min, .longest = options.prompt_lookup_max},
          model_drafter.get());
    }
    Drafter* drafter = ngram_drafter ? ngram_drafter.get() : model_drafter.get();
    generator = std::make_unique<Generator>(
        target.lane, drafter,
        GeneratorOptions{.loop = options.loop,
                         .draft_tokens = options.num_speculative_tokens,
                         .tree_nodes = tree_nodes(options),
                         .kept_nodes = options.kept_nodes,
                         .run_ahead = options.run_ahead,
                         .step_costs = options.step_costs,
                         .prefix_caching =
                             options.enable_prefix_caching ? PrefixCaching::on : PrefixCaching::off,
                         .phases = phases(options, target.model.plan())});
  }

  // A turn of the sequence, which ends with the object.
  class Turn {
   public:
    explicit Turn(Line& line) : line_(line) {}
    ~Turn() { line_.leave(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Line& line_;
  };

  // The streams' threads do not exist in a forked process.
  void check_process() const {
    SPECRT_CHECK(getpid() == process,
                 "this LLM was made before the process forked; make one in the new process");
  }

  Turn use() {
    check_process();
    line.enter({});
    return Turn(line);
  }

  void warn_of_place(const LLMOptions& options) const {
    if (target.model.reads_file()) {
      warn(options,
           "the weights are larger than a quarter of the machine's memory and are read from their "
           "file while it generates; do not change that file");
    }
    const int cores = available_cores();
    if (backend->cores() > cores) {
      warn(options, concat("threads is ", backend->cores(), ", but the process may run on ", cores,
                           " cores; steps will wait for each other"));
    }
  }

  Completion generate(std::span<const int32_t> prompt, const SamplingParams& params,
                      const std::function<bool(const Progress&)>& on_progress,
                      const RequestLimits& limits);

  Lane& lane(EngineRole role) {
    if (role == EngineRole::target) return target.lane;
    if (!draft) fail_argument("this LLM has no drafter");
    return draft->lane;
  }

  const pid_t process = getpid();
  Line line;
  Tally tally;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Backend> draft_backend;
  Streams streams;
  Sequence sequence;
  Loaded target;
  std::unique_ptr<Loaded> draft;
  std::unique_ptr<Drafter> model_drafter;
  std::unique_ptr<Drafter> ngram_drafter;
  std::unique_ptr<Generator> generator;
};

// The callback of a request stays the first to hear of a round; what ends the request comes behind.
Completion LLM::State::generate(std::span<const int32_t> prompt, const SamplingParams& params,
                                const std::function<bool(const Progress&)>& on_progress,
                                const RequestLimits& limits) {
  using Clock = std::chrono::steady_clock;
  check_process();
  const Clock::time_point begin = Clock::now();
  const auto outcome = line.enter(limits);
  const double waited = std::chrono::duration<double>(Clock::now() - begin).count();
  if (outcome != Line::Outcome::turn) {
    Completion none;
    none.finish_reason =
        outcome == Line::Outcome::deadline ? FinishReason::deadline : FinishReason::cancelled;
    none.seed = params.seed.value_or(0);
    none.metrics.waiting_time = waited;
    tally.give_up(none.finish_reason);
    return none;
  }
  const Turn turn(line);
  bool is_late = false;
  const auto report = [&](const Progress& progress) {
    if (on_progress && !on_progress(progress)) return false;
    if (limits.stop.stop_requested()) return false;
    is_late = limits.deadline && Clock::now() >= *limits.deadline;
    return !is_late;
  };
  Completion completion = generator->generate(prompt, params, report);
  if (is_late && completion.finish_reason == FinishReason::cancelled) {
    completion.finish_reason = FinishReason::deadline;
  }
  completion.metrics.waiting_time = waited;
  tally.end(completion);
  return completion;
}

MemoryBytes memory_needed(const LLMOptions& options) {
  const auto target = Engine::open(options.target), drafter = open_drafter(options);
  const auto backend = make_backend(options, *target);
  const auto draft_backend = make_draft_backend(options, *target, drafter.get());
  MemoryBytes bytes;
  const auto add = [&](const Engine& engine, const Backend& on) {
    const ModelBytes model = model_bytes(engine, on);
    bytes.weights += model.weights;
    bytes.kv_cache += model.kv_cache;
    bytes.buffers += model.buffers;
  };
  add(*target, *backend);
  if (drafter) add(*drafter, draft_backend ? *draft_backend : *backend);
  bytes.buffers +=
      Sequence::bytes(target->plan().header.context, kLogSlots, judge_options(options, *target));
  return bytes;
}

LLM::LLM(const LLMOptions& options)
    : state_(std::make_unique<State>(within_memory_limit(options), Engine::open(options.target),
                                     open_drafter(options))) {
  state_->warn_of_place(options);
}
LLM::~LLM() = default;
LLM::LLM(LLM&&) noexcept = default;

Completion LLM::generate(std::span<const int32_t> prompt, const SamplingParams& params,
                         const std::function<bool(const Progress&)>& on_progress,
                         const RequestLimits& limits) {
  state_->tally.begin();
  try {
    return state_->generate(prompt, params, on_progress, limits);
  } catch (...) {
    state_->tally.fail();
    throw;
  }
}

void LLM::check(std::span<const int32_t> prompt, const SamplingParams& params) const {
  check_request(state_->target.model.plan(), prompt, params);
}

LLMCounters LLM::counters() const { return state_->tally.counters(); }

std::vector<double> LLM::time_steps(EngineRole role, int32_t rows, int32_t cached,
                                    int32_t repeats) {
  const auto turn = state_->use();
  return specrt::time_steps(state_->lane(role), rows, cached, repeats);
}

std::vector<float> LLM::logits(EngineRole role, std::span<const int32_t> tokens, int32_t rows) {
  const auto turn = state_->use();
  Lane& lane = state_->lane(role);
  if (!reads_features(lane.model().plan())) return read_logits(lane, tokens, rows);
  return read_pair_logits(state_->target.lane, lane, tokens, rows);
}

std::vector<float> LLM::stream_logits(std::span<const int32_t> tokens) {
  const auto turn = state_->use();
  return read_stream_logits(state_->target.lane, tokens);
}

int32_t LLM::vocab() const { return state_->target.model.vocab(); }
int32_t LLM::streams() const { return state_->target.model.streams(); }
int32_t LLM::context() const { return state_->target.model.context(); }
bool LLM::has_text() const { return !state_->target.model.plan().vocabulary.empty(); }
std::string LLM::backend() const { return state_->backend->name(); }

}  // namespace specrt

// Puts a backend, models and a generator together: the only part that chooses a backend.
#include "specrt/llm.h"

#include <unistd.h>

#include <mutex>
#include <utility>

#include "api/cuda_library.h"
#include "base/error.h"
#include "cpu/cpu_backend.h"
#include "decode/generator.h"
#include "decode/logits.h"
#include "decode/model_drafter.h"
#include "decode/ngram_drafter.h"
#include "decode/step_timer.h"

namespace specrt {
namespace {

// One engine loaded on the stream that all work of an LLM runs on.
struct Loaded {
  Loaded(std::shared_ptr<const Engine> engine, Backend& backend, Stream& stream, Sequence* sequence)
      : model(std::move(engine), backend), lane(model, stream, {sequence}) {}

  Model model;
  Lane lane;
};

void check_pair(const Model& target, const Model& drafter) {
  SPECRT_CHECK(target.vocab() == drafter.vocab(), "the drafter has a vocabulary of ",
               drafter.vocab(), " tokens, the target one of ", target.vocab(),
               "; build the bundle with a draft model of the same tokenizer");
}

// An engine names what it is packed for.
std::unique_ptr<Backend> make_backend(const LLMOptions& options, const Engine& engine) {
  if (engine.plan().header.backend == format::kBackendCuda) {
    if (!options.isa.empty()) fail_argument("isa \"", options.isa, "\" is for CPU engines");
    return make_cuda_backend({.device = options.device});
  }
  return make_cpu_backend({.threads = options.threads, .isa = options.isa});
}

}  // namespace

struct LLM::State {
  State(const LLMOptions& options, std::shared_ptr<const Engine> engine)
      : backend(make_backend(options, *engine)),
        stream(backend->make_stream({})),
        sequence(*backend, engine->plan().header.context, kMaxRunAhead + 2),
        target(std::move(engine), *backend, *stream, &sequence) {
    if (!options.drafter.empty()) {
      draft = std::make_unique<Loaded>(Engine::open(options.drafter), *backend, *stream, &sequence);
      check_pair(target.model, draft->model);
      model_drafter = std::make_unique<ModelDrafter>(draft->lane);
    }
    if (options.prompt_lookup_max > 0) {
      ngram_drafter = std::make_unique<NgramDrafter>(
          *backend, *stream, std::vector<Sequence*>{&sequence},
          NgramOptions{.shortest = options.prompt_lookup_min, .longest = options.prompt_lookup_max},
          model_drafter.get());
    }
    Drafter* drafter = ngram_drafter ? ngram_drafter.get() : model_drafter.get();
    generator = std::make_unique<Generator>(
        target.lane, drafter,
        GeneratorOptions{.draft_tokens = options.num_speculative_tokens,
                         .run_ahead = options.run_ahead,
                         .step_costs = options.step_costs,
                         .prefix_caching = options.enable_prefix_caching ? PrefixCaching::on
                                                                         : PrefixCaching::off});
  }

  // To be held while the sequence is used. The streams' threads do not exist in a forked process.
  std::unique_lock<std::mutex> use() {
    SPECRT_CHECK(getpid() == process,
                 "this LLM was made before the process forked; make one in the new process");
    return std::unique_lock(busy);
  }

  Lane& lane(EngineRole role) {
    if (role == EngineRole::target) return target.lane;
    if (!draft) fail_argument("this LLM has no drafter");
    return draft->lane;
  }

  const pid_t process = getpid();
  std::mutex busy;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;
  Sequence sequence;
  Loaded target;
  std::unique_ptr<Loaded> draft;
  std::unique_ptr<Drafter> model_drafter;
  std::unique_ptr<Drafter> ngram_drafter;
  std::unique_ptr<Generator> generator;
};

LLM::LLM(const LLMOptions& options)
    : state_(std::make_unique<State>(options, Engine::open(options.target))) {}
LLM::~LLM() = default;
LLM::LLM(LLM&&) noexcept = default;

Completion LLM::generate(std::span<const int32_t> prompt, const SamplingParams& params,
                         const std::function<bool(const Progress&)>& on_progress) {
  const auto lock = state_->use();
  return state_->generator->generate(prompt, params, on_progress);
}

std::vector<double> LLM::time_steps(EngineRole role, int32_t rows, int32_t cached,
                                    int32_t repeats) {
  const auto lock = state_->use();
  return specrt::time_steps(state_->lane(role), rows, cached, repeats);
}

std::vector<float> LLM::logits(EngineRole role, std::span<const int32_t> tokens, int32_t rows) {
  const auto lock = state_->use();
  return read_logits(state_->lane(role), tokens, rows);
}

int32_t LLM::vocab() const { return state_->target.model.vocab(); }
int32_t LLM::context() const { return state_->target.model.context(); }
bool LLM::has_text() const { return !state_->target.model.plan().vocabulary.empty(); }
std::string LLM::backend() const { return state_->backend->name(); }

}  // namespace specrt

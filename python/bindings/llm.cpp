// The LLM class of the extension. Python signals are looked at after every round.
#include "specrt/llm.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "cpu/cpu_backend.h"

namespace nb = nanobind;

namespace specrt::bindings {
namespace {

using Callback = std::optional<std::function<bool(std::vector<int32_t>, nb::bytes)>>;

nb::bytes bytes_of(std::string_view text) { return nb::bytes(text.data(), text.size()); }

// Runs without the GIL; takes it for the signals and the callback of each round. What Python raises
// there cancels the request and is raised again at the end.
Completion generate(LLM& llm, const std::vector<int32_t>& prompt, const SamplingParams& params,
                    const Callback& on_progress) {
  std::exception_ptr raised;
  const auto forward = [&](const Progress& progress) {
    const nb::gil_scoped_acquire gil;
    try {
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      return !on_progress || (*on_progress)({progress.tokens.begin(), progress.tokens.end()},
                                            bytes_of(progress.text));
    } catch (...) {
      raised = std::current_exception();
      return false;
    }
  };
  Completion completion;
  {
    const nb::gil_scoped_release release;
    completion = llm.generate(prompt, params, forward);
  }
  if (raised) std::rethrow_exception(raised);
  return completion;
}

using Logits = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

// Takes what `read` gives, (rows, cols), without the interpreter's lock.
template <typename Read>
Logits logits_of(size_t rows, size_t cols_of_none, const Read& read) {
  auto values = std::make_unique<std::vector<float>>();
  {
    const nb::gil_scoped_release release;
    *values = read();
  }
  float* data = values->data();
  const size_t cols = rows == 0 ? cols_of_none : values->size() / rows;
  const nb::capsule owner(values.release(), [](void* pointer) noexcept {
    delete static_cast<std::vector<float>*>(pointer);
  });
  return Logits(data, {rows, cols}, owner);
}

// A drafter's vocabulary may have a mask behind the target's.
Logits logits(LLM& llm, EngineRole role, const std::vector<int32_t>& tokens, int32_t rows) {
  return logits_of(tokens.size(), static_cast<size_t>(llm.vocab()),
                   [&] { return llm.logits(role, tokens, rows); });
}

Logits stream_logits(LLM& llm, const std::vector<int32_t>& tokens) {
  return logits_of(static_cast<size_t>(1 + llm.streams()), static_cast<size_t>(llm.vocab()),
                   [&] { return llm.stream_logits(tokens); });
}

// Stop strings are bytes on both sides: a stop may be any part of the text.
std::vector<nb::bytes> get_stops(const SamplingParams& params) {
  std::vector<nb::bytes> stops;
  for (const std::string& stop : params.stop) stops.push_back(bytes_of(stop));
  return stops;
}

void set_stops(SamplingParams& params, const std::vector<nb::bytes>& stops) {
  params.stop.clear();
  for (const nb::bytes& stop : stops) params.stop.emplace_back(stop.c_str(), stop.size());
}

std::variant<std::monostate, int32_t, nb::bytes> stop_reason(const Completion& completion) {
  if (const auto* text = std::get_if<std::string>(&completion.stop_reason)) return bytes_of(*text);
  if (const auto* token = std::get_if<int32_t>(&completion.stop_reason)) return *token;
  return {};
}

void init_options(nb::module_& module) {
  nb::class_<StepCosts>(module, "StepCosts")
      .def(
          "__init__",
          [](StepCosts* self, const std::vector<std::pair<int32_t, double>>& target,
             const std::vector<std::pair<int32_t, double>>& draft, bool drafts_at_once) {
            new (self) StepCosts;
            self->drafts_at_once = drafts_at_once;
            for (const auto& [rows, ms] : target) self->target.push_back({rows, ms});
            for (const auto& [rows, ms] : draft) self->draft.push_back({rows, ms});
          },
          nb::arg("target") = nb::list(), nb::arg("draft") = nb::list(),
          nb::arg("drafts_at_once") = false);
  nb::enum_<LoopKind>(module, "LoopKind")
      .value("lockstep", LoopKind::lockstep)
      .value("pearl", LoopKind::pearl);
  nb::enum_<PearlPhases>(module, "PearlPhases")
      .value("both", PearlPhases::both)
      .value("pre_verify_only", PearlPhases::pre_verify_only)
      .value("post_verify_only", PearlPhases::post_verify_only);
  nb::enum_<AcceptanceRule>(module, "AcceptanceRule")
      .value("exact", AcceptanceRule::exact)
      .value("rejection", AcceptanceRule::rejection)
      .value("block", AcceptanceRule::block);
  nb::class_<LLMOptions>(module, "LLMOptions")
      .def(nb::init<>())
      .def_rw("target", &LLMOptions::target)
      .def_rw("drafter", &LLMOptions::drafter)
      .def_rw("prompt_lookup_min", &LLMOptions::prompt_lookup_min)
      .def_rw("prompt_lookup_max", &LLMOptions::prompt_lookup_max)
      .def_rw("num_speculative_tokens", &LLMOptions::num_speculative_tokens)
      .def_rw("tree_nodes", &LLMOptions::tree_nodes)
      .def_rw("streaming", &LLMOptions::streaming)
      .def_rw("kept_nodes", &LLMOptions::kept_nodes)
      .def_rw("loop", &LLMOptions::loop)
      .def_rw("draft_threads", &LLMOptions::draft_threads)
      .def_rw("phases", &LLMOptions::phases)
      .def_rw("rule", &LLMOptions::rule)
      .def_rw("step_costs", &LLMOptions::step_costs)
      .def_rw("device", &LLMOptions::device)
      .def_rw("threads", &LLMOptions::threads)
      .def_rw("run_ahead", &LLMOptions::run_ahead)
      .def_rw("enable_prefix_caching", &LLMOptions::enable_prefix_caching)
      .def_rw("trace_steps", &LLMOptions::trace_steps)
      .def_rw("pace_target_ms", &LLMOptions::pace_target_ms)
      .def_rw("pace_draft_ms", &LLMOptions::pace_draft_ms)
      .def_rw("isa", &LLMOptions::isa);
}

void init_types(nb::module_& module) {
  nb::class_<SamplingParams>(module, "SamplingParams")
      .def(nb::init<>())
      .def_rw("temperature", &SamplingParams::temperature)
      .def_rw("top_k", &SamplingParams::top_k)
      .def_rw("top_p", &SamplingParams::top_p)
      .def_rw("min_p", &SamplingParams::min_p)
      .def_rw("max_tokens", &SamplingParams::max_tokens)
      .def_rw("seed", &SamplingParams::seed, nb::arg().none())
      .def_rw("ignore_eos", &SamplingParams::ignore_eos)
      .def_rw("stop_token_ids", &SamplingParams::stop_token_ids)
      .def_prop_rw("stop", &get_stops, &set_stops)
      .def_rw("stop_sequences", &SamplingParams::stop_sequences)
      .def_rw("min_tokens", &SamplingParams::min_tokens)
      .def_rw("logit_bias", &SamplingParams::logit_bias)
      .def_rw("repetition_penalty", &SamplingParams::repetition_penalty)
      .def_rw("frequency_penalty", &SamplingParams::frequency_penalty)
      .def_rw("presence_penalty", &SamplingParams::presence_penalty)
      .def_rw("logprobs", &SamplingParams::logprobs, nb::arg().none());
  nb::class_<Logprob>(module, "Logprob")
      .def_ro("token", &Logprob::token)
      .def_ro("logprob", &Logprob::logprob);
  nb::enum_<FinishReason>(module, "FinishReason")
      .value("stop", FinishReason::stop)
      .value("length", FinishReason::length)
      .value("cancelled", FinishReason::cancelled)
      .value("deadline", FinishReason::deadline);
  nb::class_<RoundRecord>(module, "RoundRecord")
      .def_ro("drafted", &RoundRecord::drafted)
      .def_ro("judged", &RoundRecord::judged)
      .def_ro("accepted", &RoundRecord::accepted)
      .def_ro("committed", &RoundRecord::committed)
      .def_ro("seconds", &RoundRecord::seconds)
      .def_ro("ranks", &RoundRecord::ranks);
  nb::class_<StepRecord>(module, "StepRecord")
      .def_ro("role", &StepRecord::role)
      .def_ro("begin", &StepRecord::begin)
      .def_ro("end", &StepRecord::end);
  nb::class_<GenerationMetrics>(module, "GenerationMetrics")
      .def_ro("prompt_tokens", &GenerationMetrics::prompt_tokens)
      .def_ro("cached_tokens", &GenerationMetrics::cached_tokens)
      .def_ro("waiting_time", &GenerationMetrics::waiting_time)
      .def_ro("time_to_first_token", &GenerationMetrics::time_to_first_token)
      .def_ro("total_time", &GenerationMetrics::total_time)
      .def_ro("rounds", &GenerationMetrics::rounds)
      .def_ro("steps", &GenerationMetrics::steps);
  nb::class_<Completion>(module, "Completion")
      .def_ro("token_ids", &Completion::token_ids)
      .def_prop_ro("text", [](const Completion& self) { return bytes_of(self.text); })
      .def_ro("logprobs", &Completion::logprobs)
      .def_prop_ro("stop_reason", &stop_reason)
      .def_ro("finish_reason", &Completion::finish_reason)
      .def_ro("seed", &Completion::seed)
      .def_ro("metrics", &Completion::metrics);
  nb::enum_<EngineRole>(module, "EngineRole")
      .value("target", EngineRole::target)
      .value("drafter", EngineRole::drafter);
}

}  // namespace

void init_llm(nb::module_& module) {
  init_options(module);
  init_types(module);
  nb::class_<LLM>(module, "LLM")
      .def(nb::init<const LLMOptions&>(), nb::arg("options"),
           nb::call_guard<nb::gil_scoped_release>())
      .def("generate", &generate, nb::arg("prompt"), nb::arg("params"),
           nb::arg("on_progress") = nb::none())
      .def("time_steps", &LLM::time_steps, nb::arg("role"), nb::arg("rows"), nb::arg("cached"),
           nb::arg("repeats"), nb::call_guard<nb::gil_scoped_release>())
      .def("logits", &logits, nb::arg("role"), nb::arg("tokens"), nb::arg("rows") = 64)
      .def("stream_logits", &stream_logits, nb::arg("tokens"))
      .def_prop_ro("streams", &LLM::streams)
      .def_prop_ro("vocab", &LLM::vocab)
      .def_prop_ro("context", &LLM::context)
      .def_prop_ro("has_text", &LLM::has_text)
      .def_prop_ro("backend", &LLM::backend);
  module.def("cpu_isas", &cpu_isas, "Instruction sets that this machine can run, best first.");
}

}  // namespace specrt::bindings

// Whole steps of models with random weights: one at a time, a prompt in chunks, and two models on
// two streams.
#include <algorithm>

#include "cuda/stream.h"
#include "synthetic_model.h"

namespace specrt::cuda::bench {
namespace {

constexpr int32_t kBatch = 10;  // launches that are timed together, so that gaps between them count

// Of a model that is asked for these contexts and has room behind them.
int32_t context_of(const Options& options) {
  return 2 * *std::max_element(options.contexts.begin(), options.contexts.end());
}

std::unique_ptr<RecordedWork> record_step(const Device& device, SyntheticModel& model,
                                          int32_t cached, int32_t rows) {
  const StepRows step = model.step(cached, rows);
  return device.backend->record(*device.stream,
                                [&] { model.enqueue(step, Head::all, *device.stream); });
}

}  // namespace

void steps(const Device& device, const Options& options) {
  const LlamaShape& shape = shape_named(options.shape);
  SyntheticModel model(device, shape, context_of(options));
  for (const int32_t cached : options.contexts) {
    for (const int32_t rows : options.rows) {
      const auto step = record_step(device, model, cached, rows);
      const double batch = time_ms(device.handle(), options.samples, [&] {
        for (int32_t i = 0; i < kBatch; ++i) step->launch(*device.stream);
      });
      const std::string at = cached == 1024 ? "" : concat(".c", cached);
      print({concat(shape.name, ".step", at, ".r", rows), batch / kBatch, "ms",
             model.step_bytes(cached)});
    }
  }
}

void prefill(const Device& device, const Options& options) {
  const LlamaShape& shape = shape_named(options.shape);
  const int32_t tokens = options.contexts.front();
  SyntheticModel model(device, shape, tokens);
  std::vector<StepRows> chunks;
  const int32_t most = device.backend->prompt_rows();
  for (int32_t at = 0; at < tokens; at += most) {
    chunks.push_back(model.step(at, std::min(most, tokens - at)));
  }
  const auto work = device.backend->record(*device.stream, [&] {
    for (size_t i = 0; i < chunks.size(); ++i) {
      model.enqueue(chunks[i], i + 1 < chunks.size() ? Head::none : Head::last, *device.stream);
    }
  });
  const double time =
      time_ms(device.handle(), options.samples, [&] { work->launch(*device.stream); });
  print({concat(shape.name, ".prefill.t", tokens), time, "ms"});
}

// The target and a drafter alone and side by side, as many steps of the drafter as fit.
void streams(const Device& device, const Options& options) {
  const bool is_tiny = options.shape == "tiny";
  const int32_t cached = options.contexts.front();
  SyntheticModel target(device, shape_named(options.shape), 2 * cached);
  SyntheticModel drafter(device, shape_named(is_tiny ? "tiny" : "1b"), 2 * cached);
  const auto other = device.backend->make_stream({.priority = 1});
  const auto target_step = record_step(device, target, cached, 8);
  const auto draft_step = record_step(device, drafter, cached, 1);
  const auto time = [&](Stream& stream, RecordedWork& work, int32_t count) {
    const double total = time_ms(own_stream(stream).handle(), options.samples, [&] {
      for (int32_t i = 0; i < count; ++i) work.launch(stream);
    });
    return total / count;
  };
  const double target_alone = time(*device.stream, *target_step, kBatch);
  const double draft_alone = time(*other, *draft_step, kBatch);
  print({"streams.target.alone", target_alone, "ms", target.step_bytes(cached)});
  print({"streams.draft.alone", draft_alone, "ms", drafter.step_bytes(cached)});
  const auto drafts = std::max(1, static_cast<int32_t>(kBatch * target_alone / draft_alone));
  std::vector<double> target_times, draft_times;
  for (int32_t i = 0; i < options.samples; ++i) {
    Stopwatch target_watch, draft_watch;
    draft_watch.begin(own_stream(*other).handle());
    target_watch.begin(device.handle());
    for (int32_t j = 0; j < drafts; ++j) draft_step->launch(*other);
    for (int32_t j = 0; j < kBatch; ++j) target_step->launch(*device.stream);
    draft_watch.end(own_stream(*other).handle());
    target_watch.end(device.handle());
    target_times.push_back(target_watch.milliseconds() / kBatch);
    draft_times.push_back(draft_watch.milliseconds() / drafts);
  }
  print({"streams.target.together", median(target_times), "ms", target.step_bytes(cached)});
  print({"streams.draft.together", median(draft_times), "ms", drafter.step_bytes(cached)});
}

}  // namespace specrt::cuda::bench

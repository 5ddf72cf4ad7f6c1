#include "engine/model.h"

#include <utility>

#include "base/error.h"

namespace specrt {
namespace {

std::shared_ptr<const Engine> packed_for(const Backend& backend,
                                         std::shared_ptr<const Engine> engine) {
  const bool is_cuda = engine->plan().header.backend == format::kBackendCuda;
  const bool wanted = backend.weight_layout() == Layout::tiles16x32;
  SPECRT_CHECK(is_cuda == wanted, "an engine packed for ", is_cuda ? "cuda" : "cpu",
               " cannot run on ", backend.name(), "; rebuild it with `specrt build --backend ",
               wanted ? "cuda" : "cpu", "`");
  return engine;
}

constexpr const char* kSmallerModel = "free memory, or use a smaller model";
constexpr const char* kSmallerContext =
    "free memory, or build the bundle with a smaller --max-context";

size_t joined_bytes(const Plan& plan, const Backend& backend) {
  if (!backend.joins_ops()) return 0;
  return static_cast<size_t>(joined_row_bytes(plan) * backend.prompt_rows());
}

// What a model takes in all, so that an error shows what is large.
std::string budget(const Engine& engine, const Backend& backend) {
  const ModelBytes bytes = model_bytes(engine, backend);
  const auto megabytes = [](size_t count) { return (count + 999'999) / 1'000'000; };
  return concat("the model needs ", megabytes(bytes.weights), " MB for weights, ",
                megabytes(bytes.kv_cache), " MB for the KV cache, ", megabytes(bytes.buffers),
                " MB for buffers");
}

// Runs `make`, which allocates; an error of it then says what for and what can be done.
template <typename Make>
Buffer allocate(const char* what, const Engine& engine, const Backend& backend, const char* advice,
                const Make& make) {
  try {
    return make();
  } catch (const Error& error) {
    fail(what, ": ", error.what(), "; ", budget(engine, backend), "; ", advice);
  }
}

// Of what the head leaves for choosing; only a product that gives the logits themselves does.
size_t best_bytes(const Plan& plan, const Backend& backend) {
  const bool is_product = !plan.ops.empty() && plan.ops.back().kind == format::OpKind::linear;
  return is_product ? backend.head_bytes(plan.header.vocab) : 0;
}

}  // namespace

ModelBytes model_bytes(const Engine& engine, const Backend& backend) {
  const Plan& plan = engine.plan();
  return {.weights = engine.file_bytes(),
          .kv_cache = static_cast<size_t>(kv_bytes(plan) + feature_bytes(plan)),
          .buffers = static_cast<size_t>(arena_bytes(plan, backend.prompt_rows())) +
                     joined_bytes(plan, backend) + scratch_bytes(plan, backend) +
                     backend.pick_scratch(plan.header.vocab) + best_bytes(plan, backend)};
}

Model::Model(std::shared_ptr<const Engine> engine, Backend& backend)
    : engine_(packed_for(backend, std::move(engine))),
      backend_(backend),
      joints_(backend.joins_ops() ? Joints(plan()) : Joints()),
      weights_(
          allocate("weights", *engine_, backend, kSmallerModel,
                   [&] { return backend.place_weights(engine_->file(), engine_->file_bytes()); })),
      arena_(allocate("activations", *engine_, backend, kSmallerModel,
                      [&] {
                        return backend.alloc(
                            static_cast<size_t>(arena_bytes(plan(), backend.prompt_rows())));
                      })),
      joined_(allocate("activations", *engine_, backend, kSmallerModel,
                       [&] { return backend.alloc(joined_bytes(plan(), backend)); })),
      scratch_(allocate("scratch", *engine_, backend, kSmallerModel,
                        [&] { return backend.alloc(scratch_bytes(plan(), backend)); })),
      pick_scratch_(allocate("scratch", *engine_, backend, kSmallerModel,
                             [&] { return backend.alloc(backend.pick_scratch(vocab())); })),
      best_(allocate("scratch", *engine_, backend, kSmallerModel,
                     [&] { return backend.alloc(best_bytes(plan(), backend)); })),
      memory_{.weights = weights_.data(),
              .arena = arena_.data(),
              .arena_rows = backend.prompt_rows(),
              .scratch = {.data = scratch_.data(), .bytes = scratch_.size()},
              .best = best_.size() > 0 ? best_.data() : nullptr,
              .joined = joined_.data()} {
  if (!reads_file()) engine_->evict();
}

void Model::enqueue_step(Stream& stream, const StepRows& rows, Head head) {
  run(plan(), joints_, memory_, rows, head, backend_, stream);
}

Buffer Model::make_kv() const {
  return allocate("KV cache", *engine_, backend_, kSmallerContext,
                  [&] { return backend_.alloc(static_cast<size_t>(kv_bytes(plan()))); });
}

Buffer Model::make_features() const {
  return allocate("features", *engine_, backend_, kSmallerContext,
                  [&] { return backend_.alloc(static_cast<size_t>(feature_bytes(plan()))); });
}

}  // namespace specrt

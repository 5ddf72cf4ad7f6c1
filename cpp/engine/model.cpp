#include "engine/model.h"

#include <utility>

namespace specrt {

Model::Model(std::shared_ptr<const Engine> engine, Backend& backend)
    : engine_(std::move(engine)),
      backend_(backend),
      weights_(backend.place_weights(engine_->file(), engine_->file_bytes())),
      arena_(backend.alloc(static_cast<size_t>(arena_row_bytes(plan()) * kMaxStepRows))),
      memory_{.weights = weights_.data(), .arena = arena_.data(), .arena_rows = kMaxStepRows} {
  if (weights_.data() != engine_->file()) engine_->evict();
}

void Model::enqueue_step(Stream& stream, const StepRows& rows, Head head) {
  run(plan(), memory_, rows, head, backend_, stream);
}

Buffer Model::make_kv() const { return backend_.alloc(static_cast<size_t>(kv_bytes(plan()))); }

}  // namespace specrt

#include "decode/ngram_drafter.h"

#include <limits>
#include <utility>

#include "base/error.h"

namespace specrt {
namespace {

constexpr int32_t kLongest = 16;

}  // namespace

NgramDrafter::NgramDrafter(Backend& backend, Stream& stream, std::vector<Sequence*> sequences,
                           const NgramOptions& options, Drafter* then)
    : backend_(backend),
      stream_(then == nullptr ? stream : then->stream()),
      sequences_(std::move(sequences)),
      options_(options),
      then_(then) {
  if (options.longest < 1 || options.longest > kLongest) {
    fail_argument("prompt_lookup_max must be in [1, ", kLongest, "], not ", options.longest);
  }
  if (options.shortest < 1 || options.shortest > options.longest) {
    fail_argument("prompt_lookup_min must be in [1, prompt_lookup_max = ", options.longest,
                  "], not ", options.shortest);
  }
}

int32_t NgramDrafter::slack(int32_t capacity) const {
  return then_ == nullptr ? std::numeric_limits<int32_t>::max() : then_->slack(capacity);
}

void NgramDrafter::enqueue_catch_up(int32_t positions) {
  if (then_ != nullptr) then_->enqueue_catch_up(positions);
}

void NgramDrafter::enqueue_draft(const DraftRequest& request) {
  for (Sequence* sequence : sequences_) {
    backend_.propose_ngram(stream_, {.sequence = sequence->cells(),
                                     .plan = {.capacity = request.capacity,
                                              .bonus_rows = request.bonus_rows,
                                              .shortest = options_.shortest,
                                              .longest = options_.longest}});
  }
  if (then_ == nullptr) return;
  DraftRequest rest = request;
  rest.order = DraftOrder::after_ngram;
  then_->enqueue_draft(rest);
}

}  // namespace specrt

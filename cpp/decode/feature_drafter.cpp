#include "decode/feature_drafter.h"

#include "base/error.h"

namespace specrt {

void read_features(Lane& lane, const Lane& target) {
  const format::FileHeader& own = lane.model().plan().header;
  const format::FileHeader& other = target.model().plan().header;
  const int32_t kept = keeps_features(target.model().plan()) ? other.feature_cols : 0;
  SPECRT_CHECK(own.feature_cols == kept && own.feature_dtype == other.feature_dtype,
               "the drafter reads ", own.feature_cols, " columns of features in ",
               name_of(static_cast<DType>(own.feature_dtype)), ", the target keeps ", kept, " in ",
               name_of(static_cast<DType>(other.feature_dtype)),
               "; build the bundle with both models");
  SPECRT_CHECK(lane.model().context() < target.model().context(), "the drafter has a context of ",
               lane.model().context(), ", which must be below the target's of ",
               target.model().context(), "; build the bundle with both models");
  lane.read_features_of(target);
}

FeatureDrafter::FeatureDrafter(Lane& lane, const Lane& target)
    : ParallelDrafter(lane, target.model().vocab()) {
  read_features(lane, target);
}

int32_t FeatureDrafter::slack(int32_t capacity) const {
  const int32_t heads = draft_heads(lane_.model().plan());
  SPECRT_CHECK(heads == 0 || capacity <= heads, "a draft of ", capacity, " tokens with ", heads,
               " heads; each drafts one");
  return ParallelDrafter::slack(capacity);
}

}  // namespace specrt

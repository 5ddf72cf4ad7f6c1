#include "decode/lane_drafter.h"

namespace specrt {

void LaneDrafter::begin_draft(const DraftRequest& request, int32_t catch_up_rows,
                              Drafting drafting) {
  for (size_t s = 0; s < lane_.size(); ++s) {
    backend().begin_draft(stream(), {.sequence = lane_.sequence(s).cells(),
                                     .span = lane_.span(s),
                                     .plan = {.capacity = request.capacity,
                                              .bonus_rows = request.bonus_rows,
                                              .window = window(),
                                              .catch_up_rows = catch_up_rows,
                                              .order = request.order,
                                              .drafting = drafting,
                                              .mask_token = lane_.model().mask_token(),
                                              .token_shift = lane_.model().token_shift(),
                                              .heads = draft_heads(lane_.model().plan())}});
  }
}

}  // namespace specrt

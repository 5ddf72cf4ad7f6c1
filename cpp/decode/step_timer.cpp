#include "decode/step_timer.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace specrt {

std::vector<double> time_steps(Lane& lane, int32_t rows, int32_t cached, int32_t repeats) {
  if (rows < 1 || rows > kMaxStepRows) {
    fail_argument("rows must be in [1, ", kMaxStepRows, "], not ", rows);
  }
  const int32_t room = lane.model().context() - rows;
  if (cached < 0 || cached > room) {
    fail_argument("cached must be in [0, ", room, "] for ", rows, " rows, not ", cached);
  }
  if (repeats < 1) fail_argument("repeats must be >= 1, not ", repeats);
  // Of a drafter made of heads as many run as the step has rows.
  const Plan& plan = lane.model().plan();
  const int32_t masks = std::max(0, std::min(rows, draft_heads(plan)) - 1);
  const std::vector<int32_t> tokens(static_cast<size_t>(masks) + (reads_features(plan) ? 2 : 1), 0);
  lane.sequence(0).begin(lane.stream(), {.prompt = tokens, .masks = masks}, {});
  lane.backend().feed_prompt(lane.stream(), {.span = lane.span(0), .begin = cached, .count = rows});
  const auto step = lane.backend().record(
      lane.stream(), [&] { lane.enqueue_step(rows, cached + rows, Head::all); });
  std::vector<double> milliseconds;
  for (int32_t i = 0; i < repeats; ++i) {
    lane.stream().record().wait();
    const auto begin = std::chrono::steady_clock::now();
    step->launch(lane.stream());
    lane.stream().record().wait();
    milliseconds.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
            .count());
  }
  return milliseconds;
}

}  // namespace specrt

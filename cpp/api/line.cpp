#include "api/line.h"

#include "base/error.h"

namespace specrt {

Line::Outcome Line::enter(const RequestLimits& limits) {
  const auto is_late = [&] {
    return limits.deadline && std::chrono::steady_clock::now() >= *limits.deadline;
  };
  if (limits.stop.stop_requested()) return Outcome::cancelled;
  if (is_late()) return Outcome::deadline;
  std::unique_lock lock(mutex_);
  if (taken_ && owner_ == std::this_thread::get_id()) {
    fail_argument("an on_progress called the LLM that called it, which would wait for itself");
  }
  Waiter self;
  Waiter** last = &first_;
  while (*last != nullptr) last = &(*last)->next;
  *last = &self;
  const auto is_turn = [&] { return !taken_ && first_ == &self; };
  const bool has_turn = limits.deadline
                            ? changed_.wait_until(lock, limits.stop, *limits.deadline, is_turn)
                            : changed_.wait(lock, limits.stop, is_turn);
  remove(&self);
  if (has_turn) {
    taken_ = true;
    owner_ = std::this_thread::get_id();
    return Outcome::turn;
  }
  changed_.notify_all();  // another may be the first now
  return limits.stop.stop_requested() ? Outcome::cancelled : Outcome::deadline;
}

void Line::leave() {
  const std::lock_guard lock(mutex_);
  taken_ = false;
  changed_.notify_all();
}

void Line::remove(Waiter* waiter) {
  Waiter** at = &first_;
  while (*at != waiter) at = &(*at)->next;
  *at = waiter->next;
}

}  // namespace specrt

// Callers of an LLM wait here for their turn, first come, first served.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "specrt/llm.h"

namespace specrt {

class Line {
 public:
  enum class Outcome { turn, deadline, cancelled };

  // Waits for the turn, or until a limit ends the wait. Allocates nothing. Throws an argument error
  // on the thread that has the turn.
  Outcome enter(const RequestLimits& limits);

  // Ends the turn.
  void leave();

 private:
  struct Waiter {
    Waiter* next = nullptr;
  };
  void remove(Waiter* waiter);

  std::mutex mutex_;
  std::condition_variable_any changed_;
  Waiter* first_ = nullptr;  // on the stacks of those who wait
  bool taken_ = false;
  std::thread::id owner_;  // of the turn, or of the last
};

}  // namespace specrt

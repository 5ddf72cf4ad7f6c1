// Counts what the requests of an LLM come to.
#pragma once

#include <mutex>

#include "specrt/types.h"

namespace specrt {

class Tally {
 public:
  void begin();
  void fail();
  void end(const Completion& completion);  // of one that had its turn
  void give_up(FinishReason reason);       // of one that had none

  LLMCounters counters() const;

 private:
  void count(FinishReason reason);

  mutable std::mutex mutex_;
  LLMCounters counters_;
};

}  // namespace specrt

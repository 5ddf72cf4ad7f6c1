// A fiber: a stack of its own that the device's host thread jumps to and from. Announces every jump
// to AddressSanitizer and ThreadSanitizer.
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>

namespace specrt::emulation {

class Fiber {
 public:
  // The thread that calls, as a fiber: where the others return to.
  Fiber();
  // Runs entry(argument), which never returns, at the first switch to it. `color` spreads the tops
  // of stacks over the sets of the cache.
  using Entry = void (*)(void* argument);
  Fiber(Entry entry, void* argument, int color);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // Called on this fiber: continues `next`; returns when some fiber switches back to this one.
  void switch_to(Fiber& next);

 private:
  static void start(boost::context::detail::transfer_t transfer);
  static Fiber& arrive(boost::context::detail::transfer_t transfer);  // the fiber that jumped

  boost::context::detail::fcontext_t context_ = nullptr;
  Fiber* next_ = nullptr;  // where this fiber jumped to
  Entry entry_ = nullptr;
  void* argument_ = nullptr;
  std::byte* mapping_ = nullptr;
  const void* stack_low_ = nullptr;  // for AddressSanitizer
  size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;  // of AddressSanitizer, while switched away
  void* tsan_fiber_ = nullptr;
};

}  // namespace specrt::emulation

#include "cuda/emulation/fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include "base/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace specrt::emulation {
namespace {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

constexpr size_t kPage = 4096;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytes = 256 << 10;  // frames are several times larger
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr int kColors = 16;
constexpr size_t kColorBytes = 832;  // 13 cache lines

}  // namespace

Fiber::Fiber() {
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t attributes;
  void* low = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &low, &stack_bytes_);
  pthread_attr_destroy(&attributes);
  stack_low_ = low;
#endif
#if defined(__SANITIZE_THREAD__)
  tsan_fiber_ = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber(Entry entry, void* argument, int color) : entry_(entry), argument_(argument) {
  void* mapping = mmap(nullptr, kPage + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  SPECRT_CHECK(mapping != MAP_FAILED, "no memory for the stack of a device thread");
  mapping_ = static_cast<std::byte*>(mapping);
  mprotect(mapping_, kPage, PROT_NONE);  // a stack that is too small faults here
  stack_low_ = mapping_ + kPage;
  stack_bytes_ = kStackBytes - static_cast<size_t>(color % kColors) * kColorBytes;
  context_ = make_fcontext(mapping_ + kPage + stack_bytes_, stack_bytes_, &Fiber::start);
#if defined(__SANITIZE_THREAD__)
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
  if (mapping_ == nullptr) return;
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(stack_low_, stack_bytes_);  // frames that were never left
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_destroy_fiber(tsan_fiber_);
#endif
  munmap(mapping_, kPage + kStackBytes);
}

void Fiber::switch_to(Fiber& next) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_stack_, next.stack_low_, next.stack_bytes_);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(next.tsan_fiber_, 0);
#endif
  next_ = &next;
  arrive(jump_fcontext(next.context_, this));
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

// The fiber that jumped here is continued where it left.
Fiber& Fiber::arrive(transfer_t transfer) {
  Fiber& from = *static_cast<Fiber*>(transfer.data);
  from.context_ = transfer.fctx;
  return from;
}

void Fiber::start(transfer_t transfer) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  Fiber& self = *arrive(transfer).next_;
  self.entry_(self.argument_);
}

}  // namespace specrt::emulation

// The cores of one stream: fork-join over numbered items. Member 0 is the caller, the others are
// helper threads, which spin for a moment between jobs and then sleep.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"

namespace specrt::cpu {

// Repeats `ready` for about 50 us. Gaps between the forks of a step are shorter than that.
bool spin_until(bool (*ready)(const void* context), const void* context);

template <typename Ready>
bool spin_until(const Ready& ready) {
  return spin_until([](const void* context) { return (*static_cast<const Ready*>(context))(); },
                    static_cast<const void*>(&ready));
}

// A thread that a forked process forgets: it has none of its parent's threads, and the system gives
// their ids and stacks to new ones.
class Thread {
 public:
  // Runs `body`. Throws specrt::Error where the system gives no more threads.
  template <typename Body>
  explicit Thread(Body&& body) {
    try {
      thread_ = std::make_unique<std::thread>(std::forward<Body>(body));
    } catch (const std::system_error& error) {
      fail("cannot start a thread (", error.what(), "); use fewer threads or free memory");
    }
  }

  void join() {
    if (getpid() == process_) {
      thread_->join();
    } else {
      (void)thread_.release();
    }
  }

 private:
  pid_t process_ = getpid();
  std::unique_ptr<std::thread> thread_;
};

class Team {
 public:
  explicit Team(int size);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(scratch_.size()); }

  // Calls body(item, member) once for every item in [0, count), count < 65536, and returns when all
  // are done. Which member takes which item varies from run to run. `bytes` that the job touches
  // decide whether it is worth a fork. Only member 0 calls this.
  template <typename Body>
  void parallel(int count, int64_t bytes, const Body& body) {
    if (count <= 1 || bytes < kMinForkBytes || size() == 1) {
      for (int item = 0; item < count; ++item) body(item, 0);
      return;
    }
    run(count, {&body, [](const void* context, int item, int member) {
                  (*static_cast<const Body*>(context))(item, member);
                }});
  }

  // Uninitialised memory of a member, 64-byte aligned, valid until its next call.
  std::byte* scratch(int member, size_t bytes);

 private:
  static constexpr int64_t kMinForkBytes = 160 << 10;

  struct Job {
    const void* body;
    void (*call)(const void* body, int item, int member);
  };
  struct alignas(64) Line {
    std::byte bytes[64];
  };

  void run(int count, Job job);
  void take_items(int member);
  void help(int member);
  void join();

  std::vector<std::vector<Line>> scratch_;
  // Number of items in the upper half, the next item to take in the lower. Whoever raises the lower
  // half owns an item of the current job, which lasts until its last item is done; so a helper that
  // wakes late finds either work or nothing.
  alignas(64) std::atomic<uint32_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  std::atomic<bool> stop_{false};
  Job job_{};
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::vector<Thread> helpers_;
};

}  // namespace specrt::cpu

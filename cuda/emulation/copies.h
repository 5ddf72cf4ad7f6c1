// Asynchronous copies into shared memory: cp.async groups of a thread, bulk copies and mbarriers of
// a block. A copy poisons its destination when it is issued and comes later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "cuda/emulation/random.h"

namespace specrt::emulation {

// cp.async of one thread.
class LaneCopies {
 public:
  void issue(void* dst, const void* src, uint32_t bytes, Random& random);
  void commit();
  void wait(int pending);
  bool idle() const { return groups_.empty() && open_.empty(); }
  void clear();

 private:
  struct Copy {
    std::byte* dst;
    const std::byte* src;
    uint32_t bytes;  // of 16; the rest is zeros
    bool landed;
  };
  static void land(Copy& copy);

  std::deque<std::vector<Copy>> groups_;
  std::vector<Copy> open_;
};

// mbarriers and bulk copies of one block. Errors end the kernel with a report.
class BlockCopies {
 public:
  // `offset` of the barrier in shared memory marks what the barrier's 8 bytes hold.
  void init(uint64_t* barrier, uint32_t arrivals, size_t offset);
  void fence_init();
  void expect(uint64_t* barrier, uint32_t bytes);
  bool ended(uint64_t* barrier, uint32_t parity);

  void issue(void* dst, const void* src, uint32_t bytes, uint64_t* barrier, Random& random);
  void fence_proxy() { ++fences_; }

  // Copies whose time has come.
  void tick();
  // Lands one copy although it would rather come later. False if none is in flight.
  bool land_one(Random& random);
  bool idle() const { return flying_.empty(); }
  std::string describe() const;  // the barriers, for reports

 private:
  struct Barrier {
    uint64_t* address;
    uint64_t tag;  // what the 8 bytes at the address hold while nobody writes over them
    uint32_t arrivals;
    uint32_t missing;
    int64_t announced;  // bytes of this phase
    int64_t issued;
    int64_t landed;
    uint32_t phase;
    bool fenced;
  };
  struct Copy {
    std::byte* dst;
    const std::byte* src;
    uint32_t bytes;
    uint64_t* barrier;
    int patience;  // ticks until it lands; negative: only when nothing else can run
  };
  // The last bulk copy to a place: ordinary writes since then need fence_proxy_async.
  struct Region {
    std::byte* dst;
    std::vector<std::byte> content;
    int64_t fences;
  };

  Barrier& find(uint64_t* address);
  void complete(Barrier& barrier);
  void land(size_t index);
  void check_proxy(std::byte* dst, uint32_t bytes) const;

  std::vector<Barrier> barriers_;
  std::vector<Copy> flying_;
  std::vector<Region> regions_;
  int64_t fences_ = 0;
};

}  // namespace specrt::emulation

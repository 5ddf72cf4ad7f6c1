// One block of a kernel while it runs: its device threads, warps, shared memory and asynchronous
// copies. A warp runs lane by lane up to the next point where lanes wait; when all 32 wait for the
// same collective, it happens at once for all of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/emulation/copies.h"
#include "cuda/emulation/fiber.h"
#include "cuda/emulation/language.h"
#include "cuda/emulation/launch.h"
#include "cuda/emulation/random.h"
#include "cuda/emulation/shared_memory.h"

namespace specrt::emulation {

inline constexpr unsigned kWarpLanes = 32;

class Block;
class Warp;
struct Lane;

// The fiber that device threads return to.
void use_scheduler(Fiber* fiber);

// The condition of pdl_wait.
bool predecessor_done(Lane& lane);

enum class LaneState {
  ready,
  spinning,    // let others run; ready at the next turn
  collective,  // waits for the other lanes of the warp
  barrier,     // waits for the other threads of the block
  blocked,     // waits until `open` says so
  done,
};

// A device thread. Kept and used again by later blocks, because its stack is expensive.
struct Lane {
  explicit Lane(int color);

  Place place{};
  Block* block = nullptr;
  Warp* warp = nullptr;
  unsigned index = 0;
  LaneState state = LaneState::done;
  const char* waits_for = "";
  // What the lane waits with: collectives get those of all lanes, `open` those of this one.
  void* argument = nullptr;
  void (*combine)(void* const* arguments) = nullptr;
  bool (*open)(Lane& lane) = nullptr;
  LaneCopies copies;
  Fiber fiber;
};

// Device threads that no block uses.
class LanePool {
 public:
  std::unique_ptr<Lane> take();
  void give(std::unique_ptr<Lane> lane);

 private:
  std::vector<std::unique_ptr<Lane>> free_;
  int made_ = 0;
};

enum class Progress {
  moved,  // something happened
  spun,   // threads ran, but only to look again
  held,   // all wait for the kernel before this one
  done,
};

class Warp {
 public:
  Warp(Block& block, unsigned index) : block_(block), index_(index) {}

  // Runs every lane that can run once. True if one ran.
  Progress advance(Random& random);
  Lane* next();  // the next lane of this turn that can run; null at its end

  std::array<Lane*, kWarpLanes> lanes{};
  bool after_wait = false;  // a lane called pdl_wait, or passed a barrier after one that did

  bool at_barrier() const { return at_barrier_; }
  bool done() const { return done_; }
  void leave_barrier();
  unsigned index() const { return index_; }
  std::string describe() const;  // which lanes wait for what

 private:
  bool wake();
  void settle();

  Block& block_;
  unsigned index_;
  unsigned first_ = 0;
  unsigned step_ = 1;
  unsigned turn_ = kWarpLanes;
  bool at_barrier_ = false;
  bool done_ = false;
};

// What the block asks of the grid that it belongs to.
struct Surroundings {
  const Kernel& kernel;
  Random& random;
  LanePool& lanes;
  const bool& predecessor_done;
};

class Block {
 public:
  Block(const Surroundings& surroundings, uint3 index, std::unique_ptr<SharedMemory> shared);
  ~Block();

  Progress step();
  std::unique_ptr<SharedMemory> take_shared() { return std::move(shared_); }

  const Surroundings& surroundings() const { return surroundings_; }
  SharedMemory& shared() { return *shared_; }
  BlockCopies& copies() { return copies_; }
  std::string title() const;  // kernel and block

  static Lane* current();  // the device thread that runs; null on the scheduler
  static void park(LaneState state, const char* waits_for);  // of the current thread
  [[noreturn]] static void fail(const std::string& text);
  static void lane_main(void* argument);

 private:
  Progress advance_a_warp();
  void release_barrier();
  void finish();
  std::string describe() const;
  bool held() const;

  Surroundings surroundings_;
  std::unique_ptr<SharedMemory> shared_;
  BlockCopies copies_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<std::unique_ptr<Warp>> warps_;
  uint3 index_;
  size_t last_warp_ = 0;
};

}  // namespace specrt::emulation

#include "cuda/emulation/block.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "cuda/emulation/engine.h"
#include "cuda/emulation/report.h"

namespace specrt::emulation {

// One host thread runs all device threads, so what runs now is known to the whole program.
const Place* current_place = nullptr;

namespace {

Lane* running_lane = nullptr;  // null while the scheduler runs
Block* running_block = nullptr;
Fiber* scheduler = nullptr;
std::string fault;  // of a device thread, until the scheduler runs again

std::string place_text(const uint3& at) { return concat("(", at.x, ",", at.y, ",", at.z, ")"); }

void run(Lane* lane) {
  running_lane = lane;
  current_place = lane == nullptr ? nullptr : &lane->place;
}

}  // namespace

void use_scheduler(Fiber* fiber) { scheduler = fiber; }

void fail_device(const std::string& text) { Block::fail(text); }

// ---- Lanes -------------------------------------------------------------------------------------

Lane::Lane(int color) : fiber(&Block::lane_main, this, color) {}

std::unique_ptr<Lane> LanePool::take() {
  if (free_.empty()) return std::make_unique<Lane>(made_++);
  std::unique_ptr<Lane> lane = std::move(free_.back());
  free_.pop_back();
  return lane;
}

void LanePool::give(std::unique_ptr<Lane> lane) { free_.push_back(std::move(lane)); }

// ---- Warps -------------------------------------------------------------------------------------

Lane* Warp::next() {
  while (turn_ < kWarpLanes) {
    Lane* lane = lanes[(first_ + step_ * turn_++) % kWarpLanes];
    if (lane->state == LaneState::ready) return lane;
  }
  return nullptr;
}

// True if a lane that waited may go on for another reason than to look again.
bool Warp::wake() {
  bool opened = false;
  for (Lane* lane : lanes) {
    if (lane->state == LaneState::blocked && lane->open(*lane)) {
      lane->state = LaneState::ready;
      opened = true;
    } else if (lane->state == LaneState::spinning) {
      lane->state = LaneState::ready;
    } else if (lane->state == LaneState::ready) {
      opened = true;
    }
  }
  return opened;
}

Progress Warp::advance(Random& random) {
  const bool moved = wake();
  first_ = random.below(kWarpLanes);
  step_ = random.one_in(2) ? 1 : kWarpLanes - 1;
  turn_ = 0;
  Lane* lane = next();
  if (lane == nullptr) return Progress::held;
  run(lane);
  scheduler->switch_to(lane->fiber);
  run(nullptr);
  if (!fault.empty()) throw DeviceError(std::exchange(fault, {}));
  settle();
  // A thread that looked once more may have been the last to reach a barrier or the end.
  return moved || at_barrier_ || done_ ? Progress::moved : Progress::spun;
}

void Warp::settle() {
  int count[6] = {};
  bool same = true;
  for (const Lane* lane : lanes) {
    ++count[static_cast<int>(lane->state)];
    same = same && lane->combine == lanes[0]->combine;
  }
  const auto of = [&](LaneState state) {
    return static_cast<unsigned>(count[static_cast<int>(state)]);
  };
  if (of(LaneState::collective) == kWarpLanes && same) {
    std::array<void*, kWarpLanes> arguments;
    for (unsigned i = 0; i < kWarpLanes; ++i) arguments[i] = lanes[i]->argument;
    engine().count_collective();
    lanes[0]->combine(arguments.data());
    for (Lane* lane : lanes) lane->state = LaneState::ready;
    return;
  }
  at_barrier_ = of(LaneState::barrier) == kWarpLanes;
  done_ = of(LaneState::done) == kWarpLanes;
  const bool stuck = of(LaneState::ready) + of(LaneState::spinning) + of(LaneState::blocked) == 0;
  if (stuck && !at_barrier_ && !done_) {
    Block::fail(concat("divergent warp, ", describe()));
  }
}

void Warp::leave_barrier() {
  at_barrier_ = false;
  for (Lane* lane : lanes) lane->state = LaneState::ready;
}

std::string Warp::describe() const {
  const auto text = [](const Lane& lane) -> std::string {
    return lane.state == LaneState::done ? "ended" : concat("wait at ", lane.waits_for);
  };
  std::string out = concat("warp ", index_, ":");
  for (unsigned first = 0; first < kWarpLanes;) {
    unsigned last = first;
    while (last + 1 < kWarpLanes && text(*lanes[last + 1]) == text(*lanes[first])) ++last;
    const std::string range =
        first == last ? concat("lane ", first) : concat("lanes ", first, "-", last);
    out += concat(first == 0 ? " " : ", ", range, " ", text(*lanes[first]));
    first = last + 1;
  }
  return out;
}

// ---- Blocks ------------------------------------------------------------------------------------

Block::Block(const Surroundings& surroundings, uint3 index, std::unique_ptr<SharedMemory> shared)
    : surroundings_(surroundings), shared_(std::move(shared)), index_(index) {
  const Kernel& kernel = surroundings.kernel;
  shared_->begin(kernel.shared_bytes);
  for (unsigned thread = 0; thread < kernel.threads; ++thread) {
    if (thread % kWarpLanes == 0) {
      warps_.push_back(std::make_unique<Warp>(*this, thread / kWarpLanes));
    }
    std::unique_ptr<Lane> lane = surroundings.lanes.take();
    lane->place = {{thread, 0, 0}, index, dim3(kernel.threads), kernel.grid};
    lane->block = this;
    lane->warp = warps_.back().get();
    lane->index = thread % kWarpLanes;
    lane->state = LaneState::ready;
    lane->combine = nullptr;
    lane->copies.clear();
    warps_.back()->lanes[lane->index] = lane.get();
    lanes_.push_back(std::move(lane));
  }
}

// Threads that have not ended are in the middle of a kernel: their stacks go with them.
Block::~Block() {
  for (std::unique_ptr<Lane>& lane : lanes_) {
    if (lane->state == LaneState::done) surroundings_.lanes.give(std::move(lane));
  }
}

Lane* Block::current() { return running_lane; }

void Block::park(LaneState state, const char* waits_for) {
  Lane& self = *running_lane;
  self.state = state;
  self.waits_for = waits_for;
  Lane* next = self.warp->next();
  run(next);
  self.fiber.switch_to(next == nullptr ? *scheduler : next->fiber);
}

void Block::fail(const std::string& text) {
  const std::string title = running_block == nullptr ? "" : running_block->title();
  if (running_lane == nullptr) throw DeviceError(concat(title, ": ", text));
  const Lane& self = *running_lane;
  throw DeviceError(concat(title, " warp ", self.warp->index(), " lane ", self.index, ": ", text));
}

// A device thread runs the kernel of one block after another.
void Block::lane_main(void* argument) {
  Lane& self = *static_cast<Lane*>(argument);
  for (;;) {
    const Kernel& kernel = self.block->surroundings_.kernel;
    try {
      kernel.call(kernel.function, kernel.args.data());
      if (!self.copies.idle()) fail("ended with cp.async copies that were not waited for");
    } catch (const DeviceError& error) {
      if (fault.empty()) fault = error.what();
    }
    park(LaneState::done, "the end");
  }
}

std::string Block::title() const {
  return concat("kernel ", surroundings_.kernel.name(), " block ", place_text(index_));
}

Progress Block::step() {
  running_block = this;
  copies_.tick();
  Progress progress = advance_a_warp();
  if (progress == Progress::held && copies_.land_one(surroundings_.random)) {
    progress = Progress::moved;
  }
  if (progress == Progress::moved) release_barrier();
  if (std::all_of(warps_.begin(), warps_.end(), [](const auto& w) { return w->done(); })) {
    finish();
    progress = Progress::done;
  } else if (progress == Progress::held && !held()) {
    fail(concat("deadlock, ", describe(), copies_.describe()));
  }
  running_block = nullptr;
  return progress;
}

// Stays with a warp for some turns: faster, and warps get far ahead of each other.
Progress Block::advance_a_warp() {
  Random& random = surroundings_.random;
  if (random.one_in(8)) last_warp_ = random.below(static_cast<uint32_t>(warps_.size()));
  Progress best = Progress::held;
  for (size_t i = 0; i < warps_.size(); ++i) {
    const size_t at = (last_warp_ + i) % warps_.size();
    const Progress progress = warps_[at]->advance(random);
    if (progress == Progress::spun) best = Progress::spun;
    if (progress == Progress::moved) {
      last_warp_ = at;
      return progress;
    }
  }
  return best;
}

void Block::release_barrier() {
  size_t waiting = 0;
  size_t ended = 0;
  bool after_wait = false;
  for (const auto& warp : warps_) {
    waiting += warp->at_barrier() ? 1 : 0;
    ended += warp->done() ? 1 : 0;
    after_wait = after_wait || warp->after_wait;
  }
  if (waiting == 0 || waiting + ended < warps_.size()) return;
  if (ended > 0) fail(concat("divergent barrier, ", describe()));
  for (const auto& warp : warps_) {
    warp->after_wait = after_wait;
    warp->leave_barrier();
  }
}

void Block::finish() {
  if (!copies_.idle()) fail("ended with bulk copies in flight");
  const std::string broken = shared_->end();
  if (!broken.empty()) fail(broken);
  if (surroundings_.kernel.edge == Edge::programmatic) {
    for (const auto& warp : warps_) {
      if (!warp->after_wait) {
        fail(concat("launched with pdl, and warp ", warp->index(), " ended without pdl_wait"));
      }
    }
  }
}

std::string Block::describe() const {
  std::string out;
  for (const auto& warp : warps_) {
    if (!out.empty()) out += "; ";
    out += warp->describe();
  }
  return out;
}

// A block that cannot go on is in order only if a thread waits for the kernel before this one.
bool Block::held() const {
  if (surroundings_.predecessor_done) return false;
  return std::any_of(lanes_.begin(), lanes_.end(), [](const auto& lane) {
    return lane->state == LaneState::blocked && lane->open == &predecessor_done;
  });
}

}  // namespace specrt::emulation

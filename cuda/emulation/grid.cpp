#include "cuda/emulation/grid.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "cuda/emulation/report.h"

namespace specrt::emulation {
namespace {

constexpr unsigned kResidentThreads = 1024;
constexpr uint32_t kResidentBlocks = 6;
constexpr int64_t kMaxSpins = 1 << 16;

}  // namespace

Grid::Grid(std::shared_ptr<const Kernel> kernel, Workshop& workshop)
    : kernel_(std::move(kernel)), workshop_(workshop) {
  const dim3& grid = kernel_->grid;
  waiting_.resize(static_cast<size_t>(grid.x) * grid.y * grid.z);
  for (size_t i = 0; i < waiting_.size(); ++i) waiting_[i] = static_cast<uint32_t>(i);
  for (size_t i = waiting_.size(); i > 1; --i) {
    std::swap(waiting_[i - 1], waiting_[workshop.random.below(static_cast<uint32_t>(i))]);
  }
  const size_t fitting = std::max(1u, kResidentThreads / kernel_->threads);
  limit_ = std::min<size_t>(fitting, 1 + workshop.random.below(kResidentBlocks));
}

uint3 Grid::index_of(uint32_t number) const {
  const dim3& grid = kernel_->grid;
  return {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
}

void Grid::admit() {
  while (resident_.size() < limit_ && !waiting_.empty()) {
    std::unique_ptr<SharedMemory> shared;
    if (workshop_.shared.empty()) {
      shared = std::make_unique<SharedMemory>();
    } else {
      shared = std::move(workshop_.shared.back());
      workshop_.shared.pop_back();
    }
    const Surroundings surroundings{*kernel_, workshop_.random, workshop_.lanes, predecessor_done_};
    resident_.push_back(
        std::make_unique<Block>(surroundings, index_of(waiting_.back()), std::move(shared)));
    waiting_.pop_back();
  }
}

Progress Grid::run(int steps) {
  Progress last = Progress::moved;
  for (int step = 0; step < steps; ++step) {
    admit();
    if (resident_.empty()) return Progress::done;
    const auto start = workshop_.random.below(static_cast<uint32_t>(resident_.size()));
    last = Progress::held;
    for (size_t i = 0; i < resident_.size() && last == Progress::held; ++i) {
      const size_t at = (start + i) % resident_.size();
      last = resident_[at]->step();
      if (last != Progress::done) continue;
      workshop_.shared.push_back(resident_[at]->take_shared());
      resident_.erase(resident_.begin() + static_cast<std::ptrdiff_t>(at));
    }
    if (last == Progress::held) return last;
    spins_ = last == Progress::spun ? spins_ + 1 : 0;
    if (spins_ > kMaxSpins) {
      fail_device(concat("kernel ", kernel_->name(), ": deadlock, threads only look again (",
                         resident_.size(), " blocks run, ", waiting_.size(), " have not begun)"));
    }
  }
  return resident_.empty() && waiting_.empty() ? Progress::done : Progress::moved;
}

}  // namespace specrt::emulation

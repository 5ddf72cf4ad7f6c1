#include "cpu/team.h"

#include <immintrin.h>

#include <chrono>

namespace specrt::cpu {
namespace {

constexpr auto kSpinTime = std::chrono::microseconds(50);
constexpr int kPausesPerLook = 8;
constexpr uint32_t kMaxItems = 0xffff;

uint32_t next_of(uint32_t ticket) { return ticket & 0xffffu; }
uint32_t items_of(uint32_t ticket) { return ticket >> 16; }
bool has_items(uint32_t ticket) { return next_of(ticket) < items_of(ticket); }

}  // namespace

bool spin_until(bool (*ready)(const void* context), const void* context) {
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (ready(context)) return true;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

Team::Team(int size) : scratch_(static_cast<size_t>(size)) {
  SPECRT_CHECK(size >= 1, "a team has at least one member, not ", size);
  helpers_.reserve(static_cast<size_t>(size) - 1);  // so that no started thread can be lost
  try {
    for (int member = 1; member < size; ++member) {
      helpers_.emplace_back([this, member] { help(member); });
    }
  } catch (...) {
    join();
    throw;
  }
}

Team::~Team() { join(); }

void Team::join() {
  stop_.store(true);
  ticket_.exchange(1);  // differs from every ticket that a helper can sleep on
  ticket_.notify_all();
  for (Thread& helper : helpers_) helper.join();
  helpers_.clear();
}

std::byte* Team::scratch(int member, size_t bytes) {
  std::vector<Line>& lines = scratch_[static_cast<size_t>(member)];
  const size_t count = (bytes + sizeof(Line) - 1) / sizeof(Line);
  if (lines.size() < count) lines.resize(count);
  return lines.data()->bytes;
}

void Team::run(int count, Job job) {
  SPECRT_CHECK(static_cast<uint32_t>(count) <= kMaxItems, "a job of ", count, " items");
  job_ = job;
  done_.store(0, std::memory_order_relaxed);
  ticket_.exchange(static_cast<uint32_t>(count) << 16);
  ticket_.notify_all();
  take_items(0);

  const uint32_t all = static_cast<uint32_t>(count);
  const auto finished = [&] { return done_.load(std::memory_order_acquire) == all; };
  while (!finished() && !spin_until(finished)) {
    const uint32_t seen = done_.load(std::memory_order_acquire);
    if (seen != all) done_.wait(seen, std::memory_order_acquire);
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Team::take_items(int member) {
  uint32_t ticket = ticket_.load(std::memory_order_acquire);
  while (has_items(ticket)) {
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
      continue;
    }
    try {
      job_.call(job_.body, static_cast<int>(next_of(ticket)), member);
    } catch (...) {
      const std::lock_guard lock(error_mutex_);
      error_ = std::current_exception();
    }
    const uint32_t all = items_of(ticket);
    if (done_.fetch_add(1) + 1 == all) done_.notify_one();
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void Team::help(int member) {
  while (!stop_.load(std::memory_order_acquire)) {
    take_items(member);
    const uint32_t seen = ticket_.load(std::memory_order_acquire);
    const auto changed = [&] { return ticket_.load(std::memory_order_relaxed) != seen; };
    if (has_items(seen) || stop_.load(std::memory_order_acquire) || spin_until(changed)) continue;
    ticket_.wait(seen, std::memory_order_acquire);
  }
}

}  // namespace specrt::cpu

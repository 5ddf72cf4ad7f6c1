#include "cuda/emulation/copies.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "cuda/emulation/engine.h"
#include "cuda/emulation/memory.h"
#include "cuda/emulation/report.h"

namespace specrt::emulation {
namespace {

constexpr uint64_t kTag = 0x6d62617272696572u;
constexpr int64_t kMaxPhaseBytes = (1 << 20) - 1;
constexpr uint32_t kMaxPatience = 64;

bool overlap(const std::byte* a, size_t a_bytes, const std::byte* b, size_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

}  // namespace

// ---- cp.async ----------------------------------------------------------------------------------

void LaneCopies::issue(void* dst, const void* src, uint32_t bytes, Random& random) {
  Copy copy{static_cast<std::byte*>(dst), static_cast<const std::byte*>(src), bytes, false};
  poison(dst, 16);
  if (random.one_in(4)) land(copy);
  open_.push_back(copy);
}

void LaneCopies::commit() {
  groups_.push_back(std::move(open_));
  open_.clear();
}

void LaneCopies::wait(int pending) {
  while (groups_.size() > static_cast<size_t>(pending)) {
    for (Copy& copy : groups_.front()) land(copy);
    groups_.pop_front();
  }
}

void LaneCopies::land(Copy& copy) {
  if (copy.landed) return;
  std::memset(copy.dst, 0, 16);
  if (copy.bytes > 0) std::memcpy(copy.dst, copy.src, copy.bytes);
  copy.landed = true;
}

void LaneCopies::clear() {
  groups_.clear();
  open_.clear();
}

// ---- mbarriers ---------------------------------------------------------------------------------

void BlockCopies::init(uint64_t* barrier, uint32_t arrivals, size_t offset) {
  if (arrivals == 0) fail_device("mbar_init: 0 arrivals");
  std::erase_if(barriers_, [&](const Barrier& known) { return known.address == barrier; });
  const uint64_t tag = kTag ^ (offset * 0x9e3779b97f4a7c15u);
  *barrier = tag;
  barriers_.push_back({barrier, tag, arrivals, arrivals, 0, 0, 0, 0, false});
}

void BlockCopies::fence_init() {
  for (Barrier& barrier : barriers_) barrier.fenced = true;
}

BlockCopies::Barrier& BlockCopies::find(uint64_t* address) {
  const auto place = std::find_if(barriers_.begin(), barriers_.end(),
                                  [&](const Barrier& known) { return known.address == address; });
  if (place == barriers_.end()) fail_device("an mbarrier that was not initialized");
  if (*address != place->tag) fail_device("an mbarrier that something wrote over");
  return *place;
}

void BlockCopies::complete(Barrier& barrier) {
  if (barrier.missing > 0 || barrier.landed < barrier.announced) return;
  ++barrier.phase;
  barrier.missing = barrier.arrivals;
  barrier.announced = barrier.issued = barrier.landed = 0;
}

void BlockCopies::expect(uint64_t* address, uint32_t bytes) {
  Barrier& barrier = find(address);
  if (barrier.missing == 0) fail_device("mbar_expect_tx: more arrivals than the phase has");
  barrier.announced += bytes;
  if (barrier.announced > kMaxPhaseBytes) fail_device("mbar_expect_tx: 1 MiB or more in a phase");
  --barrier.missing;
  complete(barrier);
}

bool BlockCopies::ended(uint64_t* barrier, uint32_t parity) {
  return (find(barrier).phase & 1u) != (parity & 1u);
}

std::string BlockCopies::describe() const {
  std::string out;
  for (size_t i = 0; i < barriers_.size(); ++i) {
    const Barrier& barrier = barriers_[i];
    out += concat("; mbarrier ", i, ": phase ", barrier.phase, ", ", barrier.missing,
                  " arrivals missing, ", barrier.landed, " of ", barrier.announced, " bytes");
  }
  return out;
}

// ---- Bulk copies -------------------------------------------------------------------------------

void BlockCopies::issue(void* dst, const void* src, uint32_t bytes, uint64_t* address,
                        Random& random) {
  Barrier& barrier = find(address);
  if (!barrier.fenced) fail_device("bulk_g2s: mbar_init without fence_mbar_init");
  auto* out = static_cast<std::byte*>(dst);
  for (const Copy& copy : flying_) {
    if (overlap(out, bytes, copy.dst, copy.bytes)) {
      fail_device("bulk_g2s: destination of a copy that is still in flight");
    }
  }
  barrier.issued += bytes;
  if (barrier.issued > barrier.announced) {
    fail_device(concat("bulk_g2s: ", barrier.issued, " bytes issued, ", barrier.announced,
                       " announced by mbar_expect_tx"));
  }
  check_proxy(out, bytes);
  poison(dst, bytes);
  const int patience = random.one_in(2) ? static_cast<int>(random.below(kMaxPatience)) : -1;
  flying_.push_back({out, static_cast<const std::byte*>(src), bytes, address, patience});
}

// Ordinary writes are seen by what they changed.
void BlockCopies::check_proxy(std::byte* dst, uint32_t bytes) const {
  const auto complain = [] {
    fail_device("bulk_g2s: ordinary writes to the destination without fence_proxy_async");
  };
  bool known = false;
  for (const Region& region : regions_) {
    if (!overlap(dst, bytes, region.dst, region.content.size())) continue;
    known = true;
    const bool same = std::memcmp(region.dst, region.content.data(), region.content.size()) == 0;
    if (!same && fences_ == region.fences) complain();
  }
  if (known || fences_ > 0) return;
  for (uint32_t i = 0; i < bytes; i += 2) {
    if (std::memcmp(dst + i, &kPoison, 2) != 0) complain();
  }
}

void BlockCopies::land(size_t index) {
  const Copy copy = flying_[index];
  flying_.erase(flying_.begin() + static_cast<std::ptrdiff_t>(index));
  std::memcpy(copy.dst, memory().weights(copy.src, copy.bytes), copy.bytes);
  std::erase_if(regions_, [&](const Region& region) {
    return overlap(copy.dst, copy.bytes, region.dst, region.content.size());
  });
  regions_.push_back({copy.dst, {copy.dst, copy.dst + copy.bytes}, fences_});
  Barrier& barrier = find(copy.barrier);
  barrier.landed += copy.bytes;
  complete(barrier);
}

void BlockCopies::tick() {
  for (size_t i = 0; i < flying_.size();) {
    if (flying_[i].patience < 0 || flying_[i].patience-- > 0) {
      ++i;
    } else {
      land(i);
    }
  }
}

bool BlockCopies::land_one(Random& random) {
  if (flying_.empty()) return false;
  land(random.below(static_cast<uint32_t>(flying_.size())));
  engine().count_late_copy();
  return true;
}

}  // namespace specrt::emulation

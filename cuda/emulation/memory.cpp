#include "cuda/emulation/memory.h"

#include <cstring>

#include "base/error.h"
#include "cuda/emulation/control.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace specrt::emulation {
namespace {

constexpr size_t kAlignment = 256;  // as cudaMalloc gives
constexpr std::byte kGuard{0xa5};

}  // namespace

void poison(void* data, size_t bytes) {
  auto* out = static_cast<std::byte*>(data);
  for (size_t i = 0; i + 2 <= bytes; i += 2) std::memcpy(out + i, &kPoison, 2);
  if (bytes % 2 != 0) out[bytes - 1] = static_cast<std::byte>(kPoison & 0xff);
}

bool is_poison(const void* data, size_t bytes) {
  const auto* in = static_cast<const std::byte*>(data);
  if (bytes < 2) return bytes == 0 || in[0] == static_cast<std::byte>(kPoison & 0xff);
  return std::memcmp(in, &kPoison, 2) == 0 && std::memcmp(in, in + 2, bytes - 2) == 0;
}

void set_guard(std::byte* zone, size_t bytes) {
  std::memset(zone, static_cast<int>(kGuard), bytes);
}

#if defined(__SANITIZE_ADDRESS__)
void trap(const std::byte* zone, size_t bytes) {
  if (settings().trap_guards) ASAN_POISON_MEMORY_REGION(zone, bytes);
}
void lift_trap(const std::byte* zone, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(zone, bytes); }
#else
void trap(const std::byte*, size_t) {}
void lift_trap(const std::byte*, size_t) {}
#endif

std::optional<size_t> broken_guard(const std::byte* zone, size_t bytes) {
  const bool whole =
      zone[0] == kGuard && (bytes == 1 || std::memcmp(zone, zone + 1, bytes - 1) == 0);
  if (whole) return std::nullopt;
  size_t offset = 0;
  while (zone[offset] == kGuard) ++offset;
  return offset;
}

std::byte* Memory::allocate(MemoryKind kind, int device, size_t bytes, size_t limit) {
  const std::lock_guard lock(mutex_);
  if (kind == MemoryKind::device) {
    size_t used = bytes;
    for (const auto& [data, allocation] : allocations_) {
      if (allocation.kind == kind && allocation.device == device) used += allocation.bytes;
    }
    if (used > limit) return nullptr;
  }
  Allocation allocation{kind, device, bytes, nullptr, nullptr, {}};
  allocation.storage.reset(new std::byte[bytes + 2 * kGuardBytes + kAlignment]);
  const auto first = reinterpret_cast<uintptr_t>(allocation.storage.get()) + kGuardBytes;
  auto* data = reinterpret_cast<std::byte*>((first + kAlignment - 1) / kAlignment * kAlignment);
  set_guard(data - kGuardBytes);
  poison(data, bytes);
  set_guard(data + bytes);
  set_traps(data, bytes, Guards::watched);
  if (kind == MemoryKind::device) {
    allocation.image.reset(new std::byte[bytes]);
    poison(allocation.image.get(), bytes);
  }
  allocations_.emplace(data, std::move(allocation));
  return data;
}

bool Memory::release(MemoryKind kind, void* data) {
  const std::lock_guard lock(mutex_);
  const auto place = allocations_.find(static_cast<const std::byte*>(data));
  if (place == allocations_.end() || place->second.kind != kind) return false;
  set_traps(place->first, place->second.bytes, Guards::seen);
  allocations_.erase(place);
  return true;
}

Memory::Place Memory::holder(const void* data, size_t bytes) {
  const auto* first = static_cast<const std::byte*>(data);
  auto place = allocations_.upper_bound(first);
  if (place == allocations_.begin()) return allocations_.end();
  --place;
  const size_t offset = static_cast<size_t>(first - place->first);
  const size_t size = place->second.bytes;
  return offset <= size && bytes <= size - offset ? place : allocations_.end();
}

std::optional<MemoryKind> Memory::find(const void* data, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto place = holder(data, bytes);
  if (place == allocations_.end()) return std::nullopt;
  return place->second.kind;
}

bool Memory::as_host_left_it(const void* data) {
  const std::lock_guard lock(mutex_);
  const auto place = holder(data, 16);
  if (place == allocations_.end() || place->second.kind != MemoryKind::device) return false;
  const auto offset = static_cast<const std::byte*>(data) - place->first;
  return is_hidden_ || std::memcmp(data, place->second.image.get() + offset, 16) == 0;
}

void Memory::host_wrote(const void* data, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto place = holder(data, bytes);
  if (place == allocations_.end() || place->second.kind != MemoryKind::device) return;
  const auto offset = static_cast<const std::byte*>(data) - place->first;
  std::memcpy(place->second.image.get() + offset, data, bytes);
}

void Memory::hide() {
  const std::lock_guard lock(mutex_);
  is_hidden_ = true;
  for (auto& [data, allocation] : allocations_) {
    auto* first = const_cast<std::byte*>(data);
    allocation.hidden.assign(first, first + allocation.bytes);
    poison(first, allocation.bytes);
  }
}

std::string Memory::reveal() {
  const std::lock_guard lock(mutex_);
  std::string report;
  is_hidden_ = false;
  for (auto& [data, allocation] : allocations_) {
    if (allocation.hidden.size() != allocation.bytes) continue;  // made meanwhile
    if (!is_poison(data, allocation.bytes)) {
      report = concat("a write to an allocation of ", allocation.bytes, " bytes before pdl_wait");
    }
    std::memcpy(const_cast<std::byte*>(data), allocation.hidden.data(), allocation.bytes);
    allocation.hidden.clear();
  }
  return report;
}

const std::byte* Memory::weights(const void* data, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto* direct = static_cast<const std::byte*>(data);
  if (!is_hidden_) return direct;
  const auto place = holder(data, bytes);
  if (place == allocations_.end() || place->second.image == nullptr) return direct;
  return place->second.image.get() + (direct - place->first);
}

std::string Memory::guard_report(const std::byte* data, const Allocation& allocation) {
  if (const auto at = broken_guard(data - kGuardBytes)) {
    return concat("a write ", kGuardBytes - *at, " bytes before an allocation of ",
                  allocation.bytes, " bytes");
  }
  if (const auto at = broken_guard(data + allocation.bytes)) {
    return concat("a write ", *at, " bytes behind the end of an allocation of ", allocation.bytes,
                  " bytes");
  }
  return {};
}

void Memory::set_traps(const std::byte* data, size_t bytes, Guards guards) {
  for (const std::byte* zone : {data - kGuardBytes, data + bytes}) {
    guards == Guards::watched ? trap(zone) : lift_trap(zone);
  }
}

std::string Memory::check_guards() {
  const std::lock_guard lock(mutex_);
  for (const auto& [data, allocation] : allocations_) {
    set_traps(data, allocation.bytes, Guards::seen);
    const std::string report = guard_report(data, allocation);
    set_traps(data, allocation.bytes, Guards::watched);
    if (!report.empty()) return report;
  }
  return {};
}

void Memory::restore_guards() {
  const std::lock_guard lock(mutex_);
  for (const auto& [data, allocation] : allocations_) {
    auto* first = const_cast<std::byte*>(data);
    set_traps(data, allocation.bytes, Guards::seen);
    set_guard(first - kGuardBytes);
    set_guard(first + allocation.bytes);
    set_traps(data, allocation.bytes, Guards::watched);
  }
}

size_t Memory::used(int device) {
  const std::lock_guard lock(mutex_);
  size_t bytes = 0;
  for (const auto& [data, allocation] : allocations_) {
    if (allocation.kind == MemoryKind::device && allocation.device == device) {
      bytes += allocation.bytes;
    }
  }
  return bytes;
}

size_t Memory::live() {
  const std::lock_guard lock(mutex_);
  return allocations_.size();
}

Memory& memory() {
  static Memory all;
  return all;
}

}  // namespace specrt::emulation

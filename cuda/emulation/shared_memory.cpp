#include "cuda/emulation/shared_memory.h"

#include <cstdint>
#include <optional>

#include "base/error.h"
#include "cuda/emulation/memory.h"
#include "cuda/emulation/report.h"

namespace specrt::emulation {
namespace {

constexpr size_t kAlignment = 128;
constexpr size_t kVariableGuard = 64;  // between variables

}  // namespace

SharedMemory::SharedMemory()
    : storage_bytes_(kStaticSharedBytes + kMaxDynamicSharedBytes + 3 * kGuardBytes + kAlignment) {
  storage_.reset(new std::byte[storage_bytes_]);
  const auto first = reinterpret_cast<uintptr_t>(storage_.get());
  base_ = storage_.get() + (kAlignment - first % kAlignment) % kAlignment;
  dynamic_ = base_ + 2 * kGuardBytes + kStaticSharedBytes;
}

SharedMemory::~SharedMemory() { lift_trap(storage_.get(), storage_bytes_); }

std::string SharedMemory::end() {
  lift_trap(storage_.get(), storage_bytes_);
  return check_guards();
}

void SharedMemory::begin(size_t dynamic_bytes) {
  lift_trap(storage_.get(), storage_bytes_);
  dynamic_bytes_ = dynamic_bytes;
  static_used_ = kGuardBytes;
  variables_.clear();
  set_guard(base_, kGuardBytes + kStaticSharedBytes);
  set_guard(dynamic_ - kGuardBytes);
  poison(dynamic_, dynamic_bytes);
  set_guard(dynamic_ + dynamic_bytes);
  trap(base_, kGuardBytes + kStaticSharedBytes + kGuardBytes);
  trap(dynamic_ + dynamic_bytes);
}

std::byte* SharedMemory::variable(const void* key, size_t bytes, size_t alignment) {
  for (const Variable& known : variables_) {
    if (known.key == key) return known.data;
  }
  const size_t offset = (static_used_ + alignment - 1) / alignment * alignment;
  if (offset + bytes + kVariableGuard > kGuardBytes + kStaticSharedBytes) {
    fail_device(concat("shared variables take more than ", kStaticSharedBytes, " bytes"));
  }
  static_used_ = offset + bytes + kVariableGuard;
  std::byte* data = base_ + offset;
  lift_trap(data, bytes);
  poison(data, bytes);
  variables_.push_back({key, data, bytes});
  return data;
}

bool SharedMemory::holds(const void* data, size_t bytes) const {
  const auto* first = static_cast<const std::byte*>(data);
  const auto inside = [&](const std::byte* begin, size_t size) {
    return first >= begin && bytes <= size && first <= begin + (size - bytes);
  };
  if (inside(dynamic_, dynamic_bytes_)) return true;
  for (const Variable& known : variables_) {
    if (inside(known.data, known.bytes)) return true;
  }
  return false;
}

size_t SharedMemory::offset(const void* data) const {
  return static_cast<size_t>(static_cast<const std::byte*>(data) - base_);
}

std::string SharedMemory::check_guards() const {
  if (const auto at = broken_guard(dynamic_ + dynamic_bytes_)) {
    return concat("a write ", *at, " bytes behind the end of ", dynamic_bytes_,
                  " bytes of dynamic shared memory");
  }
  if (const auto at = broken_guard(dynamic_ - kGuardBytes)) {
    return concat("a write ", kGuardBytes - *at, " bytes before dynamic shared memory");
  }
  const std::byte* zone = base_;
  for (const Variable& known : variables_) {
    if (known.data > zone && broken_guard(zone, static_cast<size_t>(known.data - zone))) {
      return concat("a write before a shared variable of ", known.bytes, " bytes");
    }
    zone = known.data + known.bytes;
    if (broken_guard(zone, kVariableGuard)) {
      return concat("a write behind the end of a shared variable of ", known.bytes, " bytes");
    }
  }
  return {};
}

}  // namespace specrt::emulation

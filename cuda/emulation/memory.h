// Emulated memory: poison, guard zones, and what the host last wrote to device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace specrt::emulation {

enum class MemoryKind { device, host };

// Memory that nobody wrote holds 0x7fed in every 16 bits: NaN as f32, bf16 and f16, and as an index
// far out of bounds.
inline constexpr uint16_t kPoison = 0x7fed;
void poison(void* data, size_t bytes);
bool is_poison(const void* data, size_t bytes);

// A zone before and after memory in use; a write to it is seen later.
inline constexpr size_t kGuardBytes = 1024;
void set_guard(std::byte* zone, size_t bytes = kGuardBytes);
// With AddressSanitizer and Settings::trap_guards, any access to the zone ends the program with a
// stack trace; lift_trap before the zone is looked at or given back.
void trap(const std::byte* zone, size_t bytes = kGuardBytes);
void lift_trap(const std::byte* zone, size_t bytes = kGuardBytes);
// The offset of the first byte that changed, if any.
std::optional<size_t> broken_guard(const std::byte* zone, size_t bytes = kGuardBytes);

// All allocations of all devices. Safe to call from every thread.
class Memory {
 public:
  // Null when the device has less than `bytes` left.
  std::byte* allocate(MemoryKind kind, int device, size_t bytes, size_t limit);
  // False if `data` is not the start of an allocation of this kind. Guard zones are checked before.
  bool release(MemoryKind kind, void* data);

  // The kind of the allocation that holds all of [data, data + bytes), if there is one.
  std::optional<MemoryKind> find(const void* data, size_t bytes);
  // Whether the 16 bytes at `data` are what the host, a copy or a memset left there.
  bool as_host_left_it(const void* data);
  // After a copy or a memset wrote [data, data + bytes).
  void host_wrote(const void* data, size_t bytes);

  // All memory holds poison until reveal(), which says what was written meanwhile; empty if
  // nothing.
  void hide();
  std::string reveal();
  // Where to read weights from: `data`, or what the host left there while memory is hidden.
  const std::byte* weights(const void* data, size_t bytes);

  // What is wrong with the guard zones; empty if nothing is.
  std::string check_guards();
  void restore_guards();
  size_t used(int device);
  size_t live();

 private:
  struct Allocation {
    MemoryKind kind;
    int device;
    size_t bytes;
    std::unique_ptr<std::byte[]> storage;  // alignment, guard, data, guard
    std::unique_ptr<std::byte[]> image;    // device memory: as the host left it
    std::vector<std::byte> hidden;         // the data, while memory is hidden
  };
  enum class Guards { watched, seen };
  using Place = std::map<const std::byte*, Allocation>::iterator;

  Place holder(const void* data, size_t bytes);
  static void set_traps(const std::byte* data, size_t bytes, Guards guards);
  static std::string guard_report(const std::byte* data, const Allocation& allocation);

  std::mutex mutex_;
  bool is_hidden_ = false;
  std::map<const std::byte*, Allocation> allocations_;  // by first byte of the data
};

Memory& memory();

}  // namespace specrt::emulation

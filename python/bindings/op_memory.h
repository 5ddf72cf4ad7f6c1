// The memory of Python's arrays and cells as one op sees it: itself where host and device share
// memory, else a copy on the device that lives as long as the op.
#pragma once

#include <deque>
#include <type_traits>

#include "device/backend.h"

namespace specrt::bindings {

enum class DeviceMemory {
  host,     // the device reads and writes the host's
  distant,  // what an op touches is copied there and back
};

class OpMemory {
 public:
  OpMemory(Backend& backend, Stream& stream, DeviceMemory kind)
      : backend_(backend), stream_(stream), kind_(kind) {}
  OpMemory(const OpMemory&) = delete;

  // `count` values at `host` for the op; the same place gives the same memory. Null stays null.
  template <typename T>
  T* of(T* host, size_t count = 1) {
    auto* bytes = reinterpret_cast<std::byte*>(const_cast<std::remove_const_t<T>*>(host));
    return reinterpret_cast<T*>(device_bytes(bytes, count * sizeof(T)));
  }

  // Zeroed memory of the op's own, a Scratch or PickScratch.
  template <typename T = Scratch>
  T scratch(size_t bytes) {
    scratch_ = backend_.alloc(bytes);
    return {.data = scratch_.data(), .bytes = scratch_.size()};
  }

  // Enqueues the way back of everything, what the op should only read included.
  void copy_back() {
    for (const Copy& copy : copies_) {
      backend_.copy_to_host(stream_, {copy.host, copy.device.data(), copy.device.size()});
    }
  }

 private:
  struct Copy {
    std::byte* host;
    Buffer device;
  };

  std::byte* device_bytes(std::byte* host, size_t bytes) {
    if (kind_ == DeviceMemory::host || host == nullptr || bytes == 0) return host;
    for (const Copy& copy : copies_) {
      if (copy.host == host && copy.device.size() == bytes) return copy.device.data();
    }
    const Copy& copy = copies_.emplace_back(Copy{host, backend_.alloc(bytes)});
    backend_.copy_to_device(stream_, {copy.device.data(), host, bytes});
    return copy.device.data();
  }

  Backend& backend_;
  Stream& stream_;
  DeviceMemory kind_;
  std::deque<Copy> copies_;
  Buffer scratch_;
};

}  // namespace specrt::bindings

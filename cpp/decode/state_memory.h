// Memory of what the runtime keeps of its sequences beside models and caches.
#pragma once

#include "base/error.h"
#include "device/backend.h"

namespace specrt {

enum class StateMemory {
  device,  // of the one backend that reads it
  shared,  // where the host and another backend read it too
};

// Zeros. Throws an error that says what can be done about too little memory.
inline Buffer alloc_state(Backend& backend, size_t bytes,
                          StateMemory memory = StateMemory::device) {
  try {
    return memory == StateMemory::shared ? backend.alloc_shared(bytes) : backend.alloc(bytes);
  } catch (const Error& error) {
    fail("state of the sequences: ", error.what(), "; free memory, or use a smaller model");
  }
}

}  // namespace specrt

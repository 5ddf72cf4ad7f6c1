// The test controls for tests in Python, which call them through ctypes (tests/emulator.py).
#include "cuda/emulation/control.h"

#define SPECRT_EXPORT extern "C" __attribute__((visibility("default")))

SPECRT_EXPORT void specrt_emulation_reset(int devices, int compute_major, int driver_version,
                                          size_t memory_bytes) {
  specrt::emulation::Settings settings;
  settings.devices = devices;
  settings.compute_major = compute_major;
  settings.driver_version = driver_version;
  settings.memory_bytes = memory_bytes;
  specrt::emulation::reset(settings);
}

SPECRT_EXPORT void specrt_emulation_fail_call(const char* name, int error, int after) {
  specrt::emulation::fail_call(name, static_cast<cudaError_t>(error), after);
}

SPECRT_EXPORT void specrt_emulation_set_sticky_error(int error) {
  specrt::emulation::set_sticky_error(static_cast<cudaError_t>(error));
}

// What tests of the whole backend share: emulated devices, and the backend on one of them.
#pragma once

#include <doctest/doctest.h>

#include <memory>

#include "base/error.h"
#include "cuda/emulation/control.h"
#include "device/cuda_library.h"

extern "C" const specrt::CudaEntry* specrt_cuda_entry();

namespace specrt {

// Emulated devices as `settings` say, until the end of the test.
struct Devices {
  explicit Devices(const emulation::Settings& settings = {}) { emulation::reset(settings); }
  Devices(const Devices&) = delete;
  ~Devices() { emulation::reset(); }
};

inline std::unique_ptr<Backend> make_backend(int device = 0) {
  return specrt_cuda_entry()->make({.device = device});
}

}  // namespace specrt

#define CHECK_REFUSED(expression, part) \
  CHECK_THROWS_WITH_AS(expression, doctest::Contains(part), specrt::Error)

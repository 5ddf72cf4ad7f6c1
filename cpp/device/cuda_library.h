// The one entry of libspecrt_cuda, which is opened when a CUDA engine is loaded. Both sides come
// from one build: `version` must be equal, as they share classes.
#pragma once

#include <memory>

#include "device/backend.h"

namespace specrt {

struct CudaOptions {
  int device = 0;
};

struct CudaEntry {
  const char* version;
  // Throws specrt::Error that says why the device cannot be used and what to do.
  std::unique_ptr<Backend> (*make)(const CudaOptions& options);
};

// What the library exports under this name, with C linkage.
inline constexpr const char* kCudaEntryName = "specrt_cuda_entry";
using GetCudaEntry = const CudaEntry*();

}  // namespace specrt

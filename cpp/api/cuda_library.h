// Opens libspecrt_cuda when a CUDA engine is loaded; machines without CUDA never need it.
#pragma once

#include "device/cuda_library.h"

namespace specrt {

// The library is the file that SPECRT_CUDA_LIBRARY names, or libspecrt_cuda.so beside this code.
// Throws specrt::Error where it is missing, of another version, or the device cannot be used.
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options);

}  // namespace specrt

// CUDA_CHECK(call) throws specrt::Error with the runtime's words, the call that failed and, where
// something can be done, what.
#pragma once

#include <cuda_runtime.h>

#include "base/error.h"

namespace specrt::cuda {

// Begins with "; ", or is empty.
inline const char* advice(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
      return "; the GPU does no more work for this process: restart it";
    case cudaErrorNoKernelImageForDevice:
      return "; specrt was built for other GPUs: install it with CMAKE_CUDA_ARCHITECTURES=90a";
    default:
      return "";
  }
}

}  // namespace specrt::cuda

#define CUDA_CHECK(call)                                                                    \
  do {                                                                                      \
    const cudaError_t specrt_status = (call);                                               \
    SPECRT_CHECK(specrt_status == cudaSuccess, "CUDA: ", cudaGetErrorString(specrt_status), \
                 " in ", #call, ::specrt::cuda::advice(specrt_status));                     \
  } while (false)

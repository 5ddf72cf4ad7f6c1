// CUDA_CHECK(call) throws specrt::Error with the runtime's words and the call that failed.
#pragma once

#include <cuda_runtime.h>

#include "base/error.h"

#define CUDA_CHECK(call)                                                                    \
  do {                                                                                      \
    const cudaError_t specrt_status = (call);                                               \
    SPECRT_CHECK(specrt_status == cudaSuccess, "CUDA: ", cudaGetErrorString(specrt_status), \
                 " in ", #call);                                                            \
  } while (false)

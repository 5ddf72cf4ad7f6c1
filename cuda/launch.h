// launch() starts a kernel; nothing else does. A kernel takes one Args struct:
//   __global__ void scale_kernel(const __grid_constant__ ScaleArgs args)
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

#include "cuda/check.h"
#ifdef SPECRT_CUDA_EMULATION
#include "cuda/emulation/launch.h"
#endif

namespace specrt::cuda {

struct LaunchOptions {
  bool pdl = false;  // may start before the kernel before it in the stream ends; calls pdl_wait
};

// Above this a kernel must be told to accept the dynamic shared memory.
inline constexpr size_t kPlainSharedBytes = 48 << 10;

// `grid` blocks of `threads` (a multiple of 32) each, with `shared_bytes` of dynamic shared memory.
// Args are copied before this returns. Throws specrt::Error.
template <typename Args>
void launch(cudaStream_t stream, void (*kernel)(Args), dim3 grid, unsigned threads,
            size_t shared_bytes, const std::type_identity_t<Args>& args,
            LaunchOptions options = {}) {
  static_assert(std::is_trivially_copyable_v<Args>, "kernel arguments are copied as bytes");
  SPECRT_CHECK(threads > 0 && threads % 32 == 0 && threads <= 1024, "launch: a block of ", threads,
               " threads; it must be a multiple of 32 up to 1024");
  if (shared_bytes > kPlainSharedBytes) {
    CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)));
  }
#ifdef SPECRT_CUDA_EMULATION
  CUDA_CHECK(
      emulation::launch_kernel(stream, kernel, grid, threads, shared_bytes, args, options.pdl));
#else
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = options.pdl ? 1 : 0;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, args));
#endif
}

}  // namespace specrt::cuda

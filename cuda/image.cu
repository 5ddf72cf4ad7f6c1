#include "cuda/check.h"
#include "cuda/image.h"

namespace specrt::cuda {
namespace {

struct Nothing {};

// Does nothing and is never launched: it stands for all kernels.
__global__ void image_kernel(const __grid_constant__ Nothing) {}

}  // namespace

void check_image() {
  cudaFuncAttributes attributes{};
  CUDA_CHECK(cudaFuncGetAttributes(&attributes, image_kernel));
}

}  // namespace specrt::cuda

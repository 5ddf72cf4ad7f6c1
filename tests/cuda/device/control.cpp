// What the tests of kernels ask of the emulator (cuda/emulation/control.h), on a real device: there
// is nothing to set, and an error has only its name.
#include "cuda/emulation/control.h"

#include "cuda/check.h"

namespace specrt::emulation {

// The defaults of settings that nothing reads here.
uint64_t seed_of_environment() { return 1; }
MmaOrder mma_order_of_environment() { return MmaOrder::ascending; }

void reset(const Settings&) { CUDA_CHECK(cudaDeviceSynchronize()); }

std::string report() { return cudaGetErrorString(cudaPeekAtLastError()); }

}  // namespace specrt::emulation

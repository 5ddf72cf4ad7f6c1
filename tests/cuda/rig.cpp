#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "rig.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace specrt::cuda {

emulation::Settings Rig::quiet() {
  emulation::Settings settings;
  settings.print_reports = false;
  settings.hide_memory = true;
  return settings;
}

Rig::Rig(const emulation::Settings& settings) : settings_(settings) {
  emulation::reset(settings);
  CUDA_CHECK(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, 0));
}

Rig::~Rig() {
  emulation::reset();
  (void)cudaStreamDestroy(stream_);
}

std::string Rig::failure() {
  const cudaError_t error = cudaStreamSynchronize(stream_);
  CHECK(error == cudaErrorLaunchFailure);
  const std::string report = emulation::report();
  emulation::reset(settings_);
  return report;
}

bool knows_mma_order() {
#ifdef SPECRT_CUDA_EMULATION
  return true;
#else
  return false;
#endif
}

bool same_sum(float got, float want) {
  if (std::bit_cast<uint32_t>(got) == std::bit_cast<uint32_t>(want)) return true;
  return !knows_mma_order() && std::abs(got - want) <= 1e-4f * std::max(1.0f, std::abs(want));
}

}  // namespace specrt::cuda

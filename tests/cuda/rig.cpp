#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "rig.h"

namespace specrt::cuda {

emulation::Settings Rig::quiet() {
  emulation::Settings settings;
  settings.print_reports = false;
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

}  // namespace specrt::cuda

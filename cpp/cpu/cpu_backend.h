// The CPU backend. A stream is a worker thread with a team of cores; kernels are compiled once for
// each instruction set and chosen when the backend is made.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/backend.h"

namespace specrt {

struct CpuOptions {
  int threads = 0;       // cores that all streams share out; 0: those of the affinity mask
  std::string isa = "";  // one of cpu_isas(); empty: SPECRT_CPU_ISA if set, else the best
};

// The instruction sets that this machine can run, best first.
std::vector<std::string> cpu_isas();

// Cores that the process may run on.
int available_cores();

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

}  // namespace specrt

// The kernels for every x86-64 processor.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/rng.h"
#include "cpu/kernels.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross the boundary of this file

#define SPECRT_ISA_NAME "portable"


namespace specrt::cpu::portable {
#include "cpu/kernels.inl.h"
}  // namespace specrt::cpu::portable

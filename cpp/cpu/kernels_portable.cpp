// The kernels for every x86-64 processor.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/rng.h"
#include "cpu/kernels.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross the boundary of this file

namespace specrt::cpu::portable {
constexpr const char* kIsaName = "portable";
#include "cpu/kernels.inl.h"
}  // namespace specrt::cpu::portable

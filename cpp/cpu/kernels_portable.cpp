// The kernels for every x86-64 processor.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/rng.h"
#include "cpu/kernels.h"

namespace specrt::cpu::portable {
constexpr const char* kIsaName = "portable";
#include "cpu/kernels.inl.h"
}  // namespace specrt::cpu::portable

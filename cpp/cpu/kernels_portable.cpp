// The kernels for every x86-64 processor.

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "base/rng.h"
#include "cpu/kernels.h"

namespace specrt::cpu::portable {
constexpr const char* kIsaName = "portable";
#include "cpu/kernels.inl.h"
}  // namespace specrt::cpu::portable

// The kernels for processors with AVX2 and FMA: sixteen lanes are two registers.
#include <immintrin.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "base/rng.h"
#include "cpu/kernels.h"

#define SPECRT_AVX2

namespace specrt::cpu::avx2 {
constexpr const char* kIsaName = "avx2";
#include "cpu/kernels.inl.h"
}  // namespace specrt::cpu::avx2

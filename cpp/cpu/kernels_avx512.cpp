// The kernels for processors with AVX-512 (F, BW, VL, DQ) but not BF16: pairs of bf16 are widened.
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

#define SPECRT_AVX512

namespace specrt::cpu::avx512 {
constexpr const char* kIsaName = "avx512";
#include "cpu/kernels.inl.h"
}  // namespace specrt::cpu::avx512

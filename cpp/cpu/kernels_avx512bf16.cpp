// The kernels for processors with AVX-512 BF16: one instruction adds 32 products of bf16 pairs.
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
#define SPECRT_AVX512BF16

namespace specrt::cpu::avx512bf16 {
constexpr const char* kIsaName = "avx512bf16";
#include "cpu/kernels.inl.h"
}  // namespace specrt::cpu::avx512bf16

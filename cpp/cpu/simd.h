// Sixteen float lanes and what the kernels need of them. Included inside the namespace of an
// instruction set, which defines SPECRT_AVX512, SPECRT_AVX512BF16 too, or none.
// Operators never contract: a fused operation is written fma(), and only where both sides of a
// comparison use the same set.

inline constexpr int32_t kLanes = 16;
#if defined(SPECRT_AVX512)
inline constexpr int kVectorRegisters = 32;  // vectors of sixteen lanes that registers can hold
#else
inline constexpr int kVectorRegisters = 4;
#endif

using Vec = float __attribute__((vector_size(64)));
using VecU = uint32_t __attribute__((vector_size(64)));
using VecI = int32_t __attribute__((vector_size(64)));
using Wide = uint64_t __attribute__((vector_size(64)));

inline Vec as_floats(VecU bits) { return std::bit_cast<Vec>(bits); }
inline VecU as_bits(Vec values) { return std::bit_cast<VecU>(values); }

inline VecU splat(uint32_t value) { return VecU{} + value; }
inline Vec splat(float value) { return as_floats(splat(std::bit_cast<uint32_t>(value))); }

template <typename V>
inline V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof(V));
  return v;
}

template <typename V>
inline void store(void* to, V v) {
  std::memcpy(to, &v, sizeof(V));
}

// The first `count` lanes, the others zero.
inline Vec load_first(const float* from, int32_t count) {
  Vec v{};
  std::memcpy(&v, from, static_cast<size_t>(count) * sizeof(float));
  return v;
}

using Halves = uint16_t __attribute__((vector_size(32)));

inline uint32_t load_word(const std::byte* from) {
  uint32_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

// Per instruction set: fma(a, b, c) = a b + c, fused or not; dot_pairs(acc, a, b) =
// acc + a.even b.even + a.odd b.odd for lanes that hold pairs of bf16; multiply_even(a, b), the
// 64-bit products of the lower halves; widen(bits), bf16 to float;
// truncate(v), the lower halves.
#if defined(SPECRT_AVX512)

inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }

inline Vec widen(Halves bits) {
  const __m256i halves = std::bit_cast<__m256i>(bits);
  return as_floats(std::bit_cast<VecU>(_mm512_maskz_cvtepu16_epi32(0xffff, halves)) << 16);
}

inline Halves truncate(VecU v) {
  return std::bit_cast<Halves>(_mm512_maskz_cvtepi32_epi16(0xffff, std::bit_cast<__m512i>(v)));
}

inline Wide multiply_even(Wide a, Wide b) {
  return std::bit_cast<Wide>(
      _mm512_maskz_mul_epu32(0xff, std::bit_cast<__m512i>(a), std::bit_cast<__m512i>(b)));
}

#else

inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }

inline Vec widen(Halves bits) { return as_floats(__builtin_convertvector(bits, VecU) << 16); }

inline Halves truncate(VecU v) { return __builtin_convertvector(v, Halves); }

inline Wide multiply_even(Wide a, Wide b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }

#endif

#if defined(SPECRT_AVX512BF16)

inline Vec dot_pairs(Vec acc, VecU a, VecU b) {
  return _mm512_dpbf16_ps(acc, std::bit_cast<__m512bh>(a), std::bit_cast<__m512bh>(b));
}

#else

inline Vec dot_pairs(Vec acc, VecU a, VecU b) {
  acc = fma(as_floats(a << 16), as_floats(b << 16), acc);
  return fma(as_floats(a & 0xffff0000u), as_floats(b & 0xffff0000u), acc);
}

#endif

// Round to nearest even, as to_bf16 does.
inline Halves narrow(Vec v) {
  const VecU bits = as_bits(v);
  const VecU rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecU quiet = (bits >> 16) | 0x40u;
  return truncate(v == v ? rounded : quiet);
}

// The halves of the 64-bit products.
inline void multiply_wide(VecU a, uint32_t factor, VecU& high, VecU& low) {
  const Wide x = std::bit_cast<Wide>(a), f = std::bit_cast<Wide>(splat(factor));
  const Wide even = multiply_even(x, f), odd = multiply_even(x >> 32, f);
  low = std::bit_cast<VecU>((even & 0xffffffffu) | (odd << 32));
  high = std::bit_cast<VecU>((even >> 32) | (odd & 0xffffffff00000000u));
}

// acc + w x for one line of a panel: 16 floats, or 16 pairs of bf16.
template <DType kType>
inline Vec dot_line(Vec acc, VecU w, VecU x) {
  if constexpr (kType == DType::f32) {
    return fma(as_floats(w), as_floats(x), acc);
  } else {
    return dot_pairs(acc, w, x);
  }
}

inline VecI lane_numbers() { return VecI{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

// Combines all lanes as a fixed tree: lanes 8 apart first, neighbours last.
template <typename Combine>
inline float fold_lanes(Vec v, Combine combine) {
  const VecI lane = lane_numbers();
  v = combine(v, __builtin_shuffle(v, lane ^ 8));
  v = combine(v, __builtin_shuffle(v, lane ^ 4));
  v = combine(v, __builtin_shuffle(v, lane ^ 2));
  v = combine(v, __builtin_shuffle(v, lane ^ 1));
  return v[0];
}

inline float sum_lanes(Vec v) {
  return fold_lanes(v, [](Vec a, Vec b) { return a + b; });
}
inline float max_lane(Vec v) {
  return fold_lanes(v, [](Vec a, Vec b) { return max(a, b); });
}

// e^x within 2e-7 relative; 0 below -87.3, capped above 88.3. x = n log 2 + r, |r| <= log(2) / 2,
// e^r by its Taylor polynomial with minimax coefficients (Cephes), times 2^n.
inline Vec exp(Vec x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the rounded integer
  const Vec capped = x > 88.3f ? splat(88.3f) : x;
  const Vec shifted = fma(capped, splat(1.44269504f), splat(magic));
  const Vec n = shifted - magic;
  Vec r = fma(n, splat(-0.693359375f), capped);
  r = fma(n, splat(2.12194440e-4f), r);
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
  const Vec y = as_floats(as_bits(p) + (as_bits(shifted) << 23));
  const Vec positive = x < -87.3f ? Vec{} : y;
  return x == x ? positive : x;
}

// What the kernels compute with sixteen lanes. Included inside the namespace of an instruction set,
// which defines SPECRT_AVX512, and SPECRT_AVX512BF16 too, or SPECRT_AVX2, or none.

// Per instruction set, for one register: fma(a, b, c) = a b + c, fused or not; zero_extend(bits),
// halves to words, and truncate(v), back; multiply_even(a, b), the 64-bit products of the lower
// halves.
#if defined(SPECRT_AVX512)

inline Vec::Part fma(Vec::Part a, Vec::Part b, Vec::Part c) { return _mm512_fmadd_ps(a, b, c); }

inline VecU::Part zero_extend(Halves::Part bits) {
  return std::bit_cast<VecU::Part>(
      _mm512_maskz_cvtepu16_epi32(0xffff, std::bit_cast<__m256i>(bits)));
}

inline Halves::Part truncate(VecU::Part v) {
  return std::bit_cast<Halves::Part>(
      _mm512_maskz_cvtepi32_epi16(0xffff, std::bit_cast<__m512i>(v)));
}

inline Wide::Part multiply_even(Wide::Part a, Wide::Part b) {
  return std::bit_cast<Wide::Part>(
      _mm512_maskz_mul_epu32(0xff, std::bit_cast<__m512i>(a), std::bit_cast<__m512i>(b)));
}

#elif defined(SPECRT_AVX2)

inline Vec::Part fma(Vec::Part a, Vec::Part b, Vec::Part c) { return _mm256_fmadd_ps(a, b, c); }

inline VecU::Part zero_extend(Halves::Part bits) {
  return std::bit_cast<VecU::Part>(_mm256_cvtepu16_epi32(std::bit_cast<__m128i>(bits)));
}

inline Halves::Part truncate(VecU::Part v) { return __builtin_convertvector(v, Halves::Part); }

inline Wide::Part multiply_even(Wide::Part a, Wide::Part b) {
  return std::bit_cast<Wide::Part>(
      _mm256_mul_epu32(std::bit_cast<__m256i>(a), std::bit_cast<__m256i>(b)));
}

#else

inline Vec::Part fma(Vec::Part a, Vec::Part b, Vec::Part c) { return a * b + c; }

inline VecU::Part zero_extend(Halves::Part bits) {
  return __builtin_convertvector(bits, VecU::Part);
}

inline Halves::Part truncate(VecU::Part v) { return __builtin_convertvector(v, Halves::Part); }

inline Wide::Part multiply_even(Wide::Part a, Wide::Part b) {
  return (a & 0xffffffffu) * (b & 0xffffffffu);
}

#endif

[[gnu::always_inline]] inline Vec fma(Vec a, Vec b, Vec c) {
  return by_part<Vec>([](Vec::Part x, Vec::Part y, Vec::Part z) { return fma(x, y, z); }, a, b, c);
}

// bf16 to float.
inline Vec widen(Halves bits) {
  return as_floats(by_part<VecU>([](Halves::Part x) { return zero_extend(x); }, bits) << 16);
}

// Round to nearest even, as to_bf16 does.
inline Halves narrow(Vec v) {
  const VecU bits = as_bits(v);
  const VecU rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecU quiet = (bits >> 16) | 0x40u;
  return by_part<Halves>([](VecU::Part x) { return truncate(x); }, select(v == v, rounded, quiet));
}

template <DType kType>
inline Vec load_values(const std::byte* from) {
  if constexpr (kType == DType::f32) {
    return load<Vec>(from);
  } else {
    return widen(load<Halves>(from));
  }
}

// The halves of the 64-bit products.
inline void multiply_wide(VecU a, uint32_t factor, VecU& high, VecU& low) {
  const auto multiply = [](Wide::Part x, Wide::Part y) { return multiply_even(x, y); };
  const Wide x = as<Wide>(a), f = as<Wide>(VecU(factor));
  const Wide even = by_part<Wide>(multiply, x, f), odd = by_part<Wide>(multiply, x >> 32, f);
  low = as<VecU>((even & 0xffffffffu) | (odd << 32));
  high = as<VecU>((even >> 32) | (odd & 0xffffffff00000000u));
}

// A line of a panel is 16 floats, or 16 pairs of bf16, whose two products are added in one step or
// in two: the lower halves of the words first.
#if defined(SPECRT_AVX512BF16)
template <DType kType>
inline constexpr int kTerms = 1;
#else
template <DType kType>
inline constexpr int kTerms = kType == DType::bf16 ? 2 : 1;
#endif

// What step `term` of a line multiplies.
template <DType kType>
[[gnu::always_inline]] inline VecU term_of(VecU words, int term) {
  if constexpr (kTerms<kType> == 1) {
    return words;
  } else {
    return term == 0 ? words << 16 : words & 0xffff0000u;
  }
}

// acc + w x for one term.
template <DType kType>
[[gnu::always_inline]] inline Vec add_product(Vec acc, VecU w, VecU x) {
#if defined(SPECRT_AVX512BF16)
  if constexpr (kType == DType::bf16) {
    acc.part[0] = _mm512_dpbf16_ps(acc.part[0], std::bit_cast<__m512bh>(w.part[0]),
                                   std::bit_cast<__m512bh>(x.part[0]));
    return acc;
  }
#endif
  return fma(as_floats(w), as_floats(x), acc);
}

// acc[r][p] + line of panel p * word r; lines of neighbouring panels are `stride` bytes apart.
template <DType kType, int kRows, int kPanels>
[[gnu::always_inline]] inline void add_line(Vec (&acc)[kRows][kPanels], const std::byte* line,
                                            int64_t stride, const uint32_t (&words)[kRows]) {
#pragma GCC unroll 2
  for (int term = 0; term < kTerms<kType>; ++term) {
    VecU w[kPanels];
#pragma GCC unroll 12
    for (int p = 0; p < kPanels; ++p) w[p] = term_of<kType>(load<VecU>(line + p * stride), term);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const VecU x = term_of<kType>(words[r], term);
#pragma GCC unroll 12
      for (int p = 0; p < kPanels; ++p) acc[r][p] = add_product<kType>(acc[r][p], w[p], x);
    }
  }
}

inline Vec max(Vec a, Vec b) { return select(a > b, a, b); }

// Combines all lanes as a fixed tree: lanes 8 apart first, neighbours last.
template <typename Combine>
inline float fold_lanes(Vec v, Combine combine) {
  v = combine(v, swap_lanes<8>(v));
  v = combine(v, swap_lanes<4>(v));
  v = combine(v, swap_lanes<2>(v));
  v = combine(v, swap_lanes<1>(v));
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
  const Vec capped = select(x > 88.3f, 88.3f, x);
  const Vec shifted = fma(capped, 1.44269504f, magic);
  const Vec n = shifted - magic;
  Vec r = fma(n, -0.693359375f, capped);
  r = fma(n, 2.12194440e-4f, r);
  Vec p = 1.9875691500e-4f;
  p = fma(p, r, 1.3981999507e-3f);
  p = fma(p, r, 8.3334519073e-3f);
  p = fma(p, r, 4.1665795894e-2f);
  p = fma(p, r, 1.6666665459e-1f);
  p = fma(p, r, 5.0000001201e-1f);
  p = fma(p, r * r, r) + 1.0f;
  const Vec y = as_floats(as_bits(p) + (as_bits(shifted) << 23));
  const Vec positive = select(x < -87.3f, 0.0f, y);
  return select(x == x, positive, x);
}

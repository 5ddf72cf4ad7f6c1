// Sixteen lanes in as many registers as the instruction set needs: one of AVX-512, two of AVX2 or
// four of SSE2. Included inside the namespace of an instruction set (see kernels.inl.h).
// Every register is a compiler vector of its own: g++ keeps vectors wider than a register in
// memory.

#if defined(SPECRT_AVX512)
inline constexpr int kRegisters = 32, kRegisterBytes = 64;
#elif defined(SPECRT_AVX2)
inline constexpr int kRegisters = 16, kRegisterBytes = 32;
#else
inline constexpr int kRegisters = 16, kRegisterBytes = 16;
#endif

inline constexpr int32_t kLanes = 16;
inline constexpr int kParts = 64 / kRegisterBytes;
inline constexpr int kVectorRegisters = kRegisters / kParts;  // vectors of 16 floats at once

// Part i of the result is function(part i of every operand).
template <typename Out, typename Function, typename... Operands>
[[gnu::always_inline]] inline Out by_part(Function function, Operands... operands) {
  Out out;
  out.part[0] = function(operands.part[0]...);
  if constexpr (kParts > 1) out.part[1] = function(operands.part[1]...);
  if constexpr (kParts > 2) out.part[2] = function(operands.part[2]...);
  if constexpr (kParts > 2) out.part[3] = function(operands.part[3]...);
  return out;
}

// kCount values of type T; a scalar operand stands for itself in every lane. Operators never
// contract: a fused operation is written fma(), and only where both sides of a comparison use the
// same instruction set.
template <typename T, int kCount>
struct Lanes {
  static constexpr int kPartLanes = kCount / kParts;
  typedef T Part __attribute__((vector_size(kPartLanes * sizeof(T))));
  using Mask = Lanes<int32_t, kCount>;  // all bits of a lane where a comparison holds, or none

  Part part[kParts];

  Lanes() = default;
  Lanes(T value) {
    // A difference: a sum would lose the sign of -0.
    *this = by_part<Lanes>([value] { return value - Part{}; });
  }

  T operator[](int lane) const { return part[lane / kPartLanes][lane % kPartLanes]; }

  friend Lanes operator-(Lanes a) {
    return by_part<Lanes>([](Part x) { return -x; }, a);
  }
  friend Lanes operator+(Lanes a, Lanes b) {
    return by_part<Lanes>([](Part x, Part y) { return x + y; }, a, b);
  }
  friend Lanes operator-(Lanes a, Lanes b) {
    return by_part<Lanes>([](Part x, Part y) { return x - y; }, a, b);
  }
  friend Lanes operator*(Lanes a, Lanes b) {
    return by_part<Lanes>([](Part x, Part y) { return x * y; }, a, b);
  }
  friend Lanes operator/(Lanes a, Lanes b) {
    return by_part<Lanes>([](Part x, Part y) { return x / y; }, a, b);
  }
  friend Lanes operator&(Lanes a, Lanes b) {
    return by_part<Lanes>([](Part x, Part y) { return x & y; }, a, b);
  }
  friend Lanes operator|(Lanes a, Lanes b) {
    return by_part<Lanes>([](Part x, Part y) { return x | y; }, a, b);
  }
  friend Lanes operator^(Lanes a, Lanes b) {
    return by_part<Lanes>([](Part x, Part y) { return x ^ y; }, a, b);
  }
  friend Lanes operator<<(Lanes a, int count) {
    return by_part<Lanes>([count](Part x) { return x << count; }, a);
  }
  friend Lanes operator>>(Lanes a, int count) {
    return by_part<Lanes>([count](Part x) { return x >> count; }, a);
  }
  friend Mask operator<(Lanes a, Lanes b) {
    return by_part<Mask>([](Part x, Part y) { return x < y; }, a, b);
  }
  friend Mask operator>=(Lanes a, Lanes b) {
    return by_part<Mask>([](Part x, Part y) { return x >= y; }, a, b);
  }
  friend Mask operator>(Lanes a, Lanes b) { return b < a; }
  friend Mask operator==(Lanes a, Lanes b) {
    return by_part<Mask>([](Part x, Part y) { return x == y; }, a, b);
  }
  // Lanes of a where the mask is set, of b elsewhere.
  friend Lanes select(Mask mask, Lanes a, Lanes b) {
    const auto choose = [](typename Mask::Part m, Part x, Part y) { return m ? x : y; };
    return by_part<Lanes>(choose, mask, a, b);
  }
};

using Vec = Lanes<float, 16>;
using VecU = Lanes<uint32_t, 16>;
using VecI = Lanes<int32_t, 16>;
using Wide = Lanes<uint64_t, 8>;
using Halves = Lanes<uint16_t, 16>;

// The same bits as another type of lane.
template <typename Out, typename In>
inline Out as(In v) {
  return by_part<Out>([](typename In::Part x) { return std::bit_cast<typename Out::Part>(x); }, v);
}

inline Vec as_floats(VecU bits) { return as<Vec>(bits); }
inline VecU as_bits(Vec values) { return as<VecU>(values); }

// The same values as another type of lane.
template <typename Out, typename In>
inline Out convert(In v) {
  return by_part<Out>(
      [](typename In::Part x) { return __builtin_convertvector(x, typename Out::Part); }, v);
}

template <typename V>
inline V load(const void* from) {
  V v;
  for (int i = 0; i < kParts; ++i) {
    std::memcpy(&v.part[i], static_cast<const std::byte*>(from) + i * sizeof(v.part[i]),
                sizeof(v.part[i]));
  }
  return v;
}

template <typename V>
inline void store(void* to, V v) {
  for (int i = 0; i < kParts; ++i) {
    std::memcpy(static_cast<std::byte*>(to) + i * sizeof(v.part[i]), &v.part[i], sizeof(v.part[i]));
  }
}

// The first `count` lanes, the others zero.
inline Vec load_first(const float* from, int32_t count) {
  float lanes[kLanes] = {};
  std::memcpy(lanes, from, static_cast<size_t>(count) * sizeof(float));
  return load<Vec>(lanes);
}

template <typename T>
inline void store_first(void* to, Lanes<T, kLanes> v, int32_t count) {
  if (count == kLanes) return store(to, v);
  T lanes[kLanes];
  store(lanes, v);
  std::memcpy(to, lanes, static_cast<size_t>(count) * sizeof(T));
}

inline uint32_t load_word(const std::byte* from) {
  uint32_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

// {f(0), f(1), ...}: the lanes of one register.
template <typename Function>
inline VecI::Part part_of(Function f) {
  return [&]<int... i>(std::integer_sequence<int, i...>) { return VecI::Part{f(i)...}; }
  (std::make_integer_sequence<int, VecI::kPartLanes>());
}

inline VecI lane_numbers() {
  VecI v;
  for (int i = 0; i < kParts; ++i) {
    v.part[i] = part_of([i](int lane) { return i * VecI::kPartLanes + lane; });
  }
  return v;
}

// Lane i of the result is lane i ^ kApart; kApart is a power of two.
template <int kApart>
inline Vec swap_lanes(Vec v) {
  Vec out;
  for (int i = 0; i < kParts; ++i) {
    if constexpr (kApart >= Vec::kPartLanes) {
      out.part[i] = v.part[i ^ (kApart / Vec::kPartLanes)];
    } else {
      const VecI::Part from = part_of([](int lane) { return lane ^ kApart; });
      out.part[i] = __builtin_shuffle(v.part[i], from);
    }
  }
  return out;
}

// Lane 4 q + j of the result is lane k_j of quarter q: of a for k_j < 4, lane k_j - 4 of b beyond.
template <int k0, int k1, int k2, int k3>
inline VecU pick_in_quarters(VecU a, VecU b) {
  const VecI::Part from = part_of([](int lane) {
    constexpr int kFrom[4] = {k0, k1, k2, k3};
    const int k = kFrom[lane % 4];
    return lane / 4 * 4 + k % 4 + k / 4 * VecI::kPartLanes;
  });
  return by_part<VecU>([&](VecU::Part x, VecU::Part y) { return __builtin_shuffle(x, y, from); }, a,
                       b);
}

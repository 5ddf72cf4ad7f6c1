// argmax, argmax_noisy: the token with the largest logit, or logit / temperature + G(token)
// logits (v) f32; the noise is base/rng.h's token_gumbel, bit for bit, 64 tokens at a time
// one thread; picks of several rows run side by side (see ops.cpp)
// moves 4v bytes; noisy: about 50 operations per token, compute bound
// no fused operation; ties go to the lowest id; NaN never wins; always in [0, v)

struct Best {
  Vec value = -std::numeric_limits<float>::infinity();
  VecI id = lane_numbers();

  // Tokens id .. id + 15 compete, each in its lane; only the first `count` exist.
  void meet(Vec candidate, int32_t first, int32_t count) {
    const VecI lane = lane_numbers();
    const VecI wins = (candidate > value) & (lane < count);
    value = select(wins, candidate, value);
    id = select(wins, lane + first, id);
  }

  int32_t winner() const {
    float values[kLanes];  // copies: what is indexed stays in memory
    int32_t ids[kLanes];
    store(values, value);
    store(ids, id);
    int32_t best = 0;
    for (int32_t i = 1; i < kLanes; ++i) {
      const bool ties = values[i] == values[best] && ids[i] < ids[best];
      if (values[i] > values[best] || ties) best = i;
    }
    return ids[best];
  }
};

int32_t argmax(const float* logits, int32_t vocab) {
  Best best;
  int32_t id = 0;
  for (; id + kLanes <= vocab; id += kLanes) best.meet(load<Vec>(logits + id), id, kLanes);
  if (id < vocab) best.meet(load_first(logits + id, vocab - id), id, vocab - id);
  return best.winner();
}

struct Words {
  VecU word[4];
};

inline Words philox_blocks(uint64_t seed, VecU c0, VecU c1, VecU c2, VecU c3) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    VecU high0, low0, high1, low1;
    multiply_wide(c0, 0xD2511F53u, high0, low0);
    multiply_wide(c2, 0xCD9E8D57u, high1, low1);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

inline Vec log_lanes(Vec x) {
  const VecU bits = as_bits(x);
  const VecI exponent = as<VecI>(bits - 0x3f3504f3u) >> 23;
  const Vec m = as_floats(bits - (as<VecU>(exponent) << 23));
  const Vec s = (m - 1.0f) / (m + 1.0f);
  const Vec z = s * s;
  Vec p = 0.22222222f;
  p = p * z + 0.28571429f;
  p = p * z + 0.4f;
  p = p * z + 0.66666667f;
  p = p * z;
  const Vec log_m = 2.0f * s + s * p;
  return convert<Vec>(exponent) * 0.69314718f + log_m;
}

inline Vec to_floats(VecU small) {  // below 2^31
  return convert<Vec>(as<VecI>(small));
}

inline Vec gumbel_lanes(VecU bits) {
  Vec r = to_floats(bits >> 8) * 5.9604644775390625e-8f +
          (to_floats(bits & 0xffu) + 0.5f) * 2.3283064365386963e-10f;
  r = select(r < 0.99999994f, r, 0.99999994f);
  const Vec u = 1.0f - r;
  const Vec d = 1.0f - u;
  const Vec corrected = -log_lanes(u) * (r / select(d > 0.0f, d, 1.0f));
  const Vec e = select(d > 0.0f, corrected, r);
  return -log_lanes(e);
}

// Noise of tokens first .. first + 63; first is a multiple of 64. Lane 4 L + k draws block 4 k + L,
// so that a 4 x 4 transpose within each quarter leaves 16 neighbouring tokens in every vector.
inline void noise_of_64(uint64_t seed, uint32_t position, int32_t first, Vec (&noise)[4]) {
  const VecU lane = as<VecU>(lane_numbers());
  const VecU block = ((lane & 3u) << 2 | lane >> 2) + static_cast<uint32_t>(first) / 4;
  const Words w = philox_blocks(seed, position, static_cast<uint32_t>(Purpose::token), block, 0);
  const VecU t0 = pick_in_quarters<0, 4, 1, 5>(w.word[0], w.word[1]);
  const VecU t1 = pick_in_quarters<0, 4, 1, 5>(w.word[2], w.word[3]);
  const VecU t2 = pick_in_quarters<2, 6, 3, 7>(w.word[0], w.word[1]);
  const VecU t3 = pick_in_quarters<2, 6, 3, 7>(w.word[2], w.word[3]);
  noise[0] = gumbel_lanes(pick_in_quarters<0, 1, 4, 5>(t0, t1));
  noise[1] = gumbel_lanes(pick_in_quarters<2, 3, 6, 7>(t0, t1));
  noise[2] = gumbel_lanes(pick_in_quarters<0, 1, 4, 5>(t2, t3));
  noise[3] = gumbel_lanes(pick_in_quarters<2, 3, 6, 7>(t2, t3));
}

int32_t argmax_noisy(const float* logits, int32_t vocab, float temperature, uint64_t seed,
                     uint32_t position) {
  Best best;
  for (int32_t first = 0; first < vocab; first += 4 * kLanes) {
    Vec noise[4];
    noise_of_64(seed, position, first, noise);
    for (int32_t j = 0; j < 4; ++j) {
      const int32_t id = first + j * kLanes;
      if (id >= vocab) break;
      const int32_t count = vocab - id < kLanes ? vocab - id : kLanes;
      const Vec x = count == kLanes ? load<Vec>(logits + id) : load_first(logits + id, count);
      best.meet(x / temperature + noise[j], id, count);
    }
  }
  return best.winner();
}

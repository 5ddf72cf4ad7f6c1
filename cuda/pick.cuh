// The choice of one token from one row of logits by one block: filters, keyed Gumbel noise, argmax.
// Where the head has left the best of every 16 tokens, logits are read again only for filters: with
// top_k those of top_k panels, with top_p or min_p those of a few panels, if that is certain to be
// enough (keep_best).
// The CPU backend's choice (cpu/pick.h): each filter keeps the best tokens down to some key, which
// is found digit by digit from sums over the row. Masses are integers (see Masses), so no result
// depends on threads. The CPU sums doubles in sorted order: where its sum and top_p * total differ
// by less than the rounding of either (2^-28 of the largest weight for 2^17 tokens, usually far
// less), the kept tokens may differ, as where a weight and min_p differ by an ulp of exp.
#pragma once

#include "base/error.h"
#include "base/rng.h"
#include "cuda/kernels.h"
#include "cuda/pick_scratch.h"
#include "cuda/values.cuh"
#include "device/cells.h"

namespace specrt::cuda {

inline constexpr unsigned kDigitBits = 11;
inline constexpr unsigned kBins = 1u << kDigitBits;
inline constexpr unsigned kPickThreads = 1024;  // at most; a power of two that divides kBins

// No more threads than there is work for. What is chosen does not depend on it.
inline unsigned pick_threads(int32_t vocab) {
  const unsigned threads = std::bit_ceil(static_cast<unsigned>(vocab + 7) / 8);
  return threads < 32 ? 32 : threads > kPickThreads ? kPickThreads : threads;
}

// Throws unless the vocabulary and its scratch are such that `op` can choose.
inline void check_pick(const char* op, const PickScratch& scratch, int32_t vocab) {
  SPECRT_CHECK(vocab < kMaxVocab, op, ": a vocabulary of ", vocab, "; it must be below ",
               kMaxVocab);
  SPECRT_CHECK(scratch.bytes >= pick_scratch(vocab), op, ": a scratch of ", scratch.bytes,
               " bytes; a vocabulary of ", vocab, " needs ", pick_scratch(vocab));
}

// The bin in which the mass from the largest key down reaches a target.
struct Bin {
  unsigned index;
  Word above;  // mass of all keys above the bin
  Word mass;
};

inline constexpr int32_t kMaxPanels = 1024;  // that a choice may be narrowed to
inline constexpr int32_t kBestPanels = 256;  // that top_p and min_p are tried with
inline constexpr double kDoubt = 0x1p-17;    // of the mass of all tokens, as panels have it

struct PickShared {
  BlockShared block;
  Word bins[kBins];
  Bin found;
  int32_t panels[kMaxPanels];
  int32_t panel_count;
};

struct TopK {
  Word k;

  __device__ Word mass(float) const { return 1; }
  __device__ Word target(Word) const { return k; }
};

struct TopP {
  double p;
  Masses masses;

  __device__ Word mass(float value) const { return masses(value); }
  __device__ Word target(Word total) const {
    const double target = std::ceil(p * static_cast<double>(total));
    return target < 1.0 ? 1 : static_cast<Word>(target);
  }
};

// The fewest best tokens whose mass reaches `wanted`.
struct Reach {
  Masses masses;
  Word wanted;

  __device__ Word mass(float value) const { return masses(value); }
  __device__ Word target(Word) const { return wanted; }
};

// visit(key, value) for this thread's share.
template <typename Visit>
__device__ __forceinline__ void each_key(const Values& values, Visit&& visit) {
  each_token(values, [&](int32_t id, float value) { visit(key_of(value, id), value); });
}
template <typename Visit>
__device__ __forceinline__ void each_key(const RowKeys& keys, Visit&& visit) {
  for (int32_t i = threadIdx.x; i < keys.count; i += blockDim.x) {
    visit(keys.largest[i], value_of(keys.largest[i]));
  }
}

// Mass of the keys lowest .. highest, in bins of 2^shift keys.
template <typename Source, typename Filter>
__device__ __forceinline__ void fill_bins(const Source& values, Word lowest, Word highest,
                                          unsigned shift, const Filter& filter,
                                          PickShared& shared) {
  for (unsigned i = threadIdx.x; i < kBins; i += blockDim.x) shared.bins[i] = 0;
  sync_block();
  each_key(values, [&](Word key, float value) {
    if (key < lowest || key > highest) return;
    const Word mass = filter.mass(value);
    if (mass > 0) atomicAdd(&shared.bins[(key - lowest) >> shift], mass);
  });
  sync_block();
}

// The lowest key that a filter keeps, of the keys from `lowest` up: the fewest best tokens whose
// mass reaches filter.target(mass of all). `highest` is the best token's key.
template <typename Source, typename Filter>
__device__ __forceinline__ Word cut(const Source& values, Word lowest, Word highest,
                                    const Filter& filter, PickShared& shared) {
  const unsigned run =
      kBins / blockDim.x;  // bins of a thread, the first thread's being the highest
  const unsigned first = kBins - 1 - run * threadIdx.x;
  Word above = 0, target = 0;
  for (;;) {
    const auto width = static_cast<unsigned>(std::bit_width(highest - lowest));
    const unsigned shift = width > kDigitBits ? width - kDigitBits : 0;
    fill_bins(values, lowest, highest, shift, filter, shared);
    Word own = 0;
    for (unsigned i = 0; i < run; ++i) own += shared.bins[first - i];
    const Prefix prefix = block_prefix(own, shared.block);
    if (target == 0) {
      const Word wanted = filter.target(prefix.total);
      target = wanted < prefix.total ? wanted : prefix.total;
    }
    Word sum = above + prefix.before;
    for (unsigned i = 0; i < run; ++i) {
      const Word mass = shared.bins[first - i];
      if (sum < target && sum + mass >= target) shared.found = {first - i, sum, mass};
      sum += mass;
    }
    sync_block();
    const Bin bin = shared.found;
    above = bin.above;
    lowest += Word{bin.index} << shift;
    const Word end = lowest + ((Word{1} << shift) - 1);
    highest = end < highest ? end : highest;
    // The whole bin is kept if the rest would not reach the target without its lightest token.
    const Word impossible = key_of(-std::numeric_limits<float>::infinity(), kMaxVocab - 1);
    const Word lightest = filter.mass(value_of(lowest < impossible ? impossible : lowest));
    if (shift == 0 || target - above + lightest > bin.mass) return lowest;
  }
}

// What the filters keep: keys from `lowest` up, of these the values whose weight is at least min_p.
struct Kept {
  Word lowest = 0;
  float largest = 0.0f;
  double min_p = 0.0;

  __device__ bool operator()(int32_t id, float value) const {
    if (lowest > 0 && key_of(value, id) < lowest) return false;
    return min_p == 0.0 || weight(value, largest) >= min_p;
  }
};

__device__ __forceinline__ bool filters(const SamplingCells& sampling, int32_t vocab) {
  const int32_t top_k = sampling.top_k;
  return (top_k > 0 && top_k < vocab) || sampling.top_p < 1.0f || sampling.min_p > 0.0f;
}

__device__ __forceinline__ Kept apply_filters(const Values& values, const SamplingCells& sampling,
                                              PickShared& shared) {
  const int32_t top_k = sampling.top_k;
  const float top_p = sampling.top_p, min_p = sampling.min_p;
  Kept kept;
  if (!filters(sampling, values.vocab)) return kept;
  const Word highest = block_max(best_below(values, kNoBound), shared.block);
  kept.largest = value_of(highest);
  if (top_k > 0 && top_k < values.vocab) {
    kept.lowest = cut(values, 0, highest, TopK{static_cast<Word>(top_k)}, shared);
  }
  if (top_p < 1.0f) {
    const TopP filter{top_p, Masses(kept.largest, values.vocab)};
    kept.lowest = cut(values, kept.lowest, highest, filter, shared);
  }
  if (min_p > 0.0f) kept.min_p = min_p;
  return kept;
}

// Of this thread's tokens, the one with the largest value + G(seed, position, token), as a key.
__device__ __forceinline__ Word noisy_best(const Values& values, const Kept& kept, uint64_t seed,
                                           int32_t position) {
  Word best = 0;
  each_quad(values, [&](int32_t quad, const float(&value)[4]) {
    unsigned keeps = 0;
    for (int32_t j = 0; j < 4; ++j) {
      const int32_t id = 4 * quad + j;
      keeps |= id < values.vocab && kept(id, value[j]) ? 1u << j : 0u;
    }
    if (keeps == 0) return;
    // One draw is the noise of four tokens: token_gumbel of each.
    const Bits4 bits = philox(seed, static_cast<uint32_t>(position),
                              static_cast<uint32_t>(Purpose::token), quad, 0);
    for (int32_t j = 0; j < 4; ++j) {
      const Word key = key_of(value[j] + gumbel_from_bits(bits.word[j]), 4 * quad + j);
      if ((keeps >> j & 1) != 0 && key > best) best = key;
    }
  });
  return best;
}

// The best key of this thread's share.
__device__ __forceinline__ Word best_of(const Word* keys, int32_t count) {
  Word best = 0;
  for (int32_t i = threadIdx.x; i < count; i += blockDim.x) {
    best = keys[i] > best ? keys[i] : best;
  }
  return best;
}

// Narrows the choice to the `count` panels with the largest values, which hold the `count` best
// tokens: a token in another panel is behind one of each of these. The key down to which they hold
// all tokens; `highest` is the best token's.
__device__ __forceinline__ Word narrow(const RowKeys& keys, int32_t count, Word highest,
                                       Values& values, PickShared& shared) {
  const Word lowest = cut(keys, 0, highest, TopK{static_cast<Word>(count)}, shared);
  if (threadIdx.x == 0) shared.panel_count = 0;
  sync_block();
  for (int32_t i = threadIdx.x; i < keys.count; i += blockDim.x) {
    if (keys.largest[i] >= lowest) shared.panels[atomicAdd(&shared.panel_count, 1)] = i;
  }
  sync_block();
  values.panels = shared.panels;
  values.panel_count = shared.panel_count;
  return lowest;
}

// The mass of all tokens, within kDoubt of it.
__device__ __forceinline__ double about_all(const RowKeys& keys, const Masses& masses,
                                            PickShared& shared) {
  Word own = 0;
  for (int32_t i = threadIdx.x; i < keys.count; i += blockDim.x) {
    const float largest = value_of(keys.largest[i]);
    own += static_cast<Word>(weight(largest, masses.largest) * masses.unit * keys.mass[i]);
  }
  return static_cast<double>(block_prefix(own, shared.block).total);
}

// Finds the fewest best tokens of mass top_p, of those from `complete` up, none of which is missing
// in `values`: by the least and by the largest mass that all tokens may have. False if the two
// differ, or reach further down.
__device__ __forceinline__ bool keep_mass(const RowKeys& keys, const Values& values, float top_p,
                                          Word complete, Word highest, Kept& kept,
                                          PickShared& shared) {
  const TopP filter{top_p, Masses(kept.largest, values.vocab)};
  const double about = about_all(keys, filter.masses, shared);
  const Word least = filter.target(static_cast<Word>(about * (1 - kDoubt)));
  const Word most = filter.target(static_cast<Word>(about * (1 + kDoubt)) + 1);
  Word own = 0;
  each_key(values, [&](Word key, float value) {
    if (key >= complete) own += filter.mass(value);
  });
  if (block_prefix(own, shared.block).total < most) return false;
  kept.lowest = cut(values, complete, highest, Reach{filter.masses, least}, shared);
  return cut(values, complete, highest, Reach{filter.masses, most}, shared) == kept.lowest;
}

// Applies top_p and min_p to the tokens of the best panels, and narrows `values` to these, where
// that is certain to keep the same tokens as all logits would; else false, and nothing changes.
__device__ __forceinline__ bool keep_best(const RowKeys& keys, const SamplingCells& sampling,
                                          Values& values, Kept& kept, PickShared& shared) {
  if (keys.chosen == nullptr || keys.count <= kBestPanels) return false;
  const float top_p = sampling.top_p, min_p = sampling.min_p;
  const Word highest = block_max(best_of(keys.largest, keys.count), shared.block);
  Values best = values;
  Kept found;
  found.largest = value_of(highest);
  found.min_p = min_p > 0.0f ? min_p : 0.0f;
  const Word complete = narrow(keys, kBestPanels, highest, best, shared);
  const bool certain = top_p < 1.0f ? keep_mass(keys, best, top_p, complete, highest, found, shared)
                                    : weight(value_of(complete), found.largest) < 0.999999 * min_p;
  if (!certain) return false;
  values = best;
  kept = found;
  return true;
}

// As apply_filters, with what the head left.
__device__ __forceinline__ Kept keep(const RowKeys& keys, const SamplingCells& sampling,
                                     Values& values, PickShared& shared) {
  const int32_t top_k = sampling.top_k;
  Kept kept;
  if (top_k <= 0 || top_k >= values.vocab) {
    if (keep_best(keys, sampling, values, kept, shared)) return kept;
  } else if (keys.chosen != nullptr && top_k <= kMaxPanels && top_k < keys.count) {
    narrow(keys, top_k, block_max(best_of(keys.largest, keys.count), shared.block), values, shared);
  }
  return apply_filters(values, sampling, shared);
}

// The token at `position` from a row of `vocab` logits, in every thread. `keys` are what the head
// left for these logits, if it did.
__device__ __forceinline__ int32_t pick(const float* logits, const RowKeys& keys, int32_t vocab,
                                        const Cells& cells, int32_t position, PickShared& shared) {
  const float temperature = cells.sampling.temperature;
  const bool by_keys = temperature == 0.0f || !filters(cells.sampling, vocab);
  if (keys.chosen != nullptr && by_keys) {
    return id_of(block_max(best_of(keys.chosen, keys.count), shared.block));
  }
  if (temperature == 0.0f) {
    return id_of(block_max(best_below({logits, vocab, 1.0f}, kNoBound), shared.block));
  }
  Values values{logits, vocab, temperature};
  const Kept kept = keep(keys, cells.sampling, values, shared);
  return id_of(block_max(noisy_best(values, kept, cells.seed, position), shared.block));
}

}  // namespace specrt::cuda

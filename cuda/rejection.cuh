// Probabilities of a row and draws from them by one block, for the rules `rejection` and `block`
// (device/rejection.h). Sums are of integers, in units of 2^-62, so that they do not depend on
// threads. The CPU backend sums doubles: a number within about 2^-50 of a threshold may fall on the
// other side there, so the law is the same, but tokens may differ between the two.
#pragma once

#include "cuda/pick.cuh"
#include "device/rejection.h"

namespace specrt::cuda {

// out (v) = probabilities of the tokens, which the filters do not remove, of a row of logits.
__device__ __forceinline__ void row_probabilities(const float* logits, int32_t vocab,
                                                  const SamplingCells& sampling, float* out,
                                                  PickShared& shared) {
  const Values values{logits, vocab, sampling.temperature};
  const Kept kept = apply_filters(values, sampling, shared);
  const float largest = value_of(block_max(best_below(values, kNoBound), shared.block));
  const Masses masses(largest, vocab);
  Word own = 0;
  each_token(values, [&](int32_t id, float value) { own += kept(id, value) ? masses(value) : 0; });
  const double sum = static_cast<double>(block_prefix(own, shared.block).total) / masses.unit;
  each_token(values, [&](int32_t id, float value) {
    out[id] = kept(id, value) ? static_cast<float>(weight(value, largest) / sum) : 0.0f;
  });
}

struct DrawShared {
  BlockShared block;
  int32_t token;
};

// KeyedDraws by a block: every thread calls its functions together and gets the same. A warp has a
// run of tokens, its lanes take turns in it.
class BlockDraws {
 public:
  __device__ BlockDraws(uint64_t seed, DrawShared& shared) : keyed_(seed), shared_(shared) {}

  __device__ bool below(const DrawKey& key, double threshold) const {
    return keyed_.below(key, threshold);
  }

  template <typename Weight>
  __device__ double sum(int32_t vocab, const Weight& weight) const {
    const Word own = lane_mass(run_of_warp(vocab), weight);
    return static_cast<double>(block_prefix(own, shared_.block).total) / kUnit;
  }

  template <typename Weight>
  __device__ int32_t draw(const DrawKey& key, int32_t vocab, const Weight& weight) const {
    const Run run = run_of_warp(vocab);
    const Word own = lane_mass(run, weight);
    if (threadIdx.x == 0) shared_.token = 0;
    const Prefix prefix = block_prefix(own, shared_.block);
    const Word at = static_cast<Word>(keyed_.uniform(key) * static_cast<double>(prefix.total));
    const Word begin = shfl_idx(prefix.before, 0);
    const Word end = shfl_idx(prefix.before + own, 31);
    if (at >= begin && at < end) find_token(run, weight, at - begin);
    sync_block();
    const int32_t token = shared_.token;
    sync_block();
    return token;
  }

 private:
  static constexpr double kUnit = 0x1p62;  // weights add up to less than 2

  struct Run {
    int32_t begin;
    int32_t end;
  };

  static __device__ Run run_of_warp(int32_t vocab) {
    const auto warps = static_cast<int32_t>(blockDim.x / 32);
    const int32_t length = (vocab + warps - 1) / warps;
    const int32_t begin = min_i32(vocab, length * static_cast<int32_t>(warp_index()));
    return {begin, min_i32(vocab, begin + length)};
  }

  static __device__ Word mass(double weight) { return static_cast<Word>(weight * kUnit + 0.5); }

  template <typename Weight>
  static __device__ Word lane_mass(const Run& run, const Weight& weight) {
    Word own = 0;
    for (auto token = run.begin + static_cast<int32_t>(lane_index()); token < run.end;
         token += 32) {
      own += mass(weight(token));
    }
    return own;
  }

  // The token of this warp's run in which `at` lies; it is in one.
  template <typename Weight>
  __device__ void find_token(const Run& run, const Weight& weight, Word at) const {
    Word below = 0;
    for (int32_t first = run.begin;; first += 32) {
      const int32_t token = first + static_cast<int32_t>(lane_index());
      const Word upto = below + warp_prefix(token < run.end ? mass(weight(token)) : 0);
      const unsigned beyond = warp_ballot(at < upto);
      if (beyond != 0) {
        if (static_cast<int32_t>(lane_index()) == __ffs(beyond) - 1) shared_.token = token;
        return;
      }
      below = shfl_idx(upto, 31);
    }
  }

  KeyedDraws keyed_;
  DrawShared& shared_;
};

}  // namespace specrt::cuda

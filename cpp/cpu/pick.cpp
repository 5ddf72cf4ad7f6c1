#include "cpu/pick.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"

namespace specrt::cpu {
namespace {

struct Candidate {
  float value;  // logit / temperature
  int32_t id;
};
using Candidates = std::vector<Candidate>;

bool better(const Candidate& a, const Candidate& b) {
  return a.value != b.value ? a.value > b.value : a.id < b.id;
}

Candidates all_tokens(const float* logits, int32_t vocab, float temperature) {
  Candidates kept(static_cast<size_t>(vocab));
  for (int32_t id = 0; id < vocab; ++id) {
    const float value = logits[id] / temperature;
    const bool is_nan = value != value;
    kept[static_cast<size_t>(id)] = {is_nan ? -std::numeric_limits<float>::infinity() : value, id};
  }
  return kept;
}

void keep_top_k(Candidates& kept, size_t k) {
  if (k >= kept.size()) return;
  std::nth_element(kept.begin(), kept.begin() + static_cast<ptrdiff_t>(k) - 1, kept.end(), better);
  kept.resize(k);
}

// Weight relative to the largest value; also right for infinities of either sign.
double weight(float value, float largest) {
  return value == largest ? 1.0 : std::exp(static_cast<double>(value) - largest);
}

float largest_of(const Candidates& kept) {
  float largest = kept.front().value;
  for (const Candidate& c : kept) largest = std::max(largest, c.value);
  return largest;
}

// Sorts no more of the survivors than it keeps, in growing pieces.
void keep_top_p(Candidates& kept, double top_p) {
  const float largest = largest_of(kept);
  double total = 0.0;
  for (const Candidate& c : kept) total += weight(c.value, largest);
  double sum = 0.0;
  size_t sorted = 0;
  for (size_t count = 0; count < kept.size();) {
    if (count == sorted) {
      sorted = std::min(kept.size(), 4 * sorted + 64);
      std::partial_sort(kept.begin() + static_cast<ptrdiff_t>(count),
                        kept.begin() + static_cast<ptrdiff_t>(sorted), kept.end(), better);
    }
    sum += weight(kept[count++].value, largest);
    if (sum >= top_p * total) kept.resize(count);
  }
}

void keep_min_p(Candidates& kept, double min_p) {
  const float largest = largest_of(kept);
  std::erase_if(kept, [&](const Candidate& c) { return weight(c.value, largest) < min_p; });
}

int32_t noisy_best(const Candidates& kept, uint64_t seed, uint32_t position) {
  Candidate best{-std::numeric_limits<float>::infinity(), std::numeric_limits<int32_t>::max()};
  for (const Candidate& c : kept) {
    const uint32_t id = static_cast<uint32_t>(c.id);
    const Candidate noisy{c.value + token_gumbel(seed, position, Purpose::token, id, 0), c.id};
    if (better(noisy, best)) best = noisy;
  }
  return best.id;
}

// Behind the filters.
Candidates filtered(const float* logits, int32_t vocab, const SamplingCells& sampling) {
  const float top_p = sampling.top_p, min_p = sampling.min_p;
  const int32_t top_k = sampling.top_k;
  Candidates kept = all_tokens(logits, vocab, sampling.temperature);
  if (top_k > 0) keep_top_k(kept, static_cast<size_t>(top_k));
  if (top_p < 1.0f) keep_top_p(kept, top_p);
  if (min_p > 0.0f) keep_min_p(kept, min_p);
  return kept;
}

}  // namespace

int32_t pick(const Kernels& kernels, const float* logits, int32_t vocab, const Cells& cells,
             int32_t position) {
  const SamplingCells& sampling = cells.sampling;
  const float temperature = sampling.temperature;
  const int32_t top_k = sampling.top_k;
  const uint64_t seed = cells.seed;
  const uint32_t at = static_cast<uint32_t>(position);
  if (temperature == 0.0f) return kernels.argmax(logits, vocab);
  const bool filters =
      (top_k > 0 && top_k < vocab) || sampling.top_p < 1.0f || sampling.min_p > 0.0f;
  if (!filters) return kernels.argmax_noisy(logits, vocab, temperature, seed, at);
  return noisy_best(filtered(logits, vocab, sampling), seed, at);
}

void pick_several(const Kernels& kernels, const float* logits, int32_t vocab, const Cells& cells,
                  int32_t position, int32_t count, float* scratch, int32_t* out) {
  constexpr int32_t kLikely = 32;
  const float temperature = cells.sampling.temperature;
  const uint64_t seed = cells.seed;
  out[0] = pick(kernels, logits, vocab, cells, position);
  std::copy_n(logits, vocab, scratch);
  scratch[out[0]] = -std::numeric_limits<float>::infinity();
  const int32_t most = std::min(temperature == 0.0f ? count - 1 : kLikely, vocab - 1);
  std::array<Candidate, kLikely> likely;
  for (int32_t i = 0; i < most; ++i) {
    const int32_t id = kernels.argmax(scratch, vocab);
    const float noise = temperature == 0.0f
                            ? 0.0f
                            : token_gumbel(seed, static_cast<uint32_t>(position), Purpose::token,
                                           static_cast<uint32_t>(id), 0);
    likely[static_cast<size_t>(i)] = {
        temperature == 0.0f ? scratch[id] : scratch[id] / temperature + noise, id};
    scratch[id] = -std::numeric_limits<float>::infinity();
  }
  std::sort(likely.begin(), likely.begin() + most, better);
  for (int32_t i = 1; i < count; ++i) {
    out[i] = i <= most ? likely[static_cast<size_t>(i - 1)].id : out[0];
  }
}

void probabilities(const float* logits, int32_t vocab, const Cells& cells, float* out) {
  const Candidates kept = filtered(logits, vocab, cells.sampling);
  const float largest = largest_of(kept);
  double sum = 0.0;
  for (const Candidate& c : kept) sum += weight(c.value, largest);
  std::fill_n(out, vocab, 0.0f);
  for (const Candidate& c : kept) {
    out[c.id] = static_cast<float>(weight(c.value, largest) / sum);
  }
}

}  // namespace specrt::cpu

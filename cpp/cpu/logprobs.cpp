#include "cpu/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace specrt::cpu {

namespace {

// NaN counts as impossible.
float value_of(float logit) {
  return logit == logit ? logit : -std::numeric_limits<float>::infinity();
}

}  // namespace

void log_probabilities(const float* logits, int32_t vocab, int32_t token, int32_t most,
                       TokenLogprob* out) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int32_t v = 0; v < vocab; ++v) largest = std::max(largest, value_of(logits[v]));
  double sum = 0.0;
  for (int32_t v = 0; v < vocab; ++v) {
    sum += std::exp(static_cast<double>(value_of(logits[v])) - largest);
  }
  const double normaliser = largest + std::log(sum);
  const auto logprob = [&](int32_t v) {
    return static_cast<float>(value_of(logits[v]) - normaliser);
  };

  out[0] = {token, logprob(token)};
  if (most == 0) return;
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](int32_t a, int32_t b) {
    const float left = value_of(logits[a]), right = value_of(logits[b]);
    return left != right ? left > right : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + most, order.end(), likelier);
  for (int32_t i = 0; i < most; ++i) {
    const int32_t v = order[static_cast<size_t>(i)];
    out[1 + i] = {v, logprob(v)};
  }
}

}  // namespace specrt::cpu

// Philox against its published answers; the Gumbel transform and its logarithm against doubles.
#include "base/rng.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace specrt {
namespace {

void check_words(const Bits4& bits, uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
  CHECK_EQ(bits.word[0], w0);
  CHECK_EQ(bits.word[1], w1);
  CHECK_EQ(bits.word[2], w2);
  CHECK_EQ(bits.word[3], w3);
}

// Known answers of Random123, philox4x32-10.
TEST_CASE("philox gives the published answers") {
  check_words(philox(0, 0, 0, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  constexpr uint32_t kOnes = 0xffffffff;
  check_words(philox(~uint64_t{0}, kOnes, kOnes, kOnes, kOnes), 0x408f276d, 0x41c83b0e, 0xa20bc7c6,
              0x6d5451fd);
  check_words(philox(0x299f31d0a4093822, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344),
              0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1);
}

double exact_gumbel(uint32_t bits) {
  const double r = (bits + 0.5) * 0x1p-32;
  return -std::log(-std::log1p(-r));
}

// Error of one draw, relative to max(1, |value|); infinite when the draw is not finite.
double gumbel_error(uint32_t bits) {
  const auto value = static_cast<double>(gumbel_from_bits(bits));
  if (!std::isfinite(value)) return std::numeric_limits<double>::infinity();
  const double exact = exact_gumbel(bits);
  return std::abs(value - exact) / std::max(1.0, std::abs(exact));
}

TEST_CASE("Gumbel values are right for the smallest and for many other bits") {
  double worst = 0;
  for (uint32_t i = 0; i < (1u << 20); ++i) {
    worst = std::max(worst, gumbel_error(i));
    worst = std::max(worst, gumbel_error(i * 3840u + (i * 2654435761u) % 3840u));  // r < 0.94
  }
  CHECK(worst < 4e-7);
}

TEST_CASE("Gumbel values of the largest bits, where float32 cannot tell r from 1, stay finite") {
  double worst = 0;
  for (uint32_t i = 0; i < (1u << 20); ++i) worst = std::max(worst, gumbel_error(~i));
  CHECK(worst < 0.12);  // of the smallest values, about -3
}

TEST_CASE("the largest noise falls strictly with the bits, so that it does not tie") {
  for (const uint32_t step : {1u, 256u, 4096u}) {
    float last = std::numeric_limits<float>::infinity();
    for (uint32_t i = 0; i < 1024; ++i) {
      const float value = gumbel_from_bits(i * step);
      REQUIRE(value < last);
      last = value;
    }
  }
}

TEST_CASE("portable_log is the natural logarithm") {
  double worst = 0;
  for (uint32_t bits = 0x00800000; bits < 0x7f800000; bits += 1021) {
    const auto x = std::bit_cast<float>(bits);
    const double exact = std::log(static_cast<double>(x));
    if (exact != 0) worst = std::max(worst, std::abs(portable_log(x) - exact) / std::abs(exact));
  }
  for (int32_t ulp = -200000; ulp <= 200000; ++ulp) {  // around 1, where the value is near 0
    const auto x = std::bit_cast<float>(static_cast<uint32_t>(0x3f800000 + ulp));
    const double exact = std::log(static_cast<double>(x));
    if (exact != 0) worst = std::max(worst, std::abs(portable_log(x) - exact) / std::abs(exact));
  }
  CHECK(worst < 3e-7);
  CHECK_EQ(portable_log(1.0f), 0.0f);
}

TEST_CASE("noise depends on each part of its key") {
  const float value = token_gumbel(7, 3, Purpose::token, 5, 0);
  CHECK_EQ(token_gumbel(7, 3, Purpose::token, 5, 0), value);
  CHECK(token_gumbel(8, 3, Purpose::token, 5, 0) != value);
  CHECK(token_gumbel(7 + (uint64_t{1} << 40), 3, Purpose::token, 5, 0) != value);
  CHECK(token_gumbel(7, 4, Purpose::token, 5, 0) != value);
  CHECK(token_gumbel(7, 3, Purpose::draft, 5, 0) != value);
  CHECK(token_gumbel(7, 3, Purpose::token, 6, 0) != value);
  CHECK(token_gumbel(7, 3, Purpose::token, 9, 0) != value);
  CHECK(token_gumbel(7, 3, Purpose::token, 5, 1) != value);
}

}  // namespace
}  // namespace specrt

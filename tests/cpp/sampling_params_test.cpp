// The messages of SamplingParams that are out of range.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "decode/sequence.h"

namespace specrt {
namespace {

std::string refusal(const SamplingParams& params) {
  try {
    validate(params);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::argument);
    return error.what();
  }
  return "";
}

template <typename Field, typename Value>
std::string refusal_of(Field SamplingParams::*field, Value value) {
  SamplingParams params;
  params.*field = static_cast<Field>(value);
  return refusal(params);
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST_CASE("values within their ranges are accepted") {
  CHECK_EQ(refusal({}), "");
  CHECK_EQ(refusal_of(&SamplingParams::temperature, 0.0), "");
  CHECK_EQ(refusal_of(&SamplingParams::temperature, 100.0), "");
  CHECK_EQ(refusal_of(&SamplingParams::top_k, 1), "");
  CHECK_EQ(refusal_of(&SamplingParams::top_p, 1e-6), "");
  CHECK_EQ(refusal_of(&SamplingParams::min_p, 1.0), "");
  CHECK_EQ(refusal_of(&SamplingParams::max_tokens, 1), "");
}

TEST_CASE("values outside of their ranges are refused by name") {
  CHECK_EQ(refusal_of(&SamplingParams::temperature, -1.0),
           "temperature must be a finite number >= 0, not -1");
  CHECK_EQ(refusal_of(&SamplingParams::temperature, INFINITY),
           "temperature must be a finite number >= 0, not inf");
  CHECK_EQ(refusal_of(&SamplingParams::temperature, kNan),
           "temperature must be a finite number >= 0, not nan");
  CHECK_EQ(refusal_of(&SamplingParams::top_k, -1), "top_k must be >= 0 (0 keeps all), not -1");
  CHECK_EQ(refusal_of(&SamplingParams::top_p, 0.0), "top_p must be in (0, 1], not 0");
  CHECK_EQ(refusal_of(&SamplingParams::top_p, 1.5), "top_p must be in (0, 1], not 1.5");
  CHECK_EQ(refusal_of(&SamplingParams::top_p, kNan), "top_p must be in (0, 1], not nan");
  CHECK_EQ(refusal_of(&SamplingParams::min_p, -0.5), "min_p must be in [0, 1], not -0.5");
  CHECK_EQ(refusal_of(&SamplingParams::min_p, kNan), "min_p must be in [0, 1], not nan");
  CHECK_EQ(refusal_of(&SamplingParams::max_tokens, 0), "max_tokens must be >= 1, not 0");
}

}  // namespace
}  // namespace specrt

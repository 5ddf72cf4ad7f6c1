// bf16 rounding and the checksum of engine headers.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string_view>

#include "base/crc32.h"
#include "base/dtype.h"

namespace specrt {
namespace {

// The bf16 value nearest to a finite float, by distances in double; ties go to the even one.
bf16_bits nearest_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto toward_zero = static_cast<bf16_bits>(bits >> 16);
  const auto away = static_cast<bf16_bits>(toward_zero + 1);
  const double magnitude = std::abs(static_cast<double>(value));
  const double low = std::abs(static_cast<double>(to_float(toward_zero)));
  // Behind the largest bf16 the next step of the grid stands for infinity.
  const bool overflows = (away & 0x7f80) == 0x7f80 && (toward_zero & 0x7f80) != 0x7f80;
  const double high = overflows ? 0x1p128 : std::abs(static_cast<double>(to_float(away)));
  if (magnitude - low < high - magnitude) return toward_zero;
  if (magnitude - low > high - magnitude) return away;
  return (toward_zero & 1) == 0 ? toward_zero : away;
}

TEST_CASE("to_bf16 rounds every upper half with all interesting lower halves") {
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    if ((upper & 0x7f80) == 0x7f80) continue;  // infinities and NaNs
    for (const uint32_t lower : {0u, 1u, 2u, 0x1234u, 0x4000u, 0x7ffeu, 0x7fffu, 0x8000u, 0x8001u,
                                 0x8002u, 0xabcdu, 0xc000u, 0xfffeu, 0xffffu}) {
      const auto value = std::bit_cast<float>(upper << 16 | lower);
      REQUIRE_EQ(to_bf16(value), nearest_bf16(value));
    }
  }
}

TEST_CASE("to_bf16 keeps infinities and NaNs") {
  CHECK_EQ(to_bf16(INFINITY), 0x7f80);
  CHECK_EQ(to_bf16(-INFINITY), 0xff80);
  for (const uint32_t bits : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    CHECK(std::isnan(to_float(to_bf16(std::bit_cast<float>(bits)))));
  }
}

TEST_CASE("to_float and to_bf16 are inverse on bf16 values") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = to_float(static_cast<bf16_bits>(bits));
    if (!std::isnan(value)) REQUIRE_EQ(to_bf16(value), bits);
  }
}

uint32_t crc_of(std::string_view text, uint32_t before = 0) {
  return crc32(before, reinterpret_cast<const std::byte*>(text.data()), text.size());
}

TEST_CASE("crc32 is zlib's") {
  CHECK_EQ(crc_of("123456789"), 0xcbf43926);
  CHECK_EQ(crc_of(""), 0);
  CHECK_EQ(crc_of("a"), 0xe8b7be43);
  CHECK_EQ(crc_of("6789", crc_of("12345")), 0xcbf43926);
}

}  // namespace
}  // namespace specrt

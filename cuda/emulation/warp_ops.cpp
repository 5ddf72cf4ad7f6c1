// What warp collectives compute from the arguments of 32 lanes.
#include <array>
#include <cstring>

#include "cuda/emulation/control.h"
#include "cuda/emulation/ptx.h"
#include "cuda/emulation/report.h"

namespace specrt::emulation {
namespace {

constexpr unsigned kLanes = 32;
constexpr int kM = 16;
constexpr int kN = 8;
constexpr int kK = 16;

float low(uint32_t pair) { return to_float(static_cast<bf16_bits>(pair & 0xffff)); }
float high(uint32_t pair) { return to_float(static_cast<bf16_bits>(pair >> 16)); }

using Row = std::array<float, kN>;  // of D and of B

void add_products(Row& sum, const Row& b, float a) {
  for (int n = 0; n < kN; ++n) sum[n] += a * b[n];
}

void add_pairwise(Row& sum, const float* a, const Row* b) {
  std::array<Row, kK> products;
  for (int k = 0; k < kK; ++k) {
    for (int n = 0; n < kN; ++n) products[k][n] = a[k] * b[k][n];
  }
  for (int half = kK / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) {
      for (int n = 0; n < kN; ++n) products[k][n] = products[2 * k][n] + products[2 * k + 1][n];
    }
  }
  for (int n = 0; n < kN; ++n) sum[n] += products[0][n];
}

void add_row(Row& sum, const float* a, const Row* b, MmaOrder order) {
  if (order == MmaOrder::pairwise) return add_pairwise(sum, a, b);
  for (int k = 0; k < kK; ++k) {
    const int at = order == MmaOrder::ascending ? k : kK - 1 - k;
    add_products(sum, b[at], a[at]);
  }
}

struct Ldmatrix {
  const void* row;
  uint32_t* result;
};

template <Transpose kTranspose>
void combine_ldmatrix(void* const* arguments) {
  constexpr bool transposed = kTranspose == Transpose::yes;
  std::array<std::array<uint16_t, 8>, kLanes> rows;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    std::memcpy(rows[lane].data(), static_cast<const Ldmatrix*>(arguments[lane])->row, 16);
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const unsigned i = lane / 4;
    const unsigned t = 2 * (lane % 4);
    for (unsigned m = 0; m < 4; ++m) {
      const uint16_t first = transposed ? rows[8 * m + t][i] : rows[8 * m + i][t];
      const uint16_t second = transposed ? rows[8 * m + t + 1][i] : rows[8 * m + i][t + 1];
      static_cast<const Ldmatrix*>(arguments[lane])->result[m] =
          first | static_cast<uint32_t>(second) << 16;
    }
  }
}

struct Vote {
  bool predicate;
  unsigned result;
};

void combine_ballot(void* const* arguments) {
  unsigned bits = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (static_cast<const Vote*>(arguments[lane])->predicate) bits |= 1u << lane;
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    static_cast<Vote*>(arguments[lane])->result = bits;
  }
}

unsigned source_lane(const Shuffle& shuffle, unsigned lane) {
  switch (shuffle.source) {
    case ShuffleSource::lane_xor:
      return lane ^ shuffle.operand;
    case ShuffleSource::lane:
      return shuffle.operand;
    case ShuffleSource::below:
      return lane - shuffle.operand;
    case ShuffleSource::above:
      return lane + shuffle.operand;
  }
  return lane;
}

}  // namespace

void combine_mma(void* const* arguments) {
  float a[kM][kK];
  Row b[kK];
  Row d[kM];
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const Mma& mma = *static_cast<const Mma*>(arguments[lane]);
    const unsigned i = lane / 4;
    const unsigned t = 2 * (lane % 4);
    for (unsigned part = 0; part < 4; ++part) {
      const unsigned row = i + 8 * (part % 2);
      const unsigned k = t + 8 * (part / 2);
      a[row][k] = low(mma.a[part]);
      a[row][k + 1] = high(mma.a[part]);
      d[row][t + part / 2] = mma.d[2 * (part % 2) + part / 2];
    }
    for (unsigned part = 0; part < 2; ++part) {
      b[t + 8 * part][i] = low(mma.b[part]);
      b[t + 8 * part + 1][i] = high(mma.b[part]);
    }
  }
  const MmaOrder order = settings().mma_order;
  for (int m = 0; m < kM; ++m) add_row(d[m], a[m], b, order);
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const Mma& mma = *static_cast<const Mma*>(arguments[lane]);
    const unsigned i = lane / 4;
    const unsigned t = 2 * (lane % 4);
    mma.d[0] = d[i][t];
    mma.d[1] = d[i][t + 1];
    mma.d[2] = d[i + 8][t];
    mma.d[3] = d[i + 8][t + 1];
  }
}

void ldmatrix(uint32_t* result, const void* row, Transpose transpose) {
  check_shared("ldmatrix_x4", row, 16, 16);
  Ldmatrix load{row, result};
  if (transpose == Transpose::yes) {
    collect("ldmatrix_x4_trans", &combine_ldmatrix<Transpose::yes>, &load);
  } else {
    collect("ldmatrix_x4", &combine_ldmatrix<Transpose::no>, &load);
  }
}

void combine_shuffle(void* const* arguments) {
  std::array<Shuffle, kLanes> all;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    all[lane] = *static_cast<const Shuffle*>(arguments[lane]);
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (all[lane].source != all[0].source) fail_device("different shuffles in one warp");
    const unsigned source = source_lane(all[lane], lane);
    if (source < kLanes) static_cast<Shuffle*>(arguments[lane])->value = all[source].value;
  }
}

unsigned ballot(bool predicate) {
  Vote vote{predicate, 0};
  collect("a ballot", &combine_ballot, &vote);
  return vote.result;
}

}  // namespace specrt::emulation

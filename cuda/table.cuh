// Rows of a table of tokens, from either layout that a CUDA engine has.
#pragma once

#include "base/view.h"
#include "cuda/ptx.h"

namespace specrt::cuda {

inline constexpr int32_t kOctet = 8;  // columns that a thread takes at once

// Row-major rows have no alignment of their own.
__device__ __forceinline__ void load_octet(const bf16_bits* row, int32_t left,
                                           float (&values)[kOctet]) {
#pragma unroll
  for (int32_t j = 0; j < kOctet; ++j) values[j] = j < left ? to_float(row[j]) : 0.0f;
}

// A lane's columns of a tile; those of padding are zero.
__device__ __forceinline__ void load_octet(const std::byte* place, float (&values)[kOctet]) {
  const uint4 v = ld_stream16(place);
  const uint32_t pairs[] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int32_t j = 0; j < kOctet; ++j) {
    const uint32_t pair = pairs[j / 2];
    values[j] = __uint_as_float(j % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
  }
}

// visit(first column, values) for the octets of a token's row that are those of thread `index` of
// `threads`; values beyond the row are zero. The table is bf16, and has the token.
template <typename Visit>
__device__ __forceinline__ void each_octet(const Weight& table, int32_t token, unsigned index,
                                           int32_t threads, Visit&& visit) {
  const bool in_tiles = table.layout != Layout::row_major;
  const int32_t blocks = (table.cols + kTileCols - 1) / kTileCols, row = token % kPanelRows;
  const auto* values_of =
      reinterpret_cast<const bf16_bits*>(table.data) + int64_t{token} * table.cols;
  const std::byte* place = table.data + int64_t{token / kPanelRows} * blocks * kTileBytes +
                           row / 8 * (kTileBytes / 2) + row % 8 * 64;
  for (auto at = static_cast<int32_t>(index); at * kOctet < table.cols; at += threads) {
    float values[kOctet];
    if (in_tiles) {
      load_octet(place + int64_t{at / 4} * kTileBytes + at % 4 * 16, values);
    } else {
      load_octet(values_of + at * kOctet, table.cols - at * kOctet, values);
    }
    visit(at * kOctet, values);
  }
}

}  // namespace specrt::cuda

// Non-owning views of activations and weights. Shapes are rows x columns; strides are in bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/hd.h"

namespace specrt {

// Activations of a step: row i of `cols` elements starts at data + i * stride.
// Rows are padded to a multiple of kRowAlignment bytes; kernels may write the padding.
struct RowsView {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  int32_t cols = 0;
  int64_t stride = 0;

  template <typename T>
  SPECRT_HD T* row(int64_t i) const {
    return reinterpret_cast<T*>(data + i * stride);
  }
};

inline constexpr int64_t kRowAlignment = 64;

constexpr int64_t padded_row_bytes(DType dtype, int64_t cols) {
  const int64_t bytes = cols * static_cast<int64_t>(size_of(dtype));
  return (bytes + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
}

// How a weight lies in memory.
enum class Layout : uint32_t {
  row_major = 0,  // (rows, cols), contiguous
  // Panels of 16 rows. bf16: [panel][col pair][16 rows][2 cols]; f32: [panel][col][16 rows].
  // Rows are padded with zeros to 16 and bf16 columns to 2, so one 64-byte line feeds 16 outputs.
  panels16 = 1,
  // CUDA, bf16: [panel][block of 32 cols][half h][lane][8 cols], a tile of 1 KB being the A operand
  // of two mma.m16n8k16. Lane 4 i + t holds columns 8 t .. 8 t + 7 of the block; half 0 is panel
  // row i and half 1 panel row i + 8, which is the output Weight::pair_stride behind that of row i.
  // Columns are padded with zeros to 32.
  tiles16x32 = 2,
};

inline constexpr int32_t kPanelRows = 16;
inline constexpr int32_t kTileCols = 32;
inline constexpr int64_t kTileBytes = 1024;

// A weight matrix of `rows` outputs and `cols` inputs.
struct Weight {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;
  Layout layout = Layout::row_major;
  int32_t rows = 0;
  int32_t cols = 0;
  // Tiles only: outputs that an epilogue combines lie in one tile (both halves of a head's
  // rotation, gate and up). A multiple of 8; the outputs come in groups of twice as many.
  int32_t pair_stride = kPanelRows / 2;
};

// The output of row `row` (0 .. 15) of a panel of tiles.
constexpr int32_t tile_output(int32_t panel, int32_t row, int32_t pair_stride) {
  const int32_t panels = pair_stride / (kPanelRows / 2);  // of a group
  const int32_t first = panel / panels * 2 * pair_stride + panel % panels * (kPanelRows / 2);
  return row < kPanelRows / 2 ? first + row : first + pair_stride + row - kPanelRows / 2;
}

// Bytes of one panel of 16 rows.
constexpr int64_t panel_bytes(DType dtype, int64_t cols) {
  return dtype == DType::f32 ? cols * 64 : (cols + 1) / 2 * 64;
}

// Bytes that a weight occupies in an engine.
constexpr int64_t weight_bytes(DType dtype, Layout layout, int64_t rows, int64_t cols) {
  if (layout == Layout::row_major) return rows * cols * static_cast<int64_t>(size_of(dtype));
  if (layout == Layout::tiles16x32) {
    return (rows + kPanelRows - 1) / kPanelRows * ((cols + kTileCols - 1) / kTileCols) * kTileBytes;
  }
  return (rows + kPanelRows - 1) / kPanelRows * panel_bytes(dtype, cols);
}

}  // namespace specrt

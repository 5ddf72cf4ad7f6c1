// Non-owning views of activations and weights. Shapes are rows x columns; strides are in bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace specrt {

// Activations of a step: row i of `cols` elements starts at data + i * stride.
// Rows are padded to a multiple of kRowAlignment bytes; kernels may write the padding.
struct RowsView {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  int32_t cols = 0;
  int64_t stride = 0;

  template <typename T>
  T* row(int64_t i) const {
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
};

inline constexpr int32_t kPanelRows = 16;

// A weight matrix of `rows` outputs and `cols` inputs.
struct Weight {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;
  Layout layout = Layout::row_major;
  int32_t rows = 0;
  int32_t cols = 0;
};

// Bytes of one panel of 16 rows.
constexpr int64_t panel_bytes(DType dtype, int64_t cols) {
  return dtype == DType::f32 ? cols * 64 : (cols + 1) / 2 * 64;
}

// Bytes that a weight occupies in an engine.
constexpr int64_t weight_bytes(DType dtype, Layout layout, int64_t rows, int64_t cols) {
  if (layout == Layout::row_major) return rows * cols * static_cast<int64_t>(size_of(dtype));
  return (rows + kPanelRows - 1) / kPanelRows * panel_bytes(dtype, cols);
}

}  // namespace specrt

// What the ops of the scripted backend read: rows of a step, tokens in a cache, cells for a check.
#pragma once

#include <cstring>

#include "device/ops.h"

namespace specrt::testing {

// The value of a cell for a check, which is no access of the device.
template <typename T>
T peek(const Cell<T>& cell) {
  T value;
  std::memcpy(&value, static_cast<const void*>(&cell), sizeof(value));
  return value;
}

struct FedToken {
  int32_t token;
  int32_t position;
};

template <typename Byte>
Byte* slot_of(Byte* kv, const KvLayer& layer, int32_t slot) {
  return kv + layer.value_offset + static_cast<int64_t>(slot) * 8;
}

// Whether the rows of a segment are those of the layers with streams, and row i one of these.
inline bool has_streams(const Segment& segment) {
  return segment.streams.cells != nullptr && segment.span == &segment.streams.cells->span;
}
inline bool is_stream(const Segment& segment, int32_t i) {
  return has_streams(segment) && i >= peek(segment.streams.cells->kept);
}

template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

// Calls visit(segment, row within it, row of the activations) for the existing rows.
template <typename Visit>
void each_row(const StepRows& rows, Visit&& visit) {
  for (int32_t s = 0; s < rows.segment_count; ++s) {
    const RowRange range = rows_of(rows, s);
    for (int32_t i = range.begin; i < range.end; ++i) {
      visit(rows.segments[static_cast<size_t>(s)], i, s * rows.capacity + i);
    }
  }
}

}  // namespace specrt::testing

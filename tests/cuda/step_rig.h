// Steps and activations on the emulated device, as the tests of ops need them.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "device/ops.h"
#include "rig.h"

namespace specrt::cuda {

// A step whose segments have `rows[s]` existing rows of `capacity`, from position `bases[s]` on.
class StepRig {
 public:
  StepRig(Rig& rig, int32_t capacity, const std::vector<int32_t>& rows,
          RowSelect select = RowSelect::all, const std::vector<int32_t>& bases = {})
      : spans_(rig, span_words(rows, bases)) {
    step_.segment_count = static_cast<int32_t>(rows.size());
    step_.capacity = capacity;
    step_.select = select;
    for (size_t s = 0; s < rows.size(); ++s) {
      step_.segments[s].span = reinterpret_cast<const StepSpan*>(spans_.data() + 2 * s);
    }
  }

  StepRows& rows() { return step_; }
  int32_t capacity() const { return step_.segment_count * step_.capacity; }

 private:
  static std::vector<int32_t> span_words(const std::vector<int32_t>& rows,
                                         const std::vector<int32_t>& bases) {
    std::vector<int32_t> words;
    for (size_t s = 0; s < rows.size(); ++s) {
      words.insert(words.end(), {bases.empty() ? 0 : bases[s], rows[s]});
    }
    return words;
  }

  DeviceArray<int32_t> spans_;
  StepRows step_;
};

// Activations of `rows` rows; whatever the values do not cover, padding included, is `filler`.
template <typename T>
class DeviceRows {
 public:
  DeviceRows(Rig& rig, int32_t rows, int32_t cols, T filler, const std::vector<T>& values = {})
      : stride_(padded_row_bytes(kDType, cols) / static_cast<int64_t>(sizeof(T))),
        cols_(cols),
        array_(rig, laid_out(rows, filler, values)) {}

  RowsView view() const {
    return {.data = reinterpret_cast<std::byte*>(array_.data()),
            .dtype = kDType,
            .cols = cols_,
            .stride = stride_ * static_cast<int64_t>(sizeof(T))};
  }

  // (rows, stride) with the padding.
  std::vector<T> read(Rig& rig) const {
    std::vector<T> values = array_.read(rig);
    rig.sync();
    return values;
  }
  int64_t stride() const { return stride_; }

 private:
  static constexpr DType kDType = sizeof(T) == 2 ? DType::bf16 : DType::f32;

  std::vector<T> laid_out(int32_t rows, T filler, const std::vector<T>& values) const {
    std::vector<T> all(static_cast<size_t>(rows * stride_), filler);
    for (size_t i = 0; i < values.size(); ++i) {
      const auto row = static_cast<int64_t>(i) / cols_, col = static_cast<int64_t>(i) % cols_;
      all[static_cast<size_t>(row * stride_ + col)] = values[i];
    }
    return all;
  }

  int64_t stride_;
  int32_t cols_;
  DeviceArray<T> array_;
};

inline emulation::Settings seeded(uint64_t seed) {
  emulation::Settings settings = Rig::quiet();
  settings.seed = seed;
  return settings;
}

}  // namespace specrt::cuda

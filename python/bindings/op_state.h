// What ops read besides arrays, as Python makes it: arrays as views, the rows of a step, the cells
// of a sequence.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "op_memory.h"

namespace specrt::bindings {

namespace nb = nanobind;

using Array = nb::ndarray<nb::numpy, nb::device::cpu>;

inline std::byte* data_of(const Array& array) { return static_cast<std::byte*>(array.data()); }

inline DType dtype_of(const Array& array) {
  if (array.dtype() == nb::dtype<float>()) return DType::f32;
  if (array.dtype() == nb::dtype<uint16_t>()) return DType::bf16;
  fail_argument("expected an array of float32 or uint16 (bf16 bits)");
}

// A 2-D array whose rows may have padding behind them, the last one too.
inline RowsView rows_view(OpMemory& memory, const Array& array) {
  if (array.ndim() != 2 || array.stride(1) != 1)
    fail_argument("expected rows of contiguous values");
  const DType dtype = dtype_of(array);
  const int64_t stride = array.stride(0) * static_cast<int64_t>(size_of(dtype));
  const size_t bytes = array.shape(0) * static_cast<size_t>(stride);
  return {memory.of(data_of(array), bytes), dtype, static_cast<int32_t>(array.shape(1)), stride};
}

// `count` floats, or null for None.
inline const float* optional_floats(OpMemory& memory, const std::optional<Array>& array,
                                    int32_t count) {
  if (!array) return nullptr;
  const auto expected = static_cast<size_t>(count);
  if (dtype_of(*array) != DType::f32 || array->size() != expected)
    fail_argument("expected ", count, " values of float32");
  return memory.of(reinterpret_cast<const float*>(data_of(*array)), expected);
}

// The rows of a step as Python describes them: for each sequence its base, rows, tokens, kv, sees
// and depth.
class Step {
 public:
  Step(int32_t capacity, const std::string& select) : capacity_(capacity) {
    select_ = select == "last" ? RowSelect::last : RowSelect::all;
  }

  Step(const Step&) = delete;

  void add(int32_t base, int32_t rows, const std::vector<int32_t>& tokens, nb::object kv,
           const std::vector<uint64_t>& sees, const std::vector<int32_t>& depth) {
    if (sequences_.size() == kMaxSegments) fail_argument("too many segments");
    Sequence& own = sequences_.emplace_back();
    own.span.base = base;
    own.span.rows = rows;
    own.tokens = std::vector<Cell<int32_t>>(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) own.tokens[i] = tokens[i];
    own.sees = sees;
    own.depth = depth;
    own.kv = kv;
    positions_ = std::max(positions_, base + capacity_);
  }

  StepRows rows(OpMemory& memory) {
    StepRows step;
    step.capacity = capacity_;
    step.select = select_;
    step.positions = positions_;
    for (Sequence& own : sequences_) {
      Segment& segment = step.segments[static_cast<size_t>(step.segment_count++)];
      segment.span = memory.of(&own.span);
      segment.tok = memory.of(own.tokens.data(), own.tokens.size());
      if (!own.kv.is_none()) {
        const auto kv = nb::cast<Array>(own.kv);
        segment.kv = memory.of(data_of(kv), kv.nbytes());
      }
      if (!own.sees.empty()) segment.sees = memory.of(own.sees.data(), own.sees.size());
      if (!own.depth.empty()) segment.depth = memory.of(own.depth.data(), own.depth.size());
    }
    return step;
  }

 private:
  struct Sequence {
    StepSpan span;
    std::vector<Cell<int32_t>> tokens;
    std::vector<uint64_t> sees;
    std::vector<int32_t> depth;
    nb::object kv;
  };

  int32_t capacity_;
  RowSelect select_;
  int32_t positions_ = 0;
  std::deque<Sequence> sequences_;
};

inline const std::pair<const char*, Cell<int32_t> Cells::*> kIntCells[] = {
    {"committed", &Cells::committed},   {"tail", &Cells::tail},
    {"drafted", &Cells::drafted},       {"appended", &Cells::appended},
    {"draft_kv", &Cells::draft_kv},     {"draft_end", &Cells::draft_end},
    {"snap_begin", &Cells::snap_begin}, {"snap_count", &Cells::snap_count},
    {"limit", &Cells::limit},
};

// Cells, tokens, span and log of one sequence.
class SequenceState {
 public:
  SequenceState(const std::vector<int32_t>& tokens, uint64_t seed, const std::vector<int32_t>& eos)
      : tokens_(tokens.size()), log_(kLogSlots) {
    for (size_t i = 0; i < tokens.size(); ++i) tokens_[i] = tokens[i];
    cells_.seed = seed;
    cells_.eos_count = static_cast<int32_t>(eos.size());
    if (eos.size() > kMaxEos) fail_argument("too many end-of-sequence tokens");
    for (size_t i = 0; i < eos.size(); ++i) cells_.eos[i] = eos[i];
  }

  SequenceState(const SequenceState&) = delete;

  void set_sampling(float temperature, int32_t top_k, float top_p, float min_p) {
    cells_.sampling.temperature = temperature;
    cells_.sampling.top_k = top_k;
    cells_.sampling.top_p = top_p;
    cells_.sampling.min_p = min_p;
  }

  void set(const nb::dict& values) {
    for (auto [key, value] : values) {
      const std::string name = nb::cast<std::string>(key);
      const int32_t number = nb::cast<int32_t>(value);
      if (name == "rows") {
        span_.rows = number;
      } else if (name == "stop") {
        cells_.stop = static_cast<Stop>(number);
      } else {
        cells_.*find(name) = number;
      }
    }
  }

  nb::dict get() const {
    nb::dict out;
    for (const auto& [name, cell] : kIntCells) out[name] = static_cast<int32_t>(cells_.*cell);
    out["stop"] = static_cast<int32_t>(static_cast<Stop>(cells_.stop));
    out["round"] = static_cast<uint32_t>(cells_.round);
    out["base"] = static_cast<int32_t>(span_.base);
    out["rows"] = static_cast<int32_t>(span_.rows);
    return out;
  }

  std::vector<int32_t> tokens() const { return {tokens_.begin(), tokens_.end()}; }

  nb::list log() const {
    nb::list out;
    for (uint32_t i = 0; i < cells_.round && i < kLogSlots; ++i) {
      const LogEntry& entry = log_[i];
      nb::dict row;
      row["round"] = entry.round;
      row["committed_before"] = entry.committed_before;
      row["drafted"] = entry.drafted;
      row["judged"] = entry.judged;
      row["accepted"] = entry.accepted;
      row["stop"] = static_cast<int32_t>(entry.stop);
      row["tokens"] = std::vector<int32_t>(entry.tokens, entry.tokens + entry.count);
      out.append(row);
    }
    return out;
  }

  SequenceCells cells(OpMemory& memory) {
    return {.cells = memory.of(&cells_),
            .tok = memory.of(tokens_.data(), tokens_.size()),
            .log = memory.of(log_.data(), log_.size()),
            .log_slots = kLogSlots};
  }
  StepSpan* span(OpMemory& memory) { return memory.of(&span_); }

 private:
  static constexpr uint32_t kLogSlots = 16;

  static Cell<int32_t> Cells::*find(const std::string& name) {
    for (const auto& [known, cell] : kIntCells) {
      if (name == known) return cell;
    }
    fail_argument("no cell \"", name, "\"");
  }

  Cells cells_;
  StepSpan span_;
  std::vector<Cell<int32_t>> tokens_;
  std::vector<LogEntry> log_;
};

}  // namespace specrt::bindings

// _core.ops: single ops on NumPy arrays, for the tests. Every call enqueues one op on a stream of
// its own and waits for it. bf16 arrays are uint16 bit patterns.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bindings.h"
#include "cpu/cpu_backend.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace specrt::bindings {
namespace {

using Array = nb::ndarray<nb::numpy, nb::device::cpu>;

std::byte* data_of(const Array& array) { return static_cast<std::byte*>(array.data()); }

DType dtype_of(const Array& array) {
  if (array.dtype() == nb::dtype<float>()) return DType::f32;
  if (array.dtype() == nb::dtype<uint16_t>()) return DType::bf16;
  fail_argument("expected an array of float32 or uint16 (bf16 bits)");
}

// A 2-D array whose rows may have padding behind them.
RowsView rows_view(const Array& array) {
  if (array.ndim() != 2 || array.stride(1) != 1)
    fail_argument("expected rows of contiguous values");
  const DType dtype = dtype_of(array);
  return {data_of(array), dtype, static_cast<int32_t>(array.shape(1)),
          array.stride(0) * static_cast<int64_t>(size_of(dtype))};
}

Weight weight_of(const Array& values, int32_t rows, int32_t cols, const std::string& layout) {
  const Layout chosen = layout == "row_major" ? Layout::row_major : Layout::panels16;
  const DType dtype = dtype_of(values);
  const int64_t bytes = static_cast<int64_t>(values.size() * size_of(dtype));
  if (bytes != weight_bytes(dtype, chosen, rows, cols))
    fail_argument("weight of ", bytes, " bytes");
  return {data_of(values), dtype, chosen, rows, cols};
}

// One sequence of a step as Python describes it: base, rows, tokens, kv, sees and depth.
class Step {
 public:
  Step(int32_t capacity, const std::string& select) {
    rows_.capacity = capacity;
    rows_.select = select == "last" ? RowSelect::last : RowSelect::all;
  }

  Step(const Step&) = delete;

  void add(int32_t base, int32_t rows, const std::vector<int32_t>& tokens, nb::object kv,
           const std::vector<uint64_t>& sees, const std::vector<int32_t>& depth) {
    if (rows_.segment_count == kMaxSegments) fail_argument("too many segments");
    Sequence& own = sequences_.emplace_back();
    own.span.base = base;
    own.span.rows = rows;
    own.tokens = std::vector<Cell<int32_t>>(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) own.tokens[i] = tokens[i];
    own.sees = sees;
    own.depth = depth;
    own.kv = kv;
    Segment& segment = rows_.segments[static_cast<size_t>(rows_.segment_count++)];
    segment.span = &own.span;
    segment.tok = own.tokens.data();
    segment.kv = kv.is_none() ? nullptr : data_of(nb::cast<Array>(kv));
    segment.sees = sees.empty() ? nullptr : own.sees.data();
    segment.depth = depth.empty() ? nullptr : own.depth.data();
  }

  const StepRows& rows() const { return rows_; }

 private:
  struct Sequence {
    StepSpan span;
    std::vector<Cell<int32_t>> tokens;
    std::vector<uint64_t> sees;
    std::vector<int32_t> depth;
    nb::object kv;
  };

  StepRows rows_;
  std::deque<Sequence> sequences_;
};

const std::pair<const char*, Cell<int32_t> Cells::*> kIntCells[] = {
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

  SequenceCells cells() {
    return {.cells = &cells_, .tok = tokens_.data(), .log = log_.data(), .log_slots = kLogSlots};
  }
  StepSpan* span() { return &span_; }

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

class OpRunner {
 public:
  explicit OpRunner(std::unique_ptr<Backend> backend)
      : backend_(std::move(backend)), stream_(backend_->make_stream({})) {}

  std::string name() const { return backend_->name(); }

  // Calls the backend's method `op` with `args` and waits.
  template <typename Args>
  void run(void (Backend::*op)(Stream&, const Args&), const Args& args) {
    const nb::gil_scoped_release release;
    ((*backend_).*op)(*stream_, args);
    stream_->record().wait();
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
};

KvLayer kv_layer(int32_t kv_heads, int32_t head_dim, int32_t slots, const Array& out,
                 int32_t window = 0) {
  KvLayer kv{0, 0, kv_heads, head_dim, slots, dtype_of(out), window};
  kv.value_offset = kv_key_bytes(kv);
  return kv;
}

// `count` floats, or null for None.
const float* optional_floats(const std::optional<Array>& array, int32_t count) {
  if (!array) return nullptr;
  if (dtype_of(*array) != DType::f32 || array->size() != static_cast<size_t>(count))
    fail_argument("expected ", count, " values of float32");
  return reinterpret_cast<const float*>(data_of(*array));
}

Epilogue epilogue_of(const std::string& name) {
  if (name == "store") return Epilogue::store;
  if (name == "add") return Epilogue::add;
  if (name == "swiglu") return Epilogue::swiglu;
  fail_argument("no epilogue \"", name, "\"");
}

void embed(OpRunner& runner, const Step& step, const Array& table, int32_t rows, int32_t cols,
           const std::string& layout, const Array& out) {
  runner.run(&Backend::embed,
             EmbedArgs{step.rows(), weight_of(table, rows, cols, layout), rows_view(out)});
}

void rope_angles(OpRunner& runner, const Step& step, const Array& inv_freq, float scaling,
                 const Array& out) {
  runner.run(&Backend::rope_angles,
             RopeAnglesArgs{step.rows(), reinterpret_cast<const float*>(data_of(inv_freq)),
                            static_cast<int32_t>(inv_freq.shape(0)), scaling, rows_view(out)});
}

void rms_norm(OpRunner& runner, const Step& step, const Array& x, const Array& gain, float eps,
              const Array& out) {
  runner.run(&Backend::rms_norm,
             RmsNormArgs{step.rows(), rows_view(x), reinterpret_cast<const float*>(data_of(gain)),
                         eps, rows_view(out)});
}

void linear(OpRunner& runner, const Step& step, const Array& x, const Array& weight, int32_t rows,
            int32_t cols, const std::string& epilogue, const Array& out,
            const std::optional<Array>& bias) {
  runner.run(&Backend::linear,
             LinearArgs{step.rows(), rows_view(x), weight_of(weight, rows, cols, "panels16"),
                        optional_floats(bias, rows), epilogue_of(epilogue), rows_view(out)});
}

void rope_kv(OpRunner& runner, const Step& step, const Array& qkv, const Array& angles,
             int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t slots, const Array& q,
             const std::optional<Array>& q_gain, const std::optional<Array>& k_gain, float eps) {
  runner.run(&Backend::rope_kv,
             RopeKvArgs{step.rows(), rows_view(qkv), rows_view(angles), rows_view(q),
                        kv_layer(kv_heads, head_dim, slots, q), heads,
                        optional_floats(q_gain, head_dim), optional_floats(k_gain, head_dim), eps});
}

void attention(OpRunner& runner, const Step& step, const Array& q, int32_t heads, int32_t kv_heads,
               int32_t head_dim, int32_t slots, float scale, const Array& out, int32_t window) {
  runner.run(&Backend::attention, AttentionArgs{step.rows(), rows_view(q),
                                                kv_layer(kv_heads, head_dim, slots, out, window),
                                                heads, scale, rows_view(out)});
}

void feed_prompt(OpRunner& runner, SequenceState& sequence, int32_t begin, int32_t count) {
  runner.run(&Backend::feed_prompt, FeedPromptArgs{sequence.span(), begin, count});
}

void begin_draft(OpRunner& runner, SequenceState& sequence, int32_t capacity, int32_t bonus_rows,
                 int32_t window, int32_t catch_up_rows) {
  runner.run(&Backend::begin_draft,
             BeginDraftArgs{
                 sequence.cells(), sequence.span(), {capacity, bonus_rows, window, catch_up_rows}});
}

void pick_draft(OpRunner& runner, SequenceState& sequence, const Array& logits, int32_t index) {
  const RowsView view = rows_view(logits);
  runner.run(&Backend::pick_draft,
             PickDraftArgs{sequence.cells(), sequence.span(), view, 0, view.cols, index});
}

void feed_tail(OpRunner& runner, SequenceState& sequence, const std::string& source) {
  const TailSource from = source == "appended" ? TailSource::appended : TailSource::committed;
  runner.run(&Backend::feed_tail, FeedTailArgs{sequence.cells(), sequence.span(), from});
}

void judge(OpRunner& runner, SequenceState& sequence, const Array& logits, int32_t first_row) {
  const RowsView view = rows_view(logits);
  runner.run(&Backend::judge,
             JudgeArgs{sequence.cells(), sequence.span(), view, first_row, view.cols});
}

void bind_state(nb::module_& m) {
  nb::class_<Step>(m, "Step")
      .def(nb::init<int32_t, std::string>(), "capacity"_a, "select"_a = "all")
      .def("add", &Step::add, "base"_a, "rows"_a, "tokens"_a = std::vector<int32_t>{},
           "kv"_a = nb::none(), "sees"_a = std::vector<uint64_t>{},
           "depth"_a = std::vector<int32_t>{});
  nb::class_<SequenceState>(m, "Sequence")
      .def(nb::init<std::vector<int32_t>, uint64_t, std::vector<int32_t>>(), "tokens"_a, "seed"_a,
           "eos"_a = std::vector<int32_t>{})
      .def("set_sampling", &SequenceState::set_sampling, "temperature"_a, "top_k"_a = 0,
           "top_p"_a = 1.0f, "min_p"_a = 0.0f)
      .def("set", &SequenceState::set, "cells"_a)
      .def("get", &SequenceState::get)
      .def("tokens", &SequenceState::tokens)
      .def("log", &SequenceState::log);
}

}  // namespace

void init_ops(nb::module_& module) {
  nb::module_ ops = module.def_submodule("ops", "Single ops on NumPy arrays, for the tests.");
  ops.def("cpu_isas", &cpu_isas);
  bind_state(ops);
  nb::class_<OpRunner>(ops, "Runner")
      .def_static(
          "cpu",
          [](const std::string& isa, int threads) {
            return std::make_unique<OpRunner>(make_cpu_backend({threads, isa}));
          },
          "isa"_a = "", "threads"_a = 0)
      .def_prop_ro("name", &OpRunner::name)
      .def("embed", &embed, "step"_a, "table"_a, "rows"_a, "cols"_a, "layout"_a, "out"_a)
      .def("rope_angles", &rope_angles, "step"_a, "inv_freq"_a, "scaling"_a, "out"_a)
      .def("rms_norm", &rms_norm, "step"_a, "x"_a, "gain"_a, "eps"_a, "out"_a)
      .def("linear", &linear, "step"_a, "x"_a, "weight"_a, "rows"_a, "cols"_a, "epilogue"_a,
           "out"_a, "bias"_a = nb::none())
      .def("rope_kv", &rope_kv, "step"_a, "qkv"_a, "angles"_a, "heads"_a, "kv_heads"_a,
           "head_dim"_a, "slots"_a, "q"_a, "q_gain"_a = nb::none(), "k_gain"_a = nb::none(),
           "eps"_a = 0.0f)
      .def("attention", &attention, "step"_a, "q"_a, "heads"_a, "kv_heads"_a, "head_dim"_a,
           "slots"_a, "scale"_a, "out"_a, "window"_a = 0)
      .def("feed_prompt", &feed_prompt, "sequence"_a, "begin"_a, "count"_a)
      .def("begin_draft", &begin_draft, "sequence"_a, "capacity"_a, "bonus_rows"_a, "window"_a,
           "catch_up_rows"_a)
      .def("pick_draft", &pick_draft, "sequence"_a, "logits"_a, "index"_a)
      .def("feed_tail", &feed_tail, "sequence"_a, "source"_a)
      .def("judge", &judge, "sequence"_a, "logits"_a, "first_row"_a);
}

}  // namespace specrt::bindings

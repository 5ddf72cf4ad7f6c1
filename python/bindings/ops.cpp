// _core.ops: single ops on NumPy arrays, for the tests. Every call enqueues one op on a stream of
// its own and waits for it. bf16 arrays are uint16 bit patterns.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "api/cuda_library.h"
#include "base/error.h"
#include "bindings.h"
#include "cpu/cpu_backend.h"
#include "op_state.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace specrt::bindings {
namespace {

class OpRunner {
 public:
  OpRunner(std::unique_ptr<Backend> backend, DeviceMemory kind)
      : backend_(std::move(backend)), stream_(backend_->make_stream({})), kind_(kind) {}

  std::string name() const { return backend_->name(); }
  const Backend& backend() const { return *backend_; }

  // Calls the backend's method `op` with the Args that `args_of` makes of memory, and waits.
  template <typename Args, typename ArgsOf>
  void run(void (Backend::*op)(Stream&, const Args&), const ArgsOf& args_of) {
    OpMemory memory(*backend_, *stream_, kind_);
    const Args args = args_of(memory);
    const nb::gil_scoped_release release;
    ((*backend_).*op)(*stream_, args);
    memory.copy_back();
    stream_->record().wait();
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  DeviceMemory kind_;
};

Layout layout_of(const std::string& name) {
  if (name == "row_major") return Layout::row_major;
  if (name == "panels16") return Layout::panels16;
  if (name == "tiles16x32") return Layout::tiles16x32;
  fail_argument("no layout \"", name, "\"");
}

Weight weight_of(OpMemory& memory, const Array& values, int32_t rows, int32_t cols, Layout layout,
                 int32_t pair_stride) {
  const DType dtype = dtype_of(values);
  const size_t bytes = values.nbytes();
  if (static_cast<int64_t>(bytes) != weight_bytes(dtype, layout, rows, cols))
    fail_argument("weight of ", bytes, " bytes");
  return {memory.of(data_of(values), bytes), dtype, layout, rows, cols, pair_stride};
}

KvLayer kv_layer(int32_t kv_heads, int32_t head_dim, int32_t slots, const Array& out,
                 int32_t window = 0) {
  KvLayer kv{0, 0, kv_heads, head_dim, slots, dtype_of(out), window};
  kv.value_offset = kv_key_bytes(kv);
  return kv;
}

Epilogue epilogue_of(const std::string& name) {
  if (name == "store") return Epilogue::store;
  if (name == "add") return Epilogue::add;
  if (name == "swiglu") return Epilogue::swiglu;
  fail_argument("no epilogue \"", name, "\"");
}

void embed(OpRunner& runner, Step& step, const Array& table, int32_t rows, int32_t cols,
           const std::string& layout, const Array& out) {
  runner.run(&Backend::embed, [&](OpMemory& m) {
    const Weight weight = weight_of(m, table, rows, cols, layout_of(layout), kPanelRows / 2);
    return EmbedArgs{step.rows(m), weight, rows_view(m, out)};
  });
}

void rope_angles(OpRunner& runner, Step& step, const Array& inv_freq, float scaling,
                 const Array& out) {
  runner.run(&Backend::rope_angles, [&](OpMemory& m) {
    const auto half = static_cast<int32_t>(inv_freq.size());
    return RopeAnglesArgs{step.rows(m), optional_floats(m, inv_freq, half), half, scaling,
                          rows_view(m, out)};
  });
}

void rms_norm(OpRunner& runner, Step& step, const Array& x, const Array& gain, float eps,
              const Array& out) {
  runner.run(&Backend::rms_norm, [&](OpMemory& m) {
    const RowsView rows = rows_view(m, x);
    return RmsNormArgs{step.rows(m), rows, optional_floats(m, gain, rows.cols), eps,
                       rows_view(m, out)};
  });
}

void linear(OpRunner& runner, Step& step, const Array& x, const Array& weight, int32_t rows,
            int32_t cols, const std::string& epilogue, const Array& out,
            const std::optional<Array>& bias, int32_t pair_stride) {
  const Layout layout = runner.backend().weight_layout();
  runner.run(&Backend::linear, [&](OpMemory& m) {
    return LinearArgs{step.rows(m),
                      rows_view(m, x),
                      weight_of(m, weight, rows, cols, layout, pair_stride),
                      optional_floats(m, bias, rows),
                      epilogue_of(epilogue),
                      rows_view(m, out)};
  });
}

void rope_kv(OpRunner& runner, Step& step, const Array& qkv, const Array& angles, int32_t heads,
             int32_t kv_heads, int32_t head_dim, int32_t slots, const Array& q,
             const std::optional<Array>& q_gain, const std::optional<Array>& k_gain, float eps) {
  runner.run(&Backend::rope_kv, [&](OpMemory& m) {
    return RopeKvArgs{step.rows(m),
                      rows_view(m, qkv),
                      rows_view(m, angles),
                      rows_view(m, q),
                      kv_layer(kv_heads, head_dim, slots, q),
                      heads,
                      optional_floats(m, q_gain, head_dim),
                      optional_floats(m, k_gain, head_dim),
                      eps};
  });
}

void attention(OpRunner& runner, Step& step, const Array& q, int32_t heads, int32_t kv_heads,
               int32_t head_dim, int32_t slots, float scale, const Array& out, int32_t window) {
  runner.run(&Backend::attention, [&](OpMemory& m) {
    AttentionArgs args{
        step.rows(m), rows_view(m, q), kv_layer(kv_heads, head_dim, slots, out, window),
        heads,        scale,           rows_view(m, out)};
    args.scratch = m.scratch(runner.backend().attention_scratch(args));
    return args;
  });
}

void feed_prompt(OpRunner& runner, SequenceState& sequence, int32_t begin, int32_t count) {
  runner.run(&Backend::feed_prompt, [&](OpMemory& m) {
    return FeedPromptArgs{sequence.span(m), begin, count};
  });
}

void begin_draft(OpRunner& runner, SequenceState& sequence, int32_t capacity, int32_t bonus_rows,
                 int32_t window, int32_t catch_up_rows) {
  runner.run(&Backend::begin_draft, [&](OpMemory& m) {
    return BeginDraftArgs{
        sequence.cells(m), sequence.span(m), {capacity, bonus_rows, window, catch_up_rows}};
  });
}

void pick_draft(OpRunner& runner, SequenceState& sequence, const Array& logits, int32_t index) {
  runner.run(&Backend::pick_draft, [&](OpMemory& m) {
    const RowsView view = rows_view(m, logits);
    const size_t bytes = runner.backend().pick_scratch(view.cols);
    return PickDraftArgs{.sequence = sequence.cells(m),
                         .span = sequence.span(m),
                         .logits = view,
                         .vocab = view.cols,
                         .index = index,
                         .scratch = m.scratch<PickScratch>(bytes)};
  });
}

void feed_tail(OpRunner& runner, SequenceState& sequence, const std::string& source) {
  const TailSource from = source == "appended" ? TailSource::appended : TailSource::committed;
  runner.run(&Backend::feed_tail, [&](OpMemory& m) {
    return FeedTailArgs{sequence.cells(m), sequence.span(m), from};
  });
}

void judge(OpRunner& runner, SequenceState& sequence, const Array& logits, int32_t first_row) {
  runner.run(&Backend::judge, [&](OpMemory& m) {
    const RowsView view = rows_view(m, logits);
    return JudgeArgs{sequence.cells(m),
                     sequence.span(m),
                     view,
                     first_row,
                     view.cols,
                     m.scratch<PickScratch>(runner.backend().pick_scratch(view.cols))};
  });
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
            return std::make_unique<OpRunner>(make_cpu_backend({threads, isa}), DeviceMemory::host);
          },
          "isa"_a = "", "threads"_a = 0)
      .def_static(
          "cuda",
          [](int device) {
            return std::make_unique<OpRunner>(make_cuda_backend({device}), DeviceMemory::distant);
          },
          "device"_a = 0)
      .def_prop_ro("name", &OpRunner::name)
      .def("embed", &embed, "step"_a, "table"_a, "rows"_a, "cols"_a, "layout"_a, "out"_a)
      .def("rope_angles", &rope_angles, "step"_a, "inv_freq"_a, "scaling"_a, "out"_a)
      .def("rms_norm", &rms_norm, "step"_a, "x"_a, "gain"_a, "eps"_a, "out"_a)
      .def("linear", &linear, "step"_a, "x"_a, "weight"_a, "rows"_a, "cols"_a, "epilogue"_a,
           "out"_a, "bias"_a = nb::none(), "pair_stride"_a = kPanelRows / 2)
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

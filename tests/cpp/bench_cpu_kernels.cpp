// Measures linear at the shapes of a Llama (d 768, f 2048, 12/4 heads, vocabulary 8192, bf16), and
// its whole step, by rows, next to the read bandwidth of the machine in the same run. Not a test.
// The machine may be busy: work is timed in pieces of a layer or less, and the best times of the
// pieces are added up, less the best time of an empty launch.
// bench_cpu_kernels [threads] [isa] [context]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "cpu/cpu_backend.h"

namespace specrt {
namespace {

constexpr int32_t kWidth = 768, kLayers = 14, kHeads = 12, kKvHeads = 4, kHeadDim = 64;
constexpr int32_t kFfn = 2048, kVocab = 8192, kQkv = (kHeads + 2 * kKvHeads) * kHeadDim;
constexpr int kRepeats = 60;
constexpr int32_t kRowCounts[] = {1, 2, 4, 8, 12, 16, 32, 64};

template <typename Work>
double best_seconds(const Work& work) {
  double best = 1e9;
  for (int i = 0; i < kRepeats; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    best = std::min(best, spent.count());
  }
  return best;
}

double read_bandwidth(int threads) {
  const size_t words = (size_t{256} << 20) / 8;
  std::vector<uint64_t> memory(words, 1);
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  const double seconds = best_seconds([&] {
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t) {
      workers.emplace_back([&, t] {
        const size_t share = words / static_cast<size_t>(threads);
        const uint64_t* from = memory.data() + share * static_cast<size_t>(t);
        uint64_t sum[8] = {};
        for (size_t i = 0; i + 8 <= share; i += 8) {
          for (size_t j = 0; j < 8; ++j) sum[j] += from[i + j];
        }
        for (const uint64_t part : sum) sums[static_cast<size_t>(t) * 8] += part;
      });
    }
    for (std::thread& worker : workers) worker.join();
  });
  return static_cast<double>(words) * 8 / seconds * 1e-9;
}

using Pieces = std::vector<std::unique_ptr<RecordedWork>>;

class Bench {
 public:
  Bench(const CpuOptions& options, int32_t context)
      : context_(context), backend_(make_cpu_backend(options)), stream_(backend_->make_stream({})) {
    span_.base = context;
    tok_ = std::vector<Cell<int32_t>>(static_cast<size_t>(context) + kMaxStepRows);
    kv_.kv_heads = kKvHeads;
    kv_.head_dim = kHeadDim;
    kv_.slots = (context + kMaxStepRows + kKvBlock) / kKvBlock * kKvBlock;
    kv_.dtype = DType::bf16;
    layer_bytes_ = kv_key_bytes(kv_) + kv_value_bytes(kv_);
    cache_ = take(static_cast<size_t>(layer_bytes_) * kLayers);
    table_ = weight(kVocab, kWidth);
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      qkv_.push_back(weight(kQkv, kWidth));
      out_.push_back(weight(kWidth, kHeads * kHeadDim));
      gate_up_.push_back(weight(2 * kFfn, kWidth));
      down_.push_back(weight(kWidth, kFfn));
    }
    gain_.assign(kFfn, 1.0f);
    inv_freq_.assign(kHeadDim / 2, 0.5f);
    x_ = rows(DType::f32, kWidth);
    normed_ = rows(DType::bf16, kWidth);
    mixed_ = rows(DType::f32, kQkv);
    angles_ = rows(DType::f32, kHeadDim);
    q_ = rows(DType::bf16, kHeads * kHeadDim);
    attended_ = rows(DType::bf16, kHeads * kHeadDim);
    hidden_ = rows(DType::bf16, kFfn);
    logits_ = rows(DType::f32, kVocab);
  }

  void print(double bandwidth) {
    std::printf("%s, context %d, read bandwidth %.1f GB/s\n", backend_->name().c_str(), context_,
                bandwidth);
    std::printf("%-12s", "rows");
    for (const int32_t n : kRowCounts) std::printf("%16d", n);
    std::printf("\n");
    print_linear("qkv", qkv_, normed_, mixed_, Epilogue::store);
    print_linear("out", out_, attended_, x_, Epilogue::add);
    print_linear("gate_up", gate_up_, normed_, hidden_, Epilogue::swiglu);
    print_linear("down", down_, hidden_, x_, Epilogue::add);
    print_line("head", layers([&](int32_t at) {
                 if (at == 0) head();
               }),
               static_cast<double>(bytes_of(table_)));
    print_line("attention", layers([&](int32_t layer) { attend(layer); }),
               2.0 * kLayers * context_ * kKvHeads * kHeadDim * 2);
    print_line("norms, rope", layers([&](int32_t layer) {
                 norm(x_, normed_);
                 norm(x_, normed_);
                 rotate(layer);
               }),
               0.0);
    Pieces whole = layers([&](int32_t at) { layer(at); });
    whole.push_back(piece([&] { begin(); }));
    whole.push_back(piece([&] { head(); }));
    print_line("whole step", std::move(whole), weight_total_);
  }

 private:
  Buffer& keep(Buffer buffer) {
    buffers_.push_back(std::make_unique<Buffer>(std::move(buffer)));
    return *buffers_.back();
  }

  std::byte* take(size_t bytes) { return keep(backend_->alloc(bytes)).data(); }

  static int64_t bytes_of(const Weight& w) {
    return weight_bytes(w.dtype, w.layout, w.rows, w.cols);
  }

  Weight weight(int32_t rows, int32_t cols) {
    Weight w{nullptr, DType::bf16, Layout::panels16, rows, cols};
    std::byte* data = take(static_cast<size_t>(bytes_of(w)));
    auto* values = reinterpret_cast<bf16_bits*>(data);
    for (int64_t i = 0; i < bytes_of(w) / 2; ++i) {
      values[i] = to_bf16(static_cast<float>(i % 17 - 8) * 0.003f);
    }
    w.data = data;
    weight_total_ += static_cast<double>(bytes_of(w));
    return w;
  }

  RowsView rows(DType dtype, int32_t cols) {
    const int64_t stride = padded_row_bytes(dtype, cols);
    return {take(static_cast<size_t>(stride * kMaxStepRows)), dtype, cols, stride};
  }

  StepRows step_rows() {
    StepRows rows;
    rows.segment_count = 1;
    rows.capacity = kMaxStepRows;
    rows.segments[0].span = &span_;
    rows.segments[0].tok = tok_.data();
    rows.segments[0].kv = cache_;
    return rows;
  }

  void linear(const RowsView& x, const Weight& w, Epilogue epilogue, const RowsView& out) {
    backend_->linear(*stream_, {step_rows(), x, w, nullptr, epilogue, out});
  }
  void norm(const RowsView& x, const RowsView& out) {
    backend_->rms_norm(*stream_, {step_rows(), x, gain_.data(), 1e-5f, out});
  }
  KvLayer layer_kv(int32_t layer) const {
    KvLayer kv = kv_;
    kv.key_offset = layer * layer_bytes_;
    kv.value_offset = kv.key_offset + kv_key_bytes(kv_);
    return kv;
  }
  void rotate(int32_t layer) {
    backend_->rope_kv(*stream_, {step_rows(), mixed_, angles_, q_, layer_kv(layer), kHeads});
  }
  void attend(int32_t layer) {
    backend_->attention(*stream_, {step_rows(), q_, layer_kv(layer), kHeads, 0.125f, attended_});
  }

  void begin() {
    backend_->embed(*stream_, {step_rows(), table_, x_});
    backend_->rope_angles(*stream_, {step_rows(), inv_freq_.data(), kHeadDim / 2, 1.0f, angles_});
  }
  void layer(int32_t layer) {
    const auto at = static_cast<size_t>(layer);
    norm(x_, normed_);
    linear(normed_, qkv_[at], Epilogue::store, mixed_);
    rotate(layer);
    attend(layer);
    linear(attended_, out_[at], Epilogue::add, x_);
    norm(x_, normed_);
    linear(normed_, gate_up_[at], Epilogue::swiglu, hidden_);
    linear(hidden_, down_[at], Epilogue::add, x_);
  }
  void head() {
    norm(x_, normed_);
    linear(normed_, table_, Epilogue::store, logits_);
  }

  std::unique_ptr<RecordedWork> piece(const std::function<void()>& enqueue) {
    return backend_->record(*stream_, enqueue);
  }

  template <typename Enqueue>
  Pieces layers(const Enqueue& enqueue) {
    Pieces pieces;
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      pieces.push_back(piece([&] { enqueue(layer); }));
    }
    return pieces;
  }

  double seconds_of(RecordedWork& work) {
    const auto begin = std::chrono::steady_clock::now();
    work.launch(*stream_);
    stream_->record().wait();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  // Milliseconds (GB/s) for each number of rows.
  void print_line(const char* name, Pieces pieces, double bytes) {
    pieces.push_back(piece([] {}));
    std::printf("%-12s", name);
    for (const int32_t n : kRowCounts) {
      span_.rows = n;
      std::vector<double> best(pieces.size(), 1e9);
      for (int repeat = 0; repeat < kRepeats; ++repeat) {
        for (size_t i = 0; i < pieces.size(); ++i) {
          best[i] = std::min(best[i], seconds_of(*pieces[i]));
        }
      }
      double seconds = 0;
      for (const double piece : best) seconds += piece - best.back();
      std::printf("%7.3f ms%6.1f ", seconds * 1e3, bytes / seconds * 1e-9);
    }
    std::printf("\n");
  }

  void print_linear(const char* name, const std::vector<Weight>& weights, const RowsView& x,
                    const RowsView& out, Epilogue epilogue) {
    print_line(name, layers([&](int32_t layer) {
                 linear(x, weights[static_cast<size_t>(layer)], epilogue, out);
               }),
               static_cast<double>(bytes_of(weights[0])) * kLayers);
  }

  int32_t context_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  StepSpan span_;
  std::vector<Cell<int32_t>> tok_;
  KvLayer kv_;
  int64_t layer_bytes_ = 0;
  std::byte* cache_ = nullptr;
  double weight_total_ = 0;
  Weight table_;
  std::vector<Weight> qkv_, out_, gate_up_, down_;
  std::vector<float> gain_, inv_freq_;
  RowsView x_, normed_, mixed_, angles_, q_, attended_, hidden_, logits_;
  std::unique_ptr<Stream> stream_;  // last: joins before the memory goes
};

}  // namespace
}  // namespace specrt

int main(int argc, char** argv) {
  specrt::CpuOptions options;
  options.threads = argc > 1 ? std::atoi(argv[1]) : 0;
  options.isa = argc > 2 ? argv[2] : "";
  const int context = argc > 3 ? std::atoi(argv[3]) : 256;
  const int threads =
      options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
  const double bandwidth = specrt::read_bandwidth(threads);
  specrt::Bench(options, context).print(bandwidth);
  return 0;
}

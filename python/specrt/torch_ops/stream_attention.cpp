// The operator specrt::stream_attention and its kernels for the CPU.
#include "stream_attention.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/extension.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace specrt::torch_ops {
namespace {

template <typename T>
T dot(const T* x, const T* y, int64_t e) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < e; ++i) sum += x[i] * y[i];
  return sum;
}

// y += weight * x
template <typename T>
void add(T* y, T weight, const T* x, int64_t e) {
#pragma omp simd
  for (int64_t i = 0; i < e; ++i) y[i] += weight * x[i];
}

// What one kv head of one sequence has: rows of e numbers.
template <typename T>
struct Head {
  T* main_k;    // (t, e)
  T* main_v;    // (t, e)
  T* stream_k;  // (p, s, e)
  T* stream_v;  // (p, s, e)

  static Head of(const at::Tensor& main_k, const at::Tensor& main_v, const at::Tensor& stream_k,
                 const at::Tensor& stream_v, int64_t index, const Sizes& n) {
    const int64_t main = index * n.t * n.e, streams = index * n.p * n.s * n.e;
    return {main_k.data_ptr<T>() + main, main_v.data_ptr<T>() + main,
            stream_k.data_ptr<T>() + streams, stream_v.data_ptr<T>() + streams};
  }
  // Of the visible keys of position p: `seen` main ones, then its streams.
  T* key(int64_t i, int64_t seen, int64_t p, const Sizes& n) const {
    return i < seen ? main_k + i * n.e : stream_k + (p * n.s + i - seen) * n.e;
  }
  T* value(int64_t i, int64_t seen, int64_t p, const Sizes& n) const {
    return i < seen ? main_v + i * n.e : stream_v + (p * n.s + i - seen) * n.e;
  }
};

int64_t seen_main(const Inputs& in, int64_t b, int64_t p, const Sizes& n) {
  const int64_t row = in.rows.const_data_ptr<int64_t>()[b * n.p + p];
  TORCH_CHECK_INDEX(0 <= row && row < n.t, "stream_attention: row ", row, " is none of ", n.t,
                    " main positions");
  return row + 1;
}

template <typename T>
void forward_cpu(const Inputs& in, const Sizes& n, T scale, T* out, T* log_sum) {
  const T* q = in.q.const_data_ptr<T>();
  at::parallel_for(0, n.b * n.h * n.p, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> scores(n.t + n.s);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t p = task % n.p, h = task / n.p % n.h, b = task / n.p / n.h;
      const auto head =
          Head<T>::of(in.main_k, in.main_v, in.stream_k, in.stream_v, b * n.g + h / (n.h / n.g), n);
      const int64_t seen = seen_main(in, b, p, n);
      for (int64_t s = 0; s < n.s; ++s) {
        const int64_t query = task * n.s + s, keys = seen + s + 1;
        T top = -std::numeric_limits<T>::infinity();
        for (int64_t i = 0; i < keys; ++i) {
          scores[i] = scale * dot(q + query * n.e, head.key(i, seen, p, n), n.e);
          top = std::max(top, scores[i]);
        }
        T sum = 0;
        for (int64_t i = 0; i < keys; ++i) sum += scores[i] = std::exp(scores[i] - top);
        T* y = out + query * n.e;
        std::fill(y, y + n.e, T{0});
        for (int64_t i = 0; i < keys; ++i) {
          add(y, scores[i] / sum, head.value(i, seen, p, n), n.e);
        }
        log_sum[query] = top + std::log(sum);
      }
    }
  });
}

// The weights of the forward come again from the scores and their log-sum-exp.
template <typename T>
struct Backward {
  const Inputs& in;
  const Sizes& n;
  T scale;
  const T* out;
  const T* log_sum;
  const T* d_out;
  T* d_q;

  // One query, whose gradients of keys and values are added to `d`.
  void query(int64_t query, int64_t keys, int64_t seen, int64_t p, const Head<T>& head,
             const Head<T>& d) const {
    const T* q = in.q.const_data_ptr<T>() + query * n.e;
    const T* dy = d_out + query * n.e;
    const T common = dot(dy, out + query * n.e, n.e);
    for (int64_t i = 0; i < keys; ++i) {
      const T* k = head.key(i, seen, p, n);
      const T weight = std::exp(scale * dot(q, k, n.e) - log_sum[query]);
      const T slope = scale * weight * (dot(dy, head.value(i, seen, p, n), n.e) - common);
      add(d_q + query * n.e, slope, k, n.e);
      add(d.key(i, seen, p, n), slope, q, n.e);
      add(d.value(i, seen, p, n), weight, dy, n.e);
    }
  }
};

template <typename T>
void backward_cpu(const Backward<T>& pass, const Gradients& d) {
  const Inputs& in = pass.in;
  const Sizes& n = pass.n;
  // A task has a kv head to itself, so that nothing is added to from two threads.
  at::parallel_for(0, n.b * n.g, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const auto head = Head<T>::of(in.main_k, in.main_v, in.stream_k, in.stream_v, task, n);
      const auto d_head =
          Head<T>::of(std::get<1>(d), std::get<2>(d), std::get<3>(d), std::get<4>(d), task, n);
      const int64_t group = n.h / n.g, first = task / n.g * n.h + task % n.g * group;
      for (int64_t h = first; h < first + group; ++h) {
        for (int64_t p = 0; p < n.p; ++p) {
          const int64_t seen = seen_main(in, task / n.g, p, n);
          for (int64_t s = 0; s < n.s; ++s) {
            pass.query((h * n.p + p) * n.s + s, seen + s + 1, seen, p, head, d_head);
          }
        }
      }
    }
  });
}

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& q, const at::Tensor& main_k,
                                           const at::Tensor& main_v, const at::Tensor& stream_k,
                                           const at::Tensor& stream_v, const at::Tensor& rows,
                                           double scale) {
  const Inputs in{q, main_k, main_v, stream_k, stream_v, rows};
  const Sizes n = check(in);
  const at::Tensor out = at::empty(q.sizes(), q.options());
  const at::Tensor log_sum = at::empty({n.b, n.h, n.p, n.s}, q.options());
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "stream_attention", [&] {
    forward_cpu<scalar_t>(in, n, static_cast<scalar_t>(scale), out.data_ptr<scalar_t>(),
                          log_sum.data_ptr<scalar_t>());
  });
  return {out, log_sum};
}

Gradients backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& main_k,
                   const at::Tensor& main_v, const at::Tensor& stream_k, const at::Tensor& stream_v,
                   const at::Tensor& rows, const at::Tensor& out, const at::Tensor& log_sum,
                   double scale) {
  const Inputs in{q, main_k, main_v, stream_k, stream_v, rows};
  const Sizes n = check(in);
  const at::Tensor dy = d_out.contiguous();
  const Gradients d{at::zeros_like(q), at::zeros_like(main_k), at::zeros_like(main_v),
                    at::zeros_like(stream_k), at::zeros_like(stream_v)};
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "stream_attention_backward", [&] {
    backward_cpu<scalar_t>({in, n, static_cast<scalar_t>(scale), out.const_data_ptr<scalar_t>(),
                            log_sum.const_data_ptr<scalar_t>(), dy.const_data_ptr<scalar_t>(),
                            std::get<0>(d).data_ptr<scalar_t>()},
                           d);
  });
  return d;
}

}  // namespace

TORCH_LIBRARY(specrt, library) {
  library.def(
      "stream_attention(Tensor q, Tensor main_k, Tensor main_v, Tensor stream_k, Tensor stream_v, "
      "Tensor rows, float scale) -> (Tensor, Tensor)");
  library.def(
      "stream_attention_backward(Tensor d_out, Tensor q, Tensor main_k, Tensor main_v, "
      "Tensor stream_k, Tensor stream_v, Tensor rows, Tensor out, Tensor log_sum, float scale) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(specrt, CPU, library) {
  library.impl("stream_attention", forward);
  library.impl("stream_attention_backward", backward);
}

}  // namespace specrt::torch_ops

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.doc() = "The kernels of specrt.torch_ops";
  module.def("devices", [] {
    std::vector<std::string> names{"cpu"};
#ifdef WITH_CUDA
    names.emplace_back("cuda");
#endif
    return names;
  });
}

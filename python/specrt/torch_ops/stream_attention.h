// Attention of streams as a PyTorch operator: the tensors of a call and what is checked of them.
// Shape letters: b sequences, h / g query / kv heads, p positions with streams, s streams of each,
// t main positions, e head dim. Everything is contiguous and of one type, float or double.
//
//   q (b, h, p, s, e), main_k and main_v (b, g, t, e), stream_k and stream_v (b, g, p, s, e),
//   rows (b, p) int64: a query sees main positions 0..row, and the streams of its own position up
//   to itself. Outputs: out (b, h, p, s, e), log_sum (b, h, p, s), the log-sum-exp of its scores.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace specrt::torch_ops {

struct Inputs {
  at::Tensor q;
  at::Tensor main_k;
  at::Tensor main_v;
  at::Tensor stream_k;
  at::Tensor stream_v;
  at::Tensor rows;
};

struct Sizes {
  int64_t b, h, g, p, s, t, e;
};

inline Sizes check(const Inputs& in) {
  TORCH_CHECK(in.q.dim() == 5 && in.main_k.dim() == 4,
              "stream_attention: q must have 5 dimensions and main_k 4");
  const Sizes n{in.q.size(0), in.q.size(1),      in.main_k.size(1), in.q.size(2),
                in.q.size(3), in.main_k.size(2), in.q.size(4)};
  const auto fits = [&](const at::Tensor& one, at::IntArrayRef shape, const char* name) {
    TORCH_CHECK(one.sizes() == shape, "stream_attention: ", name, " has shape ", one.sizes(),
                "; with these queries and keys it must be ", shape);
    TORCH_CHECK(one.is_contiguous(), "stream_attention: ", name, " must be contiguous");
    TORCH_CHECK(one.device() == in.q.device(), "stream_attention: ", name, " is on ", one.device(),
                ", q on ", in.q.device());
  };
  fits(in.q, {n.b, n.h, n.p, n.s, n.e}, "q");
  fits(in.main_k, {n.b, n.g, n.t, n.e}, "main_k");
  fits(in.main_v, {n.b, n.g, n.t, n.e}, "main_v");
  fits(in.stream_k, {n.b, n.g, n.p, n.s, n.e}, "stream_k");
  fits(in.stream_v, {n.b, n.g, n.p, n.s, n.e}, "stream_v");
  fits(in.rows, {n.b, n.p}, "rows");
  TORCH_CHECK(n.g > 0 && n.h % n.g == 0, "stream_attention: ", n.h,
              " query heads are no multiple of ", n.g, " kv heads");
  TORCH_CHECK(in.rows.scalar_type() == at::kLong, "stream_attention: rows must be int64");
  for (const at::Tensor* one : {&in.main_k, &in.main_v, &in.stream_k, &in.stream_v}) {
    TORCH_CHECK(one->scalar_type() == in.q.scalar_type(),
                "stream_attention: queries, keys and values must have one type");
  }
  return n;
}

// Gradients of q, main_k, main_v, stream_k and stream_v.
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

}  // namespace specrt::torch_ops

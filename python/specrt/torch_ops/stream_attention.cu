// The kernels of specrt::stream_attention for CUDA. A block has one head and one position, a warp
// one of its streams at a time. Keys go by in tiles of 32 through shared memory, one to a lane.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>

#include "stream_attention.h"

namespace specrt::torch_ops {
namespace {

constexpr int kLanes = 32;
constexpr int kMostWarps = 8;
constexpr int kMostParts = 8;  // numbers of a row that a lane has
constexpr unsigned kAll = 0xffffffffu;

template <typename T>
struct Keys {
  T* main_k;    // (b, g, t, e)
  T* main_v;    // (b, g, t, e)
  T* stream_k;  // (b, g, p, s, e)
  T* stream_v;  // (b, g, p, s, e)
};

// What a block does; the same in all its threads.
struct Block {
  int64_t head;   // of b * g: whose keys
  int64_t query;  // of b * h * p * s: the first
  int64_t group;  // of b * g * p: whose streams
  int64_t seen;   // main positions

  __device__ static Block here(const int64_t* rows, const Sizes& n) {
    const int64_t p = blockIdx.x, h = blockIdx.y, b = blockIdx.z;
    const int64_t head = b * n.g + h / (n.h / n.g);
    const int64_t row = rows[b * n.p + p];
    CUDA_KERNEL_ASSERT(0 <= row && row < n.t && "a row is no main position");
    return {head, ((b * n.h + h) * n.p + p) * n.s, head * n.p + p, row + 1};
  }
  // Where a visible key lies: main ones, then the streams of this position.
  template <typename T>
  __device__ T* at(T* main, T* streams, int64_t key, const Sizes& n) const {
    return key < seen ? main + (head * n.t + key) * n.e
                      : streams + (group * n.s + key - seen) * n.e;
  }
};

template <typename T>
__device__ T sum_of(T x) {
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}

template <typename T>
__device__ T top_of(T x) {
  for (int step = kLanes / 2; step > 0; step /= 2) x = max(x, __shfl_xor_sync(kAll, x, step));
  return x;
}

// Keys and values of up to 32 positions; rows have one number more, so that lanes that read the
// same number of different rows read different banks.
template <typename T>
struct Tile {
  T* k;
  T* v;

  // All threads of a block; the tile is whole when this returns.
  __device__ void load(const Keys<const T>& keys, const Block& block, int64_t first, int64_t end,
                       const Sizes& n) const {
    __syncthreads();  // nobody reads the tile before any more
    const int64_t count = min(end - first, int64_t{kLanes}) * n.e;
    const int64_t thread = threadIdx.y * kLanes + threadIdx.x;
    for (int64_t i = thread; i < count; i += blockDim.y * kLanes) {
      const int64_t key = i / n.e, place = key * (n.e + 1) + i % n.e;
      k[place] = block.at(keys.main_k, keys.stream_k, first + key, n)[i % n.e];
      v[place] = block.at(keys.main_v, keys.stream_v, first + key, n)[i % n.e];
    }
    __syncthreads();
  }
};

template <typename T>
__device__ T row_dot(const T* tile, int lane, const T* x, int64_t e) {
  T sum = 0;
  for (int64_t i = 0; i < e; ++i) sum += tile[lane * (e + 1) + i] * x[i];
  return sum;
}

// Shared memory: a tile, then for each warp `rows` rows of e numbers.
size_t shared_numbers(const Sizes& n, int warps, int rows) {
  return 2 * kLanes * (n.e + 1) + warps * rows * n.e;
}

template <typename T>
__global__ void forward_kernel(const T* q, Keys<const T> keys, const int64_t* rows, T scale,
                               Sizes n, T* out, T* log_sum) {
  extern __shared__ __align__(16) unsigned char shared[];
  const Tile<T> tile{reinterpret_cast<T*>(shared),
                     reinterpret_cast<T*>(shared) + kLanes * (n.e + 1)};
  const Block block = Block::here(rows, n);
  const int lane = threadIdx.x;
  T* mine = tile.v + kLanes * (n.e + 1) + threadIdx.y * n.e;
  for (int64_t base = 0; base < n.s; base += blockDim.y) {
    const int64_t stream = base + threadIdx.y;
    const int64_t visible = stream < n.s ? block.seen + stream + 1 : 0;
    const int64_t query = block.query + stream;
    for (int64_t i = lane; visible > 0 && i < n.e; i += kLanes) mine[i] = q[query * n.e + i];
    T top = -INFINITY, sum = 0, acc[kMostParts] = {};
    for (int64_t first = 0; first < block.seen + n.s; first += kLanes) {
      tile.load(keys, block, first, block.seen + n.s, n);
      if (first >= visible) continue;
      const bool seen = first + lane < visible;
      const T score = seen ? scale * row_dot(tile.k, lane, mine, n.e) : T(-INFINITY);
      const T higher = max(top, top_of(score));
      const T weight = seen ? exp(score - higher) : T(0);
      const T kept = exp(top - higher);
      sum = sum * kept + sum_of(weight);
      top = higher;
      const int count = static_cast<int>(min(visible - first, int64_t{kLanes}));
      for (int part = 0; part < kMostParts; ++part) acc[part] *= kept;
      for (int key = 0; key < count; ++key) {
        const T of_key = __shfl_sync(kAll, weight, key);
        for (int part = 0; part < kMostParts; ++part) {
          const int64_t i = part * kLanes + lane;
          if (i < n.e) acc[part] += of_key * tile.v[key * (n.e + 1) + i];
        }
      }
    }
    for (int part = 0; visible > 0 && part < kMostParts; ++part) {
      const int64_t i = part * kLanes + lane;
      if (i < n.e) out[query * n.e + i] = acc[part] / sum;
    }
    if (visible > 0 && lane == 0) log_sum[query] = top + log(sum);
  }
}

template <typename T>
struct BackwardArgs {
  const T* q;
  Keys<const T> keys;
  const int64_t* rows;
  T scale;
  Sizes n;
  const T* out;
  const T* log_sum;
  const T* d_out;
  T* d_q;
  Keys<T> d_keys;
};

// Queries that share a key add to its gradients atomically, in any order.
template <typename T>
__global__ void backward_kernel(BackwardArgs<T> args) {
  extern __shared__ __align__(16) unsigned char shared[];
  const Sizes& n = args.n;
  const Tile<T> tile{reinterpret_cast<T*>(shared),
                     reinterpret_cast<T*>(shared) + kLanes * (n.e + 1)};
  const Block block = Block::here(args.rows, n);
  const int lane = threadIdx.x;
  T* q = tile.v + kLanes * (n.e + 1) + threadIdx.y * 2 * n.e;
  T* dy = q + n.e;
  for (int64_t base = 0; base < n.s; base += blockDim.y) {
    const int64_t stream = base + threadIdx.y;
    const int64_t visible = stream < n.s ? block.seen + stream + 1 : 0;
    const int64_t query = block.query + stream;
    T common = 0, acc[kMostParts] = {};
    for (int64_t i = lane; visible > 0 && i < n.e; i += kLanes) {
      q[i] = args.q[query * n.e + i];
      dy[i] = args.d_out[query * n.e + i];
      common += dy[i] * args.out[query * n.e + i];
    }
    common = sum_of(common);
    for (int64_t first = 0; first < block.seen + n.s; first += kLanes) {
      tile.load(args.keys, block, first, block.seen + n.s, n);
      if (first >= visible) continue;
      T weight = 0, slope = 0;
      if (first + lane < visible) {
        weight = exp(args.scale * row_dot(tile.k, lane, q, n.e) - args.log_sum[query]);
        slope = args.scale * weight * (row_dot(tile.v, lane, dy, n.e) - common);
      }
      const int count = static_cast<int>(min(visible - first, int64_t{kLanes}));
      for (int key = 0; key < count; ++key) {
        const T w = __shfl_sync(kAll, weight, key), d = __shfl_sync(kAll, slope, key);
        T* d_k = block.at(args.d_keys.main_k, args.d_keys.stream_k, first + key, n);
        T* d_v = block.at(args.d_keys.main_v, args.d_keys.stream_v, first + key, n);
        for (int part = 0; part < kMostParts; ++part) {
          const int64_t i = part * kLanes + lane;
          if (i >= n.e) break;
          acc[part] += d * tile.k[key * (n.e + 1) + i];
          atomicAdd(d_k + i, d * q[i]);
          atomicAdd(d_v + i, w * dy[i]);
        }
      }
    }
    for (int part = 0; visible > 0 && part < kMostParts; ++part) {
      const int64_t i = part * kLanes + lane;
      if (i < n.e) args.d_q[query * n.e + i] = acc[part];
    }
  }
}

void check_launch(const Sizes& n) {
  TORCH_CHECK(n.e <= kLanes * kMostParts, "stream_attention: a head dim of ", n.e,
              "; the CUDA kernel takes ", kLanes * kMostParts, " at most");
  TORCH_CHECK(n.h <= 65535 && n.b <= 65535, "stream_attention: too many heads or sequences");
}

template <typename Kernel>
void allow_shared(Kernel kernel, size_t bytes) {
  C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(bytes)));
}

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& q, const at::Tensor& main_k,
                                           const at::Tensor& main_v, const at::Tensor& stream_k,
                                           const at::Tensor& stream_v, const at::Tensor& rows,
                                           double scale) {
  const Inputs in{q, main_k, main_v, stream_k, stream_v, rows};
  const Sizes n = check(in);
  check_launch(n);
  const c10::cuda::CUDAGuard guard(q.device());
  const at::Tensor out = at::empty(q.sizes(), q.options());
  const at::Tensor log_sum = at::empty({n.b, n.h, n.p, n.s}, q.options());
  if (q.numel() == 0) return {out, log_sum};
  const int warps = static_cast<int>(std::min<int64_t>(n.s, kMostWarps));
  const dim3 grid(n.p, n.h, n.b), threads(kLanes, warps);
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "stream_attention", [&] {
    using T = scalar_t;
    const size_t bytes = shared_numbers(n, warps, 1) * sizeof(T);
    allow_shared(forward_kernel<T>, bytes);
    forward_kernel<T><<<grid, threads, bytes, c10::cuda::getCurrentCUDAStream()>>>(
        q.const_data_ptr<T>(),
        {main_k.const_data_ptr<T>(), main_v.const_data_ptr<T>(), stream_k.const_data_ptr<T>(),
         stream_v.const_data_ptr<T>()},
        rows.const_data_ptr<int64_t>(), static_cast<T>(scale), n, out.data_ptr<T>(),
        log_sum.data_ptr<T>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {out, log_sum};
}

Gradients backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& main_k,
                   const at::Tensor& main_v, const at::Tensor& stream_k, const at::Tensor& stream_v,
                   const at::Tensor& rows, const at::Tensor& out, const at::Tensor& log_sum,
                   double scale) {
  const Inputs in{q, main_k, main_v, stream_k, stream_v, rows};
  const Sizes n = check(in);
  check_launch(n);
  const c10::cuda::CUDAGuard guard(q.device());
  const at::Tensor dy = d_out.contiguous();
  const Gradients d{at::zeros_like(q), at::zeros_like(main_k), at::zeros_like(main_v),
                    at::zeros_like(stream_k), at::zeros_like(stream_v)};
  const auto& [d_q, d_main_k, d_main_v, d_stream_k, d_stream_v] = d;
  if (q.numel() == 0) return d;
  const int warps = static_cast<int>(std::min<int64_t>(n.s, kMostWarps));
  const dim3 grid(n.p, n.h, n.b), threads(kLanes, warps);
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "stream_attention_backward", [&] {
    using T = scalar_t;
    const size_t bytes = shared_numbers(n, warps, 2) * sizeof(T);
    allow_shared(backward_kernel<T>, bytes);
    const BackwardArgs<T> args{q.const_data_ptr<T>(),
                               {main_k.const_data_ptr<T>(), main_v.const_data_ptr<T>(),
                                stream_k.const_data_ptr<T>(), stream_v.const_data_ptr<T>()},
                               rows.const_data_ptr<int64_t>(),
                               static_cast<T>(scale),
                               n,
                               out.const_data_ptr<T>(),
                               log_sum.const_data_ptr<T>(),
                               dy.const_data_ptr<T>(),
                               d_q.data_ptr<T>(),
                               {d_main_k.data_ptr<T>(), d_main_v.data_ptr<T>(),
                                d_stream_k.data_ptr<T>(), d_stream_v.data_ptr<T>()}};
    backward_kernel<T><<<grid, threads, bytes, c10::cuda::getCurrentCUDAStream()>>>(args);
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return d;
}

}  // namespace

TORCH_LIBRARY_IMPL(specrt, CUDA, library) {
  library.impl("stream_attention", forward);
  library.impl("stream_attention_backward", backward);
}

}  // namespace specrt::torch_ops

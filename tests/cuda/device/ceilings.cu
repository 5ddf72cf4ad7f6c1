// How fast memory can be read at all: a copy, and reading alone in three ways with so many bytes in
// flight on each multiprocessor. Everything else is divided by the copy.
#include <algorithm>

#include "bench.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"

namespace specrt::cuda::bench {
namespace {

constexpr unsigned kThreads = 512;
constexpr unsigned kWarps = kThreads / 32;
constexpr int32_t kLineBytes = kThreads * 16;  // that all threads of a block read at once

struct ReadArgs {
  const std::byte* in;
  uint4* out;     // (grid, kThreads): something of every value, so that all are loaded
  int64_t lines;  // of kLineBytes (plain, cp.async); block b reads b, b + grid, ...
  int32_t slots;  // bulk: of each warp
  int32_t slot_bytes;
};

__device__ __forceinline__ void mix(uint4& sum, const uint4& v) {
  sum.x ^= v.x;
  sum.y ^= v.y;
  sum.z ^= v.z;
  sum.w ^= v.w;
}

__device__ __forceinline__ void keep(const ReadArgs& args, const uint4& sum) {
  args.out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

// read_plain: in -> registers, kRing loads of 16 bytes in flight in every thread
// grid one block an SM, block 512
// moves the input once; memory bound
template <int kRing>
__global__ void __launch_bounds__(kThreads, 1) read_plain(const __grid_constant__ ReadArgs args) {
  const std::byte* in = args.in + threadIdx.x * 16;
  const auto at = [&](int64_t line) { return in + line * kLineBytes; };
  uint4 ring[kRing] = {};
  uint4 sum = {};
  int64_t next = blockIdx.x;
#pragma unroll
  for (int u = 0; u < kRing; ++u, next += gridDim.x) {
    if (next < args.lines) ring[u] = ld_stream16(at(next));
  }
  while (next < args.lines) {
#pragma unroll
    for (int u = 0; u < kRing; ++u, next += gridDim.x) {
      mix(sum, ring[u]);
      if (next < args.lines) ring[u] = ld_stream16(at(next));
    }
  }
#pragma unroll
  for (int u = 0; u < kRing; ++u) mix(sum, ring[u]);
  keep(args, sum);
}

// read_cp_async: in -> shared memory, kRing copies of 16 bytes in flight in every thread
// grid one block an SM, block 512; shared memory 8 KB a slot
// moves the input once; memory bound
template <int kRing>
__global__ void __launch_bounds__(kThreads, 1)
    read_cp_async(const __grid_constant__ ReadArgs args) {
  auto* ring = shared_memory<uint4>() + threadIdx.x;  // (kRing, kThreads)
  const std::byte* in = args.in + threadIdx.x * 16;
  uint4 sum = {};
  int64_t next = blockIdx.x;
  const auto fill = [&](int u) {
    if (next < args.lines) cp_async16(ring + u * kThreads, in + next * kLineBytes);
    cp_async_commit();
    next += gridDim.x;
  };
#pragma unroll
  for (int u = 0; u < kRing; ++u) fill(u);
  for (int64_t line = blockIdx.x; line < args.lines; line += int64_t{kRing} * gridDim.x) {
#pragma unroll
    for (int u = 0; u < kRing; ++u) {
      cp_async_wait<kRing - 1>();
      if (line + u * int64_t{gridDim.x} < args.lines) mix(sum, ring[u * kThreads]);
      fill(u);
    }
  }
  cp_async_wait<0>();
  keep(args, sum);
}

// read_bulk: in -> shared memory by bulk copies, each warp a ring of its own
// grid one block an SM, block 512; shared memory 128 bytes of barriers a warp, then the slots
// moves the input once; memory bound
__global__ void __launch_bounds__(kThreads, 1) read_bulk(const __grid_constant__ ReadArgs args) {
  constexpr int32_t kMaxSlots = 16;
  auto* shared = shared_memory<std::byte>();
  const int32_t warp = static_cast<int32_t>(warp_index());
  auto* barrier = reinterpret_cast<uint64_t*>(shared) + warp * kMaxSlots;
  std::byte* ring =
      shared + kWarps * kMaxSlots * sizeof(uint64_t) + int64_t{warp} * args.slots * args.slot_bytes;
  const int64_t chunks = args.lines * kLineBytes / args.slot_bytes;
  const int64_t first = int64_t{blockIdx.x} * kWarps + warp, stride = int64_t{gridDim.x} * kWarps;
  const auto fill = [&](int64_t chunk, int32_t slot) {
    if (chunk >= chunks || !elect_lane0()) return;
    mbar_expect_tx(barrier + slot, static_cast<uint32_t>(args.slot_bytes));
    bulk_g2s(ring + slot * args.slot_bytes, args.in + chunk * args.slot_bytes,
             static_cast<uint32_t>(args.slot_bytes), barrier + slot, l2_evict_first());
  };
  if (elect_lane0()) {
    for (int32_t slot = 0; slot < args.slots; ++slot) mbar_init(barrier + slot, 1);
    fence_mbar_init();
  }
  sync_warp();
  for (int32_t slot = 0; slot < args.slots; ++slot) fill(first + slot * stride, slot);
  uint4 sum = {};
  int32_t slot = 0;
  uint32_t parity = 0;
  for (int64_t chunk = first; chunk < chunks; chunk += stride) {
    mbar_wait(barrier + slot, parity);
    const auto* values = reinterpret_cast<const uint4*>(ring + slot * args.slot_bytes);
    for (int32_t i = static_cast<int32_t>(lane_index()); i < args.slot_bytes / 16; i += 32) {
      mix(sum, values[i]);
    }
    sync_warp();
    fill(chunk + args.slots * stride, slot);
    slot = slot + 1 == args.slots ? 0 : slot + 1;
    if (slot == 0) parity ^= 1;
  }
  keep(args, sum);
}

struct Reader {
  const Device& device;
  const Options& options;
  ReadArgs args;

  void time(const std::string& name, void (*kernel)(ReadArgs), size_t shared_bytes) const {
    const double time = time_ms(device.handle(), options.samples, [&] {
      launch(device.handle(), kernel, static_cast<unsigned>(device.multiprocessors), kThreads,
             shared_bytes, args);
    });
    const double bytes = static_cast<double>(args.lines) * kLineBytes;
    print({"ceiling." + name, bytes / time * 1e-6, "GB/s"});
  }

  // kRing slots of 16 bytes a thread.
  template <int kRing>
  void time_rings() const {
    const size_t bytes = size_t{kRing} * kLineBytes;
    time(concat("plain.k", bytes >> 10), read_plain<kRing>, 0);
    time(concat("cp_async.k", bytes >> 10), read_cp_async<kRing>, bytes);
  }

  void time_bulk(int32_t flight_bytes) {
    for (const int32_t slot_bytes : {2048, 4096, 8192}) {
      args.slots = flight_bytes / static_cast<int32_t>(kWarps) / slot_bytes;
      args.slot_bytes = slot_bytes;
      if (args.slots < 1) continue;
      time(concat("bulk.k", flight_bytes >> 10, ".b", slot_bytes), read_bulk,
           kWarps * 16 * sizeof(uint64_t) + static_cast<size_t>(flight_bytes));
    }
  }
};

}  // namespace

void ceilings(const Device& device, const Options& options) {
  const size_t bytes = options.bytes / 2 / kLineBytes * kLineBytes;
  const Buffer in = device.random(bytes), to = device.backend->alloc(bytes);
  const double copy = time_ms(device.handle(), options.samples, [&] {
    CUDA_CHECK(
        cudaMemcpyAsync(to.data(), in.data(), bytes, cudaMemcpyDeviceToDevice, device.handle()));
  });
  print({"ceiling.copy", 2.0 * static_cast<double>(bytes) / copy * 1e-6, "GB/s"});
  const Buffer out =
      device.backend->alloc(static_cast<size_t>(device.multiprocessors) * kThreads * sizeof(uint4));
  Reader reader{device,
                options,
                {.in = in.data(),
                 .out = out.as<uint4>(),
                 .lines = static_cast<int64_t>(bytes / kLineBytes),
                 .slots = 0,
                 .slot_bytes = 0}};
  reader.time_rings<2>();
  reader.time_rings<4>();
  reader.time_rings<6>();
  reader.time_rings<8>();
  reader.time_rings<12>();
  reader.time_rings<16>();
  for (const int32_t kilobytes : {32, 64, 96, 128, 192}) reader.time_bulk(kilobytes << 10);
}

}  // namespace specrt::cuda::bench

// What the contracts take for granted of the hardware. Every reading is a count of exceptions; all
// must be 0.
#include "base/dtype.h"
#include "base/rng.h"
#include "bench.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "device/rules.h"

namespace specrt::cuda::bench {
namespace {

// ---- mma: the place of a row or column, and slots of zeros
// ---------------------------------------

constexpr unsigned kTileWarps = 8;

enum class Tile : uint32_t {
  columns,  // columns of B in another order
  rows,     // rows of A in another order
  alone,    // one column of B among NaN
  zeros,    // terms that are zero, against those that are not there
  nothing,  // all of A zero: the sums stay
};
constexpr const char* kTileNames[] = {"columns", "rows", "alone", "zeros", "nothing"};

struct TileArgs {
  uint32_t* exceptions;  // (5)
  int32_t tiles;         // of each warp
};

// A bf16 number of a wide range of magnitudes.
__device__ uint32_t wide(uint32_t bits) {
  const uint32_t exponent = 127 - 8 + bits % 17;
  return (bits >> 16 & 0x8000u) | exponent << 7 | (bits >> 20 & 0x7fu);
}

// The numbers of tile `tile`: A (16 x 16), B (16 x 8), C (16 x 8).
struct Numbers {
  uint64_t seed;
  __device__ uint32_t a(uint32_t i, uint32_t k) const { return wide(bits(0, i, k)); }
  __device__ uint32_t b(uint32_t k, uint32_t n) const { return wide(bits(1, n, k)); }
  __device__ float c(uint32_t i, uint32_t n) const {
    return __uint_as_float(wide(bits(2, i, n)) << 16) * 1.00390625f;
  }
  __device__ uint32_t bits(uint32_t which, uint32_t i, uint32_t k) const {
    return philox(seed, which, i, k / 4, 0).word[k % 4];
  }
};

// One product of a tile whose row i and column n are row `i + row_turn` and column `n + col_turn`.
struct Turned {
  Numbers numbers;
  Tile tile;
  uint32_t row_turn, col_turn;
  uint32_t only;  // the column that is not NaN, of Tile::alone; the first zero term of Tile::zeros

  __device__ uint32_t a(uint32_t i, uint32_t k) const {
    if (tile == Tile::nothing || (tile == Tile::zeros && k >= only)) return 0;
    return numbers.a((i + row_turn) % 16, k);
  }
  __device__ uint32_t b(uint32_t k, uint32_t n) const {
    if (tile == Tile::alone && n != only) return 0x7fc0u;
    return numbers.b(k, (n + col_turn) % 8);
  }
  __device__ float c(uint32_t i, uint32_t n) const {
    return numbers.c((i + row_turn) % 16, (n + col_turn) % 8);
  }
  __device__ void multiply(float (&d)[4], bool with_b = true) const {
    const uint32_t i = lane_index() / 4, t = lane_index() % 4;
    uint32_t fa[4], fb[2];
#pragma unroll
    for (uint32_t w = 0; w < 4; ++w) {
      const uint32_t row = i + w % 2 * 8, k = 2 * t + w / 2 * 8;
      fa[w] = a(row, k) | a(row, k + 1) << 16;
    }
#pragma unroll
    for (uint32_t w = 0; w < 2; ++w) {
      const uint32_t k = 2 * t + w * 8;
      const uint32_t low = !with_b && k >= only ? 0 : b(k, i);
      const uint32_t high = !with_b && k + 1 >= only ? 0 : b(k + 1, i);
      fb[w] = low | high << 16;
    }
#pragma unroll
    for (uint32_t w = 0; w < 4; ++w) d[w] = c(i + w / 2 * 8, 2 * t + w % 2);
    mma_m16n8k16(d, fa, fb);
  }
};

__device__ bool same_bits(float a, float b) { return __float_as_uint(a) == __float_as_uint(b); }

// Values of the lane's four results that differ from what they should be.
__device__ uint32_t differences(const Turned& turned, float* plain) {
  const uint32_t i = lane_index() / 4, t = lane_index() % 4;
  float d[4], want[4];
  turned.multiply(d);
  if (turned.tile == Tile::zeros) turned.multiply(want, false);
  uint32_t count = 0;
#pragma unroll
  for (uint32_t w = 0; w < 4; ++w) {
    const uint32_t row = i + w / 2 * 8, col = 2 * t + w % 2;
    if (turned.tile == Tile::alone && col != turned.only) continue;
    if (turned.tile == Tile::nothing) want[w] = turned.c(row, col);
    if (turned.tile != Tile::zeros && turned.tile != Tile::nothing) {
      want[w] = plain[(row + turned.row_turn) % 16 * 8 + (col + turned.col_turn) % 8];
    }
    count += same_bits(d[w], want[w]) ? 0 : 1;
  }
  return count;
}

// mma_places: products of random tiles, each again with rows and columns elsewhere
// grid any, block 256: each warp makes its own tiles
__global__ void mma_places(const __grid_constant__ TileArgs args) {
  SPECRT_SHARED(float[kTileWarps * 128], products);
  float* plain = products + warp_index() * 128;
  const uint32_t i = lane_index() / 4, t = lane_index() % 4;
  const uint64_t first = (uint64_t{blockIdx.x} * kTileWarps + warp_index()) * args.tiles;
  for (int32_t tile = 0; tile < args.tiles; ++tile) {
    const Numbers numbers{first + tile};
    const Bits4 turn = philox(first + tile, 3, 0, 0, 0);
    float d[4];
    Turned{numbers, Tile::columns, 0, 0, 0}.multiply(d);
#pragma unroll
    for (uint32_t w = 0; w < 4; ++w) plain[(i + w / 2 * 8) * 8 + 2 * t + w % 2] = d[w];
    sync_warp();
    const uint32_t col = turn.word[0] % 8, row = turn.word[1] % 16;
    const Turned all[] = {{numbers, Tile::columns, 0, col, 0},
                          {numbers, Tile::rows, row, 0, 0},
                          {numbers, Tile::alone, 0, col, turn.word[2] % 8},
                          {numbers, Tile::zeros, 0, 0, turn.word[3] % 16},
                          {numbers, Tile::nothing, 0, 0, 0}};
#pragma unroll
    for (const Turned& turned : all) {
      const uint32_t count = differences(turned, plain);
      if (count != 0) atomicAdd(args.exceptions + static_cast<uint32_t>(turned.tile), count);
    }
    sync_warp();
  }
}

void check_tiles(const Device& device, const Options& options) {
  const Buffer exceptions = device.backend->alloc(5 * sizeof(uint32_t));
  const int32_t warps = device.multiprocessors * 4 * static_cast<int32_t>(kTileWarps);
  const int32_t tiles = (10 * options.count + warps - 1) / warps;
  launch(device.handle(), mma_places, static_cast<unsigned>(device.multiprocessors * 4),
         32 * kTileWarps, 0, {.exceptions = exceptions.as<uint32_t>(), .tiles = tiles});
  uint32_t counts[5];
  device.backend->copy_to_host(
      *device.stream, {.host = counts, .device = exceptions.data(), .bytes = sizeof(counts)});
  device.sync();
  for (size_t i = 0; i < 5; ++i) {
    print({concat("mma.", kTileNames[i]), static_cast<double>(counts[i]), "exceptions"});
  }
}

// ---- Kernels that begin before the one before them ends
// ------------------------------------------

struct RelayArgs {
  uint32_t* cells;  // (256)
  uint32_t* exceptions;
  uint32_t value;
  uint32_t spin_ns;
};

// relay: checks what the kernel before it wrote, and writes the next value late
// grid 1, block 256
__global__ void relay(const __grid_constant__ RelayArgs args) {
  pdl_launch();
  pdl_wait();
  uint32_t* cell = args.cells + threadIdx.x;
  const uint32_t seen = ld_cg4(cell);
  if (seen + 1 != args.value) atomicAdd(args.exceptions, 1u);
  const uint64_t begin = nanotime();
  while (nanotime() - begin < args.spin_ns) {
  }
  *cell = args.value;
}

void check_relay(const Device& device, const Options& options) {
  constexpr int32_t kChain = 100;
  const Buffer cells = device.backend->alloc(256 * sizeof(uint32_t));
  const Buffer exceptions = device.backend->alloc(sizeof(uint32_t));
  for (int32_t i = 0; i < options.count; i += kChain) {
    for (int32_t j = 0; j < kChain; ++j) {
      launch(device.handle(), relay, 1, 256, 0,
             {.cells = cells.as<uint32_t>(),
              .exceptions = exceptions.as<uint32_t>(),
              .value = static_cast<uint32_t>(i + j + 1),
              .spin_ns = 20000},
             {.pdl = i + j > 0});
    }
    device.sync();
  }
  uint32_t count = 0;
  device.backend->copy_to_host(
      *device.stream, {.host = &count, .device = exceptions.data(), .bytes = sizeof(count)});
  device.sync();
  print({"pdl.stale", static_cast<double>(count), "exceptions"});
}

// ---- The verdict log in pinned memory
// ------------------------------------------------------------

constexpr uint32_t kRing = 256;
constexpr uint32_t kPayload = 64;

struct alignas(64) Entry {
  uint32_t sequence;
  uint32_t payload[kPayload];
};

struct LogArgs {
  Entry* ring;  // (kRing), pinned
  uint32_t first;
};

// write_entries: fills the ring, the sequence of each entry last
// grid 1, block 32
__global__ void write_entries(const __grid_constant__ LogArgs args) {
  for (uint32_t i = 0; i < kRing; ++i) {
    Entry& entry = args.ring[i];
    const uint32_t value = args.first + i;
    for (uint32_t j = lane_index(); j < kPayload; j += 32) entry.payload[j] = value + j;
    sync_warp();
    if (lane_index() == 0) st_release_sys(&entry.sequence, value);
    sync_warp();
  }
}

void check_log(const Device& device, const Options& options) {
  const Buffer memory = device.backend->alloc_shared(kRing * sizeof(Entry));
  auto* ring = memory.as<Entry>();
  int64_t exceptions = 0;
  const auto count = static_cast<uint32_t>(options.count);
  for (uint32_t first = 1; first <= count; first += kRing) {
    launch(device.handle(), write_entries, 1, 32, 0, {.ring = ring, .first = first});
    const Event written = device.stream->record();
    for (uint32_t i = 0; i < kRing; ++i) {
      while (load_acquire(&ring[i].sequence) != first + i && !written.ready()) {
      }
      for (uint32_t j = 0; j < kPayload; ++j) {
        exceptions += ring[i].payload[j] == first + i + j ? 0 : 1;
      }
    }
    device.sync();
  }
  print({"log.torn", static_cast<double>(exceptions), "exceptions"});
}

}  // namespace

void litmus(const Device& device, const Options& options) {
  check_tiles(device, options);
  check_relay(device, options);
  check_log(device, options);
}

}  // namespace specrt::cuda::bench

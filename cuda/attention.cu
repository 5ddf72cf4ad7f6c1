#include "cuda/attention.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/lines.h"

namespace specrt::cuda {
namespace {

// Lines of keys and of values in shared memory: three tiles of the cached prefix, or the last, part
// tile of the prefix, the new rows, and a line of zeros for what nobody sees.
constexpr int32_t kStages = 3;
constexpr int32_t kLines = kStages * kTile;
constexpr int32_t kFirstNewLine = kTile;
constexpr int32_t kZeroLine = kFirstNewLine + kMaxStepRows;
static_assert(kZeroLine < kLines);

constexpr int32_t kGroupPairs = 16;  // pairs of a row and a head: the M side of an mma
constexpr int32_t kAllRows = -1;

// How a block of 8 warps is divided: groups of 16 pairs, each with warps that share every tile: a
// warp scores some of its positions and sums some of the components. No division changes a bit.
template <int kHeadDim, int kPairGroups>
struct Schedule {
  static constexpr int kDim = kHeadDim;
  static constexpr int kGroups = kPairGroups;
  static constexpr int kWarps = 8 / kPairGroups;  // of a group
  static constexpr unsigned kThreads = 256;
  static constexpr unsigned kBlocks = kWarps > 1 ? 2 : 1;   // of an SM, by registers
  static constexpr int32_t kPairs = kGroups * kGroupPairs;  // of a block
  static constexpr int kScoreTiles = kTile / 8 / kWarps;    // 8 positions each, of a warp
  static constexpr int kValueTiles = kDim / 8 / kWarps;     // 8 components each, of a warp
  // Shared memory: lines of keys, lines of values, queries, scores of groups that share a tile.
  static constexpr int32_t kLineValues = (2 * kLines + kPairs) * kDim;
  static constexpr size_t kScoreBytes = kWarps == 1 ? 0 : size_t{kPairs} * kTile * sizeof(float);
  static constexpr size_t kSharedBytes = kLineValues * sizeof(bf16_bits) + kScoreBytes;
};

// What a block does; the same in all its threads.
struct Block {
  int32_t kv_head;
  int32_t split;
  int32_t group;  // query heads of a kv head
  int32_t segment;
  int32_t base;
  int32_t first_row;  // of the segment's rows, with those before it as keys only
  int32_t end_row;
  int32_t first_pair;  // of this block; pair p is head p % group of row first_row + p / group
  int32_t end_pair;    // of the segment
  int32_t begin;       // logical positions of the split that any row may see
  int32_t end;
  bool chain;

  // The activation of row `index` of the segment.
  __device__ int32_t row(const AttentionArgs& args, int32_t index) const {
    return segment * args.rows.capacity + index;
  }
};

template <typename S>
__device__ Block describe(const AttentionArgs& args) {
  Block block{};
  block.kv_head = static_cast<int32_t>(blockIdx.x);
  block.split = static_cast<int32_t>(blockIdx.y);
  block.group = args.heads / args.kv.kv_heads;
  const int32_t blocks = (args.rows.capacity * block.group + S::kPairs - 1) / S::kPairs;
  block.segment = static_cast<int32_t>(blockIdx.z) / blocks;
  const RowRange range = rows_of(args.rows, block.segment);
  const Segment& segment = args.rows.segments.data()[block.segment];
  block.base = segment.span->base;
  block.first_row = range.begin;
  block.end_row = range.end;
  block.first_pair = static_cast<int32_t>(blockIdx.z) % blocks * S::kPairs;
  block.end_pair = (range.end - range.begin) * block.group;
  const int32_t seen = args.kv.window > 0 ? block.base + 1 - args.kv.window : 0;
  block.begin = max_i32(split_begin(block.split), seen);
  block.end = min_i32(split_begin(block.split + 1), block.base + block.end_row);
  block.chain = segment.sees == nullptr;
  return block;
}

// Keys and values of the block's kv head, and how they come to shared memory.
template <typename S>
struct Cache {
  const bf16_bits* keys;
  const bf16_bits* values;
  Lines<S::kDim> key_lines;
  Lines<S::kDim> value_lines;

  __device__ Cache(const AttentionArgs& args, const Block& block, bf16_bits* shared)
      : key_lines(shared), value_lines(shared + kLines * S::kDim) {
    const std::byte* kv = args.rows.segments.data()[block.segment].kv;
    const int64_t head = int64_t{block.kv_head} * args.kv.slots * S::kDim;
    keys = reinterpret_cast<const bf16_bits*>(kv + args.kv.key_offset) + head;
    values = reinterpret_cast<const bf16_bits*>(kv + args.kv.value_offset) + head;
  }

  // Starts copies of slots [slot, slot + count) to lines from `line` on.
  __device__ __forceinline__ void fetch(int32_t line, int32_t slot, int32_t count) const {
    constexpr int32_t kChunks = S::kDim / 8;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count * kChunks; i += S::kThreads) {
      const int32_t at = i / kChunks, chunk = i % kChunks;
      const int64_t from = int64_t{slot + at} * S::kDim + chunk * 8;
      cp_async16(key_lines.chunk(line + at, chunk), keys + from);
      cp_async16(value_lines.chunk(line + at, chunk), values + from);
    }
  }

  __device__ __forceinline__ void clear(int32_t line) const {
    const auto chunk = static_cast<int32_t>(threadIdx.x);
    if (chunk >= S::kDim / 8) return;
    *static_cast<uint4*>(key_lines.chunk(line, chunk)) = make_uint4(0, 0, 0, 0);
    *static_cast<uint4*>(value_lines.chunk(line, chunk)) = make_uint4(0, 0, 0, 0);
  }
};

// A tile as a warp takes it: from logical position `at` on, for the pairs of `row` or of all rows.
// Position at + 32 j + lane is in line lines[j].
struct Item {
  int32_t at;
  int32_t lines[2];
  int32_t row;
  bool busy;  // the group sees any of it
};

// The 16 pairs of a warp's group: queries, and (m, l, o) of the split so far. A lane holds two of
// the pairs; a warp holds the components [8 kValueTiles part, ...) of o.
template <typename S>
class Pairs {
 public:
  __device__ Pairs(const AttentionArgs& args, const Block& block, bf16_bits* shared)
      : scale_(args.scale * kLog2e),
        value_tiles_(args.kv.head_dim / 8 / S::kWarps),
        queries_(shared + 2 * kLines * S::kDim) {
    const auto warp = static_cast<int32_t>(warp_index()), lane = static_cast<int32_t>(lane_index());
    part_ = warp % S::kWarps;
    i_ = lane / 4;
    t_ = lane % 4;
    first_line_ = warp / S::kWarps * kGroupPairs;
    scores_ = reinterpret_cast<float*>(shared + S::kLineValues) + first_line_ * kTile;
    first_pair_ = block.first_pair + first_line_;
    end_pair_ = min_i32(first_pair_ + kGroupPairs, block.end_pair);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t pair = first_pair_ + i_ + 8 * half;
      const bool exists = pair < end_pair_;
      row_[half] = exists ? block.first_row + pair / block.group : kAllRows;
      sight_[half] = exists ? sight_of(row_of(args.rows, block.segment, row_[half]), args.kv.window)
                            : Sight{0, 0};
    }
  }

  // Starts copies of the queries of all groups; zeros where there is no pair.
  __device__ __forceinline__ void fetch(const AttentionArgs& args, const Block& block) const {
    constexpr int32_t kChunks = S::kDim / 8;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < S::kPairs * kChunks; i += S::kThreads) {
      const int32_t line = i / kChunks, chunk = i % kChunks, pair = block.first_pair + line;
      const bool exists = pair < block.end_pair;
      const int32_t row = block.first_row + (exists ? pair / block.group : 0);
      const int64_t head = block.kv_head * block.group + pair % block.group;
      const bf16_bits* from =
          args.q.row<const bf16_bits>(block.row(args, row)) + head * S::kDim + chunk * 8;
      cp_async16(queries_.chunk(line, chunk), from, exists ? 16 : 0);
    }
    cp_async_commit();
  }

  __device__ bool exist() const { return first_pair_ < end_pair_; }
  // The rows of the group, within the segment.
  __device__ int32_t first_row(const Block& block) const {
    return block.first_row + first_pair_ / block.group;
  }
  __device__ int32_t last_row(const Block& block) const {
    return block.first_row + (end_pair_ - 1) / block.group;
  }

  // Takes up a tile. All warps of the block call it together.
  __device__ __forceinline__ void attend(const Cache<S>& cache, const Item& item) {
    float s[kTile / 8][4];
    if (item.busy) score(cache, item.lines, s);
    if constexpr (S::kWarps > 1) {
      sync_block();
      if (item.busy) collect(s);
    }
    if (!item.busy) return;
    mask(item.at, item.row, s);
    float m[2], l[2];
    soften(s, m, l);
    Fold fold[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      fold[half] = begin_fold(m_[half], m[half], l[half]);
      fold_into(l_[half], l[half], fold[half]);
    }
    uint32_t p[kTile / 16][4];
    pack_weights(s, p);
#pragma unroll
    for (int n = 0; n < S::kValueTiles; ++n) {
      // Always goes on, which the assembler cannot know: it would start all chains at once, more
      // than registers hold.
      if (n % 2 == 0 && n >= value_tiles_) break;
      float o[4] = {};
      chain_values(o, p, [&](int j, uint32_t(&b)[4]) {
        ldmatrix_x4_trans(b, cache.value_lines.chunk(item.lines[j], part_ * S::kValueTiles + n));
      });
#pragma unroll
      for (int c = 0; c < 4; ++c) fold_into(o_[n][c], o[c], fold[c / 2]);
    }
  }

  __device__ void store(const AttentionArgs& args, const Block& block) const {
    const Partials partials(args);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t pair = first_pair_ + i_ + 8 * half;
      if (pair >= end_pair_) continue;
      const int32_t r = block.row(args, row_[half]);
      const int32_t head = block.kv_head * block.group + pair % block.group;
      float* o = partials.o(r, head, block.split) + 8 * part_ * S::kValueTiles + 2 * t_;
#pragma unroll
      for (int n = 0; n < S::kValueTiles; ++n) {
        *reinterpret_cast<float2*>(o + 8 * n) = make_float2(o_[n][2 * half], o_[n][2 * half + 1]);
      }
      if (part_ == 0 && t_ == 0) {
        *partials.ml(r, head, block.split) = make_float2(m_[half], l_[half]);
      }
    }
  }

 private:
  // The warp's share of the scores.
  __device__ __forceinline__ void score(const Cache<S>& cache, const int32_t (&lines)[2],
                                        float (&s)[kTile / 8][4]) const {
    const auto lane = static_cast<int32_t>(lane_index());
    int32_t line[S::kScoreTiles];
#pragma unroll
    for (int n = 0; n < S::kScoreTiles; ++n) {
      const int32_t tile = part_ * S::kScoreTiles + n;
      line[n] =
          shfl_idx(tile < 4 ? lines[0] : lines[1], static_cast<unsigned>(tile % 4 * 8 + lane % 8));
    }
    chain_scores<S::kDim, S::kScoreTiles>(
        s,
        [&](int k, uint32_t(&a)[2][4]) {
          ldmatrix_x4(a[0], queries_.chunk(first_line_ + lane % 16, 4 * k + lane / 16));
          ldmatrix_x4(a[1], queries_.chunk(first_line_ + lane % 16, 4 * k + 2 + lane / 16));
        },
        [&](int n, int k, uint32_t(&b)[4]) {
          ldmatrix_x4(b, cache.key_lines.chunk(line[n], 4 * k + lane / 8));
        });
    if constexpr (S::kWarps > 1) {
#pragma unroll
      for (int n = 0; n < S::kScoreTiles; ++n) {
        float2* to = score_at(part_ * S::kScoreTiles + n);
        to[0] = make_float2(s[n][0], s[n][1]);
        to[4 * kTile] = make_float2(s[n][2], s[n][3]);
      }
    }
  }

  // The scores of all warps of the group.
  __device__ __forceinline__ void collect(float (&s)[kTile / 8][4]) const {
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
      const float2* from = score_at(n);
      const float2 low = from[0], high = from[4 * kTile];
      s[n][0] = low.x;
      s[n][1] = low.y;
      s[n][2] = high.x;
      s[n][3] = high.y;
    }
  }

  // Of pair i; that of pair i + 8 is 8 lines on. Swizzled, so that pairs lie in different banks.
  __device__ __forceinline__ float2* score_at(int32_t tile) const {
    return reinterpret_cast<float2*>(scores_ + i_ * kTile + 8 * (tile ^ i_) + 2 * t_);
  }

  __device__ __forceinline__ void mask(int32_t at, int32_t row, float (&s)[kTile / 8][4]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool counts = row == kAllRows || row == row_[half];
      const int32_t begin = sight_[half].begin - at;
      const int32_t end = counts ? sight_[half].end - at : begin;
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
        for (int c = 2 * half; c < 2 * half + 2; ++c) {
          const int32_t x = 8 * n + 2 * t_ + c % 2;
          s[n][c] = x >= begin && x < end ? __fmul_rn(s[n][c], scale_) : kMasked;
        }
      }
    }
  }

  float scale_;
  int32_t value_tiles_;  // S::kValueTiles
  int32_t part_;         // of the warps of the group
  int32_t i_;            // the lane's pairs are i and i + 8 of the group
  int32_t t_;
  Lines<S::kDim> queries_;  // of all groups
  int32_t first_line_;      // of the group
  float* scores_;           // (16, kTile) of the group, where warps share a tile
  int32_t first_pair_;
  int32_t end_pair_;
  int32_t row_[2];  // within the segment
  Sight sight_[2];
  float m_[2] = {kMasked, kMasked};
  float l_[2] = {};
  float o_[S::kValueTiles][4] = {};
};

// The bit of the k-th of more than k set bits.
__device__ __forceinline__ int32_t select_bit(uint64_t bits, int32_t k) {
  int32_t bit = 0;
#pragma unroll
  for (int32_t width = 32; width > 0; width /= 2) {
    const int32_t below = __popcll(bits & ((uint64_t{1} << width) - 1));
    if (k < below) continue;
    k -= below;
    bits >>= width;
    bit += width;
  }
  return bit;
}

// The line of a logical position on the path of a row, from the last tile edge before base on.
__device__ __forceinline__ int32_t line_of(const Row& row, int32_t position) {
  if (position < row.base) return position % kTile;
  const int32_t k = position - row.base;
  return k < __popcll(row.sees) ? kFirstNewLine + select_bit(row.sees, k) : kZeroLine;
}

// The tiles of a split, in the order in which they are folded.
//
// Tiles below base: slots are positions, and all rows share them. From the tile with base on, the
// slots of positions differ from row to row, so each row is taken by itself, with the list of its
// own path; rows of a chain share the longest list.
template <typename S>
class Walk {
 public:
  __device__ Walk(const AttentionArgs& args, const Block& block, const Cache<S>& cache,
                  const Pairs<S>& pairs)
      : args_(args), block_(block), cache_(cache), begin_(block.begin / kTile * kTile) {
    const int32_t edge = block.base / kTile * kTile;
    new_begin_ = max_i32(begin_, edge);
    prefix_tiles_ = max_i32(0, (min_i32(block.end, edge) - begin_) / kTile);
    new_tiles_ = max_i32(0, (block.end - new_begin_ + kTile - 1) / kTile);
    const int32_t most_rows = (kGroupPairs + block.group - 2) / block.group + 1;  // of a group
    lists_ = block.chain ? 1 : most_rows;
    first_row_ = block.chain ? pairs.last_row(block) : pairs.first_row(block);
    end_row_ = pairs.exist() ? pairs.last_row(block) + 1 : 0;
    for (int32_t i = 0; i < kStages - 1; ++i) fetch_prefix(i);
  }

  __device__ int32_t count() const { return prefix_tiles_ + lists_ * new_tiles_; }

  // Item i, when its lines have come and nobody reads those of item i - 1, or its scores, any more.
  __device__ __forceinline__ Item item(int32_t i) const {
    if (i < prefix_tiles_) {
      cp_async_wait<kStages - 2>();
      sync_block();
      fetch_prefix(i + kStages - 1);
      const int32_t line = i % kStages * kTile + static_cast<int32_t>(lane_index());
      return {begin_ + i * kTile, {line, line + 32}, kAllRows, end_row_ > 0};
    }
    sync_block();
    if (i == prefix_tiles_) load_new();
    return new_item(i - prefix_tiles_);
  }

 private:
  __device__ __forceinline__ void fetch_prefix(int32_t i) const {
    if (i < prefix_tiles_) cache_.fetch(i % kStages * kTile, begin_ + i * kTile, kTile);
    cp_async_commit();
  }

  __device__ __forceinline__ void load_new() const {
    const int32_t edge = block_.base / kTile * kTile;
    cache_.fetch(0, edge, block_.base - edge);
    cache_.fetch(kFirstNewLine, block_.base, block_.end_row);
    cache_.clear(kZeroLine);
    cp_async_commit();
    cp_async_wait<0>();
    sync_block();
  }

  __device__ __forceinline__ Item new_item(int32_t i) const {
    const int32_t index = first_row_ + i / new_tiles_;
    const int32_t at = new_begin_ + i % new_tiles_ * kTile;
    if (index >= end_row_) return {at, {kZeroLine, kZeroLine}, index, false};
    const Row row = row_of(args_.rows, block_.segment, index);
    const int32_t x = at + static_cast<int32_t>(lane_index());
    return {at,
            {line_of(row, x), line_of(row, x + 32)},
            block_.chain ? kAllRows : index,
            at < row.base + __popcll(row.sees)};
  }

  const AttentionArgs& args_;
  const Block& block_;
  const Cache<S>& cache_;
  int32_t begin_;
  int32_t new_begin_;
  int32_t prefix_tiles_;
  int32_t new_tiles_;
  int32_t lists_;      // of every group, so that all warps meet at the same barriers
  int32_t first_row_;  // of the group's lists
  int32_t end_row_;
};

// attention: (m, l, o) of each row, query head and split: the softmax of scale q . K over the
//   positions of the split that the row sees, times V
// q (n,he) bf16; keys and values (g,slots,e) bf16 of each segment; partials in scratch, f32
// grid (kv heads, splits below rows.positions, segments x row groups), block 256: 16 pairs of a row
//   and a head of the group are the M side of an mma; blocks without rows or positions leave
// moves 4e bytes of the cache per position, kv head and row group, and 4(e + 2) bytes per row, head
//   and split; memory bound for few rows
// numbers: fold.h; positions are logical, so a path gives the same bits as a chain or in a tree
// needs e of 64, 96 or 128 (checked); slots within the cache; finite values below base, and in all
//   rows of a chain, since they are multiplied with the zeros of rows that do not see them
template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    attention_kernel(const __grid_constant__ AttentionArgs args) {
  pdl_launch();
  pdl_wait();
  const Block block = describe<S>(args);
  if (block.first_pair >= block.end_pair || block.begin >= block.end) return;
  auto* shared = shared_memory<bf16_bits>();
  const Cache<S> cache(args, block, shared);
  Pairs<S> pairs(args, block, shared);
  pairs.fetch(args, block);
  const Walk<S> walk(args, block, cache, pairs);
  for (int32_t i = 0; i < walk.count(); ++i) pairs.attend(cache, walk.item(i));
  cp_async_wait<0>();
  pairs.store(args, block);
}

template <typename S>
void enqueue(cudaStream_t stream, const AttentionArgs& args) {
  const int32_t pairs = args.rows.capacity * (args.heads / args.kv.kv_heads);
  const int32_t blocks = (pairs + S::kPairs - 1) / S::kPairs;
  const dim3 grid(static_cast<unsigned>(args.kv.kv_heads),
                  static_cast<unsigned>(split_count(args.rows.positions)),
                  static_cast<unsigned>(blocks * args.rows.segment_count));
  launch(stream, attention_kernel<S>, grid, S::kThreads, S::kSharedBytes, args, {.pdl = true});
}

// With few pairs four warps share a group; with many, fewer blocks read the cache again.
template <int kDim>
void enqueue_dim(cudaStream_t stream, const AttentionArgs& args) {
  const int32_t pairs = args.rows.capacity * (args.heads / args.kv.kv_heads);
  if (pairs <= 4 * kGroupPairs) return enqueue<Schedule<kDim, 2>>(stream, args);
  return enqueue<Schedule<kDim, 8>>(stream, args);
}

void check_attention(const AttentionArgs& args) {
  const KvLayer& kv = args.kv;
  SPECRT_CHECK(kv.dtype == DType::bf16, "attention: CUDA needs a bf16 cache, not ",
               name_of(kv.dtype));
  SPECRT_CHECK(kv.key_offset % 16 == 0 && kv.value_offset % 16 == 0,
               "attention: keys and values must be aligned to 16 bytes");
  const int32_t positions = args.rows.positions;
  SPECRT_CHECK(positions >= 1 && positions <= kv.slots, "attention: a step below position ",
               positions, " of a cache of ", kv.slots, " slots");
  const size_t bytes =
      Partials::bytes(min_i32(row_count(args.rows), kMaxStepRows), args, positions);
  SPECRT_CHECK(args.scratch.bytes >= bytes, "attention: scratch of ", args.scratch.bytes,
               " bytes; it needs ", bytes);
}

// Up to kMaxStepRows rows.
void enqueue_rows(cudaStream_t stream, const AttentionArgs& args) {
  switch (args.kv.head_dim) {
    case 64:
      return enqueue_dim<64>(stream, args);
    case 96:
      return enqueue_dim<96>(stream, args);
    case 128:
      return enqueue_dim<128>(stream, args);
    default:
      fail("attention: CUDA has heads of 64, 96 and 128 components, not ", args.kv.head_dim);
  }
}

}  // namespace

// More rows, those of a prompt, go kMaxStepRows at a time through the same scratch, which would be
// four times as large for all of them: 120 instead of 30 MB for 32 heads of 128 at 8k.
void attention(cudaStream_t stream, const AttentionArgs& args) {
  check_attention(args);
  const int32_t count = args.rows.segment_count, most = kMaxStepRows / args.rows.capacity;
  for (int32_t first = 0; first < count; first += most) {
    const AttentionArgs part = part_of(args, first, min_i32(most, count - first));
    enqueue_rows(stream, part);
    attention_merge(stream, part);
  }
}

}  // namespace specrt::cuda

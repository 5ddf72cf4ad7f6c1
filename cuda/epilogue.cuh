// What becomes of the sums of linear's chains: joined, scaled, and written as the epilogue says.
#pragma once

#include "base/rng.h"
#include "cuda/chains.h"
#include "cuda/exp.h"
#include "cuda/pick_scratch.h"
#include "cuda/row_stream.h"
#include "cuda/values.cuh"

namespace specrt::cuda {

// The rows in the slots of a block's row tiles.
template <int kRowTiles>
struct RowSlots {
  static constexpr int32_t kSlots = kRowTiles * kTileRows;

  int32_t row[kSlots];   // or kNoRow
  float factor[kSlots];  // of the row's norm, if there is one
};

// Sets the rows; all threads. The first thing that reads results of earlier kernels.
template <int kRowTiles>
__device__ __forceinline__ void find_rows(const StepRows& rows, RowSlots<kRowTiles>& slots) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread < slots.kSlots) slots.row[thread] = row_in_slot(rows, thread);
  sync_block();
}

// Whether a slot has a row; the same in all threads.
template <int kRowTiles>
__device__ __forceinline__ bool has_rows(const RowSlots<kRowTiles>& slots) {
  bool found = false;
  for (unsigned slot = lane_index(); slot < slots.kSlots; slot += 32) {
    found = found || slots.row[slot] != kNoRow;
  }
  return warp_any(found);
}

// Sets 1 / sqrt(mean(x^2) + eps) of each row of `cols` columns: a sum for each lane over its
// squares ascending, then lanes 16, 8, 4, 2 and 1 apart. For use behind a barrier.
template <int kRowTiles>
__device__ __forceinline__ void find_factors(const NormFactor& norm, int32_t cols,
                                             RowSlots<kRowTiles>& slots) {
  const int32_t count = cols / kSquareCols;
  for (unsigned slot = warp_index(); slot < slots.kSlots; slot += kChains) {
    if (slots.row[slot] == kNoRow) continue;
    const auto* squares = norm.squares.row<const float>(slots.row[slot]);
    float sum = 0.0f;
    for (auto i = static_cast<int32_t>(lane_index()); i < count; i += 32) {
      sum = __fadd_rn(sum, __uint_as_float(ld_cg4(squares + i)));
    }
    for (unsigned apart = 16; apart > 0; apart /= 2) sum = __fadd_rn(sum, shfl_xor(sum, apart));
    const float mean = __fdiv_rn(sum, static_cast<float>(cols));
    if (lane_index() == 0) {
      slots.factor[slot] = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, norm.eps)));
    }
  }
}

__device__ __forceinline__ float silu(float x) {
  return __fdiv_rn(x, __fadd_rn(exponential(-x), 1.0f));
}

__device__ __forceinline__ void put(const RowsView& out, int32_t row, int32_t col, float value) {
  if (out.dtype == DType::f32) {
    out.row<float>(row)[col] = value;
  } else {
    out.row<bf16_bits>(row)[col] = to_bf16(value);
  }
}

// x + silu(y) of one output.
__device__ __forceinline__ void put_silu_sum(const LinearArgs& args, int32_t row, int32_t output,
                                             float y) {
  const float x = to_float(args.x.row<const bf16_bits>(row)[output]);
  put(args.out, row, output, __fadd_rn(x, silu(y)));
}

// Adds to one element of the residual, and gives it, scaled, to the norm behind it. Its square.
__device__ __forceinline__ float add_residual(const LinearArgs& args, int32_t row, int32_t output,
                                              float y) {
  if (output >= args.w.rows) return 0.0f;
  float* out = args.out.row<float>(row) + output;
  const float x = __fadd_rn(__uint_as_float(ld_cg4(out)), y);
  *out = x;
  if (args.gain.gain != nullptr)
    put(args.gain.scaled, row, output, __fmul_rn(x, args.gain.gain[output]));
  return __fmul_rn(x, x);
}

// Components d and d + e/2 of a head, d from `output`: rotated as in rope_kv.cu, to q or the cache.
__device__ __forceinline__ void put_head(const LinearArgs& args, int32_t row, int32_t output,
                                         float a, float b) {
  const RopeOutput& rope = args.rope;
  const KvLayer& kv = rope.kv;
  const int32_t e = kv.head_dim, half = e / 2, head = output / e, d = output % e;
  if (head < rope.heads + kv.kv_heads) {
    const auto* angles = rope.angles.row<const float>(row);
    const float cosine = angles[d], sine = angles[d + half], x = a;
    a = __fsub_rn(__fmul_rn(x, cosine), __fmul_rn(b, sine));
    b = __fadd_rn(__fmul_rn(b, cosine), __fmul_rn(x, sine));
  }
  bf16_bits* out = rope.q.row<bf16_bits>(row) + int64_t{head} * e;
  if (head >= rope.heads) {
    const Segment& segment = args.rows.segments.data()[row / args.rows.capacity];
    const int32_t slot = segment.span->base + row % args.rows.capacity;
    const int32_t g = (head - rope.heads) % kv.kv_heads;
    const bool is_key = head < rope.heads + kv.kv_heads;
    out = reinterpret_cast<bf16_bits*>(segment.kv + (is_key ? kv.key_offset : kv.value_offset)) +
          (int64_t{g} * kv.slots + slot) * e;
  }
  out[d] = to_bf16(a);
  out[d + half] = to_bf16(b);
}

// The keys of the best tokens among some of a panel (HeadKeys).
struct BestKeys {
  Word chosen = 0;
  Word largest = 0;

  __device__ __forceinline__ void take(const BestKeys& other) {
    chosen = other.chosen > chosen ? other.chosen : chosen;
    largest = other.largest > largest ? other.largest : largest;
  }
};

__device__ __forceinline__ BestKeys token_keys(const Cells& cells, int32_t position, int32_t id,
                                               float logit) {
  const float temperature = cells.sampling.temperature;
  const float value = heated(logit, temperature == 0.0f ? 1.0f : temperature);
  const Word largest = key_of(value, id);
  if (temperature == 0.0f) return {largest, largest};
  // token_gumbel of the token, whose word is chosen without an index into registers.
  const Bits4 bits =
      philox(cells.seed, static_cast<uint32_t>(position), static_cast<uint32_t>(Purpose::token),
             static_cast<uint32_t>(id) / 4, 0);
  const uint32_t even = id % 4 < 2 ? bits.word[0] : bits.word[2];
  const uint32_t odd = id % 4 < 2 ? bits.word[1] : bits.word[3];
  return {key_of(value + gumbel_from_bits(id % 2 == 0 ? even : odd), id), largest};
}

// exp(value - largest) of a token with this key; 0 of none.
__device__ __forceinline__ float share_of(Word key, float largest) {
  if (key == 0) return 0.0f;
  const float value = value_of(key);
  return value == largest ? 1.0f : exponential(__fsub_rn(value, largest));
}

// Leaves the best keys of a panel of the head, and its mass. Lanes as in finish_row; all of them.
__device__ __forceinline__ void put_best(const LinearArgs& args, int32_t row, int32_t panel,
                                         int32_t output, float low, float high) {
  BestKeys first, second;
  if (row != kNoRow) {
    const Cells* cells = args.rows.segments.data()[row / args.rows.capacity].cells;
    const int32_t position = predicted_position(args.rows, row_at(args.rows, row));
    if (cells != nullptr && output < args.w.rows) {
      first = token_keys(*cells, position, output, low);
    }
    if (cells != nullptr && output + 8 < args.w.rows) {
      second = token_keys(*cells, position, output + 8, high);
    }
  }
  BestKeys best = first;
  best.take(second);
  for (unsigned apart = 16; apart >= 4; apart /= 2) {
    best.take({shfl_xor(best.chosen, apart), shfl_xor(best.largest, apart)});
  }
  const float largest = value_of(best.largest);
  float mass = __fadd_rn(share_of(first.largest, largest), share_of(second.largest, largest));
  for (unsigned apart = 16; apart >= 4; apart /= 2) {
    mass = __fadd_rn(mass, shfl_xor(mass, apart));
  }
  if (row == kNoRow || lane_index() >= 4) return;
  const HeadKeys keys(args.best, args.w.rows);
  keys.chosen(row)[panel] = best.chosen;
  keys.largest(row)[panel] = best.largest;
  keys.mass(row)[panel] = mass;
}

// The outputs of one row in the two halves of a panel, scaled and summed; with a residual, the sum
// of their squares.
__device__ __forceinline__ float finish_pair(const LinearArgs& args, int32_t row, int32_t output,
                                             float low, float high) {
  const int32_t other = output + args.w.pair_stride;
  switch (args.epilogue) {
    case Epilogue::store:
      if (output < args.w.rows) put(args.out, row, output, low);
      if (other < args.w.rows) put(args.out, row, other, high);
      return 0.0f;
    case Epilogue::add:
      low = add_residual(args, row, output, low);
      return __fadd_rn(low, add_residual(args, row, other, high));
    case Epilogue::swiglu:
      if (output < args.w.rows) put(args.out, row, output, __fmul_rn(silu(low), high));
      return 0.0f;
    case Epilogue::silu_add:
      if (output < args.w.rows) put_silu_sum(args, row, output, low);
      if (other < args.w.rows) put_silu_sum(args, row, other, high);
      return 0.0f;
    case Epilogue::rope_kv:
      put_head(args, row, output, low, high);
      return 0.0f;
  }
  return 0.0f;
}

// Lane 4 i + t has the outputs i and i + 8 of a panel for the row in `slot`. All lanes.
template <bool kIsHead, int kRowTiles>
__device__ __forceinline__ void finish_row(const LinearArgs& args, const RowSlots<kRowTiles>& slots,
                                           int32_t slot, int32_t panel, float low, float high) {
  const int32_t row = slots.row[slot];
  const auto i = static_cast<int32_t>(lane_index() / 4);
  if (args.factor.squares.data != nullptr) {
    low = __fmul_rn(low, slots.factor[slot]);
    high = __fmul_rn(high, slots.factor[slot]);
  }
  const int32_t output = tile_output(panel, i, args.w.pair_stride);
  const int32_t other = output + args.w.pair_stride;
  if (args.bias != nullptr) {
    if (output < args.w.rows) low = __fadd_rn(low, args.bias[output]);
    if (other < args.w.rows) high = __fadd_rn(high, args.bias[other]);
  }
  float squares = 0.0f;
  if (row != kNoRow) squares = finish_pair(args, row, output, low, high);
  if constexpr (kIsHead) put_best(args, row, panel, output, low, high);
  if (args.gain.gain == nullptr) return;
  for (unsigned apart = 16; apart >= 4; apart /= 2) {
    squares = __fadd_rn(squares, shfl_xor(squares, apart));
  }
  if (row != kNoRow && i == 0) args.gain.squares.row<float>(row)[panel] = squares;
}

static_assert(kChains == 8, "join_pairs takes four pairs");

// Joins the chains of the block's warps through `scratch` ([pair][panel][row tile][lane], each four
// sums of an mma: panel row i of rows 2 t and 2 t + 1, then panel row i + 8 of both) and writes
// what they give for `count` panels from `panel` on. All warps.
template <bool kIsHead, int kRowTiles, int kPanels>
__device__ __forceinline__ void join_and_finish(const LinearArgs& args,
                                                const RowSlots<kRowTiles>& slots, float4* scratch,
                                                int32_t panel, int32_t count,
                                                const float (&sum)[kPanels][kRowTiles][4]) {
  constexpr int kParts = kPanels * kRowTiles * 32;
  const unsigned chain = warp_index();
  float4* own = scratch + chain / 2 * kParts + lane_index();
  if (chain % 2 == 1) {
#pragma unroll
    for (int i = 0; i < kPanels * kRowTiles; ++i) {
      const float(&s)[4] = sum[i / kRowTiles][i % kRowTiles];
      own[32 * i] = {s[0], s[1], s[2], s[3]};
    }
  }
  sync_block();
  if (chain % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kPanels * kRowTiles; ++i) {
      const float(&s)[4] = sum[i / kRowTiles][i % kRowTiles];
      const float4 odd = own[32 * i];
      own[32 * i] = {join_chains(s[0], odd.x), join_chains(s[1], odd.y), join_chains(s[2], odd.z),
                     join_chains(s[3], odd.w)};
    }
  }
  sync_block();
  for (int part = static_cast<int>(threadIdx.x); part < kParts; part += 32 * kChains) {
    const int p = part / 32 / kRowTiles;
    const int slot = part / 32 % kRowTiles * kTileRows + part % 4 * 2;
    if (p >= count) break;
    const float4 a = scratch[part], b = scratch[part + kParts];
    const float4 c = scratch[part + 2 * kParts], d = scratch[part + 3 * kParts];
    finish_row<kIsHead>(args, slots, slot, panel + p, join_pairs(a.x, b.x, c.x, d.x),
                        join_pairs(a.z, b.z, c.z, d.z));
    finish_row<kIsHead>(args, slots, slot + 1, panel + p, join_pairs(a.y, b.y, c.y, d.y),
                        join_pairs(a.w, b.w, c.w, d.w));
  }
  sync_block();
}

}  // namespace specrt::cuda

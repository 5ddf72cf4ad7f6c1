#include "attention_rig.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>

namespace specrt::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kTilePositions = 64;

float flush(float x) { return x < 0x1p-126f ? 0.0f : x; }
float power(float x) { return flush(std::exp2(x)); }

void fold(Partial& to, const Partial& from) {
  if (from.m == -kInfinity) return;
  const float m = std::max(to.m, from.m);
  const float a = power(to.m - m), b = power(from.m - m);
  to.m = m;
  to.l = std::fma(to.l, a, from.l * b);
  for (size_t d = 0; d < to.o.size(); ++d) to.o[d] = std::fma(to.o[d], a, from.o[d] * b);
}

// A lane of four adds its pairs of weights, then the lanes 1 and 2 apart.
float sum_weights(const std::vector<float>& p) {
  float lanes[4] = {};
  for (size_t t = 0; t < 4; ++t) {
    for (size_t n = 0; n < kTilePositions / 8; ++n) {
      lanes[t] += p[8 * n + 2 * t];
      lanes[t] += p[8 * n + 2 * t + 1];
    }
  }
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

size_t split_size(size_t position) {
  if (position < 1024) return 128;
  if (position < 4096) return 256;
  return position < 16384 ? 512 : 1024;
}

}  // namespace

AttentionStep::AttentionStep(const AttentionShape& shape_, size_t count, uint64_t seed)
    : shape(shape_), sequences(count) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<bf16_bits>& values, size_t n) {
    values.resize(n);
    for (bf16_bits& v : values) v = to_bf16(normal(random));
  };
  const auto cache = static_cast<size_t>(shape.kv_heads * shape.slots * shape.dim);
  for (AttentionSequence& sequence : sequences) {
    fill(sequence.keys, cache);
    fill(sequence.values, cache);
  }
  fill(q, count * static_cast<size_t>(shape.capacity) * query_values());
}

void AttentionStep::copy_slot(const AttentionStep& from, size_t s, int32_t slot, size_t to,
                              int32_t to_slot) {
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    for (int32_t d = 0; d < shape.dim; ++d) {
      const size_t source = from.at(head, slot) + static_cast<size_t>(d);
      const size_t target = at(head, to_slot) + static_cast<size_t>(d);
      sequences[to].keys[target] = from.sequences[s].keys[source];
      sequences[to].values[target] = from.sequences[s].values[source];
    }
  }
}

void AttentionStep::copy_query(const AttentionStep& from, size_t row, size_t to_row) {
  const size_t n = query_values();
  std::copy_n(from.q.begin() + static_cast<ptrdiff_t>(row * n), n,
              q.begin() + static_cast<ptrdiff_t>(to_row * n));
}

void AttentionStep::fill_slot(size_t s, int32_t slot, bf16_bits bits) {
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    const auto begin = static_cast<ptrdiff_t>(at(head, slot));
    std::fill_n(sequences[s].keys.begin() + begin, shape.dim, bits);
    std::fill_n(sequences[s].values.begin() + begin, shape.dim, bits);
  }
}

void AttentionStep::fill_query(size_t row, bf16_bits bits) {
  const size_t n = query_values();
  std::fill_n(q.begin() + static_cast<ptrdiff_t>(row * n), n, bits);
}

std::vector<bf16_bits> AttentionStep::run(Rig& rig, std::vector<float>* partials) const {
  const size_t cache = sequences[0].keys.size();
  AttentionArgs args;
  args.kv = {.key_offset = 64,
             .value_offset = 64 + static_cast<int64_t>(cache * sizeof(bf16_bits)),
             .kv_heads = shape.kv_heads,
             .head_dim = shape.dim,
             .slots = shape.slots,
             .dtype = DType::bf16,
             .window = shape.window};
  args.heads = shape.heads;
  args.scale = scale;
  args.rows.segment_count = static_cast<int32_t>(sequences.size());
  args.rows.capacity = shape.capacity;
  args.rows.positions = positions > 0 ? positions : shape.slots;
  args.rows.select = select;
  args.rows.depth = depth;
  std::vector<int64_t> tree_words((sizeof(TreeShape) + 7) / 8);
  std::memcpy(tree_words.data(), &tree, sizeof(TreeShape));
  const DeviceArray<int64_t> device_tree(rig, tree_words);
  std::deque<DeviceArray<bf16_bits>> caches;
  std::deque<DeviceArray<uint64_t>> masks;
  std::vector<int32_t> spans;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const AttentionSequence& sequence = sequences[s];
    std::vector<bf16_bits> memory(32, bf16_bits{0x7fc0});
    memory.insert(memory.end(), sequence.keys.begin(), sequence.keys.end());
    memory.insert(memory.end(), sequence.values.begin(), sequence.values.end());
    caches.emplace_back(rig, memory);
    args.rows.segments[s].kv = reinterpret_cast<std::byte*>(caches.back().data());
    if (!sequence.sees.empty()) {
      masks.emplace_back(rig, sequence.sees);
      args.rows.segments[s].sees = masks.back().data();
    }
    args.rows.segments[s].tree = reinterpret_cast<const TreeShape*>(device_tree.data());
    spans.insert(spans.end(), {sequence.base, sequence.rows});
  }
  static_assert(sizeof(StepSpan) == 2 * sizeof(int32_t));
  DeviceArray<int32_t> device_spans(rig, spans);
  for (size_t s = 0; s < sequences.size(); ++s) {
    args.rows.segments[s].span = reinterpret_cast<const StepSpan*>(device_spans.data()) + s;
  }
  const int64_t stride = padded_row_bytes(DType::bf16, static_cast<int64_t>(query_values()));
  DeviceArray<bf16_bits> device_q(rig, q);
  DeviceArray<bf16_bits> out(rig, std::vector<bf16_bits>(q.size(), kUntouched));
  DeviceArray<float> scratch(attention_scratch(args) / sizeof(float));
  const auto cols = static_cast<int32_t>(query_values());
  args.q = {reinterpret_cast<std::byte*>(device_q.data()), DType::bf16, cols, stride};
  args.out = {reinterpret_cast<std::byte*>(out.data()), DType::bf16, cols, stride};
  args.scratch = {reinterpret_cast<std::byte*>(scratch.data()), scratch.size() * sizeof(float)};
  check(args);
  attention(rig.stream(), args);
  if (partials != nullptr) *partials = scratch.read(rig);
  return out.read(rig);
}

std::vector<int32_t> AttentionStep::path(size_t s, int32_t row) const {
  const AttentionSequence& sequence = sequences[s];
  const uint64_t own = uint64_t{1} << row;
  const uint64_t sees =
      sequence.sees.empty() ? own | (own - 1) : sequence.sees[static_cast<size_t>(row)];
  std::vector<int32_t> slots;
  for (int32_t slot = 0; slot < sequence.base; ++slot) slots.push_back(slot);
  for (int32_t i = 0; i <= row; ++i) {
    if ((sees >> i & 1) != 0) slots.push_back(sequence.base + i);
  }
  return slots;
}

size_t AttentionStep::window_begin(size_t length) const {
  const auto window = static_cast<size_t>(shape.window);
  return window > 0 && length > window ? length - window : 0;
}

std::vector<Partial> AttentionStep::exact_splits(size_t s, int32_t row, int32_t head) const {
  const std::vector<int32_t> slots = path(s, row);
  const size_t first = window_begin(slots.size()), end = slots.size();
  const auto dim = static_cast<size_t>(shape.dim);
  const int32_t kv_head = head / (shape.heads / shape.kv_heads);
  const size_t at_row = s * static_cast<size_t>(shape.capacity) + static_cast<size_t>(row);
  const bf16_bits* from = q.data() + at_row * query_values() + static_cast<size_t>(head) * dim;
  const float factor = scale * 1.44269504f;
  const auto component = [&](const std::vector<bf16_bits>& cache, size_t position, size_t d) {
    return to_float(cache[at(kv_head, slots[position]) + d]);
  };
  const auto tile_of = [&](size_t begin) {
    Partial tile;
    std::vector<float> p(kTilePositions, -kInfinity);
    for (size_t x = 0; x < kTilePositions; ++x) {
      if (begin + x < first || begin + x >= end) continue;
      float score = 0.0f;
      for (size_t d = 0; d < dim; ++d) {
        score += to_float(from[d]) * component(sequences[s].keys, begin + x, d);
      }
      p[x] = score * factor;
      tile.m = std::max(tile.m, p[x]);
    }
    if (tile.m == -kInfinity) return tile;
    for (float& v : p) v = power(v - tile.m);
    tile.l = sum_weights(p);
    tile.o.assign(dim, 0.0f);
    for (size_t x = 0; x < kTilePositions && begin + x < end; ++x) {
      const float weight = to_float(to_bf16(p[x]));
      for (size_t d = 0; d < dim; ++d) {
        tile.o[d] += weight * component(sequences[s].values, begin + x, d);
      }
    }
    return tile;
  };
  std::vector<Partial> splits;
  for (size_t begin = 0; begin < end; begin += split_size(begin)) {
    splits.emplace_back().o.assign(dim, 0.0f);
    for (size_t t = begin; t < begin + split_size(begin); t += kTilePositions) {
      fold(splits.back(), tile_of(t));
    }
  }
  return splits;
}

std::vector<bf16_bits> AttentionStep::exact(size_t s, int32_t row, int32_t head) const {
  Partial whole;
  whole.o.assign(static_cast<size_t>(shape.dim), 0.0f);
  for (const Partial& split : exact_splits(s, row, head)) fold(whole, split);
  std::vector<bf16_bits> out;
  for (const float o : whole.o) out.push_back(to_bf16(o / whole.l));
  return out;
}

std::vector<double> AttentionStep::ideal(size_t s, int32_t row, int32_t head) const {
  const std::vector<int32_t> slots = path(s, row);
  const auto dim = static_cast<size_t>(shape.dim);
  const int32_t kv_head = head / (shape.heads / shape.kv_heads);
  const size_t at_row = s * static_cast<size_t>(shape.capacity) + static_cast<size_t>(row);
  const bf16_bits* from = q.data() + at_row * query_values() + static_cast<size_t>(head) * dim;
  std::vector<double> out(dim, 0.0);
  double sum = 0.0;
  for (size_t position = window_begin(slots.size()); position < slots.size(); ++position) {
    const size_t slot = at(kv_head, slots[position]);
    double score = 0.0;
    for (size_t d = 0; d < dim; ++d) {
      score += double{to_float(from[d])} * to_float(sequences[s].keys[slot + d]);
    }
    const double weight = std::exp(score * scale);
    sum += weight;
    for (size_t d = 0; d < dim; ++d) {
      out[d] += weight * to_float(sequences[s].values[slot + d]);
    }
  }
  for (double& v : out) v /= sum;
  return out;
}

std::vector<bf16_bits> row_of(const AttentionStep& step, const std::vector<bf16_bits>& out,
                              size_t row) {
  const auto begin = out.begin() + static_cast<ptrdiff_t>(row * step.query_values());
  return {begin, begin + static_cast<ptrdiff_t>(step.query_values())};
}

}  // namespace specrt::cuda

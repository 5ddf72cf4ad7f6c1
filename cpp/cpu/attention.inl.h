// attention: out[i,head] = softmax(scale q . K) V over the cached prefix and the rows that i sees;
//   with a window, over the last kv.window logical positions of these
// q, out (n,he) and cache (KvLayer) in kv.dtype; out is not q
// an item is one kv head and a few rows of one sequence: all their query heads read the same keys
//   and values, up to 4 queries at a time
// moves 2te values of the cache per item; memory bound for few rows
// scores: one f32 chain over e per position. softmax: max, exp, 16 sums over logical positions, a
//   fixed tree. values: one f32 chain over ascending logical positions. A tree row's scores are
//   gathered to logical positions first, so it equals the same path as a chain bit for bit.
//   Positions before the window take part in nothing: blocks of them are skipped, the others masked
// e is even, slots are within the cache, every row sees itself (checked)

inline constexpr int32_t kQueryTile = 4;
inline constexpr int32_t kMaxItemQueries = 16;

inline int32_t length_of(const Row& row) { return row.base + __builtin_popcountll(row.sees); }

// The first logical position that a row sees.
inline int32_t begin_of(const Row& row, int32_t window) {
  const int32_t length = length_of(row);
  return window > 0 && length > window ? length - window : 0;
}

// The new rows that a row sees from logical position `begin` on.
inline uint64_t sees_from(const Row& row, int32_t begin) {
  uint64_t sees = row.sees;
  for (int32_t t = row.base; t < begin; ++t) sees &= sees - 1;
  return sees;
}

inline int32_t max(int32_t a, int32_t b) { return a > b ? a : b; }
inline int32_t min(int32_t a, int32_t b) { return a < b ? a : b; }

// The queries of one item: query j is head head0 + j % group of row rows[j / group].
struct AttentionItem {
  const AttentionArgs* args;
  const Row* rows;
  int32_t queries;
  int32_t group;
  int32_t head0;
  int32_t base;
  int32_t first_block;  // key blocks before it are in no window
  const std::byte* keys;
  const std::byte* values;
  float* scores;   // (queries, stride); after the softmax, weights by logical position
  int64_t stride;  // slots, a multiple of 16
  float* inverse;  // (queries,) 1 / sum of weights

  const Row& row(int32_t query) const { return rows[query / group]; }
  int32_t begin(int32_t query) const { return begin_of(row(query), args->kv.window); }
  int64_t offset(int32_t query) const {
    return static_cast<int64_t>(head0 + query % group) * args->kv.head_dim;
  }
  const std::byte* q(int32_t query) const {
    return args->q.row<const std::byte>(row(query).row) +
           offset(query) * static_cast<int64_t>(size_of(args->kv.dtype));
  }
};

// Scores of kQueries queries against kBlocks key blocks of 16 slots.
template <DType kType, int kQueries, int kBlocks>
void score_tile(const AttentionItem& item, int32_t query, int32_t block) {
  const KvLayer& kv = item.args->kv;
  const int64_t block_bytes = panel_bytes(kType, kv.head_dim);
  const std::byte* keys = item.keys + block * block_bytes;
  const std::byte* q[kQueries];
  for (int j = 0; j < kQueries; ++j) q[j] = item.q(query + j);
  Vec acc[kQueries][kBlocks] = {};
  const int64_t lines = kType == DType::f32 ? kv.head_dim : kv.head_dim / 2;
  for (int64_t line = 0; line < lines; ++line) {
    uint32_t words[kQueries];
#pragma GCC unroll 8
    for (int j = 0; j < kQueries; ++j) words[j] = load_word(q[j] + line * 4);
    add_line<kType>(acc, keys + line * 64, block_bytes, words);
  }
  for (int j = 0; j < kQueries; ++j) {
    float* out = item.scores + (query + j) * item.stride + block * kKvBlock;
    for (int b = 0; b < kBlocks; ++b) store(out + b * kKvBlock, acc[j][b]);
  }
}

template <DType kType, int kQueries>
void score_queries(const AttentionItem& item, int32_t query, int32_t blocks) {
  constexpr int kBlocks = 4;
  int32_t block = item.first_block;
  for (; block + kBlocks <= blocks; block += kBlocks) {
    score_tile<kType, kQueries, kBlocks>(item, query, block);
  }
  for (; block < blocks; ++block) score_tile<kType, kQueries, 1>(item, query, block);
}

// Moves the scores of the slots that a row sees to its logical positions, from `begin` on.
inline void gather_seen(const Row& row, int32_t begin, float* scores) {
  float* to = scores + max(row.base, begin);
  for (uint64_t rest = sees_from(row, begin); rest != 0; rest &= rest - 1) {
    *to++ = scores[row.base + __builtin_ctzll(rest)];
  }
}

// Scores of [begin, length) to weights exp(scale s - max), zero up to the ends of the first and the
// last vector; returns 1 / sum.
inline float soften(float* scores, int32_t begin, int32_t length, float scale) {
  const int32_t first = begin / kLanes * kLanes;
  const int32_t padded = (length + kLanes - 1) / kLanes * kLanes;
  const float none = -std::numeric_limits<float>::infinity();
  for (int32_t t = length; t < padded; ++t) scores[t] = none;
  Vec largest = none;
  for (int32_t t = first; t < padded; t += kLanes) {
    Vec s = load<Vec>(scores + t) * scale;
    if (t < begin || t + kLanes > length) {
      const VecI at = lane_numbers() + t;
      s = select((at >= begin) & (at < length), s, none);
    }
    store(scores + t, s);
    largest = max(s, largest);
  }
  const float top = max_lane(largest);
  Vec sums{};
  for (int32_t t = first; t < padded; t += kLanes) {
    const Vec weight = exp(load<Vec>(scores + t) - top);
    store(scores + t, weight);
    sums = sums + weight;
  }
  return 1.0f / sum_lanes(sums);
}

template <DType kType>
inline Vec load_first_values(const std::byte* from, int32_t count) {
  std::byte line[64] = {};
  std::memcpy(line, from, static_cast<size_t>(count) * size_of(kType));
  return load_values<kType>(line);
}

template <DType kType>
inline void store_first_values(std::byte* to, Vec v, int32_t count) {
  if constexpr (kType == DType::f32) {
    store_first(to, v, count);
  } else {
    store_first(to, narrow(v), count);
  }
}

// Components [d, d + 16 kVecs) of kQueries results; the last vector has only `lanes` of them.
template <DType kType, int kQueries, int kVecs>
void value_tile(const AttentionItem& item, int32_t query, int32_t d, int32_t lanes) {
  constexpr int64_t kSize = static_cast<int64_t>(size_of(kType));
  const int64_t step = item.args->kv.head_dim * kSize;
  const std::byte* values = item.values + d * kSize;
  const auto load_slot = [&](int64_t slot, Vec(&v)[kVecs]) {
#pragma GCC unroll 8
    for (int c = 0; c < kVecs; ++c) {
      const std::byte* from = values + slot * step + c * kLanes * kSize;
      v[c] = kVecs > 1 || lanes == kLanes ? load_values<kType>(from)
                                          : load_first_values<kType>(from, lanes);
    }
  };
  Vec acc[kQueries][kVecs] = {};
  const float* weights = item.scores + query * item.stride;
  // Positions that only some of the queries have in their window, then those that all have.
  int32_t common = 0;
  for (int j = 0; j < kQueries; ++j) common = max(common, item.begin(query + j));
  common = min(common, item.base);
  for (int j = 0; j < kQueries; ++j) {
    for (int32_t t = item.begin(query + j); t < common; ++t) {
      Vec v[kVecs];
      load_slot(t, v);
      const Vec weight = weights[j * item.stride + t];
#pragma GCC unroll 8
      for (int c = 0; c < kVecs; ++c) acc[j][c] = fma(weight, v[c], acc[j][c]);
    }
  }
  for (int32_t t = common; t < item.base; ++t) {
    Vec v[kVecs];
    load_slot(t, v);
#pragma GCC unroll 8
    for (int j = 0; j < kQueries; ++j) {
      const Vec weight = weights[j * item.stride + t];
#pragma GCC unroll 8
      for (int c = 0; c < kVecs; ++c) acc[j][c] = fma(weight, v[c], acc[j][c]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kQueries; ++j) {
    const int32_t begin = item.begin(query + j);
    const float* weight = weights + j * item.stride + max(item.base, begin);
    for (uint64_t rest = sees_from(item.row(query + j), begin); rest != 0; rest &= rest - 1) {
      Vec v[kVecs];
      load_slot(item.base + __builtin_ctzll(rest), v);
      const Vec w = *weight++;
#pragma GCC unroll 8
      for (int c = 0; c < kVecs; ++c) acc[j][c] = fma(w, v[c], acc[j][c]);
    }
    std::byte* out = item.args->out.row<std::byte>(item.row(query + j).row) +
                     (item.offset(query + j) + d) * kSize;
#pragma GCC unroll 8
    for (int c = 0; c < kVecs; ++c) {
      store_first_values<kType>(out + c * kLanes * kSize, acc[j][c] * item.inverse[query + j],
                                kVecs > 1 ? kLanes : lanes);
    }
  }
}

template <DType kType, int kQueries>
void value_queries(const AttentionItem& item, int32_t query) {
  constexpr int kVecs = 4;
  const int32_t e = item.args->kv.head_dim;
  int32_t d = 0;
  for (; d + kVecs * kLanes <= e; d += kVecs * kLanes) {
    value_tile<kType, kQueries, kVecs>(item, query, d, kLanes);
  }
  for (; d < e; d += kLanes) {
    value_tile<kType, kQueries, 1>(item, query, d, e - d < kLanes ? e - d : kLanes);
  }
}

template <DType kType, int kQueries>
void attend_queries(const AttentionItem& item, int32_t query, int32_t blocks) {
  score_queries<kType, kQueries>(item, query, blocks);
  for (int32_t j = query; j < query + kQueries; ++j) {
    const Row& row = item.row(j);
    float* scores = item.scores + j * item.stride;
    const int32_t begin = item.begin(j);
    gather_seen(row, begin, scores);
    item.inverse[j] = soften(scores, begin, length_of(row), item.args->scale);
  }
  value_queries<kType, kQueries>(item, query);
}

template <DType kType>
void attend_item(const AttentionItem& item, int32_t blocks) {
  int32_t query = 0;
  for (; query + kQueryTile <= item.queries; query += kQueryTile) {
    attend_queries<kType, kQueryTile>(item, query, blocks);
  }
  switch (item.queries - query) {
    case 3:
      return attend_queries<kType, 3>(item, query, blocks);
    case 2:
      return attend_queries<kType, 2>(item, query, blocks);
    case 1:
      return attend_queries<kType, 1>(item, query, blocks);
    default:
      return;
  }
}

// Rows [first, first + count) of the list, one sequence's, with kv head g.
inline void attend(const AttentionArgs& args, const Row* rows, int32_t count, int32_t g, Team& team,
                   int member) {
  const KvLayer& kv = args.kv;
  AttentionItem item;
  item.args = &args;
  item.rows = rows;
  item.group = args.heads / kv.kv_heads;
  item.queries = count * item.group;
  item.head0 = g * item.group;
  item.base = rows[0].base;
  int32_t slots = 0, begin = kv.slots;
  for (int32_t i = 0; i < count; ++i) {
    slots = max(slots, rows[i].slot + 1);
    begin = min(begin, begin_of(rows[i], kv.window));
  }
  item.first_block = begin / kKvBlock;
  const int32_t blocks = (slots + kKvBlock - 1) / kKvBlock;
  item.stride = static_cast<int64_t>(blocks) * kKvBlock;
  const std::byte* cache = args.rows.segments[static_cast<size_t>(rows[0].segment)].kv;
  item.keys = cache + kv.key_offset + g * (kv_key_bytes(kv) / kv.kv_heads);
  item.values = cache + kv.value_offset + g * (kv_value_bytes(kv) / kv.kv_heads);
  const size_t floats = static_cast<size_t>(item.queries) * static_cast<size_t>(item.stride + 1);
  item.scores = reinterpret_cast<float*>(team.scratch(member, floats * sizeof(float)));
  item.inverse = item.scores + item.queries * item.stride;
  if (kv.dtype == DType::f32) {
    attend_item<DType::f32>(item, blocks);
  } else {
    attend_item<DType::bf16>(item, blocks);
  }
}

// Rows per item: enough queries for the tiles, yet items for the whole team.
inline int32_t rows_per_item(const AttentionArgs& args, int32_t rows, int32_t members) {
  const int32_t most = kMaxItemQueries / (args.heads / args.kv.kv_heads);
  const int32_t parts = (2 * members + args.kv.kv_heads - 1) / args.kv.kv_heads;
  const int32_t share = (rows + parts - 1) / parts;
  const int32_t count = share < most ? share : most;
  return count < 1 ? 1 : count;
}

void attention(const AttentionArgs& args, const RowList& rows, Team& team) {
  struct Part {
    int32_t first;
    int32_t count;
  };
  Part parts[kMaxStepRows];
  int32_t part_count = 0;
  int64_t positions = 0;
  const int32_t most = rows_per_item(args, rows.count, team.size());
  for (int32_t i = 0; i < rows.count; ++i) {
    const Row& row = rows.rows[static_cast<size_t>(i)];
    Part* last = part_count > 0 ? &parts[part_count - 1] : nullptr;
    const bool joins = last != nullptr && last->count < most &&
                       rows.rows[static_cast<size_t>(last->first)].segment == row.segment;
    if (joins) {
      ++last->count;
    } else {
      parts[part_count++] = {i, 1};
    }
    positions += length_of(row) - begin_of(row, args.kv.window);
  }
  const int64_t bytes = positions * args.heads * args.kv.head_dim;
  team.parallel(part_count * args.kv.kv_heads, bytes, [&](int index, int member) {
    const Part& part = parts[index / args.kv.kv_heads];
    attend(args, &rows.rows[static_cast<size_t>(part.first)], part.count, index % args.kv.kv_heads,
           team, member);
  });
}

// linear: y = x @ w^T + bias, then store, add to out, silu(gate) * up, or x + silu(y)
// x (n,k) in w's dtype; w (m,k) panels16; out (n,m) f32 or bf16, add: f32, swiglu: (n,m/2)
// bias (m) f32, or null; it is added last
// an item is a few panels of 16 outputs; it meets rows in blocks of up to 12, so that its weights
//   come from memory once and from the cache for later blocks
// moves the weights once, 2mk (bf16) or 4mk bytes; memory bound up to about 16 rows
// every output is one chain of f32 sums over ascending k, whatever the tile: the result of a row
//   depends on nothing but the row. bf16: two columns per step; rounds once when stored as bf16
// out is written up to the end of its last panel; x beyond k may hold anything

// With AVX-512 three quarters of the registers hold chains, as every further block reads the
// weights again; with less half, as lines of weights take a quarter. With AVX-512 BF16 a product
// takes 6 cycles and two start per cycle: 12 chains keep the units busy. Few rows wait for memory
// anyway, and four streams of it are enough.
inline constexpr int kManyRowsPanels = 2;
inline constexpr int32_t kRowBlock =
    (kVectorRegisters >= 32 ? kVectorRegisters * 3 / 4 : kVectorRegisters / 2) / kManyRowsPanels;
inline constexpr int kFewRowsPanels = kVectorRegisters >= 32 ? 4 : 2;  // for 1 and 2 rows

inline constexpr int64_t kGroup = 8;  // lines between prefetches

// What a tile prefetches: lines of the panels that come next.
struct Ahead {
  int32_t panel;
  int64_t first_line;
  int64_t lines_per_group;
};

// Panels [begin, end); the item that this member is likely to take next begins at `next`.
struct LinearItem {
  int32_t begin;
  int32_t end;
  int32_t next;
};

struct LinearJob {
  const LinearArgs* args;
  const std::byte* x[kMaxStepRows];
  int32_t rows[kMaxStepRows];
  int32_t count;
  int64_t panel_bytes;
};

inline Vec silu(Vec x) { return x / (exp(-x) + 1.0f); }

inline void write_values(const RowsView& out, int32_t row, int32_t col, Vec values) {
  if (out.dtype == DType::f32) {
    store(out.row<float>(row) + col, values);
  } else {
    store(out.row<bf16_bits>(row) + col, narrow(values));
  }
}

inline Vec read_values(const RowsView& x, int32_t row, int32_t col) {
  const auto* from = x.row<const std::byte>(row) + col * static_cast<int64_t>(size_of(x.dtype));
  return x.dtype == DType::f32 ? load_values<DType::f32>(from) : load_values<DType::bf16>(from);
}

// Adds the bias to kRows results of panels from `panel` on; nothing is read behind its end.
template <int kPanels, int kRows>
inline void add_bias(const LinearArgs& args, int32_t panel, Vec (&y)[kRows][kPanels]) {
  for (int p = 0; p < kPanels; ++p) {
    const int32_t begin = (panel + p) * kPanelRows, rest = args.w.rows - begin;
    const Vec bias = load_first(args.bias + begin, rest < kPanelRows ? rest : kPanelRows);
    for (int r = 0; r < kRows; ++r) y[r][p] = y[r][p] + bias;
  }
}

// The results of kPanels panels from `panel` on, for one row.
template <int kPanels>
inline void finish(const LinearArgs& args, int32_t row, int32_t panel, const Vec* y) {
  switch (args.epilogue) {
    case Epilogue::store:
      for (int p = 0; p < kPanels; ++p) write_values(args.out, row, (panel + p) * kPanelRows, y[p]);
      return;
    case Epilogue::add:
      for (int p = 0; p < kPanels; ++p) {
        float* out = args.out.row<float>(row) + (panel + p) * kPanelRows;
        store(out, load<Vec>(out) + y[p]);
      }
      return;
    case Epilogue::swiglu:
      for (int p = 0; p + 1 < kPanels; p += 2) {
        write_values(args.out, row, (panel + p) / 2 * kPanelRows, silu(y[p]) * y[p + 1]);
      }
      return;
    case Epilogue::silu_add:
      for (int p = 0; p < kPanels; ++p) {
        const int32_t col = (panel + p) * kPanelRows;
        write_values(args.out, row, col, read_values(args.x, row, col) + silu(y[p]));
      }
      return;
    case Epilogue::rope_kv:  // refused in ops.cpp
      return;
  }
}

// kPanels x kRows chains at once, all in registers.
template <DType kType, int kPanels, int kRows>
void linear_tile(const LinearJob& job, int32_t panel, int32_t first, Ahead ahead) {
  const LinearArgs& args = *job.args;
  const std::byte* weights = args.w.data + panel * job.panel_bytes;
  const int32_t cols = args.w.cols;
  const int64_t lines = kType == DType::f32 ? cols : cols / 2;
  const std::byte* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = job.x[first + r];
  Vec acc[kRows][kPanels] = {};
  const auto add = [&](int64_t line, uint32_t mask) __attribute__((always_inline)) {
    uint32_t words[kRows];
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) words[r] = load_word(x[r] + line * 4) & mask;
    add_line<kType>(acc, weights + line * 64, job.panel_bytes, words);
  };
  // Meanwhile a share of the next panels comes closer.
  const std::byte* next = args.w.data + ahead.panel * job.panel_bytes + ahead.first_line * 64;
  int64_t line = 0;
  for (; line + kGroup <= lines; line += kGroup) {
    for (int64_t i = 0; i < ahead.lines_per_group; ++i, next += 64) {
#pragma GCC unroll 12
      for (int p = 0; p < kPanels; ++p) __builtin_prefetch(next + p * job.panel_bytes, 0, 3);
    }
#pragma GCC unroll 1
    for (int64_t i = 0; i < kGroup; ++i) add(line + i, ~0u);
  }
  for (; line < lines; ++line) add(line, ~0u);
  if (kType == DType::bf16 && cols % 2 != 0) add(lines, 0xffffu);
  if (args.bias != nullptr) add_bias(args, panel, acc);
  for (int r = 0; r < kRows; ++r) finish<kPanels>(args, job.rows[first + r], panel, acc[r]);
}

using LinearTile = void (*)(const LinearJob& job, int32_t panel, int32_t first, Ahead ahead);

template <DType kType, int kPanels>
LinearTile linear_tile_of(int32_t rows) {
  if constexpr (kPanels > kManyRowsPanels) {
    return rows == 1 ? linear_tile<kType, kPanels, 1> : linear_tile<kType, kPanels, 2>;
  } else {
    constexpr auto kTiles = []<int... kRows>(std::integer_sequence<int, kRows...>) {
      return std::array<LinearTile, kRowBlock>{linear_tile<kType, kPanels, kRows + 1>...};
    }
    (std::make_integer_sequence<int, kRowBlock>());
    return kTiles[static_cast<size_t>(rows) - 1];
  }
}

// kPanels panels at a time as far as they go, for all rows.
template <DType kType, int kPanels>
void linear_panels(const LinearJob& job, const LinearItem& item) {
  const int32_t blocks = (job.count + kRowBlock - 1) / kRowBlock;
  const int64_t groups = job.panel_bytes / 64 / kGroup;
  const int64_t per_group = (kGroup + blocks - 1) / blocks;
  int32_t panel = item.begin;
  for (; panel + kPanels <= item.end; panel += kPanels) {
    const int32_t after = panel + kPanels < item.end ? panel + kPanels : item.next;
    for (int32_t b = 0; b < blocks; ++b) {
      const int32_t first = b * job.count / blocks, last = (b + 1) * job.count / blocks;
      const Ahead ahead{after, b * groups * per_group, per_group};
      linear_tile_of<kType, kPanels>(last - first)(job, panel, first, ahead);
    }
  }
  if constexpr (kPanels > 1) {
    if (panel < item.end) linear_panels<kType, kPanels / 2>(job, {panel, item.end, item.next});
  }
}

template <DType kType>
void linear_item(const LinearJob& job, const LinearItem& item) {
  if (job.count <= 2) {
    linear_panels<kType, kFewRowsPanels>(job, item);
  } else {
    linear_panels<kType, kManyRowsPanels>(job, item);
  }
}

// 8 panels, fewer if the members would have less than two items each; always even for swiglu.
inline int32_t panels_per_item(int32_t panels, int32_t members) {
  int32_t count = 8;
  while (count > 2 && panels < 2 * members * count) count /= 2;
  return count;
}

void linear(const LinearArgs& args, const RowList& rows, Team& team) {
  LinearJob job;
  job.args = &args;
  job.count = rows.count;
  job.panel_bytes = panel_bytes(args.w.dtype, args.w.cols);
  for (int32_t i = 0; i < rows.count; ++i) {
    job.rows[i] = rows.rows[static_cast<size_t>(i)].row;
    job.x[i] = args.x.row<const std::byte>(job.rows[i]);
  }
  const int32_t panels = (args.w.rows + kPanelRows - 1) / kPanelRows;
  const int32_t size = panels_per_item(panels, team.size());
  const int32_t items = (panels + size - 1) / size;
  team.parallel(items, panels * job.panel_bytes * rows.count, [&](int index, int) {
    const int32_t begin = index * size, end = begin + size;
    const LinearItem item{begin, end < panels ? end : panels, begin + team.size() * size};
    if (args.w.dtype == DType::f32) {
      linear_item<DType::f32>(job, item);
    } else {
      linear_item<DType::bf16>(job, item);
    }
  });
}

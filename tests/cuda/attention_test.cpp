// attention: every row against the contract bit for bit and against double, whatever else is in the
// step and however it is divided.
#include <algorithm>
#include <cmath>

#include "attention_rig.h"
#include "decode/draft_tree.h"

namespace specrt::cuda {
namespace {

emulation::Settings seeded(uint64_t seed) {
  emulation::Settings settings = Rig::quiet();
  settings.seed = seed;
  return settings;
}

// All rows of a step against the contract; rows that do not exist stay as they were.
void check_step(const AttentionStep& step, uint64_t seed = 1) {
  Rig rig(seeded(seed));
  const std::vector<bf16_bits> out = step.run(rig);
  const auto dim = static_cast<size_t>(step.shape.dim);
  for (size_t s = 0; s < step.sequences.size(); ++s) {
    for (int32_t row = 0; row < step.shape.capacity; ++row) {
      const size_t r = s * static_cast<size_t>(step.shape.capacity) + static_cast<size_t>(row);
      const std::vector<bf16_bits> values = row_of(step, out, r);
      const int32_t rows = step.sequences[s].rows;
      const int32_t first = step.select == RowSelect::last ? rows - 1 : 0;
      if (row < first || row >= rows) {
        CHECK(values == std::vector<bf16_bits>(values.size(), AttentionStep::kUntouched));
        continue;
      }
      for (int32_t head = 0; head < step.shape.heads; ++head) {
        const auto begin = values.begin() + static_cast<ptrdiff_t>(head) * step.shape.dim;
        const std::vector<bf16_bits> got(begin, begin + static_cast<ptrdiff_t>(dim));
        const bool same = !knows_mma_order() || got == step.exact(s, row, head);
        CHECK_MESSAGE(same, "base ", step.sequences[s].base, " row ", row, " head ", head);
        const std::vector<double> ideal = step.ideal(s, row, head);
        double error = 0.0;
        for (size_t d = 0; d < dim; ++d) {
          error = std::max(error, std::abs(to_float(got[d]) - ideal[d]));
        }
        CHECK(error < 0.02);
      }
    }
  }
}

constexpr bf16_bits kNan = 0x7fc0;
constexpr bf16_bits kHuge = 0x7f00;  // 1.7e38

AttentionStep chain_step(const AttentionShape& shape, int32_t base, int32_t rows, uint64_t seed) {
  AttentionStep step(shape, 1, seed);
  step.sequences[0].base = base;
  step.sequences[0].rows = rows;
  return step;
}

// Masks of a tree: row i sees its ancestors and itself.
std::vector<uint64_t> tree_masks(const std::vector<int32_t>& parents) {
  std::vector<uint64_t> sees;
  for (size_t i = 0; i < parents.size(); ++i) {
    const uint64_t above = parents[i] < 0 ? 0 : sees[static_cast<size_t>(parents[i])];
    sees.push_back(above | uint64_t{1} << i);
  }
  return sees;
}

std::vector<int32_t> random_parents(int32_t rows, std::mt19937_64& random) {
  std::vector<int32_t> parents;
  for (int32_t i = 0; i < rows; ++i) {
    parents.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(i + 1)) - 1);
  }
  return parents;
}

TEST_CASE("one row behind every short prefix") {
  for (int32_t base = 0; base <= 130; ++base) {
    check_step(chain_step({.heads = 2}, base, 1, static_cast<uint64_t>(base)));
  }
}

TEST_CASE("rows around the edges of splits") {
  for (const int32_t edge : {256, 1024, 1280, 4096, 4608, 16384, 17408}) {
    for (int32_t base = edge - 1; base <= edge + 1; ++base) {
      const int32_t slots = (base + 2 + 15) / 16 * 16;
      check_step(chain_step({.heads = 1, .slots = slots, .capacity = 2}, base, 2, 7));
    }
  }
}

TEST_CASE("partial results of every split") {
  const AttentionStep step = chain_step({.heads = 2, .slots = 17440, .capacity = 2}, 17420, 1, 5);
  Rig rig;
  std::vector<float> partials;
  step.run(rig, &partials);
  const std::vector<Partial> splits = step.exact_splits(0, 0, 1);
  REQUIRE(splits.size() == 8 + 12 + 24 + 2);
  const size_t dim = 64, rows = 2, heads = 2, first = splits.size();  // of row 0, head 1
  const size_t ml = rows * heads * splits.size() * dim;
  for (size_t i = 0; i < splits.size(); ++i) {
    const auto begin = partials.begin() + static_cast<ptrdiff_t>((first + i) * dim);
    CHECK(std::vector<float>(begin, begin + 64) == splits[i].o);
    CHECK(partials[ml + 2 * (first + i)] == splits[i].m);
    CHECK(partials[ml + 2 * (first + i) + 1] == splits[i].l);
  }
}

TEST_CASE("every head dimension, group and number of rows, with garbage in what nobody sees") {
  uint64_t seed = 1;
  for (const int32_t dim : {64, 96, 128}) {
    for (const auto& [kv_heads, group] :
         {std::pair{1, 1}, {2, 3}, {3, 4}, {1, 8}, {1, 12}, {1, 17}}) {
      for (const int32_t rows : {1, 2, 7, 16}) {
        ++seed;
        const auto base = static_cast<int32_t>(seed * 37 % 180);
        AttentionStep step = chain_step({.heads = kv_heads * group,
                                         .kv_heads = kv_heads,
                                         .dim = dim,
                                         .slots = 208,
                                         .capacity = 16},
                                        base, rows, seed);
        for (int32_t slot = base + rows; slot < 208; ++slot) step.fill_slot(0, slot, kHuge);
        check_step(step, seed);
      }
    }
  }
}

TEST_CASE("segments of a prompt see those before them, and share the scratch of 64 rows") {
  const AttentionShape shape{
      .heads = 4, .kv_heads = 2, .slots = 384, .window = 150, .capacity = 64};
  AttentionStep step(shape, 4, 11);
  for (size_t s = 0; s < 4; ++s) {
    step.sequences[s].keys = step.sequences[0].keys;  // of one cache
    step.sequences[s].values = step.sequences[0].values;
    step.sequences[s].base = 90 + 64 * static_cast<int32_t>(s);
    step.sequences[s].rows = s == 3 ? 5 : 64;
  }
  Rig rig(seeded(12));
  const std::vector<bf16_bits> out = step.run(rig);
  for (size_t s = 0; s < 4; ++s) {
    AttentionStep own = step;
    own.sequences = {step.sequences[s]};
    own.q.resize(64 * step.query_values());
    for (size_t row = 0; row < 64; ++row) own.copy_query(step, 64 * s + row, row);
    Rig other(seeded(13));
    const std::vector<bf16_bits> want = own.run(other);
    for (size_t row = 0; row < 64; ++row) {
      CHECK(row_of(step, out, 64 * s + row) == row_of(own, want, row));
    }
  }
}

TEST_CASE("64 rows up to the last slot, in both schedules") {
  check_step(chain_step({.heads = 1, .slots = 80, .capacity = 64}, 16, 64, 3));
  check_step(chain_step({.heads = 4, .kv_heads = 2, .slots = 176, .capacity = 64}, 112, 64, 4));
}

TEST_CASE("windows, across tiles and splits and smaller than the new rows") {
  for (const int32_t window : {1, 5, 63, 64, 65, 128, 200, 1000}) {
    for (const int32_t base : {0, 3, 130, 300}) {
      check_step(
          chain_step({.heads = 2, .slots = 320, .window = window, .capacity = 12}, base, 9, 11));
    }
  }
}

TEST_CASE("only the last row of every segment") {
  AttentionStep step({.heads = 4, .kv_heads = 2, .slots = 160, .capacity = 12}, 3, 5);
  step.select = RowSelect::last;
  for (size_t s = 0; s < 3; ++s) {
    step.sequences[s].base = static_cast<int32_t>(60 * s);
    step.sequences[s].rows = static_cast<int32_t>(6 * s);
  }
  check_step(step);
}

TEST_CASE("a step sized for some positions equals one sized for the whole cache") {
  AttentionStep step = chain_step({.slots = 1536, .capacity = 3}, 250, 3, 6);
  Rig rig;
  const std::vector<bf16_bits> whole = step.run(rig);
  step.positions = 253;
  CHECK(step.run(rig) == whole);
}

TEST_CASE("trees: every node equals its path as a chain, and as one row at a time") {
  std::mt19937_64 random(17);
  for (const auto order : {emulation::MmaOrder::ascending, emulation::MmaOrder::pairwise}) {
    emulation::Settings settings = seeded(5);
    settings.mma_order = order;
    for (const int32_t base : {0, 61, 120}) {
      const AttentionShape shape{.heads = 4, .kv_heads = 2, .slots = 160, .capacity = 24};
      AttentionStep tree = chain_step(shape, base, 24, random());
      const std::vector<int32_t> parents = random_parents(24, random);
      tree.sequences[0].sees = tree_masks(parents);
      if (order == emulation::MmaOrder::ascending) check_step(tree);
      Rig rig(settings);
      const std::vector<bf16_bits> out = tree.run(rig);
      for (int32_t node = 0; node < 24; node += 3) {
        const uint64_t sees = tree.sequences[0].sees[static_cast<size_t>(node)];
        AttentionStep chain = tree;
        chain.sequences[0].sees.clear();
        int32_t length = 0;
        for (int32_t i = 0; i <= node; ++i) {
          if ((sees >> i & 1) == 0) continue;
          chain.copy_slot(tree, 0, base + i, 0, base + length);
          chain.copy_query(tree, static_cast<size_t>(i), static_cast<size_t>(length++));
        }
        chain.sequences[0].rows = length;
        const std::vector<bf16_bits> want = row_of(tree, out, static_cast<size_t>(node));
        const auto last = static_cast<size_t>(length - 1);
        CHECK(row_of(chain, chain.run(rig), last) == want);
        AttentionStep single = chain_step({.heads = 4, .kv_heads = 2, .slots = 160}, 0, 1, 1);
        single.sequences[0].keys = chain.sequences[0].keys;
        single.sequences[0].values = chain.sequences[0].values;
        single.sequences[0].base = base + length - 1;
        single.copy_query(chain, last, 0);
        CHECK(row_of(single, single.run(rig), 0) == want);
      }
    }
  }
}

TEST_CASE("the rows of one depth equal those of the whole tree, and others stay as they were") {
  std::vector<DraftNode> nodes{{}};
  for (const int32_t parent : {0, 0, 0, 0, 1, 1, 3, 4, 5, 5, 7, 7, 7, 10, 11}) {
    const int32_t depth = nodes[static_cast<size_t>(parent)].depth + 1;
    nodes.push_back({.parent = parent, .depth = depth});
  }
  for (const int32_t base : {0, 61, 120}) {
    AttentionStep step = chain_step({.heads = 4, .kv_heads = 2, .slots = 160, .capacity = 16}, base,
                                    static_cast<int32_t>(nodes.size()), 23);
    step.tree = shape_of(nodes);
    step.sequences[0].sees.assign(step.tree.sees, step.tree.sees + step.tree.rows);
    Rig rig;
    const std::vector<bf16_bits> whole = step.run(rig);
    step.select = RowSelect::parents;
    for (; step.depth < 5; ++step.depth) {
      const std::vector<bf16_bits> out = step.run(rig);
      for (int32_t row = 0; row < step.tree.rows; ++row) {
        const auto r = static_cast<size_t>(row);
        const bool fed =
            step.tree.depth[row] == step.depth &&
            std::count(step.tree.parent + 1, step.tree.parent + step.tree.rows, row) > 0;
        const std::vector<bf16_bits> old(step.query_values(), AttentionStep::kUntouched);
        CHECK(row_of(step, out, r) == (fed ? row_of(step, whole, r) : old));
      }
    }
  }
}

TEST_CASE("a chain given as masks is the chain") {
  std::mt19937_64 random(3);
  for (const int32_t base : {0, 50, 127}) {
    AttentionStep step = chain_step({.slots = 192, .window = 70, .capacity = 20}, base, 20, 8);
    Rig rig;
    const std::vector<bf16_bits> chain = step.run(rig);
    std::vector<int32_t> parents;
    for (int32_t i = 0; i < 20; ++i) parents.push_back(i - 1);
    step.sequences[0].sees = tree_masks(parents);
    CHECK(step.run(rig) == chain);
  }
}

// Rows that see only themselves, all alike; what lies between them is not a number.
TEST_CASE("a row alone equals itself at every place among others") {
  const AttentionShape shape{.heads = 3, .slots = 160, .capacity = 64};
  AttentionStep alone = chain_step({.heads = 3, .slots = 160}, 90, 1, 21);
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    emulation::Settings settings = seeded(seed);
    settings.mma_order = emulation::MmaOrder::pairwise;
    Rig rig(settings);
    const std::vector<bf16_bits> want = alone.run(rig);
    for (const int32_t others : {0, 1}) {
      AttentionStep crowd = chain_step(shape, 90, 64, 22);
      for (int32_t slot = 0; slot < 90; ++slot) crowd.copy_slot(alone, 0, slot, 0, slot);
      for (int32_t i = 0; i < 64; ++i) {
        crowd.sequences[0].sees.push_back(uint64_t{1} << i);
        crowd.copy_slot(alone, 0, 90, 0, 90 + i);
        crowd.copy_query(alone, 0, static_cast<size_t>(i));
        if (i % 2 == others) continue;
        crowd.fill_slot(0, 90 + i, kNan);
        crowd.fill_query(static_cast<size_t>(i), kNan);
      }
      const std::vector<bf16_bits> out = crowd.run(rig);
      for (int32_t i = others; i < 64; i += 2) {
        CHECK_MESSAGE(row_of(crowd, out, static_cast<size_t>(i)) == want, "place ", i);
      }
    }
  }
}

TEST_CASE("sequences do not see each other") {
  for (const size_t count : {2, 5, 8}) {
    AttentionStep step({.heads = 4, .kv_heads = 2, .slots = 144, .capacity = 8}, count, count);
    for (size_t s = 0; s < count; ++s) {
      step.sequences[s].base = static_cast<int32_t>(s * 33 % 130);
      step.sequences[s].rows = static_cast<int32_t>(s * 5 % 9);
    }
    // The last one is broken: only its own rows may show it.
    step.sequences.back().rows = 3;
    step.fill_slot(count - 1, step.sequences.back().base, kNan);
    Rig rig(seeded(count));
    const std::vector<bf16_bits> out = step.run(rig);
    for (size_t s = 0; s + 1 < count; ++s) {
      AttentionStep single(step.shape, 1, 1);
      single.sequences[0] = step.sequences[s];
      const std::vector<bf16_bits> want = [&] {
        for (size_t row = 0; row < 8; ++row) single.copy_query(step, 8 * s + row, row);
        return single.run(rig);
      }();
      for (size_t row = 0; row < 8; ++row) {
        CHECK(row_of(step, out, 8 * s + row) == row_of(single, want, row));
      }
    }
  }
}

TEST_CASE("rows that are not numbers stay so") {
  AttentionStep step = chain_step({.heads = 2, .capacity = 4}, 70, 4, 9);
  step.fill_slot(0, 73, kNan);  // what the last row alone sees
  Rig rig;
  const std::vector<bf16_bits> out = step.run(rig);
  for (const bf16_bits v : row_of(step, out, 3)) CHECK(std::isnan(to_float(v)));
}

TEST_CASE("shapes that the kernels do not have are refused") {
  AttentionStep heads = chain_step({.dim = 80}, 0, 1, 1);
  AttentionStep positions = chain_step({}, 0, 1, 1);
  positions.positions = 257;
  Rig rig;
  CHECK_THROWS_WITH(heads.run(rig),
                    "attention: CUDA has heads of 64, 96 and 128 components, not 80");
  CHECK_THROWS_WITH(positions.run(rig),
                    "attention: a step below position 257 of a cache of 256 slots");
}

}  // namespace
}  // namespace specrt::cuda

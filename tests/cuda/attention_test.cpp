// attention: every row against the contract bit for bit and against double, whatever else is in the
// step and however it is divided.
#include <cmath>

#include "attention_rig.h"

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
        const bool same = got == step.exact(s, row, head);
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

TEST_CASE("one row behind every short prefix") {
  for (int32_t base = 0; base <= 130; ++base) {
    AttentionStep step({.heads = 2, .kv_heads = 1}, 1, static_cast<uint64_t>(base));
    step.sequences[0].base = base;
    step.sequences[0].rows = 1;
    check_step(step);
  }
}

}  // namespace
}  // namespace specrt::cuda

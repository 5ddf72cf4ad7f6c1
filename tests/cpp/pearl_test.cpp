// The overlapping loop over table models: whatever is drafted, and however the streams run, the
// tokens are those of direct sampling.
#include <doctest/doctest.h>

#include "table_rig.h"

namespace specrt::testing {
namespace {

Config pearl_config(uint64_t index, int32_t sequences) {
  Config config = draw_config(index, sequences);
  config.loop = LoopKind::pearl;
  return config;
}

void check(const Config& config, uint64_t index) {
  Rig rig(config.rig);
  const std::string wrong = difference(rig, config, run_loop(rig, config));
  REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
}

TEST_CASE("random configurations through Pearl give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 3000; ++index) check(pearl_config(5'000'000 + index, 1), index);
}

TEST_CASE("two and three sequences under Pearl give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 1200; ++index) {
    check(pearl_config(6'000'000 + index, 2 + static_cast<int32_t>(index % 2)), index);
  }
}

TEST_CASE("Pearl with an n-gram lookup, alone and before the model, gives the same tokens") {
  for (uint64_t index = 0; index < 1500; ++index) {
    Config config = pearl_config(7'000'000 + index, 1);
    config.rig.ngram = 1 + static_cast<int32_t>(index % 3);
    if (index % 2 == 0) config.rig.window = 0;
    check(config, index);
  }
}

}  // namespace
}  // namespace specrt::testing

// The decoding loop over table models: whatever is drafted, the tokens are those of direct
// sampling.
#include <doctest/doctest.h>

#include "table_rig.h"

namespace specrt::testing {
namespace {

TEST_CASE("random configurations through Lockstep give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 3000; ++index) {
    const Config config = draw_config(index, 1);
    Rig rig(config.rig);
    const std::string wrong = difference(rig, config, run_loop(rig, config));
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
  }
}

TEST_CASE("two and three sequences in a step give the tokens of direct sampling") {
  for (uint64_t index = 0; index < 1200; ++index) {
    const Config config = draw_config(1'000'000 + index, 2 + static_cast<int32_t>(index % 2));
    Rig rig(config.rig);
    const std::string wrong = difference(rig, config, run_loop(rig, config));
    REQUIRE_MESSAGE(wrong.empty(), "configuration ", index, ": ", wrong);
  }
}

}  // namespace
}  // namespace specrt::testing

// The checks of the scripted backend can fail: each deliberate mistake is noticed.
#include <doctest/doctest.h>

#include "table_rig.h"

namespace specrt::testing {
namespace {

// Share of `runs` random configurations in which the fault shows.
double noticed(Fault fault, uint64_t runs, LoopKind loop = LoopKind::lockstep) {
  uint64_t count = 0;
  for (uint64_t index = 0; index < runs; ++index) {
    Config config = draw_config(4'000'000 + index, 1);
    config.loop = loop;
    config.rig.streams = StreamUse::separate;
    config.rig.fault = fault;
    Rig rig(config.rig);
    if (!difference(rig, config, run_loop(rig, config)).empty()) ++count;
  }
  return static_cast<double>(count) / static_cast<double>(runs);
}

TEST_CASE("without a fault nothing is reported") {
  CHECK_EQ(noticed(Fault::none, 300), 0);
  CHECK_EQ(noticed(Fault::none, 300, LoopKind::pearl), 0);
}

TEST_CASE("under Pearl, too, mistakes are noticed") {
  CHECK(noticed(Fault::judged_at_next_position, 300, LoopKind::pearl) > 0.5);
  CHECK(noticed(Fault::draft_kv_too_long, 300, LoopKind::pearl) > 0.5);
  CHECK(noticed(Fault::draft_does_not_wait, 300, LoopKind::pearl) > 0.5);
  CHECK(noticed(Fault::target_does_not_wait, 300, LoopKind::pearl) > 0.5);
  CHECK(noticed(Fault::eos_ignored, 300, LoopKind::pearl) > 0.2);
  CHECK(noticed(Fault::draft_beyond_limit, 300, LoopKind::pearl) > 0.1);
  CHECK(noticed(Fault::kv_row_not_written, 300, LoopKind::pearl) > 0.2);
}

TEST_CASE("a verdict with the noise of another position changes the tokens") {
  CHECK(noticed(Fault::judged_at_next_position, 300) > 0.5);
}

TEST_CASE("a drafter's KV that keeps a rejected token is noticed") {
  CHECK(noticed(Fault::draft_kv_too_long, 300) > 0.5);
}

TEST_CASE("streams that do not wait for each other race") {
  CHECK(noticed(Fault::draft_does_not_wait, 300) > 0.5);
  CHECK(noticed(Fault::target_does_not_wait, 300) > 0.5);
}

TEST_CASE("a run that goes on behind its end is noticed") {
  CHECK(noticed(Fault::eos_ignored, 300) > 0.2);
  CHECK(noticed(Fault::judged_after_stop, 300) > 0.2);
  CHECK(noticed(Fault::draft_beyond_limit, 300) > 0.2);
}

TEST_CASE("a KV slot that is not written is noticed") {
  CHECK(noticed(Fault::kv_row_not_written, 300) > 0.5);
}

TEST_CASE("the race detector names the cell and both sides") {
  std::vector<std::string> reports;
  RaceDetector races([&](const std::string& report) { reports.push_back(report); });
  Cells cells;
  Cell<int32_t> tok[4];
  races.watch(reinterpret_cast<const std::byte*>(&cells), sizeof(cells));
  races.watch(reinterpret_cast<const std::byte*>(tok), sizeof(tok));
  races.name_sequence("a", {.cells = &cells, .tok = tok, .log = nullptr, .log_slots = 0}, 4);
  races.access(&cells.tail, CellAccess::write);
  races.acquire(1, races.release(kHost));
  races.set_actor(1);
  races.access(&cells.tail, CellAccess::write);  // in order: the host handed on its work
  races.access(&tok[2], CellAccess::read);
  CHECK(reports.empty());
  races.set_actor(2);
  races.access(&cells.tail, CellAccess::read);
  races.access(&tok[2], CellAccess::write);
  REQUIRE_EQ(reports.size(), 2);
  CHECK_EQ(reports[0], "race: a.tail is read by stream 2 and was written by stream 1 in no order");
  CHECK_EQ(reports[1],
           "race: a.tok[2] is written by stream 2 and was read by stream 1 in no order");
}

}  // namespace
}  // namespace specrt::testing

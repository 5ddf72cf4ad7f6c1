// clock_step: marks in memory that the host reads, on the host's clock, and paced steps.
#include <chrono>

#include "devices.h"

namespace specrt {
namespace {

int64_t steady_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// A stream with a clock, and the span of its steps.
struct Clocked {
  std::unique_ptr<Backend> backend = make_backend();
  std::unique_ptr<Stream> stream = backend->make_stream({});
  Buffer spans = backend->alloc_shared(2 * sizeof(StepSpan));
  Buffer clock_memory = backend->alloc_shared(sizeof(StepClock));

  StepSpan& span(size_t s) { return spans.as<StepSpan>()[s]; }
  const StepClock& clock() const { return *clock_memory.as<StepClock>(); }

  void enqueue_step(double least_ms) {
    StepRows rows;
    rows.segment_count = 2;
    rows.capacity = 8;
    for (size_t s = 0; s < 2; ++s) rows.segments[s].span = &span(s);
    for (const ClockEdge edge : {ClockEdge::begin, ClockEdge::end}) {
      backend->clock_step(*stream, {.rows = rows,
                                    .clock = clock_memory.as<StepClock>(),
                                    .edge = edge,
                                    .least_ms = least_ms});
    }
  }
  void sync() { stream->record().wait(); }
};

TEST_CASE("steps with rows are marked on the host's clock and last as long as told") {
  const Devices one;
  Clocked clocked;
  clocked.enqueue_step(0);
  clocked.sync();
  CHECK_EQ(clocked.clock().count, 0);
  clocked.span(1).rows = 3;
  constexpr double kLeastMs = 3;
  const auto work =
      clocked.backend->record(*clocked.stream, [&] { clocked.enqueue_step(kLeastMs); });
  const int64_t begin = steady_ns(), offset = clocked.backend->clock_offset();
  constexpr int64_t kNear = 1'000'000;  // of the two clocks, for a measurement on a busy machine
  for (uint32_t step = 0; step < 3; ++step) {
    work->launch(*clocked.stream);
    clocked.sync();
    REQUIRE_EQ(clocked.clock().count, step + 1);
    const StepMark& mark = clocked.clock().marks[step];
    CHECK(mark.end - mark.begin >= static_cast<int64_t>(kLeastMs * 1e6));
    CHECK(mark.begin + offset > begin - kNear);
    CHECK(mark.end + offset < steady_ns() + kNear);
    if (step > 0) CHECK(mark.begin >= clocked.clock().marks[step - 1].end);
  }
}

TEST_CASE("a stream works while a step of another waits for its end") {
  const Devices one;
  Clocked slow, fast;
  slow.span(0).rows = 1;
  fast.span(0).rows = 1;
  slow.enqueue_step(60);
  for (int step = 0; step < 5; ++step) fast.enqueue_step(1);
  const Event last = slow.stream->record();
  fast.sync();
  CHECK_FALSE(last.ready());
  last.wait();
  CHECK_EQ(fast.clock().count, 5);
  CHECK_EQ(slow.clock().count, 1);
}

TEST_CASE("marks are a ring") {
  const Devices one;
  Clocked clocked;
  clocked.span(0).rows = 1;
  clocked.clock_memory.as<StepClock>()->count = StepClock::kMarks;
  clocked.enqueue_step(0);
  clocked.sync();
  CHECK_EQ(clocked.clock().count, StepClock::kMarks + 1);
  CHECK(clocked.clock().marks[0].end > 0);
}

}  // namespace
}  // namespace specrt

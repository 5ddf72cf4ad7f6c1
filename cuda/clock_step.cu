// clock_step: notes when steps run, and makes paced ones last.
#include <algorithm>
#include <chrono>
#include <limits>

#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/publish.cuh"
#include "device/rules.h"

namespace specrt::cuda {

namespace {

constexpr unsigned kThreads = 32;  // a warp, the smallest block

__device__ __forceinline__ bool has_rows(const StepRows& step) {
  for (int32_t s = 0; s < step.segment_count; ++s) {
    if (rows_of(step, s).end > 0) return true;
  }
  return false;
}

__device__ __forceinline__ void note_edge(const ClockStepArgs& args) {
  StepClock& clock = *args.clock;
  if (args.edge == ClockEdge::begin) {
    clock.begun = static_cast<int64_t>(nanotime());
    return;
  }
  wait_until(static_cast<uint64_t>(clock.begun + static_cast<int64_t>(args.least_ms * 1e6)));
  finish_step(clock, static_cast<int64_t>(nanotime()), PublishToHost{});
}

struct ReadClockArgs {
  uint64_t* now;  // in memory that the host reads
};

int64_t steady_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

}  // namespace

// clock_step: clock = when a step with rows begins, or a mark where it ends, not before
//   `least_ms` have passed
// clock in memory that the host reads; spans of the step
// grid 1, block 32, of which the first thread works; latency bound, a write over the bus
// nanoseconds of the device's global timer, in steps of about a microsecond
// The kernel behind it is let in only at its end: blocks that wait would take the place of another
// stream's while a paced step lasts.
__global__ void clock_step_kernel(const __grid_constant__ ClockStepArgs args) {
  pdl_wait();
  if (threadIdx.x == 0 && has_rows(args.rows)) note_edge(args);
  pdl_launch();
}

// read_clock: now = the device's global timer
__global__ void read_clock_kernel(const __grid_constant__ ReadClockArgs args) {
  if (threadIdx.x == 0) *args.now = nanotime();
}

void clock_step(cudaStream_t stream, const ClockStepArgs& args) {
  launch(stream, clock_step_kernel, 1, kThreads, 0, args, {.pdl = true});
}

// The kernel ran between two looks at the host's clock, of which the closest say the most.
int64_t clock_offset(cudaStream_t stream, uint64_t* now) {
  constexpr int kLooks = 5;
  int64_t offset = 0, closest = std::numeric_limits<int64_t>::max();
  for (int look = 0; look < kLooks; ++look) {
    const int64_t before = steady_ns();
    launch(stream, read_clock_kernel, 1, kThreads, 0, {now});
    CUDA_CHECK(cudaStreamSynchronize(stream));
    const int64_t lasted = steady_ns() - before;
    if (lasted >= closest) continue;
    closest = lasted;
    offset = before + lasted / 2 - static_cast<int64_t>(*now);
  }
  return offset;
}

}  // namespace specrt::cuda

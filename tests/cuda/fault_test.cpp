// Faults that are put in on purpose: each must show, as a wrong result or as a report.
#include <cstring>

#include "fault_kernels.h"
#include "rig.h"

namespace specrt::cuda {
namespace {

constexpr size_t kValues = 128;
constexpr unsigned kThreads = 64;
constexpr size_t kSharedBytes = 4096;
constexpr uint64_t kSeeds = 20;

emulation::Settings seeded(uint64_t seed) {
  emulation::Settings settings = Rig::quiet();
  settings.seed = seed;
  settings.trap_guards = false;  // the report is what is tested
  return settings;
}

std::vector<uint4> values() {
  std::vector<uint4> out(kValues);
  for (unsigned i = 0; i < kValues; ++i)
    out[i] = make_uint4(4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3);
  return out;
}

// In how many of kSeeds runs the first kThreads results were not the inputs.
int wrong_runs(FaultKernel kernel) {
  int wrong = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    Rig rig(seeded(seed));
    const std::vector<uint4> in = values();
    DeviceArray<uint4> device_in(rig, in), out(kValues);
    launch(rig.stream(), kernel, 1, kThreads, kSharedBytes, {device_in.data(), out.data()});
    const std::vector<uint4> got = out.read(rig);
    wrong += std::memcmp(got.data(), in.data(), kThreads * sizeof(uint4)) == 0 ? 0 : 1;
  }
  return wrong;
}

std::string report_of(FaultKernel kernel, LaunchOptions options = {}) {
  Rig rig(seeded(1));
  DeviceArray<uint4> in(rig, values()), out(kValues);
  launch(rig.stream(), kernel, 1, kThreads, kSharedBytes, {in.data(), out.data()}, options);
  return rig.failure();
}

void check_contains(const std::string& text, const std::string& part) {
  INFO(text);
  CHECK(text.find(part) != std::string::npos);
}

TEST_CASE("a missing barrier or wait gives wrong results in some order of threads") {
  CHECK(wrong_runs(copy_with_proxy_fence) == 0);
  CHECK(wrong_runs(copy_without_barrier) > 0);
  CHECK(wrong_runs(copy_without_warp_barrier) > 0);
  CHECK(wrong_runs(copy_with_one_group_pending) > 0);
  CHECK(wrong_runs(copy_without_mbar_wait) > 0);
  CHECK(wrong_runs(copy_from_reissued_slot) > 0);
}

TEST_CASE("reading the predecessor's results before pdl_wait gives stale values") {
  for (const auto prologues : {emulation::Prologues::always, emulation::Prologues::never}) {
    emulation::Settings settings = seeded(1);
    settings.prologues = prologues;
    settings.hide_memory = false;
    settings.start_delay_us = 1000000;  // both kernels are enqueued when the first starts
    Rig rig(settings);
    const std::vector<uint4> in = values();
    DeviceArray<uint4> device_in(rig, in), middle(kValues), out(kValues);
    launch(rig.stream(), copy_with_proxy_fence, 1, kThreads, kSharedBytes,
           {device_in.data(), middle.data()});
    launch(rig.stream(), copy_before_pdl_wait, 1, kThreads, 0, {middle.data(), out.data()},
           {.pdl = true});
    const std::vector<uint4> got = out.read(rig);
    const bool right = std::memcmp(got.data(), in.data(), kThreads * sizeof(uint4)) == 0;
    CHECK(right == (prologues == emulation::Prologues::never));
    CHECK(emulation::counters().early_prologues == (right ? 0 : 1));
  }
}

TEST_CASE("a kernel without its grid wait is reported, and one that reads too early reads poison") {
  // What a kernel launched with pdl looks like whose pdl_wait was dropped.
  check_contains(report_of(copy_with_proxy_fence, {.pdl = true}),
                 "copy_with_proxy_fence block (0,0,0): launched with pdl, and warp");
  check_contains(report_of(write_before_pdl_wait, {.pdl = true}),
                 "write_before_pdl_wait: a write to an allocation of 2048 bytes before pdl_wait");
  Rig rig(seeded(1));
  DeviceArray<uint4> in(rig, values()), out(kValues);
  launch(rig.stream(), copy_before_pdl_wait, 1, kThreads, 0, {in.data(), out.data()},
         {.pdl = true});
  for (unsigned i = 0; i < kThreads; ++i) CHECK(out.read(rig)[i].x == 0x7fed7fed);
}

TEST_CASE("divergence and deadlock are reported with what each lane waits for") {
  std::string text = report_of(return_before_barrier);
  check_contains(text, "return_before_barrier block (0,0,0): divergent barrier");
  check_contains(text, "warp 0: lanes 0-31 wait at sync_block; warp 1: lanes 0-31 ended");

  text = report_of(barrier_in_half_a_warp);
  check_contains(text,
                 "divergent warp, warp 0: lanes 0-15 wait at sync_block, "
                 "lanes 16-31 wait at sync_warp");

  text = report_of(warps_at_different_ends);
  check_contains(text, "lane 7 ended, lanes 8-31 wait at a shuffle");

  text = report_of(wait_for_missing_bytes);
  check_contains(text,
                 "wait_for_missing_bytes block (0,0,0): deadlock, warp 0: lanes 0-31 wait at "
                 "mbar_wait, parity 0");
  check_contains(text, "mbarrier 0: phase 0, 0 arrivals missing, 512 of 1024 bytes");

  check_contains(report_of(wait_for_missing_block), "deadlock, threads only look again");
}

TEST_CASE("writes out of bounds are reported after the kernel") {
  check_contains(report_of(write_behind_the_end),
                 "write_behind_the_end: a write 0 bytes behind the end of an allocation of 2048");
  check_contains(report_of(write_behind_shared),
                 "a write 0 bytes behind the end of 4096 bytes of dynamic shared memory");
  check_contains(report_of(write_behind_variable),
                 "a write behind the end of a shared variable of 1008 bytes");
}

TEST_CASE("loads that are wrong are reported with their lane") {
  check_contains(report_of(load_outside),
                 "warp 1 lane 31: ld_cg16: 16 bytes outside every allocation");
  check_contains(report_of(load_misaligned), "ld_cg16: address not aligned to 16 bytes");
  check_contains(report_of(stream_what_a_kernel_wrote), "ld_stream16: memory that a kernel wrote");
}

TEST_CASE("asynchronous copies that are wrong are reported") {
  check_contains(report_of(end_with_copy_in_flight), "ended with bulk copies in flight");
  check_contains(report_of(end_with_group_in_flight), "cp.async copies that were not waited for");
  check_contains(report_of(copy_more_than_announced),
                 "bulk_g2s: 1024 bytes issued, 512 announced by mbar_expect_tx");
  check_contains(report_of(copy_without_init_fence), "mbar_init without fence_mbar_init");
  check_contains(report_of(copy_without_proxy_fence), "without fence_proxy_async");
  check_contains(report_of(copy_into_copy_in_flight), "a copy that is still in flight");
  check_contains(report_of(overwrite_mbarrier), "an mbarrier that something wrote over");
  check_contains(report_of(end_without_pdl_wait, {.pdl = true}), "ended without pdl_wait");
}

TEST_CASE("a device error is sticky until the device is reset") {
  Rig rig(seeded(1));
  DeviceArray<uint4> in(rig, values()), out(kValues);
  launch(rig.stream(), write_behind_the_end, 1, kThreads, 0, {in.data(), out.data()});
  CHECK(cudaStreamSynchronize(rig.stream()) == cudaErrorLaunchFailure);
  CHECK(cudaStreamSynchronize(rig.stream()) == cudaErrorLaunchFailure);
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
  CHECK(cudaPeekAtLastError() == cudaErrorLaunchFailure);
  void* more = nullptr;
  CHECK(cudaMalloc(&more, 16) == cudaErrorLaunchFailure);
  CHECK_THROWS_WITH_AS(
      launch(rig.stream(), copy_with_proxy_fence, 1, kThreads, kSharedBytes, {nullptr, nullptr}),
      doctest::Contains("unspecified launch failure"), Error);
  CHECK_FALSE(emulation::report().empty());
  emulation::reset(seeded(1));
  CHECK(cudaStreamSynchronize(rig.stream()) == cudaSuccess);
  CHECK(emulation::report().empty());
}

}  // namespace
}  // namespace specrt::cuda

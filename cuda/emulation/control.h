// What tests set and see of the emulated devices. Every setting holds until reset().
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace specrt::emulation {

// How an mma adds its 16 products to the accumulator. Correct code gives the same tokens, not the
// same bits, in all of them.
enum class MmaOrder { ascending, descending, pairwise };

// How often a kernel launched with pdl runs up to pdl_wait before the kernel before it starts.
enum class Prologues { never, sometimes, always };

uint64_t seed_of_environment();       // SPECRT_EMULATION_SEED, or 1
MmaOrder mma_order_of_environment();  // SPECRT_EMULATION_MMA, or ascending

struct Settings {
  uint64_t seed = seed_of_environment();
  MmaOrder mma_order = mma_order_of_environment();
  Prologues prologues = Prologues::sometimes;
  // A kernel launched with pdl always meets poison up to pdl_wait, except through the functions for
  // weights and bulk copies, and a write up to there is an error. For tests without other streams.
  bool hide_memory = false;
  int start_delay_us = 0;     // work waits this long before it starts, unless somebody waits for it
  bool print_reports = true;  // device errors go to stderr too
  bool trap_guards = true;    // with AddressSanitizer: touching a guard zone ends the program there

  int devices = 1;
  int compute_major = 9;
  int compute_minor = 0;
  int multiprocessors = 4;
  int driver_version = 13000;
  size_t memory_bytes = size_t{4} << 30;  // of each device; more is cudaErrorMemoryAllocation
};

// Waits for all work, forgets errors, and begins again with `settings`. Allocations, streams and
// events stay. Throws specrt::Error while a capture is under way.
void reset(const Settings& settings = {});

const Settings& settings();

// The next call of the API function `name` does nothing and gives `error`; `after` calls before it
// succeed.
void fail_call(const std::string& name, cudaError_t error, int after = 0);

// As if a kernel had failed: every later call gives `error` until reset().
void set_sticky_error(cudaError_t error);

// What the device error was: kernel, block, warp, lanes. Empty if there was none since reset().
std::string report();

// Counts since reset(), so that tests see that a case really happened.
struct Counters {
  int64_t kernels = 0;
  int64_t early_prologues = 0;  // kernels that ran up to pdl_wait before their predecessor started
  int64_t warp_collectives = 0;
  int64_t late_copies = 0;  // bulk copies that came only when nothing else could run
  int64_t captures = 0;     // begun
  int64_t event_waits = 0;  // of the host
  int64_t other_waits = 0;  // calls that may wait for more: of a stream, a device, all memory calls
};
Counters counters();

size_t live_allocations();

}  // namespace specrt::emulation

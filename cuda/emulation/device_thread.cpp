// What device threads call: every function of ptx.h that waits, exchanges or checks.
#include <chrono>

#include "base/error.h"
#include "cuda/emulation/block.h"
#include "cuda/emulation/engine.h"
#include "cuda/emulation/memory.h"
#include "cuda/emulation/ptx.h"
#include "cuda/emulation/report.h"

namespace specrt::emulation {
namespace {

Block& block() { return *Block::current()->block; }
Random& random() { return block().surroundings().random; }

void combine_nothing(void* const*) {}

void check_aligned(const char* what, const void* data, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(data) % alignment != 0) {
    fail_device(concat(what, ": address not aligned to ", alignment, " bytes"));
  }
}

void check_bulk_bytes(const char* what, uint32_t bytes) {
  if (bytes == 0 || bytes % 16 != 0) {
    fail_device(concat(what, ": ", bytes, " bytes; it must be a multiple of 16"));
  }
}

struct MbarWait {
  Block* block;
  uint64_t* barrier;
  uint32_t parity;
};

bool mbar_ended(Lane& lane) {
  const auto& wait = *static_cast<const MbarWait*>(lane.argument);
  return wait.block->copies().ended(wait.barrier, wait.parity);
}

}  // namespace

void* shared_variable(const void* key, size_t bytes, size_t alignment) {
  return block().shared().variable(key, bytes, alignment);
}

void* dynamic_shared() { return block().shared().dynamic(); }

uint32_t shared_address(const void* pointer) {
  if (!block().shared().holds(pointer, 1)) fail_device("smem_address: not in shared memory");
  return static_cast<uint32_t>(block().shared().offset(pointer));
}

uint64_t nanotime() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::nanoseconds(now).count());
}

// It counts as work: a thread that only looked again would be taken for a deadlock.
void wait_until(uint64_t end) {
  while (nanotime() < end) Block::park(LaneState::ready, "wait_until");
}

void collect(const char* what, Combine combine, void* argument) {
  Lane& lane = *Block::current();
  lane.combine = combine;
  lane.argument = argument;
  Block::park(LaneState::collective, what);
}

void sync_warp() { collect("sync_warp", &combine_nothing, nullptr); }

void sync_block() { Block::park(LaneState::barrier, "sync_block"); }

void pause_thread() {
  if (random().one_in(2)) Block::park(LaneState::spinning, "an atomic or a fence");
}

uint64_t shuffle(ShuffleSource source, unsigned operand, uint64_t value) {
  Shuffle exchange{source, operand, value};
  collect("a shuffle", &combine_shuffle, &exchange);
  return exchange.value;
}

void cp_async16(void* dst, const void* src, uint32_t bytes) {
  check_shared("cp_async16", dst, 16, 16);
  if (bytes > 16) fail_device(concat("cp_async16: ", bytes, " bytes; at most 16"));
  if (bytes > 0) check_global("cp_async16", src, bytes, 16);
  Block::current()->copies.issue(dst, src, bytes, random());
}

void cp_async_commit() { Block::current()->copies.commit(); }
void cp_async_wait(int pending) { Block::current()->copies.wait(pending); }

void mbar_init(uint64_t* barrier, uint32_t arrivals) {
  check_shared("mbar_init", barrier, 8, 8);
  block().copies().init(barrier, arrivals, block().shared().offset(barrier));
}
void fence_mbar_init() { block().copies().fence_init(); }
void mbar_expect_tx(uint64_t* barrier, uint32_t bytes) { block().copies().expect(barrier, bytes); }

void mbar_wait(uint64_t* barrier, uint32_t parity) {
  Lane& lane = *Block::current();
  MbarWait wait{&block(), barrier, parity};
  if (wait.block->copies().ended(barrier, parity)) return;
  lane.argument = &wait;
  lane.open = &mbar_ended;
  Block::park(LaneState::blocked, parity == 0 ? "mbar_wait, parity 0" : "mbar_wait, parity 1");
}

void bulk_g2s(void* dst, const void* src, uint32_t bytes, uint64_t* barrier) {
  check_bulk_bytes("bulk_g2s", bytes);
  check_shared("bulk_g2s", dst, bytes, 16);
  check_global("bulk_g2s", src, bytes, 16);
  block().copies().issue(dst, src, bytes, barrier, random());
}

void bulk_prefetch_l2(const void* src, uint32_t bytes) {
  check_bulk_bytes("bulk_prefetch_l2", bytes);
  check_global("bulk_prefetch_l2", src, bytes, 16);
}

void fence_proxy_async() { block().copies().fence_proxy(); }

bool predecessor_done(Lane& lane) { return lane.block->surroundings().predecessor_done; }

void pdl_wait() {
  Lane& lane = *Block::current();
  lane.warp->after_wait = true;
  if (predecessor_done(lane)) return;
  lane.open = &predecessor_done;
  Block::park(LaneState::blocked, "pdl_wait");
}

void check_shared(const char* what, const void* data, size_t bytes, size_t alignment) {
  check_aligned(what, data, alignment);
  if (!block().shared().holds(data, bytes)) {
    fail_device(concat(what, ": ", bytes, " bytes outside shared memory"));
  }
}

void check_global(const char* what, const void* data, size_t bytes, size_t alignment) {
  check_aligned(what, data, alignment);
  if (!memory().find(data, bytes)) {
    fail_device(concat(what, ": ", bytes, " bytes outside every allocation"));
  }
}

const void* weights(const void* data) {
  check_global("ld_stream16", data, 16, 16);
  if (memory().find(data, 16) != MemoryKind::device) {
    fail_device("ld_stream16: not device memory");
  }
  if (!memory().as_host_left_it(data)) fail_device("ld_stream16: memory that a kernel wrote");
  return memory().weights(data, 16);
}

}  // namespace specrt::emulation

// The host side of the CUDA backend on emulated devices: what it refuses, memory, streams that wait
// for those of another backend, errors.
#include <atomic>
#include <cstring>
#include <vector>

#include "cpu/cpu_backend.h"
#include "devices.h"

namespace specrt {
namespace {

TEST_CASE("a device that cannot be used is refused with what to do") {
  emulation::Settings settings;
  {
    settings.devices = 0;
    const Devices none(settings);
    CHECK_REFUSED(make_backend(), "no CUDA device is visible");
  }
  {
    settings = {};
    settings.compute_major = 8;
    const Devices older(settings);
    CHECK_REFUSED(make_backend(), "is sm_80; specrt's kernels are for sm_90a");
  }
  {
    settings = {};
    settings.driver_version = 0;
    const Devices none(settings);
    CHECK_REFUSED(make_backend(), "there is no NVIDIA driver; install it");
  }
  {
    settings = {};
    settings.driver_version = 12020;
    const Devices old(settings);
    CHECK_REFUSED(make_backend(),
                  "the NVIDIA driver knows CUDA up to 12.2, specrt was built with 13");
  }
  {
    const Devices one;
    CHECK_REFUSED(make_backend(3), "device 3 of 1 CUDA devices");
    emulation::fail_call("cudaFuncGetAttributes", cudaErrorNoKernelImageForDevice);
    CHECK_REFUSED(make_backend(), "specrt was built for other GPUs: install it with CMAKE_CUDA_");
    CHECK_EQ(make_backend()->name(), "cuda:sm_90:specrt SIMT emulator");
  }
}

TEST_CASE("memory is zeroed, and an error says how much was asked for and is free") {
  emulation::Settings settings;
  settings.memory_bytes = 1 << 20;
  const Devices small(settings);
  const auto backend = make_backend();
  CHECK_REFUSED(backend->alloc(2 << 20), "cannot hold another 2097152 bytes; 1048576 of 1048576");
  const Buffer device = backend->alloc(1000);
  std::vector<std::byte> seen(1000, std::byte{7});
  const auto stream = backend->make_stream({});
  backend->copy_to_host(*stream, {.host = seen.data(), .device = device.data(), .bytes = 1000});
  stream->record().wait();
  CHECK(seen == std::vector<std::byte>(1000));
  const Buffer shared = backend->alloc_shared(100);
  CHECK(std::memcmp(shared.data(), seen.data(), 100) == 0);
}

TEST_CASE("what a stream copies is there behind its event") {
  const Devices one;
  const auto backend = make_backend();
  const auto stream = backend->make_stream({}), other = backend->make_stream({.priority = 5});
  const Buffer host = backend->alloc_shared(64), device = backend->alloc(64),
               back = backend->alloc_shared(64);
  host.as<int>()[3] = 42;
  backend->copy_to_device(*stream, {.device = device.data(), .host = host.data(), .bytes = 64});
  other->wait(stream->record());
  backend->copy_to_host(*other, {.host = back.data(), .device = device.data(), .bytes = 64});
  other->record().wait();
  CHECK_EQ(back.as<int>()[3], 42);
}

TEST_CASE("a recording is run as often as it is launched, and not when it is made") {
  const Devices one;
  const auto backend = make_backend();
  const auto stream = backend->make_stream({});
  const Buffer host = backend->alloc_shared(64), device = backend->alloc(64);
  const auto work = backend->record(*stream, [&] {
    backend->copy_to_host(*stream, {.host = host.data(), .device = device.data(), .bytes = 64});
    CHECK_REFUSED(backend->feed_prompt(*stream, {}), "cannot be recorded");
    CHECK_REFUSED(stream->record(), "cannot be recorded");
  });
  for (int value = 1; value < 4; ++value) {
    host.as<int>()[0] = value;
    backend->copy_to_device(*stream, {.device = device.data(), .host = host.data(), .bytes = 64});
    stream->record().wait();
    host.as<int>()[0] = 0;
    work->launch(*stream);
    stream->record().wait();
    CHECK_EQ(host.as<int>()[0], value);
  }
  CHECK_REFUSED(backend->record(*stream, [] { fail("no"); }), "no");
  work->launch(*stream);  // the stream is as before
  stream->record().wait();
}

// A CPU stream that gets stuck until told to go on, or fails.
struct Stuck {
  explicit Stuck(bool throws) : backend(make_cpu_backend({.threads = 1})) {
    stream = backend->make_stream({});
    span.rows = throws ? 1 : 0;
    // An embedding of a token that does not exist fails on the CPU.
    tok = -1;
    StepRows rows;
    rows.segment_count = rows.capacity = 1;
    rows.segments[0] = {.span = &span, .tok = &tok};
    backend->embed(*stream, {.rows = rows,
                             .table = {.data = table, .rows = 1, .cols = 16},
                             .out = {.data = out, .cols = 16, .stride = 64}});
  }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;
  StepSpan span;
  Cell<int32_t> tok;
  alignas(64) std::byte table[64] = {};
  alignas(64) std::byte out[64] = {};
};

TEST_CASE("streams of two backends wait for each other") {
  const Devices one;
  const auto cuda = make_backend();
  const auto stream = cuda->make_stream({});
  Stuck cpu(false);
  const Buffer host = cuda->alloc_shared(64), device = cuda->alloc(64);
  host.as<int>()[0] = 5;
  stream->wait(cpu.stream->record());
  cuda->copy_to_device(*stream, {.device = device.data(), .host = host.data(), .bytes = 64});
  const Event copied = stream->record();
  cpu.stream->wait(copied);
  cpu.stream->record().wait();
  CHECK(copied.ready());
}

TEST_CASE("an error of another backend reaches whoever waits for the work behind it") {
  const Devices one;
  const auto cuda = make_backend();
  const auto stream = cuda->make_stream({});
  Stuck cpu(true);
  stream->wait(cpu.stream->record());
  CHECK_REFUSED(stream->record().wait(), "embed: token -1");
  stream->drain();
  stream->record().wait();
}

TEST_CASE("a kernel's error stays: the backend and new ones say to restart until it is gone") {
  const Devices one;
  const auto backend = make_backend();
  const auto stream = backend->make_stream({});
  emulation::set_sticky_error(cudaErrorIllegalAddress);
  CHECK_REFUSED(stream->record().wait(), "an illegal memory access was encountered");
  CHECK_REFUSED(stream->record(), "for this process: restart it");
  CHECK_REFUSED(backend->alloc(64), "for this process: restart it");
  CHECK_REFUSED(backend->make_stream({}), "for this process: restart it");
  CHECK_REFUSED(make_backend(), "for this process: restart it");
  stream->drain();
  emulation::reset();
  CHECK_EQ(make_backend()->name(), "cuda:sm_90:specrt SIMT emulator");
}

TEST_CASE("a call that fails once is an error, and the backend goes on") {
  const Devices one;
  const auto backend = make_backend();
  const auto stream = backend->make_stream({});
  const char* calls[] = {"cudaMalloc",
                         "cudaHostAlloc",
                         "cudaStreamCreateWithPriority",
                         "cudaEventCreateWithFlags",
                         "cudaEventRecord",
                         "cudaEventSynchronize"};
  for (const char* call : calls) {
    emulation::fail_call(call, cudaErrorMemoryAllocation);
    const auto use_all = [&] {
      backend->alloc(64);
      backend->alloc_shared(64);
      backend->make_stream({})->record().wait();
    };
    CHECK_THROWS_AS_MESSAGE(use_all(), Error, call);
    CHECK_NOTHROW_MESSAGE(use_all(), call);
  }
}

}  // namespace
}  // namespace specrt

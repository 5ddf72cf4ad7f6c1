// The emulated runtime API: order of streams and events, copies, errors of devices and calls.
#include <algorithm>
#include <cstring>
#include <mutex>

#include "rig.h"
#include "sample_kernels.h"

namespace specrt::cuda {
namespace {

cudaStream_t new_stream() {
  cudaStream_t stream = nullptr;
  CUDA_CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, 0));
  return stream;
}

cudaEvent_t new_event() {
  cudaEvent_t event = nullptr;
  CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

// Host functions append to a list: the order in which work ran.
struct Note {
  std::vector<int>* list;
  std::mutex* mutex;
  int value;
};

void write_note(void* argument) {
  const Note& note = *static_cast<const Note*>(argument);
  const std::lock_guard lock(*note.mutex);
  note.list->push_back(note.value);
}

TEST_CASE("work of a stream runs in order, work of two streams in any order") {
  bool mixed = false;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    emulation::Settings settings = Rig::quiet();
    settings.seed = seed;
    settings.start_delay_us = 1000000;
    Rig rig(settings);
    const cudaStream_t other = new_stream();
    std::vector<int> list;
    std::mutex mutex;
    std::vector<Note> notes;
    for (int i = 0; i < 20; ++i) notes.push_back({&list, &mutex, i});
    for (Note& note : notes) {
      CUDA_CHECK(cudaLaunchHostFunc(note.value < 10 ? rig.stream() : other, write_note, &note));
    }
    CHECK(cudaStreamQuery(rig.stream()) == cudaErrorNotReady);
    CUDA_CHECK(cudaDeviceSynchronize());
    CHECK(cudaStreamQuery(rig.stream()) == cudaSuccess);
    std::vector<int> first, second;
    for (const int value : list) (value < 10 ? first : second).push_back(value);
    CHECK(first.size() == 10);
    CHECK(second.size() == 10);
    CHECK(std::is_sorted(first.begin(), first.end()));
    CHECK(std::is_sorted(second.begin(), second.end()));
    mixed = mixed || !std::is_sorted(list.begin(), list.end());
    CUDA_CHECK(cudaStreamDestroy(other));
  }
  CHECK(mixed);
}

TEST_CASE("an event orders two streams") {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    emulation::Settings settings = Rig::quiet();
    settings.seed = seed;
    settings.start_delay_us = 1000000;
    Rig rig(settings);
    const cudaStream_t other = new_stream();
    const cudaEvent_t event = new_event();
    CHECK(cudaEventQuery(event) == cudaSuccess);  // never recorded
    std::vector<int> list;
    std::mutex mutex;
    Note before{&list, &mutex, 1}, after{&list, &mutex, 2};
    CUDA_CHECK(cudaLaunchHostFunc(rig.stream(), write_note, &before));
    CUDA_CHECK(cudaEventRecord(event, rig.stream()));
    CUDA_CHECK(cudaStreamWaitEvent(other, event));
    CUDA_CHECK(cudaLaunchHostFunc(other, write_note, &after));
    CHECK(cudaEventQuery(event) == cudaErrorNotReady);
    CUDA_CHECK(cudaEventSynchronize(event));
    CUDA_CHECK(cudaStreamSynchronize(other));
    CHECK(list == std::vector<int>{1, 2});
    CUDA_CHECK(cudaEventDestroy(event));
    CUDA_CHECK(cudaStreamDestroy(other));
  }
}

TEST_CASE("copies and fills run in stream order") {
  Rig rig;
  DeviceArray<uint32_t> a(64), b(64);
  uint32_t* pinned = nullptr;
  CUDA_CHECK(cudaHostAlloc(reinterpret_cast<void**>(&pinned), 256, cudaHostAllocPortable));
  CUDA_CHECK(cudaMemsetAsync(a.data(), 0x11, 256, rig.stream()));
  CUDA_CHECK(cudaMemsetAsync(a.data() + 32, 0x22, 128, rig.stream()));
  CUDA_CHECK(cudaMemcpyAsync(b.data(), a.data(), 256, cudaMemcpyDeviceToDevice, rig.stream()));
  CUDA_CHECK(cudaMemcpyAsync(pinned, b.data(), 256, cudaMemcpyDeviceToHost, rig.stream()));
  rig.sync();
  CHECK(pinned[31] == 0x11111111u);
  CHECK(pinned[32] == 0x22222222u);
  void* mapped = nullptr;
  CUDA_CHECK(cudaHostGetDevicePointer(&mapped, pinned, 0));
  CHECK(mapped == pinned);
  CUDA_CHECK(cudaFreeHost(pinned));
}

TEST_CASE("new memory is poison") {
  Rig rig;
  const std::vector<float> got = DeviceArray<float>(16).read(rig);
  for (const float value : got) CHECK(value != value);
}

TEST_CASE("an asynchronous copy reads pinned memory when it runs, ordinary memory at the call") {
  emulation::Settings settings = Rig::quiet();
  settings.start_delay_us = 1000000;
  Rig rig(settings);
  DeviceArray<uint32_t> a(1), b(1);
  uint32_t* pinned = nullptr;
  CUDA_CHECK(cudaHostAlloc(reinterpret_cast<void**>(&pinned), 4, cudaHostAllocPortable));
  uint32_t ordinary = 1;
  *pinned = 1;
  CUDA_CHECK(cudaMemcpyAsync(a.data(), &ordinary, 4, cudaMemcpyHostToDevice, rig.stream()));
  CUDA_CHECK(cudaMemcpyAsync(b.data(), pinned, 4, cudaMemcpyHostToDevice, rig.stream()));
  ordinary = 2;
  *pinned = 2;
  CHECK(a.read(rig)[0] == 1);
  CHECK(b.read(rig)[0] == 2);
  CUDA_CHECK(cudaFreeHost(pinned));
}

TEST_CASE("calls with wrong arguments are refused") {
  Rig rig;
  DeviceArray<uint32_t> a(4);
  uint32_t host[8] = {};
  CHECK(cudaMemsetAsync(a.data(), 0, 17, rig.stream()) == cudaErrorInvalidValue);
  CHECK(cudaMemcpyAsync(a.data(), host, 32, cudaMemcpyHostToDevice, rig.stream()) ==
        cudaErrorInvalidValue);
  CHECK(cudaMemcpyAsync(host, a.data(), 16, cudaMemcpyHostToDevice, rig.stream()) ==
        cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(cudaFree(host) == cudaErrorInvalidValue);
  CHECK(cudaMemsetAsync(a.data(), 0, 16, nullptr) == cudaErrorInvalidResourceHandle);
  const cudaStream_t gone = new_stream();
  CUDA_CHECK(cudaStreamDestroy(gone));
  CHECK(cudaStreamSynchronize(gone) == cudaErrorInvalidResourceHandle);
  CHECK_THROWS_WITH_AS(launch(rig.stream(), saxpy, 1, 33, 0, {}),
                       "launch: a block of 33 threads; it must be a multiple of 32 up to 1024",
                       Error);
  CHECK_THROWS_AS(launch(rig.stream(), saxpy, dim3(1, 70000), 32, 0, {}), Error);
  CHECK_THROWS_AS(launch(rig.stream(), saxpy, 1, 32, 228 << 10, {}), Error);
}

TEST_CASE("large shared memory is opted into by launch") {
  Rig rig;
  DeviceArray<float> x(rig, std::vector<float>(32, 1.0f)), sums(1);
  launch(rig.stream(), block_sums, 1, 32, 200 << 10, {x.data(), sums.data(), 32});
  CHECK(sums.read(rig)[0] == 32.0f);
  cudaFuncAttributes attributes;
  CUDA_CHECK(cudaFuncGetAttributes(&attributes, block_sums));
  CHECK(attributes.maxDynamicSharedSizeBytes == 200 << 10);
}

TEST_CASE("memory runs out where the device ends, and comes back") {
  emulation::Settings settings = Rig::quiet();
  settings.memory_bytes = 1000;
  Rig rig(settings);
  const size_t before = emulation::live_allocations();
  {
    DeviceArray<std::byte> most(900);
    size_t free = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&free, &total));
    CHECK(free == 100);
    CHECK(total == 1000);
    void* more = nullptr;
    CHECK(cudaMalloc(&more, 101) == cudaErrorMemoryAllocation);
    CHECK(more == nullptr);
  }
  CHECK(emulation::live_allocations() == before);
  DeviceArray<std::byte> again(900);
}

TEST_CASE("calls fail when a test wants it") {
  Rig rig;
  emulation::fail_call("cudaMalloc", cudaErrorMemoryAllocation, 1);
  DeviceArray<float> first(1);
  CHECK_THROWS_WITH_AS(DeviceArray<float>(1),
                       doctest::Contains("CUDA: out of memory in cudaMalloc"), Error);
  DeviceArray<float> third(1);
  emulation::set_sticky_error(cudaErrorIllegalAddress);
  CHECK(cudaStreamSynchronize(rig.stream()) == cudaErrorIllegalAddress);
  CHECK(cudaStreamSynchronize(rig.stream()) == cudaErrorIllegalAddress);
}

TEST_CASE("machines without a device, with an old driver, with another device") {
  int count = -1;
  {
    emulation::Settings none = Rig::quiet();
    none.devices = 0;
    emulation::reset(none);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
    CHECK(count == 0);
  }
  {
    emulation::Settings old = Rig::quiet();
    old.driver_version = 12040;
    emulation::reset(old);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
    int version = 0;
    CUDA_CHECK(cudaDriverGetVersion(&version));
    CHECK(version == 12040);
  }
  emulation::Settings two = Rig::quiet();
  two.devices = 2;
  two.compute_major = 7;
  two.multiprocessors = 80;
  emulation::reset(two);
  CUDA_CHECK(cudaGetDeviceCount(&count));
  CHECK(count == 2);
  CUDA_CHECK(cudaSetDevice(1));
  int device = -1, value = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CHECK(device == 1);
  CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice);
  CUDA_CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 1));
  CHECK(value == 7);
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, 1));
  CHECK(properties.multiProcessorCount == 80);
  CUDA_CHECK(cudaSetDevice(0));
  emulation::reset();
}

}  // namespace
}  // namespace specrt::cuda

// Allocations and copies of the emulated runtime API.
#include <cstring>
#include <optional>

#include "cuda/emulation/memory.h"
#include "cuda/emulation/runtime.h"

using namespace specrt::emulation;

namespace {

// Frees wait for all work, as the real ones do, and see what wrote past the ends.
cudaError_t release(MemoryKind kind, void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  engine().wait_all();
  const std::string broken = memory().check_guards();
  if (!broken.empty()) engine().set_error(cudaErrorLaunchFailure, broken);
  if (!memory().release(kind, pointer)) return cudaErrorInvalidValue;
  return broken.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

// After a device error memory is given back all the same, and the call tells of the error.
cudaError_t release_call(const char* name, MemoryKind kind, void* pointer) {
  if (engine().error() != cudaSuccess) memory().release(kind, pointer);
  return call(name, Rule::unblocked, [&] { return release(kind, pointer); });
}

bool expects_device(cudaMemcpyKind kind, bool destination) {
  return kind == cudaMemcpyDeviceToDevice ||
         kind == (destination ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost);
}

// Device memory where the direction says so, and no part of it outside an allocation.
bool valid_end(const void* pointer, size_t bytes, cudaMemcpyKind kind, bool destination) {
  const std::optional<MemoryKind> found = memory().find(pointer, bytes);
  if (!found) return kind != cudaMemcpyDefault ? !expects_device(kind, destination) : true;
  return kind == cudaMemcpyDefault ||
         (*found == MemoryKind::device) == expects_device(kind, destination);
}

}  // namespace

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return call("cudaMalloc", Rule::unblocked, [&] {
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    int device = 0;
    {
      const std::lock_guard lock(runtime().mutex);
      device = runtime().device();
    }
    *pointer = memory().allocate(MemoryKind::device, device, bytes, settings().memory_bytes);
    return *pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
  });
}

cudaError_t cudaFree(void* pointer) {
  return release_call("cudaFree", MemoryKind::device, pointer);
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags) {
  return call("cudaHostAlloc", Rule::unblocked, [&] {
    if ((flags & ~(cudaHostAllocPortable | cudaHostAllocMapped)) != 0) return cudaErrorInvalidValue;
    *pointer = bytes == 0 ? nullptr : memory().allocate(MemoryKind::host, 0, bytes, 0);
    return cudaSuccess;
  });
}

cudaError_t cudaFreeHost(void* pointer) {
  return release_call("cudaFreeHost", MemoryKind::host, pointer);
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags) {
  return call("cudaHostGetDevicePointer", Rule::working, [&] {
    if (flags != 0 || memory().find(host, 1) != MemoryKind::host) return cudaErrorInvalidValue;
    *device = host;
    return cudaSuccess;
  });
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return call_locked("cudaMemGetInfo", Rule::working, [&] {
    *total = settings().memory_bytes;
    *free = *total - memory().used(runtime().device());
    return cudaSuccess;
  });
}

// Ordinary host memory is read when the call is made, or written before it returns: the real
// runtime stages it.
cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return call("cudaMemcpyAsync", Rule::working, [&] {
    if (bytes == 0) return cudaSuccess;
    if (!valid_end(dst, bytes, kind, true) || !valid_end(src, bytes, kind, false)) {
      return cudaErrorInvalidValue;
    }
    auto staged = std::make_shared<std::vector<std::byte>>();
    if (!memory().find(src, bytes)) {
      const auto* first = static_cast<const std::byte*>(src);
      staged->assign(first, first + bytes);
    }
    const bool wait = !memory().find(dst, bytes);
    Work work;
    work.action = [=] {
      std::memmove(dst, staged->empty() ? src : staged->data(), bytes);
      memory().host_wrote(dst, bytes);
    };
    TaskPointer task;
    {
      const std::lock_guard lock(runtime().mutex);
      const bool known = runtime().streams.count(stream) > 0;
      const bool ordinary = wait || !staged->empty();
      if (ordinary) ++runtime().calls().other_waits;
      if (known && stream->capture != nullptr && ordinary) {
        stream->capture->invalidated = true;
        return cudaErrorStreamCaptureUnsupported;
      }
      const cudaError_t error = runtime().append(stream, std::move(work));
      if (error != cudaSuccess) return error;
      task = stream->tail;
    }
    if (!wait) return cudaSuccess;
    engine().wait(task);
    return engine().error();
  });
}

cudaError_t cudaMemsetAsync(void* dst, int value, size_t bytes, cudaStream_t stream) {
  return call_locked("cudaMemsetAsync", Rule::working, [&] {
    if (bytes == 0) return cudaSuccess;
    if (!memory().find(dst, bytes)) return cudaErrorInvalidValue;
    Work work;
    work.action = [=] {
      std::memset(dst, value, bytes);
      memory().host_wrote(dst, bytes);
    };
    return runtime().append(stream, std::move(work));
  });
}

// Errors, devices and the test controls of the emulated runtime API.
#include "cuda/emulation/runtime.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "cuda/emulation/memory.h"

namespace specrt::emulation {
namespace {

constexpr int kRuntimeVersion = 13000;

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};

constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotPermitted, "cudaErrorNotPermitted", "operation not permitted"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture was not ended in the same stream as it began"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

const ErrorText& words(cudaError_t error) {
  for (const ErrorText& known : kErrors) {
    if (known.error == error) return known;
  }
  static constexpr ErrorText unknown{cudaSuccess, "unrecognized error code",
                                     "unrecognized error code"};
  return unknown;
}

cudaError_t check_device(int device) {
  return device >= 0 && device < settings().devices ? cudaSuccess : cudaErrorInvalidDevice;
}

}  // namespace

Runtime& runtime() {
  static Runtime state;
  return state;
}

cudaError_t Runtime::keep(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) {
    threads_[std::this_thread::get_id()].error = error;
  }
  return error;
}

cudaError_t Runtime::admit(const char* name, Rule rule) {
  if (engine().is_device_thread()) return cudaErrorNotPermitted;
  const cudaError_t device_error = engine().error();
  const std::lock_guard lock(mutex);
  if (settings().devices == 0) return cudaErrorNoDevice;
  if (settings().driver_version < kRuntimeVersion) return cudaErrorInsufficientDriver;
  if (rule == Rule::unblocked) ++calls_.other_waits;
  const auto planned = planned_.find(name);
  if (planned != planned_.end() && planned->second.after-- == 0) {
    const cudaError_t error = planned->second.error;
    planned_.erase(planned);
    return error;
  }
  if (rule == Rule::anytime) return cudaSuccess;
  if (device_error != cudaSuccess) return device_error;
  if (rule != Rule::unblocked) return cudaSuccess;
  bool forbidden = false;
  for (const auto& capture : captures) {
    const bool concerned = capture->mode == cudaStreamCaptureModeGlobal ||
                           (capture->mode == cudaStreamCaptureModeThreadLocal &&
                            capture->thread == std::this_thread::get_id());
    if (!concerned) continue;
    capture->invalidated = true;
    forbidden = true;
  }
  return forbidden ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

void Runtime::fail_call(const std::string& name, cudaError_t error, int after) {
  planned_[name] = {error, after};
}

void Runtime::forget_errors() {
  planned_.clear();
  for (auto& [id, thread] : threads_) thread.error = cudaSuccess;
}

std::string Kernel::name() const {
  const auto demangled = [](const char* mangled) {
    int status = 0;
    char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
    std::string name = status == 0 ? text : mangled;
    std::free(text);
    return name.substr(0, name.find('('));
  };
  Dl_info info{};
  if (dladdr(function, &info) != 0 && info.dli_saddr == function) return demangled(info.dli_sname);
  return concat("of ", demangled(args_type->name()));
}

// ---- Control -----------------------------------------------------------------------------------

void reset(const Settings& settings) {
  engine().wait_all();
  const std::lock_guard lock(runtime().mutex);
  SPECRT_CHECK(runtime().captures.empty(), "reset of the emulated devices during a capture");
  runtime().forget_errors();
  runtime().forget_calls();
  memory().restore_guards();
  engine().reset(settings);
}

const Settings& settings() { return engine().settings(); }

void fail_call(const std::string& name, cudaError_t error, int after) {
  const std::lock_guard lock(runtime().mutex);
  runtime().fail_call(name, error, after);
}

void set_sticky_error(cudaError_t error) { engine().set_error(error, "set by a test"); }

std::string report() { return engine().report(); }

Counters counters() {
  Counters all = engine().counters();
  const std::lock_guard lock(runtime().mutex);
  const Runtime::Calls& calls = runtime().calls();
  all.captures = calls.captures;
  all.event_waits = calls.event_waits;
  all.other_waits = calls.other_waits;
  return all;
}

size_t live_allocations() { return memory().live(); }

}  // namespace specrt::emulation

// ---- API ---------------------------------------------------------------------------------------

using namespace specrt::emulation;

cudaError_t cudaPeekAtLastError() {
  const cudaError_t sticky = engine().error();
  if (sticky != cudaSuccess) return sticky;
  const std::lock_guard lock(runtime().mutex);
  return runtime().last_error();
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  const std::lock_guard lock(runtime().mutex);
  runtime().clear_last_error();
  return error;
}

const char* cudaGetErrorString(cudaError_t error) { return words(error).text; }
const char* cudaGetErrorName(cudaError_t error) { return words(error).name; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = settings().driver_version;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kRuntimeVersion;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  return call("cudaGetDeviceCount", Rule::anytime, [&] {
    *count = settings().devices;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* device) {
  return call_locked("cudaGetDevice", Rule::anytime, [&] {
    *device = runtime().device();
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return call_locked("cudaSetDevice", Rule::working, [&] {
    const cudaError_t error = check_device(device);
    if (error == cudaSuccess) runtime().set_device(device);
    return error;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return call("cudaGetDeviceProperties", Rule::working, [&] {
    if (const cudaError_t error = check_device(device)) return error;
    *properties = {};
    std::strcpy(properties->name, "specrt SIMT emulator");
    properties->totalGlobalMem = settings().memory_bytes;
    properties->sharedMemPerBlock = kStaticSharedBytes;
    properties->sharedMemPerBlockOptin = kMaxDynamicSharedBytes;
    properties->sharedMemPerMultiprocessor = kMaxDynamicSharedBytes + 1024;
    properties->regsPerBlock = 65536;
    properties->warpSize = kWarpLanes;
    properties->maxThreadsPerBlock = 1024;
    properties->major = settings().compute_major;
    properties->minor = settings().compute_minor;
    properties->multiProcessorCount = settings().multiprocessors;
    properties->l2CacheSize = 50 << 20;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device)) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return call("cudaDeviceGetStreamPriorityRange", Rule::working, [&] {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
  });
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return call_locked("cudaFuncSetAttribute", Rule::working, [&] {
    const bool valid = attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && value >= 0 &&
                       value <= static_cast<int>(kMaxDynamicSharedBytes);
    if (!valid) return cudaErrorInvalidValue;
    runtime().dynamic_shared_limit[kernel] = value;
    return cudaSuccess;
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  return call_locked("cudaFuncGetAttributes", Rule::working, [&] {
    *attributes = {};
    attributes->maxThreadsPerBlock = 1024;
    const auto known = runtime().dynamic_shared_limit.find(kernel);
    attributes->maxDynamicSharedSizeBytes = known == runtime().dynamic_shared_limit.end()
                                                ? static_cast<int>(kStaticSharedBytes)
                                                : known->second;
    return cudaSuccess;
  });
}

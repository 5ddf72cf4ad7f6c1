// How a kernel reaches the emulated stream: its function, its arguments as bytes, its shape.
#pragma once

#include <cuda_runtime.h>

#include <cstring>
#include <string>
#include <typeinfo>
#include <vector>

namespace specrt::emulation {

// Whether a kernel may start before its predecessor ends.
enum class Edge { full, programmatic };

struct Kernel {
  using Call = void (*)(const void* function, const void* args);

  const void* function = nullptr;
  Call call = nullptr;  // calls `function` with a copy of `args`
  std::vector<unsigned char> args;
  const std::type_info* args_type = nullptr;
  dim3 grid;
  unsigned threads = 0;
  size_t shared_bytes = 0;
  Edge edge = Edge::full;

  std::string name() const;
};

cudaError_t enqueue_kernel(cudaStream_t stream, Kernel kernel);

template <typename Args>
cudaError_t launch_kernel(cudaStream_t stream, void (*function)(Args), dim3 grid, unsigned threads,
                          size_t shared_bytes, const Args& args, bool pdl) {
  Kernel kernel;
  kernel.function = reinterpret_cast<const void*>(function);
  kernel.call = [](const void* target, const void* bytes) {
    alignas(Args) unsigned char copy[sizeof(Args)];
    std::memcpy(copy, bytes, sizeof(Args));
    reinterpret_cast<void (*)(Args)>(const_cast<void*>(target))(
        *reinterpret_cast<const Args*>(copy));
  };
  const auto* bytes = reinterpret_cast<const unsigned char*>(&args);
  kernel.args.assign(bytes, bytes + sizeof(Args));
  kernel.args_type = &typeid(Args);
  kernel.grid = grid;
  kernel.threads = threads;
  kernel.shared_bytes = shared_bytes;
  kernel.edge = pdl ? Edge::programmatic : Edge::full;
  return enqueue_kernel(stream, std::move(kernel));
}

}  // namespace specrt::emulation

// What lies between kernels: chains of kernels that do nothing, in a stream and in graphs.
#include <chrono>

#include "bench.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"

namespace specrt::cuda::bench {
namespace {

constexpr int32_t kNodes = 200;  // kernels of a step, about

struct EmptyArgs {
  int32_t unused;
};

// empty: nothing; its end is the next one's begin
// grid one block an SM, block 256
__global__ void empty(const __grid_constant__ EmptyArgs) {
  pdl_launch();
  pdl_wait();
}

void chain(const Device& device, int32_t count, bool is_early) {
  for (int32_t i = 0; i < count; ++i) {
    launch(device.handle(), empty, static_cast<unsigned>(device.multiprocessors), 256, 0, {},
           {.pdl = is_early && i > 0});
  }
}

}  // namespace

void gaps(const Device& device, const Options& options) {
  const int32_t nodes = std::min(kNodes, options.count);
  const auto record = [&](int32_t count, bool is_early) {
    return device.backend->record(*device.stream, [&] { chain(device, count, is_early); });
  };
  for (const bool is_early : {false, true}) {
    const std::string suffix = is_early ? ".pdl" : "";
    const double in_stream =
        time_ms(device.handle(), options.samples, [&] { chain(device, nodes, is_early); });
    print({"gap.stream" + suffix, 1e3 * in_stream / nodes, "us"});
    const auto graph = record(nodes, is_early);
    const double in_graph =
        time_ms(device.handle(), options.samples, [&] { graph->launch(*device.stream); });
    print({"gap.graph" + suffix, 1e3 * in_graph / nodes, "us"});
  }
  const auto one = record(1, false), many = record(nodes, false);
  const double launches = time_ms(device.handle(), options.samples, [&] {
    for (int32_t i = 0; i < nodes; ++i) one->launch(*device.stream);
  });
  print({"gap.graph_to_graph", 1e3 * launches / nodes, "us"});
  std::vector<double> host;
  for (int32_t i = 0; i <= options.samples; ++i) {
    device.sync();
    const auto begin = std::chrono::steady_clock::now();
    many->launch(*device.stream);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
    if (i > 0) host.push_back(took.count());
  }
  device.sync();
  print({"gap.host_launch", median(host), "us"});
}

}  // namespace specrt::cuda::bench

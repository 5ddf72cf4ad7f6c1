// Capture and graphs: replay, branches, what capture forbids, early prologues inside a graph.
#include <thread>

#include "rig.h"
#include "sample_kernels.h"

namespace specrt::cuda {
namespace {

constexpr int kValues = 256;

struct Captured {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;

  explicit Captured(cudaStream_t stream) {
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    CUDA_CHECK(cudaGraphInstantiate(&exec, graph));
  }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  ~Captured() {
    (void)cudaGraphExecDestroy(exec);
    (void)cudaGraphDestroy(graph);
  }
  size_t nodes() const {
    size_t count = 0;
    CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &count));
    return count;
  }
};

void begin(cudaStream_t stream) {
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
}

TEST_CASE("a captured chain is replayed many times and runs only then") {
  Rig rig;
  DeviceArray<float> x(rig, std::vector<float>(kValues, 1.0f));
  DeviceArray<float> y(rig, std::vector<float>(kValues, 0.0f));
  rig.sync();
  begin(rig.stream());
  cudaStreamCaptureStatus status{};
  CUDA_CHECK(cudaStreamIsCapturing(rig.stream(), &status));
  CHECK(status == cudaStreamCaptureStatusActive);
  for (int i = 0; i < 3; ++i) {
    launch(rig.stream(), saxpy, 2, 128, 0, {x.data(), y.data(), 1.0f, kValues});
  }
  const Captured captured(rig.stream());
  CHECK(captured.nodes() == 3);
  CHECK(y.read(rig)[0] == 0.0f);
  for (int i = 0; i < 50; ++i) CUDA_CHECK(cudaGraphLaunch(captured.exec, rig.stream()));
  for (const float value : y.read(rig)) CHECK(value == 150.0f);
  CHECK(emulation::counters().kernels == 150);
}

TEST_CASE("a branch through events is captured with its edges") {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    emulation::Settings settings = Rig::quiet();
    settings.seed = seed;
    Rig rig(settings);
    cudaStream_t side = nullptr;
    cudaEvent_t fork = nullptr, join = nullptr;
    CUDA_CHECK(cudaStreamCreateWithPriority(&side, cudaStreamNonBlocking, -1));
    CUDA_CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    DeviceArray<float> a(rig, std::vector<float>(kValues, 1.0f));
    DeviceArray<float> b(rig, std::vector<float>(kValues, 0.0f));
    DeviceArray<float> c(rig, std::vector<float>(kValues, 0.0f));
    rig.sync();
    begin(rig.stream());
    launch(rig.stream(), saxpy, 2, 128, 0, {a.data(), b.data(), 2.0f, kValues});  // b += 2 a
    CUDA_CHECK(cudaEventRecord(fork, rig.stream()));
    CUDA_CHECK(cudaStreamWaitEvent(side, fork));
    launch(side, saxpy, 2, 128, 0, {b.data(), c.data(), 3.0f, kValues});  // c += 3 b
    CUDA_CHECK(cudaEventRecord(join, side));
    CHECK(cudaEventQuery(join) == cudaErrorCapturedEvent);
    cudaGraph_t none = nullptr;
    CHECK(cudaStreamEndCapture(rig.stream(), &none) == cudaErrorStreamCaptureInvalidated);
    begin(rig.stream());
    launch(rig.stream(), saxpy, 2, 128, 0, {a.data(), b.data(), 2.0f, kValues});
    CUDA_CHECK(cudaEventRecord(fork, rig.stream()));
    CUDA_CHECK(cudaStreamWaitEvent(side, fork));
    launch(side, saxpy, 2, 128, 0, {b.data(), c.data(), 3.0f, kValues});
    CUDA_CHECK(cudaEventRecord(join, side));
    CUDA_CHECK(cudaStreamWaitEvent(rig.stream(), join));
    launch(rig.stream(), saxpy, 2, 128, 0, {c.data(), a.data(), 1.0f, kValues});  // a += c
    const Captured captured(rig.stream());
    CHECK(captured.nodes() == 3);
    for (int i = 0; i < 3; ++i) CUDA_CHECK(cudaGraphLaunch(captured.exec, rig.stream()));
    float va = 1, vb = 0, vc = 0;
    for (int i = 0; i < 3; ++i) {
      vb += 2 * va;
      vc += 3 * vb;
      va += vc;
    }
    for (const float value : a.read(rig)) CHECK(value == va);
    CUDA_CHECK(cudaEventDestroy(fork));
    CUDA_CHECK(cudaEventDestroy(join));
    CUDA_CHECK(cudaStreamDestroy(side));
  }
}

TEST_CASE("capture forbids allocation and waiting, and is then lost") {
  Rig rig;
  void* pointer = nullptr;
  cudaGraph_t graph = nullptr;
  begin(rig.stream());
  CHECK(cudaMalloc(&pointer, 16) == cudaErrorStreamCaptureUnsupported);
  cudaStreamCaptureStatus status{};
  CUDA_CHECK(cudaStreamIsCapturing(rig.stream(), &status));
  CHECK(status == cudaStreamCaptureStatusInvalidated);
  CHECK(cudaStreamEndCapture(rig.stream(), &graph) == cudaErrorStreamCaptureInvalidated);

  begin(rig.stream());
  CHECK(cudaStreamSynchronize(rig.stream()) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamEndCapture(rig.stream(), &graph) == cudaErrorStreamCaptureInvalidated);

  begin(rig.stream());
  CHECK(cudaDeviceSynchronize() == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamEndCapture(rig.stream(), &graph) == cudaErrorStreamCaptureInvalidated);
  CHECK(cudaStreamEndCapture(rig.stream(), &graph) == cudaErrorInvalidValue);
  CHECK(graph == nullptr);
}

TEST_CASE("a thread that does not capture may allocate, but not end the capture") {
  Rig rig;
  begin(rig.stream());
  std::thread([&] {
    DeviceArray<float> mine(4);
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamEndCapture(rig.stream(), &graph) == cudaErrorStreamCaptureWrongThread);
  }).join();
  const Captured captured(rig.stream());
  CHECK(captured.nodes() == 0);
}

TEST_CASE("a branch that is not joined loses the capture") {
  Rig rig;
  cudaStream_t side = nullptr;
  cudaEvent_t fork = nullptr;
  CUDA_CHECK(cudaStreamCreateWithPriority(&side, cudaStreamNonBlocking, 0));
  CUDA_CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  DeviceArray<float> x(4);
  begin(rig.stream());
  CUDA_CHECK(cudaEventRecord(fork, rig.stream()));
  CUDA_CHECK(cudaStreamWaitEvent(side, fork));
  CUDA_CHECK(cudaMemsetAsync(x.data(), 0, 16, side));
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(rig.stream(), &graph) == cudaErrorStreamCaptureUnjoined);
  CUDA_CHECK(cudaStreamSynchronize(side));
  CUDA_CHECK(cudaEventDestroy(fork));
  CUDA_CHECK(cudaStreamDestroy(side));
}

TEST_CASE("kernels of a graph begin early and give the same results") {
  emulation::Settings settings = Rig::quiet();
  settings.prologues = emulation::Prologues::always;
  Rig rig(settings);
  DeviceArray<float> x(rig, std::vector<float>(kValues, 1.0f));
  DeviceArray<float> y(rig, std::vector<float>(kValues, 0.0f));
  rig.sync();
  begin(rig.stream());
  launch(rig.stream(), saxpy, 2, 128, 0, {x.data(), y.data(), 1.0f, kValues});
  for (int i = 0; i < 4; ++i) {
    launch(rig.stream(), scale_after_wait, 2, 128, 0, {x.data(), y.data(), 2.0f, kValues},
           {.pdl = true});
  }
  const Captured captured(rig.stream());
  CUDA_CHECK(cudaGraphLaunch(captured.exec, rig.stream()));
  for (const float value : y.read(rig)) CHECK(value == 16.0f);
  CHECK(emulation::counters().early_prologues == 4);
  CHECK(emulation::counters().kernels == 5);
}

}  // namespace
}  // namespace specrt::cuda

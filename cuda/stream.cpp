#include "cuda/stream.h"

#include <utility>

#include "base/error.h"
#include "cuda/check.h"

namespace specrt::cuda {

void ForeignFailure::set(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  if (!error_) error_ = std::move(error);
}

void ForeignFailure::rethrow() {
  const std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
}

void ForeignFailure::clear() {
  const std::lock_guard lock(mutex_);
  error_ = nullptr;
}

CudaEvent::CudaEvent(cudaStream_t stream, std::shared_ptr<ForeignFailure> failure)
    : failure_(std::move(failure)) {
  CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  const cudaError_t status = cudaEventRecord(event_, stream);
  if (status == cudaSuccess) return;
  cudaEventDestroy(event_);
  CUDA_CHECK(status);
}

CudaEvent::~CudaEvent() { cudaEventDestroy(event_); }

bool CudaEvent::ready() const { return cudaEventQuery(event_) != cudaErrorNotReady; }

void CudaEvent::wait() {
  CUDA_CHECK(cudaEventSynchronize(event_));
  failure_->rethrow();
}

CudaStream::CudaStream(int priority) {
  int least = 0, greatest = 0;  // a smaller number is a higher priority
  CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  const int number = -priority < greatest ? greatest : -priority;
  CUDA_CHECK(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                          number > least ? least : number));
}

CudaStream::~CudaStream() {
  drain();
  cudaStreamDestroy(stream_);
}

Event CudaStream::record() {
  SPECRT_CHECK(!recording_, "an event cannot be recorded into recorded work");
  return Event(std::make_shared<CudaEvent>(stream_, failure_));
}

void CudaStream::wait(const Event& event) {
  SPECRT_CHECK(!recording_, "recorded work cannot wait on an event");
  if (event.state() == nullptr) return;
  if (const auto* own = dynamic_cast<const CudaEvent*>(event.state())) {
    CUDA_CHECK(cudaStreamWaitEvent(stream_, own->handle(), 0));
    return;
  }
  // An event of another backend: a thread of the driver waits for it between two launches.
  struct Wait {
    std::shared_ptr<EventState> event;
    std::shared_ptr<ForeignFailure> failure;
  };
  auto wait = std::make_unique<Wait>(Wait{event.shared_state(), failure_});
  CUDA_CHECK(cudaLaunchHostFunc(
      stream_,
      [](void* data) {
        const std::unique_ptr<Wait> owned(static_cast<Wait*>(data));
        try {
          owned->event->wait();
        } catch (...) {
          owned->failure->set(std::current_exception());
        }
      },
      wait.get()));
  wait.release();
}

void CudaStream::drain() noexcept {
  cudaStreamSynchronize(stream_);
  failure_->clear();
}

void CudaStream::begin_recording() {
  SPECRT_CHECK(!recording_, "the stream is recording already");
  CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  recording_ = true;
}

cudaGraph_t CudaStream::end_recording() {
  cudaGraph_t graph = nullptr;
  recording_ = false;
  CUDA_CHECK(cudaStreamEndCapture(stream_, &graph));
  return graph;
}

void CudaStream::abandon_recording() noexcept {
  cudaGraph_t graph = nullptr;
  recording_ = false;
  if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess) cudaGraphDestroy(graph);
}

CudaStream& own_stream(Stream& stream) {
  auto* own = dynamic_cast<CudaStream*>(&stream);
  if (own == nullptr) fail_argument("the stream belongs to another backend");
  return *own;
}

CudaRecordedWork::CudaRecordedWork(cudaGraph_t graph) {
  const cudaError_t status = cudaGraphInstantiate(&exec_, graph, 0);
  cudaGraphDestroy(graph);
  CUDA_CHECK(status);
}

CudaRecordedWork::~CudaRecordedWork() { cudaGraphExecDestroy(exec_); }

void CudaRecordedWork::launch(Stream& stream) {
  CUDA_CHECK(cudaGraphLaunch(exec_, own_stream(stream).handle()));
}

}  // namespace specrt::cuda

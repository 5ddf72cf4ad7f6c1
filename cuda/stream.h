// Streams, events and recorded work of the CUDA backend: cudaStream_t, cudaEvent_t and graphs.
#pragma once

#include <cuda_runtime.h>

#include <exception>
#include <memory>
#include <mutex>

#include "device/stream.h"

namespace specrt::cuda {

// The first error of an event of another backend that work in a stream waited for. Kernels behind
// it run all the same; whoever waits for them gets the error.
class ForeignFailure {
 public:
  void set(std::exception_ptr error);
  void rethrow();
  void clear();

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

class CudaEvent final : public EventState {
 public:
  CudaEvent(cudaStream_t stream, std::shared_ptr<ForeignFailure> failure);
  CudaEvent(const CudaEvent&) = delete;
  ~CudaEvent() override;

  bool ready() const override;
  void wait() override;
  cudaEvent_t handle() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
  std::shared_ptr<ForeignFailure> failure_;
};

class CudaStream final : public Stream {
 public:
  // Among streams of a device, blocks of a larger `priority` start first where both wait.
  explicit CudaStream(int priority);
  CudaStream(const CudaStream&) = delete;
  ~CudaStream() override;

  Event record() override;
  void wait(const Event& event) override;
  void drain() noexcept override;

  cudaStream_t handle() const { return stream_; }
  bool is_recording() const { return recording_; }

  // What is enqueued between the two becomes a graph and is not run.
  void begin_recording();
  cudaGraph_t end_recording();
  void abandon_recording() noexcept;

 private:
  cudaStream_t stream_ = nullptr;
  bool recording_ = false;
  std::shared_ptr<ForeignFailure> failure_ = std::make_shared<ForeignFailure>();
};

// The stream as one of this backend's; an argument error otherwise.
CudaStream& own_stream(Stream& stream);

class CudaRecordedWork final : public RecordedWork {
 public:
  explicit CudaRecordedWork(cudaGraph_t graph);  // takes the graph
  CudaRecordedWork(const CudaRecordedWork&) = delete;
  ~CudaRecordedWork() override;

  void launch(Stream& stream) override;

 private:
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace specrt::cuda

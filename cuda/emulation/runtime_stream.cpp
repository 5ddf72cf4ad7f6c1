// Streams, events and kernel launches of the emulated runtime API.
#include "cuda/emulation/launch.h"
#include "cuda/emulation/runtime.h"

namespace specrt::emulation {

// The legacy default stream is refused: nothing in the backend may use it.
cudaError_t Runtime::append(cudaStream_t stream, Work work) {
  if (streams.count(stream) == 0) return cudaErrorInvalidResourceHandle;
  if (stream->capture == nullptr) {
    stream->tail = engine().submit(std::move(work), {stream->tail}, Edge::programmatic);
    return cudaSuccess;
  }
  if (stream->capture->invalidated) return cudaErrorStreamCaptureInvalidated;
  std::vector<GraphNode>& nodes = stream->capture->graph.nodes;
  nodes.push_back({std::move(work), stream->capture_tails});
  stream->capture_tails = {nodes.size() - 1};
  return cudaSuccess;
}

cudaError_t enqueue_kernel(cudaStream_t stream, Kernel kernel) {
  return call_locked("cudaLaunchKernelEx", Rule::working, [&] {
    const auto known = runtime().dynamic_shared_limit.find(kernel.function);
    const size_t limit = known == runtime().dynamic_shared_limit.end()
                             ? kStaticSharedBytes
                             : static_cast<size_t>(known->second);
    const dim3& grid = kernel.grid;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
      return cudaErrorInvalidConfiguration;
    }
    if (kernel.shared_bytes > limit) return cudaErrorInvalidValue;
    Work work;
    work.kernel = std::make_shared<const Kernel>(std::move(kernel));
    return runtime().append(stream, std::move(work));
  });
}

}  // namespace specrt::emulation

using namespace specrt::emulation;

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  return call_locked("cudaStreamCreateWithPriority", Rule::working, [&] {
    if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
    *stream = new CUstream_st{runtime().device(), priority, nullptr, nullptr, {}};
    runtime().streams.insert(*stream);
    return cudaSuccess;
  });
}

// Work that is still queued goes on, as on a real device.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call_locked("cudaStreamDestroy", Rule::anytime, [&] {
    if (runtime().streams.erase(stream) == 0) return cudaErrorInvalidResourceHandle;
    if (stream->capture != nullptr) stream->capture->invalidated = true;
    delete stream;
    return cudaSuccess;
  });
}

namespace {

// What to wait for; capturing streams cannot be waited for.
cudaError_t tail_of(cudaStream_t stream, TaskPointer& tail) {
  const std::lock_guard lock(runtime().mutex);
  if (runtime().streams.count(stream) == 0) return cudaErrorInvalidResourceHandle;
  if (stream->capture != nullptr) {
    stream->capture->invalidated = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  tail = stream->tail;
  return cudaSuccess;
}

cudaError_t task_of(cudaEvent_t event, TaskPointer& task) {
  const std::lock_guard lock(runtime().mutex);
  if (runtime().events.count(event) == 0) return cudaErrorInvalidResourceHandle;
  if (event->capture != nullptr) {
    event->capture->invalidated = true;
    return cudaErrorCapturedEvent;
  }
  task = event->task;
  return cudaSuccess;
}

void count(int64_t Runtime::Calls::*calls) {
  const std::lock_guard lock(runtime().mutex);
  ++(runtime().calls().*calls);
}

cudaError_t wait_for(const TaskPointer& task) {
  engine().wait(task);
  return engine().error();
}

cudaError_t query(const TaskPointer& task) {
  if (!engine().done(task)) return cudaErrorNotReady;
  return engine().error();
}

}  // namespace

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call("cudaStreamSynchronize", Rule::working, [&] {
    count(&Runtime::Calls::other_waits);
    TaskPointer tail;
    const cudaError_t error = tail_of(stream, tail);
    return error == cudaSuccess ? wait_for(tail) : error;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return call("cudaStreamQuery", Rule::working, [&] {
    TaskPointer tail;
    const cudaError_t error = tail_of(stream, tail);
    return error == cudaSuccess ? query(tail) : error;
  });
}

cudaError_t cudaDeviceSynchronize() {
  return call("cudaDeviceSynchronize", Rule::unblocked, [] {
    engine().wait_all();
    return engine().error();
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  return call_locked("cudaStreamWaitEvent", Rule::working, [&] {
    if (runtime().streams.count(stream) == 0 || runtime().events.count(event) == 0) {
      return cudaErrorInvalidResourceHandle;
    }
    if (flags != 0) return cudaErrorInvalidValue;
    if (event->capture == nullptr) {
      if (stream->capture != nullptr) {
        stream->capture->invalidated = true;
        return cudaErrorStreamCaptureIsolation;
      }
      stream->tail = engine().submit({}, {stream->tail, event->task}, Edge::full);
      return cudaSuccess;
    }
    if (event->capture->ended) return cudaErrorInvalidValue;
    if (stream->capture == nullptr) {
      stream->capture = event->capture;
      stream->capture_tails.clear();
      event->capture->streams.push_back(stream);
    }
    if (stream->capture != event->capture) return cudaErrorStreamCaptureIsolation;
    for (const size_t node : event->capture_tails) {
      std::vector<size_t>& tails = stream->capture_tails;
      if (std::find(tails.begin(), tails.end(), node) == tails.end()) tails.push_back(node);
    }
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  return call_locked("cudaLaunchHostFunc", Rule::working, [&] {
    Work work;
    work.action = [=] { function(argument); };
    return runtime().append(stream, std::move(work));
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call_locked("cudaEventCreateWithFlags", Rule::working, [&] {
    if ((flags & ~cudaEventDisableTiming) != 0) return cudaErrorInvalidValue;
    *event = new CUevent_st{};
    runtime().events.insert(*event);
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return call_locked("cudaEventDestroy", Rule::anytime, [&] {
    if (runtime().events.erase(event) == 0) return cudaErrorInvalidResourceHandle;
    delete event;
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call_locked("cudaEventRecord", Rule::working, [&] {
    if (runtime().streams.count(stream) == 0 || runtime().events.count(event) == 0) {
      return cudaErrorInvalidResourceHandle;
    }
    event->capture = stream->capture;
    event->capture_tails = stream->capture_tails;
    if (stream->capture != nullptr) return cudaSuccess;
    stream->tail = engine().submit({}, {stream->tail}, Edge::full);
    event->task = stream->tail;
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call("cudaEventQuery", Rule::working, [&] {
    TaskPointer task;
    const cudaError_t error = task_of(event, task);
    return error == cudaSuccess ? query(task) : error;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call("cudaEventSynchronize", Rule::working, [&] {
    count(&Runtime::Calls::event_waits);
    TaskPointer task;
    const cudaError_t error = task_of(event, task);
    return error == cudaSuccess ? wait_for(task) : error;
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  return call("cudaEventElapsedTime", Rule::working, [&] {
    TaskPointer first;
    TaskPointer last;
    if (const cudaError_t error = task_of(begin, first)) return error;
    if (const cudaError_t error = task_of(end, last)) return error;
    if (first == nullptr || last == nullptr) return cudaErrorInvalidResourceHandle;
    if (!engine().done(first) || !engine().done(last)) return cudaErrorNotReady;
    using Milliseconds = std::chrono::duration<float, std::milli>;
    *milliseconds = Milliseconds(last->finished() - first->finished()).count();
    return cudaSuccess;
  });
}

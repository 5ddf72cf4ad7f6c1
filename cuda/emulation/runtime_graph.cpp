// Capture and graphs of the emulated runtime API.
#include "cuda/emulation/runtime.h"

using namespace specrt::emulation;

namespace {

// Whether every node is reached from the tails of the origin stream.
bool joined(const Capture& capture) {
  const std::vector<GraphNode>& nodes = capture.graph.nodes;
  std::vector<bool> reached(nodes.size(), false);
  for (const size_t tail : capture.origin->capture_tails) reached[tail] = true;
  for (size_t node = nodes.size(); node-- > 0;) {
    if (!reached[node]) return false;
    for (const size_t before : nodes[node].after) reached[before] = true;
  }
  return true;
}

void end(const std::shared_ptr<Capture>& capture) {
  capture->ended = true;
  for (const cudaStream_t stream : capture->streams) {
    if (runtime().streams.count(stream) == 0 || stream->capture != capture) continue;
    stream->capture = nullptr;
    stream->capture_tails.clear();
  }
  std::erase(runtime().captures, capture);
}

std::vector<size_t> leaves_of(const CUgraph_st& graph) {
  std::vector<bool> has_next(graph.nodes.size(), false);
  for (const GraphNode& node : graph.nodes) {
    for (const size_t before : node.after) has_next[before] = true;
  }
  std::vector<size_t> leaves;
  for (size_t node = 0; node < has_next.size(); ++node) {
    if (!has_next[node]) leaves.push_back(node);
  }
  return leaves;
}

}  // namespace

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return call_locked("cudaStreamBeginCapture", Rule::working, [&] {
    if (runtime().streams.count(stream) == 0) return cudaErrorStreamCaptureUnsupported;
    if (stream->capture != nullptr) return cudaErrorStreamCaptureUnsupported;
    auto capture = std::make_shared<Capture>();
    capture->origin = stream;
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->streams = {stream};
    stream->capture = capture;
    stream->capture_tails.clear();
    runtime().captures.push_back(capture);
    ++runtime().calls().captures;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return call_locked("cudaStreamEndCapture", Rule::anytime, [&] {
    *graph = nullptr;
    if (runtime().streams.count(stream) == 0 || stream->capture == nullptr) {
      return cudaErrorInvalidValue;
    }
    const std::shared_ptr<Capture> capture = stream->capture;
    if (capture->origin != stream) return cudaErrorStreamCaptureUnmatched;
    if (capture->mode == cudaStreamCaptureModeThreadLocal &&
        capture->thread != std::this_thread::get_id()) {
      return cudaErrorStreamCaptureWrongThread;
    }
    const bool whole = joined(*capture);
    end(capture);
    if (capture->invalidated) return cudaErrorStreamCaptureInvalidated;
    if (!whole) return cudaErrorStreamCaptureUnjoined;
    *graph = new CUgraph_st(std::move(capture->graph));
    runtime().graphs.insert(*graph);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return call_locked("cudaStreamIsCapturing", Rule::working, [&] {
    if (runtime().streams.count(stream) == 0) return cudaErrorInvalidResourceHandle;
    *status = stream->capture == nullptr     ? cudaStreamCaptureStatusNone
              : stream->capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                             : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  return call_locked("cudaGraphGetNodes", Rule::working, [&] {
    if (runtime().graphs.count(graph) == 0) return cudaErrorInvalidValue;
    const size_t size = graph->nodes.size();
    for (size_t i = 0; nodes != nullptr && i < std::min(*count, size); ++i) {
      nodes[i] = reinterpret_cast<cudaGraphNode_t>(&graph->nodes[i]);
    }
    if (nodes == nullptr || *count > size) *count = size;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags) {
  return call_locked("cudaGraphInstantiate", Rule::working, [&] {
    if (runtime().graphs.count(graph) == 0 || flags != 0) return cudaErrorInvalidValue;
    *exec = new CUgraphExec_st{*graph, nullptr};
    runtime().execs.insert(*exec);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return call_locked("cudaGraphLaunch", Rule::working, [&] {
    if (runtime().execs.count(exec) == 0) return cudaErrorInvalidValue;
    if (runtime().streams.count(stream) == 0) return cudaErrorInvalidResourceHandle;
    if (stream->capture != nullptr) {
      stream->capture->invalidated = true;
      return cudaErrorStreamCaptureUnsupported;
    }
    const Engine::Hold hold(engine());
    const TaskPointer begin = engine().submit({}, {stream->tail, exec->last}, Edge::full);
    std::vector<TaskPointer> tasks;
    std::vector<TaskPointer> leaves = {begin};
    for (const GraphNode& node : exec->graph.nodes) {
      std::vector<TaskPointer> after;
      for (const size_t before : node.after) after.push_back(tasks[before]);
      if (after.empty()) after.push_back(begin);
      const Edge edge = node.after.size() == 1 ? Edge::programmatic : Edge::full;
      tasks.push_back(engine().submit(node.work, after, edge));
    }
    for (const size_t leaf : leaves_of(exec->graph)) leaves.push_back(tasks[leaf]);
    stream->tail = engine().submit({}, leaves, Edge::full);
    exec->last = stream->tail;
    return cudaSuccess;
  });
}

// A launch that is under way goes on: its tasks hold what they need.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return call_locked("cudaGraphExecDestroy", Rule::anytime, [&] {
    if (runtime().execs.erase(exec) == 0) return cudaErrorInvalidValue;
    delete exec;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return call_locked("cudaGraphDestroy", Rule::anytime, [&] {
    if (runtime().graphs.erase(graph) == 0) return cudaErrorInvalidValue;
    delete graph;
    return cudaSuccess;
  });
}

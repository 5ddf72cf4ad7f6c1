// State of the emulated runtime API: streams, events, captures, errors of each host thread.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda/emulation/engine.h"

namespace specrt::emulation {

struct Capture;

// A node comes after those of `after`, which have lower numbers.
struct GraphNode {
  Work work;
  std::vector<size_t> after;
};

}  // namespace specrt::emulation

struct CUgraph_st {
  std::vector<specrt::emulation::GraphNode> nodes;
};

struct CUgraphExec_st {
  CUgraph_st graph;
  specrt::emulation::TaskPointer last;  // launches of one graph come one after the other
};

struct CUstream_st {
  int device = 0;
  int priority = 0;
  specrt::emulation::TaskPointer tail;
  std::shared_ptr<specrt::emulation::Capture> capture;
  std::vector<size_t> capture_tails;  // what the next captured node comes after
};

struct CUevent_st {
  specrt::emulation::TaskPointer task;
  std::shared_ptr<specrt::emulation::Capture> capture;  // where it was recorded, if in one
  std::vector<size_t> capture_tails;
};

namespace specrt::emulation {

struct Capture {
  cudaStream_t origin = nullptr;
  cudaStreamCaptureMode mode{};
  std::thread::id thread;
  bool invalidated = false;
  bool ended = false;
  CUgraph_st graph;
  std::vector<cudaStream_t> streams;
};

// What calls need to be allowed.
enum class Rule {
  anytime,    // answers although the device has failed
  working,    // not after a device error
  unblocked,  // nor while this thread captures in a mode that forbids allocation and waiting
};

class Runtime {
 public:
  std::mutex mutex;  // held while the fields below are used, never while waiting
  std::set<cudaStream_t> streams;
  std::set<cudaEvent_t> events;
  std::set<cudaGraph_t> graphs;
  std::set<cudaGraphExec_t> execs;
  std::vector<std::shared_ptr<Capture>> captures;
  std::map<const void*, int> dynamic_shared_limit;  // by kernel

  int device() { return threads_[std::this_thread::get_id()].device; }
  void set_device(int device) { threads_[std::this_thread::get_id()].device = device; }
  cudaError_t last_error() { return threads_[std::this_thread::get_id()].error; }
  cudaError_t keep(cudaError_t error);  // as the last error of this thread; gives it back
  void clear_last_error() { threads_[std::this_thread::get_id()].error = cudaSuccess; }

  // Whether the call `name` may go on.
  cudaError_t admit(const char* name, Rule rule);
  void fail_call(const std::string& name, cudaError_t error, int after);
  void forget_errors();

  // What the host called since forget_calls().
  struct Calls {
    int64_t captures = 0;
    int64_t event_waits = 0;
    int64_t other_waits = 0;
  };
  Calls& calls() { return calls_; }  // holding the mutex
  void forget_calls() { calls_ = {}; }

  // Appends work to a stream, or to the graph that it captures. Holding the mutex.
  cudaError_t append(cudaStream_t stream, Work work);

 private:
  struct Thread {
    int device = 0;
    cudaError_t error = cudaSuccess;
  };
  struct PlannedFailure {
    cudaError_t error;
    int after;
  };

  std::map<std::thread::id, Thread> threads_;
  std::map<std::string, PlannedFailure> planned_;
  Calls calls_;
};

Runtime& runtime();

// An API function: `body` runs without the mutex unless it takes it.
template <typename Body>
cudaError_t call(const char* name, Rule rule, Body body) {
  cudaError_t error = runtime().admit(name, rule);
  if (error == cudaSuccess) error = body();
  const std::lock_guard lock(runtime().mutex);
  return runtime().keep(error);
}

// The same with the mutex held: for what neither waits nor takes long.
template <typename Body>
cudaError_t call_locked(const char* name, Rule rule, Body body) {
  return call(name, rule, [&] {
    const std::lock_guard lock(runtime().mutex);
    return body();
  });
}

}  // namespace specrt::emulation

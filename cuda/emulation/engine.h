// The device: one host thread that runs tasks when what they depend on is done. All streams and
// graphs of all emulated devices become tasks here; ready ones run interleaved at random.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cuda/emulation/control.h"
#include "cuda/emulation/grid.h"

namespace specrt::emulation {

// A kernel, an action on the device's thread, or, with neither, a point that others wait for.
struct Work {
  std::shared_ptr<const Kernel> kernel;
  std::function<void()> action;
};

class Task {
 public:
  using Clock = std::chrono::steady_clock;
  Clock::time_point finished() const { return finished_; }  // once it is done

 private:
  friend class Engine;
  Work work_;
  int unfinished_ = 0;         // of the tasks that this one comes after
  bool programmatic_ = false;  // a kernel that may run up to pdl_wait before its one predecessor
  bool started_ = false;
  bool done_ = false;
  std::vector<std::shared_ptr<Task>> next_;
  std::unique_ptr<Grid> grid_;
  Clock::time_point submitted_;
  Clock::time_point finished_;
};
using TaskPointer = std::shared_ptr<Task>;

class Engine {
 public:
  Engine();
  ~Engine();

  // `after` may hold nulls. `edge` says whether a kernel with pdl may overlap the task before it.
  TaskPointer submit(Work work, const std::vector<TaskPointer>& after, Edge edge);
  // Nothing is picked while one exists: the tasks of a graph are seen together.
  class Hold {
   public:
    explicit Hold(Engine& engine);
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    ~Hold();

   private:
    Engine& engine_;
  };

  bool done(const TaskPointer& task);
  void wait(const TaskPointer& task);
  void wait_all();

  cudaError_t error();  // of the device; sticky
  void set_error(cudaError_t error, const std::string& report);
  std::string report();

  void reset(const Settings& settings);  // after wait_all
  const Settings& settings() const { return settings_; }
  Counters counters();
  void count_collective() { ++counters_.warp_collectives; }
  void count_late_copy() { ++counters_.late_copies; }
  bool is_device_thread() const { return std::this_thread::get_id() == thread_.get_id(); }

 private:
  using Lock = std::unique_lock<std::mutex>;

  void loop();
  TaskPointer pick(Lock& lock);
  void start(const TaskPointer& task);
  void run_prologue(const TaskPointer& task);
  void run_early(Task& task);
  bool advance(Task& task);  // true when it is done
  void complete(const TaskPointer& task);
  void fail(const std::string& report);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<TaskPointer> ready_;
  int live_ = 0;     // tasks that are not done
  int waiters_ = 0;  // host threads that wait for something
  int holds_ = 0;
  bool stop_ = false;
  cudaError_t error_ = cudaSuccess;
  std::string report_;
  Settings settings_;
  Counters counters_;
  Workshop workshop_;
  std::thread thread_;
};

Engine& engine();

}  // namespace specrt::emulation

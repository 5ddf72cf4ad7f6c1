#include "cuda/emulation/engine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "cuda/emulation/memory.h"
#include "cuda/emulation/report.h"

namespace specrt::emulation {
namespace {

constexpr int kSliceSteps = 64;
constexpr int kPrologueSteps = 1 << 20;

}  // namespace

uint64_t seed_of_environment() {
  const char* seed = std::getenv("SPECRT_EMULATION_SEED");
  return seed == nullptr ? 1 : std::strtoull(seed, nullptr, 10);
}

MmaOrder mma_order_of_environment() {
  const char* text = std::getenv("SPECRT_EMULATION_MMA");
  const std::string_view name = text == nullptr ? "ascending" : text;
  if (name == "ascending") return MmaOrder::ascending;
  if (name == "descending") return MmaOrder::descending;
  if (name == "pairwise") return MmaOrder::pairwise;
  specrt::fail("SPECRT_EMULATION_MMA is ", name, "; use ascending, descending or pairwise");
}

Engine::Engine() {
  memory();  // outlives the engine
  workshop_.random = Random(settings_.seed);
  thread_ = std::thread([this] { loop(); });
}

Engine::~Engine() {
  {
    const Lock lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

TaskPointer Engine::submit(Work work, const std::vector<TaskPointer>& after, Edge edge) {
  auto task = std::make_shared<Task>();
  task->work_ = std::move(work);
  task->submitted_ = Task::Clock::now();
  {
    const Lock lock(mutex_);
    for (const TaskPointer& before : after) {
      if (before == nullptr || before->done_) continue;
      before->next_.push_back(task);
      ++task->unfinished_;
    }
    const auto& kernel = task->work_.kernel;
    task->programmatic_ = kernel != nullptr && kernel->edge == Edge::programmatic &&
                          edge == Edge::programmatic && task->unfinished_ == 1;
    ++live_;
    if (task->unfinished_ == 0) ready_.push_back(task);
  }
  changed_.notify_all();
  return task;
}

Engine::Hold::Hold(Engine& engine) : engine_(engine) {
  const Lock lock(engine_.mutex_);
  ++engine_.holds_;
}

Engine::Hold::~Hold() {
  const Lock lock(engine_.mutex_);
  --engine_.holds_;
  engine_.changed_.notify_all();
}

bool Engine::done(const TaskPointer& task) {
  const Lock lock(mutex_);
  return task == nullptr || task->done_;
}

void Engine::wait(const TaskPointer& task) {
  if (task == nullptr) return;
  Lock lock(mutex_);
  ++waiters_;
  changed_.notify_all();
  changed_.wait(lock, [&] { return task->done_; });
  --waiters_;
}

void Engine::wait_all() {
  Lock lock(mutex_);
  ++waiters_;
  changed_.notify_all();
  changed_.wait(lock, [&] { return live_ == 0; });
  --waiters_;
}

cudaError_t Engine::error() {
  const Lock lock(mutex_);
  return error_;
}

void Engine::set_error(cudaError_t error, const std::string& report) {
  const Lock lock(mutex_);
  error_ = error;
  report_ = report;
}

std::string Engine::report() {
  const Lock lock(mutex_);
  return report_;
}

Counters Engine::counters() {
  const Lock lock(mutex_);
  return counters_;
}

void Engine::reset(const Settings& settings) {
  const Lock lock(mutex_);
  settings_ = settings;
  error_ = cudaSuccess;
  report_.clear();
  counters_ = {};
  workshop_.random = Random(settings.seed);
}

// ---- The device's thread -----------------------------------------------------------------------

void Engine::loop() {
  Fiber scheduler;
  use_scheduler(&scheduler);
  Lock lock(mutex_);
  while (const TaskPointer task = pick(lock)) {
    bool finished = error_ != cudaSuccess;
    if (!finished) {
      lock.unlock();
      std::string failure;
      try {
        start(task);
        finished = advance(*task);
      } catch (const DeviceError& error) {
        failure = error.what();
      }
      lock.lock();
      if (!failure.empty()) fail(failure);
      finished = finished || error_ != cudaSuccess;
    }
    if (finished) complete(task);
  }
  workshop_ = {};
}

// Null when the engine ends.
TaskPointer Engine::pick(Lock& lock) {
  for (;;) {
    if (ready_.empty() || holds_ > 0) {
      if (stop_ && holds_ == 0) return nullptr;
      changed_.wait(lock);
      continue;
    }
    const TaskPointer task = ready_[workshop_.random.below(static_cast<uint32_t>(ready_.size()))];
    const auto begin = task->submitted_ + std::chrono::microseconds(settings_.start_delay_us);
    if (waiters_ > 0 || stop_ || settings_.start_delay_us == 0 || Task::Clock::now() >= begin)
      return task;
    changed_.wait_until(lock, begin);
  }
}

void Engine::start(const TaskPointer& task) {
  if (task->work_.kernel == nullptr || std::exchange(task->started_, true)) return;
  run_prologue(task);
  const bool is_dependent = task->work_.kernel->edge == Edge::programmatic;
  if (task->grid_ == nullptr && is_dependent && settings_.hide_memory) run_early(*task);
  if (task->grid_ == nullptr) {
    task->grid_ = std::make_unique<Grid>(task->work_.kernel, workshop_);
  }
  task->grid_->predecessor_finished();
  const Lock lock(mutex_);
  ++counters_.kernels;
}

// Runs the kernels that may overlap `task` up to pdl_wait, before `task` itself.
void Engine::run_prologue(const TaskPointer& task) {
  const Prologues mode = settings_.prologues;
  if (mode == Prologues::never) return;
  if (mode == Prologues::sometimes && workshop_.random.one_in(2)) return;
  TaskPointer next;
  {
    const Lock lock(mutex_);
    const auto found = std::find_if(task->next_.begin(), task->next_.end(),
                                    [](const auto& after) { return after->programmatic_; });
    if (found == task->next_.end()) return;
    next = *found;
    ++counters_.early_prologues;
  }
  run_early(*next);
}

// Runs a kernel up to pdl_wait.
void Engine::run_early(Task& task) {
  task.grid_ = std::make_unique<Grid>(task.work_.kernel, workshop_);
  if (!settings_.hide_memory) {
    task.grid_->run(kPrologueSteps);
    return;
  }
  memory().hide();
  try {
    task.grid_->run(kPrologueSteps);
  } catch (const DeviceError&) {
    memory().reveal();
    throw;
  }
  const std::string broken = memory().reveal();
  if (!broken.empty())
    throw DeviceError(concat("kernel ", task.work_.kernel->name(), ": ", broken));
}

bool Engine::advance(Task& task) {
  if (task.work_.action) task.work_.action();
  if (task.grid_ == nullptr) return true;
  if (task.grid_->run(kSliceSteps) != Progress::done) return false;
  const std::string broken = memory().check_guards();
  if (!broken.empty()) {
    throw DeviceError(concat("kernel ", task.work_.kernel->name(), ": ", broken));
  }
  return true;
}

void Engine::complete(const TaskPointer& task) {
  ready_.erase(std::find(ready_.begin(), ready_.end(), task));
  task->done_ = true;
  task->finished_ = Task::Clock::now();
  task->grid_.reset();
  task->work_ = {};
  for (const TaskPointer& next : std::exchange(task->next_, {})) {
    if (--next->unfinished_ == 0) ready_.push_back(next);
  }
  --live_;
  changed_.notify_all();
}

void Engine::fail(const std::string& report) {
  error_ = cudaErrorLaunchFailure;
  report_ = report;
  if (settings_.print_reports) std::fprintf(stderr, "emulated device: %s\n", report.c_str());
}

Engine& engine() {
  static Engine device;
  return device;
}

}  // namespace specrt::emulation

// Streams that run nothing until the host waits, and then run their queues in a random legal order:
// every stream in its own order, across streams only as events demand. The seed makes it repeat.
#pragma once

#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "device/stream.h"
#include "race_detector.h"

namespace specrt::testing {

class Scheduler;
class ScriptedStream;

class ScriptedEvent final : public EventState {
 public:
  ScriptedEvent(Scheduler& scheduler, ScriptedStream& stream)
      : scheduler_(scheduler), stream_(stream) {}

  bool ready() const override { return done; }
  void wait() override;

  bool done = false;
  std::exception_ptr error;  // of the work that the event covers
  VectorClock clock;

 private:
  Scheduler& scheduler_;
  ScriptedStream& stream_;
};

using Op = std::function<void()>;

class ScriptedStream final : public Stream {
 public:
  ScriptedStream(Scheduler& scheduler, size_t actor) : scheduler_(scheduler), actor_(actor) {}

  Event record() override;
  void wait(const Event& event) override;

  // Queues `op`, or keeps it for the recording in progress.
  void push(std::shared_ptr<const Op> op);

  // Runs `enqueue` and returns the ops that it pushed; nothing is queued.
  std::vector<std::shared_ptr<const Op>> capture(const std::function<void()>& enqueue);

  bool runnable() const;
  void run_one();
  void forget_error() { error_ = nullptr; }
  void ignore_waits() { ignores_waits_ = true; }

 private:
  struct Task {
    std::shared_ptr<const Op> op;
    std::shared_ptr<ScriptedEvent> record;
    std::shared_ptr<ScriptedEvent> wait;
    VectorClock clock;  // of the host when it enqueued the task
  };

  void enqueue(Task task);

  Scheduler& scheduler_;
  size_t actor_;
  std::deque<Task> queue_;
  std::exception_ptr error_;  // work is dropped until a wait of the host has thrown it
  std::vector<std::shared_ptr<const Op>>* capture_ = nullptr;
  bool ignores_waits_ = false;
};

class Scheduler {
 public:
  Scheduler(uint64_t seed, RaceDetector& races) : random_(seed), races_(races) {}

  std::unique_ptr<Stream> make_stream();

  // The host goes on while streams may get some work done.
  void let_streams_run();
  void run_until(const ScriptedEvent& event);

  RaceDetector& races() { return races_; }
  size_t stream_count() const { return streams_.size(); }
  ScriptedStream& stream(size_t index) { return *streams_[index]; }

 private:
  bool run_any();
  uint64_t draw();

  uint64_t random_;
  RaceDetector& races_;
  std::vector<ScriptedStream*> streams_;
};

}  // namespace specrt::testing

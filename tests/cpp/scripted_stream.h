// Streams that run nothing until the host waits, and then run their queues in a random legal order:
// every stream in its own order, across streams only as events demand. The seed makes it repeat.
#pragma once

#include <algorithm>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "device/stream.h"
#include "race_detector.h"

namespace specrt::testing {

class Scheduler;

// The error of an op, shared by all events and streams that it stopped. Work is dropped that was
// enqueued before a wait of the host threw the error.
struct Failure {
  std::exception_ptr error;
  uint64_t reported_at = ~uint64_t{0};  // number of the first task behind that moment
};

class ScriptedEvent final : public EventState {
 public:
  explicit ScriptedEvent(Scheduler& scheduler) : scheduler_(scheduler) {}

  bool ready() const override { return done; }
  void wait() override;

  bool done = false;
  int64_t time = 0;                  // of the stream when it came to the event
  std::shared_ptr<Failure> failure;  // of the work that the event covers
  VectorClock clock;

 private:
  Scheduler& scheduler_;
};

using Op = std::function<void()>;

class ScriptedStream final : public Stream {
 public:
  ScriptedStream(Scheduler& scheduler, size_t actor) : scheduler_(scheduler), actor_(actor) {}

  Event record() override;
  void wait(const Event& event) override;
  void drain() noexcept override;

  // Queues `op`, or keeps it for the recording in progress.
  void push(std::shared_ptr<const Op> op);

  // Runs `enqueue` and returns the ops that it pushed; nothing is queued.
  std::vector<std::shared_ptr<const Op>> capture(const std::function<void()>& enqueue);

  bool idle() const { return queue_.empty(); }
  bool runnable() const;
  void run_one();
  // Nanoseconds that its work has taken, waiting for others included. Only clocked steps take time.
  int64_t now() const { return now_; }
  void sleep_until(int64_t time) { now_ = std::max(now_, time); }
  void ignore_waits() { ignores_waits_ = true; }

 private:
  struct Task {
    std::shared_ptr<const Op> op;
    std::shared_ptr<ScriptedEvent> record;
    std::shared_ptr<ScriptedEvent> wait;
    VectorClock clock;  // of the host when it enqueued the task
    uint64_t number = 0;
  };

  void enqueue(Task task);

  Scheduler& scheduler_;
  size_t actor_;
  std::deque<Task> queue_;
  std::shared_ptr<Failure> failure_;  // why work is dropped
  std::vector<std::shared_ptr<const Op>>* capture_ = nullptr;
  bool ignores_waits_ = false;
  int64_t now_ = 0;
};

class Scheduler {
 public:
  Scheduler(uint64_t seed, RaceDetector& races) : random_(seed), races_(races) {}

  std::unique_ptr<Stream> make_stream();

  // The host goes on while streams may get some work done.
  void let_streams_run();
  void run_until(const ScriptedEvent& event);
  void run_until_idle(const ScriptedStream& stream);

  uint64_t next_number() { return next_number_++; }
  uint64_t peek_number() const { return next_number_; }
  RaceDetector& races() { return races_; }
  size_t stream_count() const { return streams_.size(); }
  ScriptedStream& stream(size_t index) { return *streams_[index]; }

 private:
  bool run_any();
  uint64_t draw();

  uint64_t random_;
  uint64_t next_number_ = 0;  // of tasks, over all streams
  RaceDetector& races_;
  std::vector<ScriptedStream*> streams_;
};

}  // namespace specrt::testing

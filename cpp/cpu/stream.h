// A CPU stream: a FIFO worker thread which is member 0 of a team of cores.
//
// After an error: when work throws, the stream drops its work, and that of streams which wait on
// its events, until a thread outside the streams has been given the error by one of the events that
// cover it (Event::wait throws it). Work enqueued before that moment is dropped, work enqueued
// later runs again. Events of dropped work are ready and carry the error.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <variant>
#include <vector>

#include "cpu/ops.h"
#include "device/stream.h"

namespace specrt::cpu {

using Clock = std::chrono::steady_clock;
using Ops = std::vector<Op>;

// An error on its way to the host; shared by all events and streams that it stopped.
class Failure {
 public:
  explicit Failure(std::exception_ptr error) : error_(std::move(error)) {}
  [[noreturn]] void report();
  void mark_reported();
  void renew() { reported_at_.store(0); }
  bool covers(Clock::time_point enqueued) const;  // whether work of that moment is to be dropped

 private:
  std::exception_ptr error_;
  std::atomic<Clock::rep> reported_at_{0};  // 0: not yet
};

// How long a worker spins for another stream's event. Waking up from sleep takes as long as several
// draft steps of a small model, and comes in every round of loops that overlap.
enum class Spinning {
  brief,    // the other stream may need this core
  patient,  // streams have cores of their own
};

class CpuEvent : public EventState {
 public:
  bool ready() const override { return done_.load(std::memory_order_acquire) != 0; }
  void wait() override;

  // For a worker: spins before it sleeps, and gives the failure without reporting it.
  std::shared_ptr<Failure> wait_as_worker(Spinning spinning);
  void signal(std::shared_ptr<Failure> failure);

 private:
  void sleep() const;

  std::atomic<uint32_t> done_{0};
  std::shared_ptr<Failure> failure_;  // written before done_
};

// One thread at a time may use it. The destructor runs what is queued and joins.
class CpuStream : public Stream {
 public:
  CpuStream(const Kernels& kernels, int cores, Spinning spinning);
  ~CpuStream() override;

  Event record() override;
  void wait(const Event& event) override;
  void drain() noexcept override;

  void enqueue(const Op& op);  // into the recording while there is one
  void launch(std::shared_ptr<const Ops> ops);

  void begin_recording(Ops& ops);
  void end_recording() { recording_ = nullptr; }
  bool is_recording() const { return recording_ != nullptr; }

 private:
  using Work = std::variant<Op, std::shared_ptr<const Ops>, std::shared_ptr<CpuEvent>, Event>;
  struct Item {
    Clock::time_point enqueued;
    Work work;
  };

  void push(Work work);
  void serve();
  void process(const Item& item);
  std::shared_ptr<Failure> failure_of(std::exception_ptr error) noexcept;
  void perform(const Op& op);
  void perform(const std::shared_ptr<const Ops>& ops);
  void perform(const std::shared_ptr<CpuEvent>& event);
  void perform(const Event& event);

  const Kernels& kernels_;
  const Spinning spinning_;
  Ops* recording_ = nullptr;

  std::mutex mutex_;
  std::vector<Item> queue_;
  bool stop_ = false;
  std::atomic<uint32_t> pushes_{0};
  std::atomic<uint32_t> finished_{0};  // of the pushes

  Team team_;                         // these three belong to the worker while there is work
  std::shared_ptr<Failure> failure_;  // why work is being dropped
  std::shared_ptr<Failure> reserve_;  // for when there is no memory for another
  Thread worker_;
};

}  // namespace specrt::cpu

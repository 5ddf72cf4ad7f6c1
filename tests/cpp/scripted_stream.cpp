#include "scripted_stream.h"

#include <algorithm>

#include "base/error.h"
#include "table_model.h"

namespace specrt::testing {
namespace {

const std::shared_ptr<ScriptedEvent> kNoEvent;

}  // namespace

void ScriptedEvent::wait() {
  scheduler_.run_until(*this);
  if (!failure) return;
  failure->reported_at = std::min(failure->reported_at, scheduler_.peek_number());
  std::rethrow_exception(failure->error);
}

Event ScriptedStream::record() {
  auto event = std::make_shared<ScriptedEvent>(scheduler_);
  enqueue({.op = nullptr, .record = event, .wait = kNoEvent, .clock = {}, .number = 0});
  return Event(event);
}

void ScriptedStream::wait(const Event& event) {
  auto state = std::static_pointer_cast<ScriptedEvent>(event.shared_state());
  if (!state || ignores_waits_) return;
  enqueue({.op = nullptr, .record = kNoEvent, .wait = std::move(state), .clock = {}, .number = 0});
}

void ScriptedStream::drain() noexcept {
  scheduler_.run_until_idle(*this);
  RaceDetector& races = scheduler_.races();
  races.acquire(kHost, races.release(actor_));
  if (failure_) failure_->reported_at = std::min(failure_->reported_at, scheduler_.peek_number());
}

void ScriptedStream::push(std::shared_ptr<const Op> op) {
  if (capture_ != nullptr) {
    capture_->push_back(std::move(op));
  } else {
    enqueue({.op = std::move(op), .record = kNoEvent, .wait = kNoEvent, .clock = {}, .number = 0});
  }
}

std::vector<std::shared_ptr<const Op>> ScriptedStream::capture(
    const std::function<void()>& enqueue) {
  std::vector<std::shared_ptr<const Op>> ops;
  capture_ = &ops;
  enqueue();
  capture_ = nullptr;
  return ops;
}

void ScriptedStream::enqueue(Task task) {
  SPECRT_CHECK(capture_ == nullptr, "events cannot be recorded");
  task.clock = scheduler_.races().release(kHost);
  task.number = scheduler_.next_number();
  queue_.push_back(std::move(task));
  scheduler_.let_streams_run();
}

bool ScriptedStream::runnable() const {
  return !queue_.empty() && (!queue_.front().wait || queue_.front().wait->done);
}

void ScriptedStream::run_one() {
  const Task task = std::move(queue_.front());
  queue_.pop_front();
  RaceDetector& races = scheduler_.races();
  races.acquire(actor_, task.clock);
  if (failure_ && task.number >= failure_->reported_at) failure_ = nullptr;
  if (task.wait) {
    races.acquire(actor_, task.wait->clock);
    sleep_until(task.wait->time);
    if (!failure_) failure_ = task.wait->failure;
  } else if (task.record) {
    task.record->clock = races.release(actor_);
    task.record->time = now_;
    task.record->failure = failure_;
    task.record->done = true;
  } else if (!failure_) {
    races.set_actor(actor_);
    try {
      (*task.op)();
    } catch (...) {
      failure_ = std::make_shared<Failure>(Failure{.error = std::current_exception()});
    }
    races.set_actor(kHost);
  }
}

std::unique_ptr<Stream> Scheduler::make_stream() {
  SPECRT_CHECK(streams_.size() + 1 < kMaxActors, "too many streams");
  auto stream = std::make_unique<ScriptedStream>(*this, streams_.size() + 1);
  streams_.push_back(stream.get());
  return stream;
}

void Scheduler::let_streams_run() {
  const uint64_t most = draw() % 8;
  if (most < 4) return;
  for (uint64_t i = draw() % (most * 2); i > 0 && run_any(); --i) {
  }
}

void Scheduler::run_until(const ScriptedEvent& event) {
  while (!event.done) SPECRT_CHECK(run_any(), "deadlock: no stream can go on");
  races_.acquire(kHost, event.clock);
  let_streams_run();
}

void Scheduler::run_until_idle(const ScriptedStream& stream) {
  while (!stream.idle()) SPECRT_CHECK(run_any(), "deadlock: no stream can go on");
}

bool Scheduler::run_any() {
  const size_t first = draw() % std::max<size_t>(streams_.size(), 1);
  for (size_t i = 0; i < streams_.size(); ++i) {
    ScriptedStream& stream = *streams_[(first + i) % streams_.size()];
    if (!stream.runnable()) continue;
    stream.run_one();
    return true;
  }
  return false;
}

uint64_t Scheduler::draw() { return random_ = mix(random_); }

}  // namespace specrt::testing

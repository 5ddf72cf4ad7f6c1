// Streams run work in order; events tell when. A CPU stream is a worker thread with a share of the
// cores, a CUDA stream a cudaStream_t.
#pragma once

#include <memory>
#include <utility>

namespace specrt {

// State of an event; implemented by each backend.
class EventState {
 public:
  virtual ~EventState() = default;
  virtual bool ready() const = 0;
  virtual void wait() = 0;  // blocks; rethrows the error of the work that the event covers
};

// A point in the work of a stream. Copies refer to the same point; an empty event is ready.
class Event {
 public:
  Event() = default;
  explicit Event(std::shared_ptr<EventState> state) : state_(std::move(state)) {}

  bool ready() const { return !state_ || state_->ready(); }

  // Blocks until the work before the point is done. Throws what that work threw; the stream then
  // drops the work that was still queued, and its sequences must be begun again.
  void wait() const {
    if (state_) state_->wait();
  }

  EventState* state() const { return state_.get(); }
  const std::shared_ptr<EventState>& shared_state() const { return state_; }

 private:
  std::shared_ptr<EventState> state_;
};

class Stream {
 public:
  virtual ~Stream() = default;
  virtual Event record() = 0;
  virtual void wait(const Event& event) = 0;  // later work of this stream runs after `event`

  // Blocks until all that was enqueued is done or dropped. An error of that work counts as
  // reported. Needs no memory, so it also works when memory has run out.
  virtual void drain() noexcept = 0;
};

// The part of a device that a stream may use. CPU: cores [first_core, first_core + cores) of those
// that the backend was given. CUDA: `priority` orders waiting blocks, larger is earlier.
struct StreamShare {
  int first_core = 0;
  int cores = 0;  // 0: all
  int priority = 0;
};

// Work recorded once and launched many times; reads all that varies from cells.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  virtual void launch(Stream& stream) = 0;
};

}  // namespace specrt

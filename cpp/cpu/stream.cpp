#include "cpu/stream.h"

#include <new>

#include "base/error.h"

namespace specrt::cpu {

void Failure::mark_reported() {
  Clock::rep unset = 0;
  reported_at_.compare_exchange_strong(unset, Clock::now().time_since_epoch().count());
}

void Failure::report() {
  mark_reported();
  std::rethrow_exception(error_);
}

bool Failure::covers(Clock::time_point enqueued) const {
  const Clock::rep reported_at = reported_at_.load();
  return reported_at == 0 || enqueued.time_since_epoch().count() < reported_at;
}

void CpuEvent::sleep() const {
  while (!ready()) done_.wait(0, std::memory_order_acquire);
}

void CpuEvent::wait() {
  sleep();
  if (failure_) failure_->report();
}

std::shared_ptr<Failure> CpuEvent::wait_as_worker(Spinning spinning) {
  constexpr int kPatientSpins = 40;  // about 2 ms
  const int spins = spinning == Spinning::patient ? kPatientSpins : 1;
  for (int i = 0; i < spins; ++i) {
    if (spin_until([this] { return ready(); })) return failure_;
  }
  sleep();
  return failure_;
}

void CpuEvent::signal(std::shared_ptr<Failure> failure) {
  failure_ = std::move(failure);
  done_.exchange(1);
  done_.notify_all();
}

CpuStream::CpuStream(const Kernels& kernels, int cores, Spinning spinning)
    : kernels_(kernels),
      spinning_(spinning),
      team_(cores),
      reserve_(std::make_shared<Failure>(std::make_exception_ptr(std::bad_alloc()))),
      worker_([this] { serve(); }) {}

CpuStream::~CpuStream() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  pushes_.fetch_add(1);
  pushes_.notify_one();
  worker_.join();
}

void CpuStream::begin_recording(Ops& ops) {
  SPECRT_CHECK(!is_recording(), "the stream is recording already");
  recording_ = &ops;
}

void CpuStream::enqueue(const Op& op) {
  if (is_recording()) {
    recording_->push_back(op);
  } else {
    push(op);
  }
}

Event CpuStream::record() {
  SPECRT_CHECK(!is_recording(), "an event cannot be recorded into recorded work");
  auto state = std::make_shared<CpuEvent>();
  push(state);
  return Event(std::move(state));
}

void CpuStream::wait(const Event& event) {
  SPECRT_CHECK(!is_recording(), "recorded work cannot wait on an event");
  if (event.state() != nullptr) push(event);
}

void CpuStream::drain() noexcept {
  const uint32_t all = pushes_.load();
  const auto finished = [&] { return finished_.load(std::memory_order_acquire) == all; };
  while (!finished() && !spin_until(finished)) {
    const uint32_t seen = finished_.load(std::memory_order_acquire);
    if (seen != all) finished_.wait(seen, std::memory_order_acquire);
  }
  if (failure_) failure_->mark_reported();
}

void CpuStream::launch(std::shared_ptr<const Ops> ops) {
  SPECRT_CHECK(!is_recording(), "recorded work cannot launch recorded work");
  push(std::move(ops));
}

void CpuStream::push(Work work) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back({Clock::now(), std::move(work)});
  }
  pushes_.fetch_add(1);
  pushes_.notify_one();
}

void CpuStream::serve() {
  std::vector<Item> batch;
  for (;;) {
    const uint32_t seen = pushes_.load(std::memory_order_acquire);
    bool stop = false;
    {
      const std::lock_guard lock(mutex_);
      batch.swap(queue_);
      stop = stop_;
    }
    for (const Item& item : batch) process(item);
    finished_.fetch_add(static_cast<uint32_t>(batch.size()));
    finished_.notify_all();
    if (batch.empty()) {
      if (stop) return;
      const auto pushed = [&] { return pushes_.load(std::memory_order_relaxed) != seen; };
      if (!spin_until(pushed)) pushes_.wait(seen, std::memory_order_acquire);
    }
    batch.clear();
  }
}

void CpuStream::process(const Item& item) {
  if (failure_ && !failure_->covers(item.enqueued)) failure_ = nullptr;
  try {
    std::visit([this](const auto& work) { perform(work); }, item.work);
  } catch (...) {
    failure_ = failure_of(std::current_exception());
  }
}

std::shared_ptr<Failure> CpuStream::failure_of(std::exception_ptr error) noexcept {
  try {
    return std::make_shared<Failure>(std::move(error));
  } catch (const std::bad_alloc&) {
    reserve_->renew();
    return reserve_;
  }
}

void CpuStream::perform(const Op& op) {
  if (!failure_) run(kernels_, op, team_);
}

void CpuStream::perform(const std::shared_ptr<const Ops>& ops) {
  if (failure_) return;
  for (const Op& op : *ops) run(kernels_, op, team_);
}

void CpuStream::perform(const std::shared_ptr<CpuEvent>& event) { event->signal(failure_); }

void CpuStream::perform(const Event& event) {
  if (failure_) return;
  if (auto* own = dynamic_cast<CpuEvent*>(event.state())) {
    failure_ = own->wait_as_worker(spinning_);
  } else {
    event.state()->wait();
  }
}

}  // namespace specrt::cpu

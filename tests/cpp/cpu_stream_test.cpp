// CPU streams: order, events, errors, waits across streams, recording, rest.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <ctime>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "cpu/cpu_backend.h"

using namespace specrt;

namespace {

std::unique_ptr<Backend> backend_of(int threads) { return make_cpu_backend({threads, "portable"}); }

template <typename T>
void copy(Backend& backend, Stream& stream, const T& from, T& to) {
  backend.copy_to_host(stream, {&to, reinterpret_cast<const std::byte*>(&from), sizeof(T)});
}

// An event of some other device, completed by the test.
class ScriptedEvent : public EventState {
 public:
  bool ready() const override { return done_.load() != 0; }
  void wait() override {
    done_.wait(0);
    if (fails_) throw std::runtime_error("scripted");
  }
  void complete() {
    done_ = 1;
    done_.notify_all();
  }
  void fail() {
    fails_ = true;
    complete();
  }

 private:
  std::atomic<int> done_{0};
  bool fails_ = false;
};

// An op that fails when it runs: the token lies beyond the table.
struct Failing {
  Failing() {
    span.rows = 1;
    token = 7;
    args.rows.segment_count = 1;
    args.rows.capacity = 1;
    args.rows.segments[0].span = &span;
    args.rows.segments[0].tok = &token;
    args.table = {reinterpret_cast<const std::byte*>(&value), DType::f32, Layout::row_major, 1, 1};
    args.out = {out.data(), DType::f32, 1, 64};
  }
  StepSpan span;
  Cell<int32_t> token;
  float value = 0;
  alignas(64) std::array<std::byte, 64> out{};
  EmbedArgs args;
};

}  // namespace

TEST_CASE("work of a stream runs in order") {
  const auto backend = backend_of(2);
  std::array<int, 1001> chain{};
  chain[0] = 42;
  const auto stream = backend->make_stream({});
  for (size_t i = 0; i < 1000; ++i) copy(*backend, *stream, chain[i], chain[i + 1]);
  const Event event = stream->record();
  event.wait();
  CHECK(event.ready());
  CHECK(chain[1000] == 42);
}

TEST_CASE("an empty event is ready") {
  const Event event;
  CHECK(event.ready());
  event.wait();
}

TEST_CASE("a stream waits for events of other streams and other devices") {
  const auto backend = backend_of(2);
  const auto gate = std::make_shared<ScriptedEvent>();
  int source = 5, middle = 0, end = 0;
  const auto first = backend->make_stream({0, 1});
  const auto second = backend->make_stream({1, 1});
  first->wait(Event(gate));
  copy(*backend, *first, source, middle);
  second->wait(first->record());
  copy(*backend, *second, middle, end);
  const Event done = second->record();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK_FALSE(done.ready());
  gate->complete();
  done.wait();
  CHECK(end == 5);
}

TEST_CASE("two streams pass the turn many times") {
  const auto backend = backend_of(2);
  std::array<int, 501> values{};
  values[0] = 9;
  const auto first = backend->make_stream({0, 1});
  const auto second = backend->make_stream({1, 1});
  for (size_t i = 0; i < 500; ++i) {
    Stream& now = i % 2 == 0 ? *first : *second;
    Stream& next = i % 2 == 0 ? *second : *first;
    copy(*backend, now, values[i], values[i + 1]);
    next.wait(now.record());
  }
  first->record().wait();
  CHECK(values[500] == 9);
}

TEST_CASE("an error reaches the events behind it and drops the work until it is reported") {
  const auto backend = backend_of(2);
  Failing failing;
  int source = 1, before = 0, dropped = 0, late = 0, after = 0;
  const auto stream = backend->make_stream({});
  copy(*backend, *stream, source, before);
  const Event good = stream->record();
  backend->embed(*stream, failing.args);
  const Event first = stream->record();
  copy(*backend, *stream, source, dropped);
  const Event second = stream->record();
  good.wait();
  while (!second.ready()) std::this_thread::yield();
  copy(*backend, *stream, source, late);  // the host does not know of the error yet
  CHECK_THROWS_WITH_AS(first.wait(), "embed: token 7 of a vocabulary of 1", Error);
  copy(*backend, *stream, source, after);
  stream->record().wait();
  CHECK(before == 1);
  CHECK(dropped == 0);
  CHECK(late == 0);
  CHECK(after == 1);
  CHECK_THROWS_AS(second.wait(), Error);
  CHECK_THROWS_AS(first.wait(), Error);
  copy(*backend, *stream, source, late);  // a second report of the same error drops nothing
  stream->record().wait();
  CHECK(late == 1);
}

TEST_CASE("an error passes to waiting streams, and one report is enough for all") {
  const auto backend = backend_of(2);
  Failing failing;
  int source = 1, dropped = 0, first_after = 0, second_after = 0;
  const auto first = backend->make_stream({0, 1});
  const auto second = backend->make_stream({1, 1});
  backend->embed(*first, failing.args);
  second->wait(first->record());
  copy(*backend, *second, source, dropped);
  CHECK_THROWS_AS(second->record().wait(), Error);
  copy(*backend, *first, source, first_after);
  copy(*backend, *second, source, second_after);
  first->record().wait();
  second->record().wait();
  CHECK(dropped == 0);
  CHECK(first_after == 1);
  CHECK(second_after == 1);
}

TEST_CASE("an error of another device's event is the stream's error") {
  const auto backend = backend_of(1);
  const auto gate = std::make_shared<ScriptedEvent>();
  const auto stream = backend->make_stream({});
  stream->wait(Event(gate));
  const Event event = stream->record();
  gate->fail();
  CHECK_THROWS_WITH(event.wait(), "scripted");
  stream->record().wait();
}

TEST_CASE("recorded work reads cells when it is launched") {
  const auto backend = backend_of(2);
  const auto stream = backend->make_stream({});
  Cells cells;
  StepSpan span;
  cells.committed = 4;
  cells.tail = 3;
  SequenceCells sequence;
  sequence.cells = &cells;
  auto work = backend->record(*stream, [&] {
    backend->feed_tail(*stream, {sequence, &span, TailSource::committed});
  });
  stream->record().wait();
  CHECK(span.rows == 0);
  work->launch(*stream);
  stream->record().wait();
  CHECK(span.base == 3);
  CHECK(span.rows == 3);
  cells.tail = 1;
  work->launch(*stream);
  work = nullptr;  // what is launched stays
  stream->record().wait();
  CHECK(span.rows == 1);
}

TEST_CASE("recording refuses what cannot be recorded") {
  const auto backend = backend_of(1);
  const auto stream = backend->make_stream({});
  StepSpan span;
  const auto refused = [&](const std::function<void()>& enqueue) {
    CHECK_THROWS_AS(backend->record(*stream, enqueue), Error);
  };
  refused([&] { stream->record(); });
  refused([&] { stream->wait(Event()); });
  refused([&] { backend->feed_prompt(*stream, {&span, 0, 1}); });
  refused([&] { backend->record(*stream, [] {}); });
  const auto empty = backend->record(*stream, [] {});
  refused([&] { empty->launch(*stream); });
  empty->launch(*stream);
  stream->record().wait();
}

TEST_CASE("arguments are checked when work is enqueued") {
  const auto backend = backend_of(1);
  const auto stream = backend->make_stream({});
  CHECK_THROWS_WITH_AS(backend->linear(*stream, {}), doctest::Contains("linear: "), Error);
  stream->record().wait();
}

TEST_CASE("a stream finishes its work before it goes") {
  const auto backend = backend_of(2);
  std::array<int, 301> chain{};
  chain[0] = 3;
  Event event;
  {
    const auto stream = backend->make_stream({});
    for (size_t i = 0; i < 300; ++i) copy(*backend, *stream, chain[i], chain[i + 1]);
    event = stream->record();
  }
  CHECK(event.ready());
  CHECK(chain[300] == 3);
}

TEST_CASE("idle streams do not burn CPU") {
  const auto backend = backend_of(4);
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 3; ++i) streams.push_back(backend->make_stream({}));
  for (const auto& stream : streams) stream->record().wait();
  streams[1]->wait(streams[0]->record());
  const auto gate = std::make_shared<ScriptedEvent>();
  streams[0]->wait(Event(gate));
  streams[1]->wait(streams[0]->record());  // sleeps as long as the gate is closed
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto seconds = [] {
    timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  const double before = seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK(seconds() - before < 0.03);
  gate->complete();
}

TEST_CASE("shares of cores are within the backend's") {
  const auto backend = backend_of(3);
  CHECK(backend->make_stream({1, 2}) != nullptr);
  CHECK(backend->make_stream({2, 0}) != nullptr);
  for (const StreamShare& share : {StreamShare{2, 2}, StreamShare{-1, 1}, StreamShare{3, 0}}) {
    CHECK_THROWS_AS(backend->make_stream(share), Error);
  }
}

TEST_CASE("an unknown instruction set is refused by name") {
  CHECK(cpu_isas().back() == "portable");
  for (const std::string& isa : cpu_isas()) {
    CHECK(make_cpu_backend({1, isa})->name() == "cpu:" + isa);
  }
  try {
    make_cpu_backend({1, "sse9"});
    FAIL("not refused");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::argument);
    CHECK(std::string(error.what()).find("sse9") != std::string::npos);
    CHECK(std::string(error.what()).find("portable") != std::string::npos);
  }
}

TEST_CASE("memory is aligned and zero, and more than the machine has is refused") {
  const auto backend = backend_of(1);
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{5} << 20}) {
    const Buffer buffer = backend->alloc(bytes);
    CHECK(buffer.size() == bytes);
    CHECK(reinterpret_cast<uintptr_t>(buffer.data()) % 64 == 0);
    CHECK(buffer.data()[0] == std::byte{0});
    CHECK(buffer.data()[bytes - 1] == std::byte{0});
  }
  CHECK(backend->alloc_shared(100).data() != nullptr);
  const std::vector<std::byte> weights(3 << 20, std::byte{7});
  const Buffer placed = backend->place_weights(weights.data(), weights.size());
  CHECK(std::equal(weights.begin(), weights.end(), placed.data()));
  CHECK(backend->alloc(0).data() == nullptr);
  CHECK_THROWS_AS(backend->alloc(size_t{1} << 60), Error);
}

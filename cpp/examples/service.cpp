// A small HTTP service: token ids in, tokens and text out.
//
//   service --bundle FOLDER [--port 8080] [--queue 64] ...        (all options: service_options.h)
//   POST /generate {"prompt": [1, 2, 3], "max_tokens": 64, "temperature": 0, "stream": true}
//   GET /health    GET /metrics
//
// With "stream" the answer is server-sent events, one a round, the last with the finish reason.
// A full queue answers 429, a service that shuts down 503, both with Retry-After. SIGTERM or
// SIGINT: new requests are refused, those in flight have the grace time and are then cancelled;
// each gets its answer. Encoding, TLS and authentication belong to what stands in front.
#include <httplib.h>
#include <signal.h>
#include <specrt/specrt.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <thread>

#include "service_options.h"
#include "service_request.h"

namespace service {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr const char* kJson = "application/json";
constexpr size_t kSpareThreads = 16;  // for health, metrics and refusals while the queue is full
constexpr time_t kSocketSeconds = 5;  // a client that neither sends nor reads is dropped

class Service {
 public:
  explicit Service(const Options& options) : options_(options), llm_(llm_options(options)) {
    const size_t threads = static_cast<size_t>(options.queue) + kSpareThreads;
    server_.new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
    server_.set_payload_max_length(static_cast<size_t>(options.max_body));
    server_.set_read_timeout(kSocketSeconds);
    server_.set_write_timeout(kSocketSeconds);
    server_.set_keep_alive_max_count(1);  // a connection that idles would hold a thread
    server_.set_tcp_nodelay(true);
    server_.set_socket_options([this](socket_t socket) {
      const int yes = 1;  // a restart need not wait for old connections to be forgotten
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
      socket_ = socket;
    });
    server_.Post("/generate", [this](const auto& in, auto& out) { generate(in, out); });
    server_.Get("/health", [this](const auto&, auto& out) { health(out); });
    server_.Get("/metrics", [this](const auto&, auto& out) {
      out.set_content(specrt_metrics(), "text/plain; version=0.0.4");
    });
  }

  // Serves until a signal of `signals`, which every thread blocks, and the end of what is in
  // flight.
  bool run(const sigset_t& signals) {
    const int port = bind();
    if (port < 0) return false;
    std::atomic<bool> has_ended = false;
    std::jthread listener([&] {
      server_.listen_after_bind();
      has_ended = true;
    });
    std::printf("listening on http://%s:%d\n", options_.host.c_str(), port);
    std::fflush(stdout);
    const timespec moment{.tv_sec = 0, .tv_nsec = 100'000'000};
    while (!has_ended && sigtimedwait(&signals, nullptr, &moment) < 0) {
    }
    drain();
    server_.stop();
    return true;
  }

 private:
  // The port that it listens on, or -1. The library lets few connections wait to be accepted, so
  // many that come at once would be dropped: listening again raises that number.
  int bind() {
    int port = options_.port;
    if (port == 0) {
      port = server_.bind_to_any_port(options_.host.c_str());
    } else if (!server_.bind_to_port(options_.host.c_str(), port)) {
      return -1;
    }
    return port > 0 && ::listen(socket_, SOMAXCONN) == 0 ? port : -1;
  }

  // A place in the queue, held until the answer was sent or its client is gone.
  class Place {
   public:
    explicit Place(std::atomic<int64_t>& taken) : taken_(taken) {}
    ~Place() { --taken_; }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;

   private:
    std::atomic<int64_t>& taken_;
  };

  static specrt::LLMOptions llm_options(const Options& options) {
    specrt::LLMOptions llm = specrt::open_bundle(options.bundle).options();
    llm.threads = options.threads;
    llm.memory_limit = static_cast<uint64_t>(options.memory_limit);
    llm.on_warning = [](std::string_view text) {
      std::fprintf(stderr, "warning: %.*s\n", static_cast<int>(text.size()), text.data());
    };
    return llm;
  }

  static void refuse(httplib::Response& out, int status, const std::string& message) {
    out.status = status;
    if (status == 429 || status == 503) out.set_header("Retry-After", "1");
    out.set_content(error_json(message), kJson);
  }

  // Null where the queue is full.
  std::shared_ptr<Place> take_place() {
    if (taken_.fetch_add(1) < options_.queue) return std::make_shared<Place>(taken_);
    --taken_;
    return nullptr;
  }

  void generate(const httplib::Request& in, httplib::Response& out) {
    const Clock::time_point arrival = Clock::now();
    auto request = std::make_shared<Request>();
    try {
      *request = parse_request(in.body, options_);
      llm_.check(request->prompt, request->params);
    } catch (const std::exception& error) {
      return refuse(out, 400, error.what());
    }
    const std::shared_ptr<Place> place = take_place();
    if (is_draining_ || !place) {
      ++refused_;
      return is_draining_ ? refuse(out, 503, "the service is shutting down")
                          : refuse(out, 429, "the queue is full; try again");
    }
    const specrt::RequestLimits limits{.deadline = arrival + milliseconds(request->deadline_ms),
                                       .stop = all_.get_token()};
    if (request->stream) return stream(request, place, limits, out);
    try {
      out.set_content(completion_json(llm_.generate(request->prompt, request->params, {}, limits)),
                      kJson);
    } catch (const std::exception& error) {
      refuse(out, 500, error.what());
    }
  }

  void stream(const std::shared_ptr<Request>& request, const std::shared_ptr<Place>& place,
              const specrt::RequestLimits& limits, httplib::Response& out) {
    out.set_header("Cache-Control", "no-cache");
    out.set_chunked_content_provider(
        "text/event-stream", [this, request, place, limits](size_t, httplib::DataSink& sink) {
          send_events(*request, limits, sink);
          sink.done();
          return true;
        });
  }

  // Runs on the connection's thread. A client that went away ends its request.
  void send_events(const Request& request, const specrt::RequestLimits& limits,
                   httplib::DataSink& sink) {
    const auto send = [&](const std::string& json) {
      const std::string event = "data: " + json + "\n\n";
      return sink.write(event.data(), event.size());
    };
    size_t sent = 0;
    try {
      const auto forward = [&](const specrt::Progress& progress) {
        sent += progress.text.size();
        return sink.is_writable() && (progress.tokens.empty() || send(progress_json(progress)));
      };
      const specrt::Completion out = llm_.generate(request.prompt, request.params, forward, limits);
      send(end_json(out, sent));
    } catch (const std::exception& error) {
      send(error_json(error.what()));
    }
    send("[DONE]");
  }

  void health(httplib::Response& out) {
    if (is_draining_) return refuse(out, 503, "the service is shutting down");
    out.set_content("{\"status\": \"ok\"}", kJson);
  }

  std::string specrt_metrics() const {
    return metrics_text(llm_.counters(), refused_, options_.queue);
  }

  // Requests that were accepted end by themselves within the grace time, or are cancelled then.
  void drain() {
    is_draining_ = true;
    const Clock::time_point end = Clock::now() + milliseconds(options_.grace_ms);
    while (taken_ > 0) {
      if (Clock::now() >= end) all_.request_stop();
      std::this_thread::sleep_for(milliseconds(10));
    }
  }

  const Options options_;
  specrt::LLM llm_;
  httplib::Server server_;
  socket_t socket_ = INVALID_SOCKET;  // belongs to the server
  std::atomic<int64_t> taken_ = 0;
  std::atomic<uint64_t> refused_ = 0;
  std::atomic<bool> is_draining_ = false;
  std::stop_source all_;
};

}  // namespace
}  // namespace service

int main(int count, char** arguments) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before there are other threads
  signal(SIGPIPE, SIG_IGN);
  try {
    const service::Options options = service::parse_options(count, arguments);
    service::Service server(options);
    if (server.run(signals)) return 0;
    std::fprintf(stderr, "cannot listen on %s:%d\n", options.host.c_str(), options.port);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 1;
}

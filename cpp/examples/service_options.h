// What the service is started with.
#pragma once

#include <cstdint>
#include <string>

namespace service {

struct Options {
  std::string bundle;
  std::string host = "127.0.0.1";
  int port = 8080;                   // 0: any that is free
  int threads = 0;                   // of the engine; 0: all cores
  int64_t queue = 64;                // requests that run or wait; more are refused with 429
  int64_t max_body = 1 << 20;        // bytes
  int64_t max_prompt_tokens = 4096;  // and at most what the context holds
  int64_t max_tokens = 1024;         // that a request may ask for
  int64_t deadline_ms = 60'000;      // of a request, at most; waiting included
  int64_t grace_ms = 10'000;         // for requests in flight after SIGTERM
  int64_t memory_limit = 0;          // bytes; 0: none
};

// Reads `--name value` pairs; throws std::invalid_argument that says what is wrong.
Options parse_options(int count, const char* const* arguments);

}  // namespace service

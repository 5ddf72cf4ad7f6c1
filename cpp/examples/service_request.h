// The body of a request, checked, and the JSON of its answers.
#pragma once

#include <specrt/specrt.h>

#include <string>
#include <vector>

#include "service_options.h"

namespace service {

struct Request {
  std::vector<int32_t> prompt;
  specrt::SamplingParams params;
  bool stream = false;
  int64_t deadline_ms = 0;
};

// Throws std::invalid_argument that names the field and what it must be.
Request parse_request(const std::string& body, const Options& options);

std::string error_json(const std::string& message);
std::string progress_json(const specrt::Progress& progress);

// The end of a stream; `sent` bytes of the text were in it.
std::string end_json(const specrt::Completion& completion, size_t sent);

// The whole answer at once.
std::string completion_json(const specrt::Completion& completion);

// The counters in Prometheus' text format.
std::string metrics_text(const specrt::LLMCounters& counters, uint64_t refused, int64_t queue);

}  // namespace service

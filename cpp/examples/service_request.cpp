#include "service_request.h"

#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

namespace service {
namespace {

using nlohmann::json;

constexpr size_t kMaxStops = 16;

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

int64_t integer(const json& value, const std::string& name, int64_t least, int64_t most) {
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
  if (fits && value.get<int64_t>() >= least && value.get<int64_t>() <= most) {
    return value.get<int64_t>();
  }
  refuse(name + " must be an integer in [" + std::to_string(least) + ", " + std::to_string(most) +
         "]");
}

float real(const json& value, const std::string& name) {
  if (!value.is_number()) refuse(name + " must be a number");
  return value.get<float>();
}

bool yes_or_no(const json& value, const std::string& name) {
  if (!value.is_boolean()) refuse(name + " must be true or false");
  return value.get<bool>();
}

std::vector<int32_t> token_ids(const json& value, const std::string& name, int64_t most) {
  if (!value.is_array()) refuse(name + " must be a list of token ids");
  if (value.size() > static_cast<size_t>(most)) {
    refuse(name + " has " + std::to_string(value.size()) + " tokens; at most " +
           std::to_string(most) + " are allowed");
  }
  std::vector<int32_t> tokens;
  for (const json& token : value) {
    tokens.push_back(static_cast<int32_t>(integer(token, "a token of " + name, 0, INT32_MAX)));
  }
  return tokens;
}

std::vector<std::string> stop_texts(const json& value) {
  if (value.is_string()) return {value.get<std::string>()};
  if (!value.is_array() || value.size() > kMaxStops) {
    refuse("stop must be a text or a list of at most " + std::to_string(kMaxStops));
  }
  std::vector<std::string> stops;
  for (const json& stop : value) {
    if (!stop.is_string()) refuse("stop must hold texts");
    stops.push_back(stop.get<std::string>());
  }
  return stops;
}

void read_field(const std::string& name, const json& value, const Options& options,
                Request& request) {
  specrt::SamplingParams& params = request.params;
  if (name == "prompt") {
    request.prompt = token_ids(value, name, options.max_prompt_tokens);
  } else if (name == "max_tokens") {
    params.max_tokens = static_cast<int32_t>(integer(value, name, 1, options.max_tokens));
  } else if (name == "deadline_ms") {
    request.deadline_ms = integer(value, name, 1, options.deadline_ms);
  } else if (name == "stream") {
    request.stream = yes_or_no(value, name);
  } else if (name == "temperature") {
    params.temperature = real(value, name);
  } else if (name == "top_p") {
    params.top_p = real(value, name);
  } else if (name == "min_p") {
    params.min_p = real(value, name);
  } else if (name == "top_k") {
    params.top_k = static_cast<int32_t>(integer(value, name, 0, INT32_MAX));
  } else if (name == "seed") {
    params.seed = static_cast<uint64_t>(integer(value, name, 0, INT64_MAX));
  } else if (name == "ignore_eos") {
    params.ignore_eos = yes_or_no(value, name);
  } else if (name == "stop") {
    params.stop = stop_texts(value);
  } else if (name == "stop_token_ids") {
    params.stop_token_ids = token_ids(value, name, kMaxStops);
  } else {
    refuse("there is no field " + json(name).dump(-1, ' ', true, json::error_handler_t::replace));
  }
}

// Text may be bytes of half a character where a completion ends.
std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

const char* name_of(specrt::FinishReason reason) {
  constexpr const char* kNames[] = {"stop", "length", "cancelled", "deadline"};
  return kNames[static_cast<size_t>(reason)];
}

json summary(const specrt::Completion& completion) {
  const specrt::GenerationMetrics& metrics = completion.metrics;
  return {{"finish_reason", name_of(completion.finish_reason)},
          {"seed", completion.seed},
          {"usage",
           {{"prompt_tokens", metrics.prompt_tokens},
            {"cached_tokens", metrics.cached_tokens},
            {"completion_tokens", completion.token_ids.size()}}},
          {"milliseconds",
           {{"waiting", 1000 * metrics.waiting_time},
            {"first_token", 1000 * metrics.time_to_first_token},
            {"total", 1000 * metrics.total_time}}}};
}

}  // namespace

Request parse_request(const std::string& body, const Options& options) {
  const json parsed = json::parse(body, nullptr, false);
  if (!parsed.is_object()) refuse("the body must be a JSON object");
  Request request;
  request.deadline_ms = options.deadline_ms;
  for (const auto& [name, value] : parsed.items()) read_field(name, value, options, request);
  return request;
}

std::string error_json(const std::string& message) {
  return dump({{"error", {{"message", message}}}});
}

std::string progress_json(const specrt::Progress& progress) {
  return dump({{"token_ids", std::vector<int32_t>(progress.tokens.begin(), progress.tokens.end())},
               {"text", std::string(progress.text)}});
}

std::string end_json(const specrt::Completion& completion, size_t sent) {
  json end = summary(completion);
  end["token_ids"] = json::array();
  end["text"] = completion.text.substr(sent);
  return dump(end);
}

std::string completion_json(const specrt::Completion& completion) {
  json answer = summary(completion);
  answer["token_ids"] = completion.token_ids;
  answer["text"] = completion.text;
  return dump(answer);
}

std::string metrics_text(const specrt::LLMCounters& counters, uint64_t refused, int64_t queue) {
  std::ostringstream out;
  const auto type = [&](const char* name, const char* kind) {
    out << "# TYPE " << name << ' ' << kind << '\n';
  };
  const auto single = [&](const char* name, const char* kind, auto value) {
    type(name, kind);
    out << name << ' ' << value << '\n';
  };
  type("specrt_requests_total", "counter");
  const std::pair<const char*, uint64_t> ends[] = {{"stop", counters.stopped},
                                                   {"length", counters.length},
                                                   {"cancelled", counters.cancelled},
                                                   {"deadline", counters.deadline},
                                                   {"failed", counters.failed}};
  for (const auto& [reason, count] : ends) {
    out << "specrt_requests_total{finish_reason=\"" << reason << "\"} " << count << '\n';
  }
  single("specrt_refused_total", "counter", refused);
  single("specrt_active_requests", "gauge", counters.active);
  single("specrt_queue_limit", "gauge", queue);
  single("specrt_prompt_tokens_total", "counter", counters.prompt_tokens);
  single("specrt_cached_tokens_total", "counter", counters.cached_tokens);
  single("specrt_generated_tokens_total", "counter", counters.generated_tokens);
  single("specrt_rounds_total", "counter", counters.rounds);
  single("specrt_drafted_tokens_total", "counter", counters.drafted);
  single("specrt_judged_tokens_total", "counter", counters.judged);
  single("specrt_accepted_tokens_total", "counter", counters.accepted);
  return out.str();
}

}  // namespace service

#include "service_options.h"

#include <charconv>
#include <limits>
#include <map>
#include <stdexcept>
#include <string_view>

namespace service {
namespace {

struct Number {
  int64_t* to;
  int64_t least, most;
};

int64_t parse_number(const std::string& name, std::string_view text, const Number& range) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < range.least ||
      value > range.most) {
    throw std::invalid_argument(name + " must be a number in [" + std::to_string(range.least) +
                                ", " + std::to_string(range.most) + "]");
  }
  return value;
}

}  // namespace

Options parse_options(int count, const char* const* arguments) {
  constexpr int64_t kDay = 24 * 3600 * 1000, kMost = std::numeric_limits<int64_t>::max();
  Options options;
  int64_t port = options.port, threads = options.threads;
  const std::map<std::string, std::string*> texts = {{"--bundle", &options.bundle},
                                                     {"--host", &options.host}};
  const std::map<std::string, Number> numbers = {
      {"--port", {&port, 0, 65535}},
      {"--threads", {&threads, 0, 1024}},
      {"--queue", {&options.queue, 1, 4096}},
      {"--max-body", {&options.max_body, 1024, int64_t{1} << 30}},
      {"--max-prompt-tokens", {&options.max_prompt_tokens, 1, 1 << 22}},
      {"--max-tokens", {&options.max_tokens, 1, 1 << 22}},
      {"--deadline-ms", {&options.deadline_ms, 1, kDay}},
      {"--grace-ms", {&options.grace_ms, 0, kDay}},
      {"--memory-limit", {&options.memory_limit, 0, kMost}}};
  for (int i = 1; i < count; i += 2) {
    const std::string name = arguments[i];
    const auto text = texts.find(name);
    const auto number = numbers.find(name);
    if (text == texts.end() && number == numbers.end()) {
      throw std::invalid_argument("unknown option " + name);
    }
    if (i + 1 == count) throw std::invalid_argument(name + " needs a value");
    if (text != texts.end()) {
      *text->second = arguments[i + 1];
    } else {
      *number->second.to = parse_number(name, arguments[i + 1], number->second);
    }
  }
  options.port = static_cast<int>(port);
  options.threads = static_cast<int>(threads);
  if (options.bundle.empty()) throw std::invalid_argument("--bundle FOLDER is needed");
  return options;
}

}  // namespace service

// specrt_cuda_check PART [--option value]: what tools/gpu_check.py runs on a device. Each part
// prints its readings as lines of JSON. Built against the emulator too, where times mean nothing.
#include <charconv>
#include <cstdio>
#include <map>
#include <string_view>

#include "base/error.h"
#include "bench.h"

namespace specrt::cuda::bench {
namespace {

using Part = void (*)(const Device& device, const Options& options);

const std::map<std::string_view, Part> kParts = {
    {"litmus", litmus},        {"ceilings", ceilings}, {"steps", steps},
    {"prefill", prefill},      {"streams", streams},   {"linear", linears},
    {"attention", attentions}, {"judge", judges},      {"gaps", gaps},
};

template <typename T>
T number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value <= 0) {
    fail_argument("'", std::string(text), "' is not a positive number");
  }
  return value;
}

std::vector<int32_t> numbers(std::string_view text) {
  std::vector<int32_t> values;
  while (!text.empty()) {
    const size_t comma = text.find(',');
    values.push_back(number<int32_t>(text.substr(0, comma)));
    text = comma == text.npos ? "" : text.substr(comma + 1);
  }
  return values;
}

Options parse(int count, char** words) {
  Options options;
  for (int i = 2; i + 1 < count; i += 2) {
    const std::string_view name = words[i], value = words[i + 1];
    if (name == "--shape") {
      options.shape = value;
    } else if (name == "--rows") {
      options.rows = numbers(value);
    } else if (name == "--contexts") {
      options.contexts = numbers(value);
    } else if (name == "--samples") {
      options.samples = number<int32_t>(value);
    } else if (name == "--count") {
      options.count = number<int32_t>(value);
    } else if (name == "--bytes") {
      options.bytes = number<size_t>(value);
    } else {
      fail_argument("unknown option ", std::string(name));
    }
  }
  return options;
}

int run(int count, char** words) {
  const auto part = count < 2 ? kParts.end() : kParts.find(words[1]);
  if (part == kParts.end() || count % 2 != 0) {
    std::string names;
    for (const auto& [name, function] : kParts) names.append(" ").append(name);
    std::fprintf(stderr, "usage: specrt_cuda_check PART [--option value]; parts:%s\n",
                 names.c_str());
    return 2;
  }
  const Options options = parse(count, words);
  const Device device;
  part->second(device, options);
  return 0;
}

}  // namespace
}  // namespace specrt::cuda::bench

int main(int count, char** words) {
  try {
    return specrt::cuda::bench::run(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}

// The one exception type of specrt and the check macro that throws it.
// In Python, kind `argument` becomes ValueError and every other kind specrt.Error.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace specrt {

enum class ErrorKind {
  argument,  // the caller passed something out of range; nothing was changed
  runtime,   // a file, the machine or the engine itself is at fault
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(ErrorKind::runtime, concat(parts...));
}

template <typename... Parts>
[[noreturn]] void fail_argument(const Parts&... parts) {
  throw Error(ErrorKind::argument, concat(parts...));
}

}  // namespace specrt

// Throws specrt::Error with the message made of the remaining arguments unless `condition` holds.
#define SPECRT_CHECK(condition, ...)               \
  do {                                             \
    if (!(condition)) ::specrt::fail(__VA_ARGS__); \
  } while (false)

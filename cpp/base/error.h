// The check macro that throws specrt::Error, and functions that make its message.
#pragma once

#include <sstream>
#include <string>

#include "specrt/error.h"

namespace specrt {

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

// The one exception type of specrt.
// In Python, kind `argument` becomes ValueError and every other kind specrt.Error.
#pragma once

#include <stdexcept>
#include <string>

#include "specrt/export.h"

namespace specrt {

enum class SPECRT_API ErrorKind {
  argument,  // the caller passed something out of range; nothing was changed
  runtime,   // a file, the machine or the engine itself is at fault
};

class SPECRT_API Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace specrt

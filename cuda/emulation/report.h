// Device errors: what a kernel did wrong, said once, in words.
#pragma once

#include <string>

#include "base/error.h"

namespace specrt::emulation {

// Thrown to the loop that runs the device; the device then fails as cudaErrorLaunchFailure.
class DeviceError : public Error {
 public:
  explicit DeviceError(const std::string& text) : Error(ErrorKind::runtime, text) {}
};

// Ends the kernel that runs with a report that begins with its name, block, warp and lane. On a
// device thread this does not come back; elsewhere it throws DeviceError.
[[noreturn]] void fail_device(const std::string& text);

}  // namespace specrt::emulation

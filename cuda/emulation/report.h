// Device errors: what a kernel did wrong, said once, in words.
#pragma once

#include <string>

#include "base/error.h"

namespace specrt::emulation {

// The device then fails as cudaErrorLaunchFailure.
class DeviceError : public Error {
 public:
  explicit DeviceError(const std::string& text) : Error(ErrorKind::runtime, text) {}
};

// Ends the kernel that runs: throws a DeviceError that begins with kernel, block, warp and lane.
[[noreturn]] void fail_device(const std::string& text);

}  // namespace specrt::emulation

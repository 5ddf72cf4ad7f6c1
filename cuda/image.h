// Whether the library holds code for the device of the calling thread.
#pragma once

namespace specrt::cuda {

// Throws specrt::Error if it does not: all kernels are compiled for the same architectures.
void check_image();

}  // namespace specrt::cuda

#include "api/cuda_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/error.h"

namespace specrt {
namespace {

constexpr const char* kLibrary = "libspecrt_cuda.so";
constexpr const char* kHowToBuild =
    "; install specrt where nvcc is (SPECRT_BUILD_CUDA=ON), or use a bundle built with "
    "--backend cpu";

std::string library_path() {
  if (const char* named = std::getenv("SPECRT_CUDA_LIBRARY"); named != nullptr) return named;
  Dl_info here{};
  if (dladdr(reinterpret_cast<const void*>(&make_cuda_backend), &here) == 0) return kLibrary;
  return std::filesystem::path(here.dli_fname).parent_path() / kLibrary;
}

// Stays open: kernels and classes of it may be in use until the process ends.
const CudaEntry& open_library() {
  const std::string path = library_path();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    fail("the CUDA backend cannot be opened (", dlerror(), ")", kHowToBuild);
  }
  auto* get = reinterpret_cast<GetCudaEntry*>(dlsym(library, kCudaEntryName));
  SPECRT_CHECK(get != nullptr, path, " is not specrt's CUDA backend", kHowToBuild);
  const CudaEntry& entry = *get();
  SPECRT_CHECK(std::string(entry.version) == SPECRT_VERSION, path, " is of specrt ", entry.version,
               ", this is ", SPECRT_VERSION, kHowToBuild);
  return entry;
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  return open_library().make(options);
}

}  // namespace specrt

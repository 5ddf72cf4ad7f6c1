#include "tiny_bundle.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "tiny_engine.h"

namespace specrt::testing {
namespace {

namespace fs = std::filesystem;

constexpr int32_t kContext = 4096;

void write_file(const fs::path& path, const char* data, size_t size) {
  std::ofstream file(path, std::ios::binary);
  file.write(data, static_cast<std::streamsize>(size));
  SPECRT_CHECK(file.good(), "cannot write ", path.string());
}

void write_engine(const fs::path& path, uint64_t seed) {
  EngineImage image = tiny_engine(DType::bf16, seed);
  image.header.context = kContext;
  const std::vector<std::byte> bytes = image.bytes();
  write_file(path, reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::string new_folder() {
  std::string name = (fs::temp_directory_path() / "specrt-bundle-XXXXXX").string();
  SPECRT_CHECK(::mkdtemp(name.data()) != nullptr, "cannot make ", name);
  return name;
}

}  // namespace

void write_tiny_bundle(const std::string& folder) {
  fs::create_directories(fs::path(folder) / "drafters");
  write_engine(fs::path(folder) / "target.engine", 1);
  write_engine(fs::path(folder) / "drafters" / "draft.engine", 2);
  const std::string manifest = kTinyManifest;
  write_file(fs::path(folder) / "manifest.json", manifest.data(), manifest.size());
}

TinyBundle::TinyBundle() : folder_(new_folder()) { write_tiny_bundle(folder_); }
TinyBundle::~TinyBundle() { fs::remove_all(folder_); }

void TinyBundle::write(const std::string& name, const std::string& content) const {
  write_file(fs::path(folder_) / name, content.data(), content.size());
}

}  // namespace specrt::testing

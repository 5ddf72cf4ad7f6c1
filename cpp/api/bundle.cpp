#include "specrt/bundle.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "base/json.h"

namespace specrt {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "manifest.json";
constexpr const char* kFormat = "specrt-bundle";
constexpr double kFormatVersion = 1;
constexpr size_t kMaxManifest = size_t{1} << 20;
constexpr size_t kMaxDrafters = 64;
constexpr size_t kMaxName = 256;
constexpr int32_t kMaxHeads = 64;
constexpr int32_t kDraftTokens = 4;  // where no step times are known

// Methods whose drafter reads and drafts as LLM finds it in the engine.
constexpr std::array<std::string_view, 6> kMethods = {
    "speculative", "parallel", "parallel-eagle", "parallel-medusa", "medusa", "eagle"};

std::string read_manifest(const fs::path& path) {
  std::error_code error;
  SPECRT_CHECK(fs::is_regular_file(path, error), path.parent_path().string(),
               " is not a specrt bundle (it has no ", kManifest,
               "); build one with: specrt build MODEL -o FOLDER");
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxManifest + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  SPECRT_CHECK(file.eof() && !file.bad(), path.string(), " cannot be read, or is larger than ",
               kMaxManifest, " bytes; build the bundle again");
  return text;
}

// The engine that an entry names: an existing file inside of `root`, links followed.
std::string engine_path(const fs::path& root, const Json& entry) {
  const std::string* file = entry.text("file");
  SPECRT_CHECK(
      file != nullptr && !file->empty() && file->size() <= 4096 && file->find('\0') == file->npos,
      "an engine without a file name");
  std::error_code error;
  const fs::path path = fs::canonical(root / *file, error);
  SPECRT_CHECK(!error && fs::is_regular_file(path, error), "the engine \"", *file, "\" is missing");
  const auto [end, at] = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  SPECRT_CHECK(end == root.end(), "the engine \"", *file, "\" is outside of the bundle");
  return path.string();
}

std::string name_of(const Json& entry, const char* key) {
  const std::string* name = entry.text(key);
  SPECRT_CHECK(name != nullptr && !name->empty() && name->size() <= kMaxName,
               "a drafter without a ", key);
  return *name;
}

int32_t heads_of(const Json& entry) {
  const Json* found = entry.find("heads");
  if (found == nullptr) return 0;
  const auto* heads = found->as<double>();
  SPECRT_CHECK(
      heads != nullptr && *heads >= 1 && *heads <= kMaxHeads && std::floor(*heads) == *heads,
      "a drafter without a number of heads from 1 to ", kMaxHeads);
  return static_cast<int32_t>(*heads);
}

void read_drafters(const fs::path& root, const Json& manifest, Bundle& bundle) {
  const Json* drafters = manifest.find("drafters");
  const auto* entries = drafters == nullptr ? nullptr : drafters->as<Json::Array>();
  SPECRT_CHECK(entries != nullptr, "no list of drafters");
  SPECRT_CHECK(entries->size() <= kMaxDrafters, entries->size(), " drafters");
  for (const Json& entry : *entries) {
    bundle.drafters.push_back({.name = name_of(entry, "name"),
                               .method = name_of(entry, "method"),
                               .engine = engine_path(root, entry),
                               .heads = heads_of(entry)});
  }
}

void read_engines(const fs::path& root, const Json& manifest, Bundle& bundle) {
  const std::string* format = manifest.text("format");
  SPECRT_CHECK(format != nullptr && *format == kFormat, "it is another program's");
  const Json* number = manifest.find("format_version");
  const auto* version = number == nullptr ? nullptr : number->as<double>();
  SPECRT_CHECK(version != nullptr && *version == kFormatVersion,
               "it has another format than this specrt reads (", kFormatVersion, ")");
  const Json* target = manifest.find("target");
  SPECRT_CHECK(target != nullptr, "no target");
  bundle.target = engine_path(root, *target);
  read_drafters(root, manifest, bundle);
}

LLMOptions options_with(const Bundle& bundle, const BundleDrafter* drafter) {
  LLMOptions options;
  options.target = bundle.target;
  if (drafter == nullptr) return options;
  if (std::find(kMethods.begin(), kMethods.end(), drafter->method) == kMethods.end()) {
    fail_argument("the drafter \"", drafter->name, "\" is for the method \"", drafter->method,
                  "\", which this specrt does not have");
  }
  options.drafter = drafter->engine;
  const int32_t most = drafter->heads > 0 ? drafter->heads : kDraftTokens;
  options.num_speculative_tokens = std::min(most, kDraftTokens);
  return options;
}

}  // namespace

LLMOptions Bundle::options() const {
  const auto draft = std::find_if(drafters.begin(), drafters.end(), [](const auto& drafter) {
    return drafter.method == "speculative";
  });
  return options_with(*this, draft == drafters.end() ? nullptr : &*draft);
}

LLMOptions Bundle::options(std::string_view name) const {
  if (name.empty()) return options_with(*this, nullptr);
  std::string names;
  for (const BundleDrafter& drafter : drafters) {
    if (drafter.name == name) return options_with(*this, &drafter);
    names += (names.empty() ? "" : ", ") + drafter.name;
  }
  fail_argument("the bundle ", folder, " has no drafter \"", name,
                "\"; it has: ", names.empty() ? "none" : names);
}

Bundle open_bundle(const std::string& folder) {
  const fs::path path = fs::path(folder) / kManifest;
  const std::string text = read_manifest(path);
  Bundle bundle{.folder = folder, .target = {}, .drafters = {}};
  try {
    std::error_code error;
    const fs::path root = fs::canonical(folder, error);
    SPECRT_CHECK(!error, error.message());
    read_engines(root, parse_json(text), bundle);
  } catch (const Error& error) {
    fail(path.string(), ": ", error.what(), "; build the bundle again");
  }
  return bundle;
}

}  // namespace specrt

// A bundle folder of tiny engines for tests of what opens and serves bundles.
#pragma once

#include <string>

namespace specrt::testing {

inline constexpr const char* kTinyManifest =
    R"({"format": "specrt-bundle", "format_version": 1, "command": "none",)"
    R"( "target": {"file": "target.engine"},)"
    R"( "drafters": [{"name": "draft", "method": "speculative", "file": "drafters/draft.engine"}]})";

// Writes target, draft model and manifest into `folder`, which is made. The context is longer than
// that of tiny_engine(), so that there are long prompts.
void write_tiny_bundle(const std::string& folder);

// One that exists as long as the object.
class TinyBundle {
 public:
  TinyBundle();
  ~TinyBundle();
  TinyBundle(const TinyBundle&) = delete;
  TinyBundle& operator=(const TinyBundle&) = delete;

  const std::string& folder() const { return folder_; }
  void write(const std::string& name, const std::string& content) const;

 private:
  std::string folder_;
};

}  // namespace specrt::testing

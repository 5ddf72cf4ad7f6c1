#include "specrt/bundle.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <random>

#include "tiny_bundle.h"

namespace specrt {
namespace {

namespace fs = std::filesystem;
using testing::TinyBundle;

std::string refusal(const std::string& folder) {
  try {
    open_bundle(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// The manifest with `from` replaced.
std::string changed(const std::string& from, const std::string& to) {
  std::string text = testing::kTinyManifest;
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

TEST_CASE("a bundle's engines are found and load") {
  const TinyBundle files;
  const Bundle bundle = open_bundle(files.folder());
  REQUIRE(bundle.drafters.size() == 1);
  CHECK(bundle.drafters[0].name == "draft");
  LLMOptions options = bundle.options();
  CHECK(options.drafter == bundle.drafters[0].engine);
  CHECK(options.num_speculative_tokens == 4);
  options.isa = "portable";
  const std::vector<int32_t> prompt{3, 5, 7};
  const SamplingParams params{.temperature = 0, .max_tokens = 30, .ignore_eos = true};
  LLMOptions alone = bundle.options("");
  CHECK(alone.drafter.empty());
  alone.isa = "portable";
  CHECK(LLM(options).generate(prompt, params).token_ids ==
        LLM(alone).generate(prompt, params).token_ids);
  CHECK(bundle.options("draft").drafter == options.drafter);
  CHECK_THROWS_WITH_AS(
      bundle.options("eagle"),
      ("the bundle " + files.folder() + " has no drafter \"eagle\"; it has: draft").c_str(), Error);
}

TEST_CASE("a manifest cannot name what lies outside of its bundle") {
  const TinyBundle files;
  const TinyBundle other;
  const std::string target = "\"target.engine\"";
  for (const std::string& name :
       {"\"" + other.folder() + "/target.engine\"",
        "\"../" + fs::path(other.folder()).filename().string() + "/target.engine\"",
        std::string(R"("drafters/../../../etc/passwd")"), std::string(R"("/etc/passwd")")}) {
    CAPTURE(name);
    files.write("manifest.json", changed(target, name));
    CHECK(refusal(files.folder()).find("outside of the bundle") != std::string::npos);
  }
  fs::create_symlink(other.folder() + "/target.engine", files.folder() + "/link.engine");
  files.write("manifest.json", changed(target, "\"link.engine\""));
  CHECK(refusal(files.folder()).find("outside of the bundle") != std::string::npos);
}

TEST_CASE("a manifest that is damaged or of another kind is refused with what to do") {
  const TinyBundle files;
  const std::pair<std::string, const char*> cases[] = {
      {"", "not valid JSON"},
      {"[]", "another program's"},
      {changed("specrt-bundle", "tar"), "another program's"},
      {changed("\"format_version\": 1", "\"format_version\": 2"), "another format"},
      {changed("\"target\"", "\"goal\""), "no target"},
      {changed("{\"file\": \"target.engine\"}", "[]"), "without a file name"},
      {changed("\"target.engine\"", "\"\""), "without a file name"},
      {changed("\"target.engine\"", "\"a\\u0000b\""), "without a file name"},
      {changed("\"target.engine\"", "\"gone.engine\""), "is missing"},
      {changed("\"target.engine\"", "\"drafters\""), "is missing"},
      {changed("\"drafters\"", "\"others\""), "no list of drafters"},
      {changed("\"name\": \"draft\"", "\"name\": 3"), "without a name"},
      {std::string(2 << 20, ' '), "larger than"},
  };
  for (const auto& [manifest, part] : cases) {
    CAPTURE(part);
    files.write("manifest.json", manifest);
    const std::string message = refusal(files.folder());
    CHECK(message.find(part) != std::string::npos);
    CHECK(message.find("build the bundle again") != std::string::npos);
  }
  fs::remove(files.folder() + "/manifest.json");
  CHECK(refusal(files.folder()).find("is not a specrt bundle") != std::string::npos);
  REQUIRE(::mkfifo((files.folder() + "/manifest.json").c_str(), 0600) == 0);
  CHECK(refusal(files.folder()).find("is not a specrt bundle") != std::string::npos);
}

TEST_CASE("a drafter of an unknown method is refused by name") {
  const TinyBundle files;
  files.write("manifest.json", changed("\"speculative\"", "\"telepathy\""));
  const Bundle bundle = open_bundle(files.folder());
  CHECK(bundle.options().drafter.empty());
  CHECK_THROWS_WITH_AS(bundle.options("draft"),
                       "the drafter \"draft\" is for the method \"telepathy\", which this specrt "
                       "does not have",
                       Error);
}

TEST_CASE("random damage to a manifest gives an error or a bundle") {
  const TinyBundle files;
  std::mt19937_64 random(11);
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string text = testing::kTinyManifest;
    for (uint64_t n = random() % 4 + 1; n > 0; --n) {
      text[random() % text.size()] = static_cast<char>(random());
    }
    files.write("manifest.json", text);
    refused += refusal(files.folder()).empty() ? 0 : 1;
  }
  CHECK(refused > 1000);
}

}  // namespace
}  // namespace specrt

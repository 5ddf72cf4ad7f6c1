// Mapped files: what is mapped stays when the name goes, and only files with content are mapped.
#include "base/mapped_file.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "engine_image.h"

namespace specrt::testing {
namespace {

const std::vector<std::byte> kOld(100'000, std::byte{7}), kNew(100'000, std::byte{9});

bool holds(const MappedFile& file, const std::vector<std::byte>& content) {
  return file.size() == content.size() && std::equal(content.begin(), content.end(), file.data());
}

TEST_CASE("a mapped file may be deleted") {
  const TempFile temp(kOld);
  const MappedFile file(temp.path());
  REQUIRE_EQ(::unlink(temp.path().c_str()), 0);
  file.evict();
  CHECK(holds(file, kOld));
}

TEST_CASE("a mapped file may be replaced by renaming") {
  const TempFile temp(kOld), other(kNew);
  const MappedFile file(temp.path());
  REQUIRE_EQ(std::rename(other.path().c_str(), temp.path().c_str()), 0);
  file.evict();
  CHECK(holds(file, kOld));
  CHECK(holds(MappedFile(temp.path()), kNew));
}

TEST_CASE("what is no regular file is refused, a pipe without a writer too") {
  const TempFile temp(kOld);
  REQUIRE_EQ(::unlink(temp.path().c_str()), 0);
  REQUIRE_EQ(::mkfifo(temp.path().c_str(), 0600), 0);
  CHECK_THROWS_WITH_AS(MappedFile(temp.path()), doctest::Contains("not a file with content"),
                       Error);
  CHECK_THROWS_WITH_AS(MappedFile("/dev/zero"), doctest::Contains("not a file with content"),
                       Error);
  CHECK_THROWS_WITH_AS(MappedFile("/nowhere"), doctest::Contains("cannot open /nowhere"), Error);
}

}  // namespace
}  // namespace specrt::testing

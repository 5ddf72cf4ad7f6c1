#include "engine/vocabulary.h"

#include "base/error.h"

namespace specrt {
namespace {

constexpr uint32_t kStripsSpace = 1;

}  // namespace

Vocabulary::Vocabulary(const std::byte* data, size_t bytes, int32_t size) {
  const size_t table = (static_cast<size_t>(size) + 2) * sizeof(uint32_t);
  SPECRT_CHECK(reinterpret_cast<uintptr_t>(data) % alignof(uint32_t) == 0 && bytes >= table,
               "the token table of ", bytes, " bytes cannot hold ", size, " tokens");
  const auto* words = reinterpret_cast<const uint32_t*>(data);
  SPECRT_CHECK(words[0] <= kStripsSpace, "the token table has unknown flags ", words[0]);
  const uint32_t* offsets = words + 1;
  SPECRT_CHECK(offsets[0] == 0, "the token table begins at byte ", offsets[0]);
  for (int32_t token = 0; token < size; ++token) {
    SPECRT_CHECK(offsets[token + 1] >= offsets[token] && offsets[token + 1] <= bytes - table,
                 "token ", token, " ends at byte ", offsets[token + 1], " of ", bytes - table);
  }
  offsets_.assign(offsets, offsets + size + 1);
  strips_space_ = words[0] == kStripsSpace;
  text_.assign(reinterpret_cast<const char*>(data + table), offsets_.back());
}

}  // namespace specrt

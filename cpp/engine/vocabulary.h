// The bytes of every token, as they lie in an engine: what the runtime turns tokens into text with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace specrt {

class Vocabulary {
 public:
  // An empty one: the engine has no table, and text is left to the caller.
  Vocabulary() = default;

  // Reads a table of `size` tokens from `bytes` bytes: u32 flags, u32 offsets (size + 1), then the
  // text. Special tokens are empty. Throws specrt::Error when an offset is out of bounds or
  // descends.
  Vocabulary(const std::byte* data, size_t bytes, int32_t size);

  // Whether a text begins without the space that its first token may carry (SentencePiece).
  bool strips_space() const { return strips_space_; }

  bool empty() const { return offsets_ == nullptr; }

  // `token` must be below the table's size.
  std::string_view text(int32_t token) const {
    const uint32_t begin = offsets_[token];
    return {text_ + begin, offsets_[token + 1] - begin};
  }

 private:
  const uint32_t* offsets_ = nullptr;
  const char* text_ = nullptr;
  bool strips_space_ = false;
};

}  // namespace specrt

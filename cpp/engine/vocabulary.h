// The bytes of every token: what the runtime turns tokens into text with. A copy of the engine's
// table, so that text does not depend on what becomes of the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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

  bool empty() const { return offsets_.empty(); }

  // `token` must be below the table's size.
  std::string_view text(int32_t token) const {
    const auto at = static_cast<size_t>(token);
    return {text_.data() + offsets_[at], offsets_[at + 1] - offsets_[at]};
  }

 private:
  std::vector<uint32_t> offsets_;  // (size + 1); empty: no table
  std::string text_;
  bool strips_space_ = false;
};

}  // namespace specrt

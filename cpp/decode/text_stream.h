// Committed tokens to text, byte by byte, and the stop strings and stop sequences in it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/vocabulary.h"
#include "specrt/types.h"

namespace specrt {

class TextStream {
 public:
  // `vocabulary` may be empty if `params` has no stop strings; the text then stays empty too.
  TextStream(const Vocabulary& vocabulary, const SamplingParams& params);

  // Takes a committed token. True: a stop string or sequence is complete, and this token is the
  // last one. A stop may begin in any earlier token. Not before min_tokens.
  bool push(int32_t token);

  // Text that is certain since the last call: it ends in whole characters, and nothing in it can
  // still become part of a stop string.
  std::string take();

  // All that is left, up to the stop string. An incomplete character stays as it is.
  std::string finish();

  // What ended the text; monostate if nothing here did.
  const StopReason& stop_reason() const { return stop_reason_; }

 private:
  void append(std::string_view text);
  bool find_stop_string(size_t searched);
  bool find_stop_sequence();
  size_t held_for_stops() const;
  std::string take_up_to(size_t end);

  const Vocabulary& vocabulary_;
  const std::vector<std::string>& stops_;
  const std::vector<std::vector<int32_t>>& sequences_;
  int32_t min_tokens_;
  std::vector<int32_t> tokens_;
  std::string text_;
  bool begun_ = false;  // a token with text has come
  size_t taken_ = 0;
  StopReason stop_reason_;
};

// Bytes at the end of `text` that begin a UTF-8 character which is not complete.
size_t incomplete_utf8(std::string_view text);

}  // namespace specrt

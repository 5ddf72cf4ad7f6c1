#include "decode/text_stream.h"

#include <algorithm>

namespace specrt {

size_t incomplete_utf8(std::string_view text) {
  const size_t most = std::min<size_t>(3, text.size());
  for (size_t back = 1; back <= most; ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xc0u) == 0x80u) continue;  // a continuation: look further for its first byte
    const size_t length = byte >= 0xf0u ? 4 : byte >= 0xe0u ? 3 : byte >= 0xc0u ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

TextStream::TextStream(const Vocabulary& vocabulary, const SamplingParams& params)
    : vocabulary_(vocabulary),
      stops_(params.stop),
      sequences_(params.stop_sequences),
      min_tokens_(params.min_tokens) {}

bool TextStream::push(int32_t token) {
  tokens_.push_back(token);
  const size_t searched = text_.size();
  if (!vocabulary_.empty()) append(vocabulary_.text(token));
  if (static_cast<int32_t>(tokens_.size()) < min_tokens_) return false;
  return find_stop_string(searched) || find_stop_sequence();
}

void TextStream::append(std::string_view text) {
  const bool first = !begun_ && !text.empty();
  begun_ = begun_ || !text.empty();
  if (first && vocabulary_.strips_space() && text.front() == ' ') text.remove_prefix(1);
  text_ += text;
}

bool TextStream::find_stop_string(size_t searched) {
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t begin = searched - std::min(searched, stop.size() - 1);
    const size_t found = text_.find(stop, begin);
    if (found >= first) continue;
    first = found;
    stop_reason_ = stop;
  }
  if (first == std::string::npos) return false;
  text_.resize(first);
  return true;
}

bool TextStream::find_stop_sequence() {
  for (const std::vector<int32_t>& sequence : sequences_) {
    if (sequence.size() > tokens_.size()) continue;
    if (!std::equal(sequence.rbegin(), sequence.rend(), tokens_.rbegin())) continue;
    stop_reason_ = sequence.back();
    return true;
  }
  return false;
}

size_t TextStream::held_for_stops() const {
  const std::string_view rest = std::string_view(text_).substr(taken_);
  size_t held = 0;
  for (const std::string& stop : stops_) {
    for (size_t length = std::min(stop.size() - 1, rest.size()); length > held; --length) {
      if (rest.ends_with(std::string_view(stop).substr(0, length))) held = length;
    }
  }
  return held;
}

std::string TextStream::take() {
  if (text_.size() <= taken_) return {};
  const size_t end = text_.size() - held_for_stops();
  return take_up_to(end - incomplete_utf8(std::string_view(text_).substr(taken_, end - taken_)));
}

std::string TextStream::finish() { return take_up_to(text_.size()); }

std::string TextStream::take_up_to(size_t end) {
  // A stop string before min_tokens may have been taken already: then nothing is left.
  if (end <= taken_) return {};
  std::string piece = text_.substr(taken_, end - taken_);
  taken_ = end;
  return piece;
}

}  // namespace specrt

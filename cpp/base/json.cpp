#include "base/json.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <utility>

#include "base/error.h"

namespace specrt {
namespace {

constexpr int kMaxDepth = 64;

void append_utf8(std::string& text, uint32_t code) {
  const auto put = [&](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0 | code >> 6);
  } else {
    if (code < 0x10000) {
      put(0xE0 | code >> 12);
    } else {
      put(0xF0 | code >> 18);
      put(0x80 | (code >> 12 & 0x3F));
    }
    put(0x80 | (code >> 6 & 0x3F));
  }
  put(0x80 | (code & 0x3F));
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    Json json = value(0);
    skip_space();
    require(at_ == text_.size(), "text behind the end");
    return json;
  }

 private:
  void require(bool holds, const char* what) const {
    SPECRT_CHECK(holds, "not valid JSON: ", what, " at byte ", at_);
  }

  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\n\r", at_), text_.size()); }

  bool take(char c) {
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  bool take_next(char c) {
    skip_space();
    return take(c);
  }

  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    require(depth < kMaxDepth, "too many levels");
    skip_space();
    if (take('{')) return Json(object(depth));
    if (take('[')) return Json(array(depth));
    if (take('"')) return Json(string());
    if (take_word("true")) return Json(true);
    if (take_word("false")) return Json(false);
    if (take_word("null")) return Json();
    return Json(number());
  }

  Json::Array array(int depth) {
    Json::Array items;
    if (take_next(']')) return items;
    do {
      items.push_back(value(depth + 1));
    } while (take_next(','));
    require(take_next(']'), "an array without its end");
    return items;
  }

  Json::Object object(int depth) {
    Json::Object members;
    if (take_next('}')) return members;
    do {
      require(take_next('"'), "a member without a name");
      std::string key = string();
      require(take_next(':'), "a name without a value");
      members.push_back({std::move(key), value(depth + 1)});
    } while (take_next(','));
    require(take_next('}'), "an object without its end");
    std::sort(members.begin(), members.end(),
              [](const auto& a, const auto& b) { return a.key < b.key; });
    const auto twice = std::adjacent_find(members.begin(), members.end(),
                                          [](auto& a, auto& b) { return a.key == b.key; });
    require(twice == members.end(), "a name twice in the object that ends");
    return members;
  }

  std::string string() {
    std::string out;
    while (true) {
      require(at_ < text_.size(), "a text without its end");
      const char c = text_[at_++];
      if (c == '"') return out;
      require(static_cast<unsigned char>(c) >= 0x20, "a control character");
      if (c == '\\') {
        escape(out);
      } else {
        out.push_back(c);
      }
    }
  }

  void escape(std::string& out) {
    constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    if (take('u')) return append_utf8(out, code_point());
    const size_t which = at_ < text_.size() ? kNames.find(text_[at_]) : kNames.npos;
    require(which != kNames.npos, "an unknown escape");
    ++at_;
    out.push_back(kValues[which]);
  }

  uint32_t code_point() {
    const uint32_t high = hex4();
    if (high < 0xD800 || high > 0xDFFF) return high;
    require(high < 0xDC00 && take_word("\\u"), "half a surrogate pair");
    const uint32_t low = hex4();
    require(low >= 0xDC00 && low <= 0xDFFF, "half a surrogate pair");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  uint32_t hex4() {
    const std::string_view digits = text_.substr(at_, 4);
    uint32_t code = 0;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    require(error == std::errc() && digits.size() == 4 && end == digits.data() + 4,
            "an escape without four hex digits");
    at_ += 4;
    return code;
  }

  size_t digits() {
    const size_t begin = at_;
    at_ = std::min(text_.find_first_not_of("0123456789", at_), text_.size());
    return at_ - begin;
  }

  double number() {
    const size_t begin = at_;
    take('-');
    const bool zero = at_ < text_.size() && text_[at_] == '0';
    const size_t whole = digits();
    require(whole > 0 && !(zero && whole > 1), "something that is no value");
    if (take('.')) require(digits() > 0, "a fraction without digits");
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      require(digits() > 0, "an exponent without digits");
    }
    double value = 0;
    const auto [end, error] = std::from_chars(text_.data() + begin, text_.data() + at_, value);
    require(error == std::errc() && end == text_.data() + at_, "a number out of range");
    return value;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

const Json* Json::find(std::string_view key) const {
  const Object* members = as<Object>();
  if (members == nullptr) return nullptr;
  const auto at = std::lower_bound(members->begin(), members->end(), key,
                                   [](const Member& m, std::string_view k) { return m.key < k; });
  return at != members->end() && at->key == key ? &at->value : nullptr;
}

const std::string* Json::text(std::string_view key) const {
  const Json* member = find(key);
  return member == nullptr ? nullptr : member->as<std::string>();
}

Json parse_json(std::string_view text) { return Parser(text).document(); }

}  // namespace specrt

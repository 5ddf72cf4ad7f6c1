// A small reader of JSON (RFC 8259) for files that are not trusted: bounded in depth, strict, and
// without a way to make it use more memory than a small multiple of the text.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace specrt {

class Json {
 public:
  struct Member;
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;  // sorted by key; keys are unique

  Json() = default;  // null
  template <typename Value>
  explicit Json(Value value) : value_(std::move(value)) {}

  // The value as one of bool, double, std::string, Array, Object; null if it is another kind.
  template <typename Kind>
  const Kind* as() const {
    return std::get_if<Kind>(&value_);
  }

  // Member `key` of an object; null if there is none, or this is no object.
  const Json* find(std::string_view key) const;

  // The text of member `key`; null if there is none.
  const std::string* text(std::string_view key) const;

 private:
  std::variant<std::monostate, bool, double, std::string, Array, Object> value_;
};

struct Json::Member {
  std::string key;
  Json value;
};

// The value that `text` holds. Throws specrt::Error that names the byte where it breaks the rules:
// of JSON, of unique keys, and of at most 64 levels.
Json parse_json(std::string_view text);

}  // namespace specrt

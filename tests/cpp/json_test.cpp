#include "base/json.h"

#include <doctest/doctest.h>

#include <string>

#include "base/error.h"

namespace specrt {
namespace {

TEST_CASE("JSON values are read") {
  const Json json = parse_json(
      R"( {"a": [1, -2.5e1, true, false, null, {}], "b": "x\n\u00e9\ud83d\ude00\/", "c": {"d": ""}} )");
  const auto* items = json.find("a")->as<Json::Array>();
  REQUIRE(items->size() == 6);
  CHECK(*(*items)[0].as<double>() == 1);
  CHECK(*(*items)[1].as<double>() == -25);
  CHECK(*(*items)[2].as<bool>());
  CHECK_FALSE(*(*items)[3].as<bool>());
  CHECK((*items)[4].as<double>() == nullptr);
  CHECK((*items)[5].as<Json::Object>()->empty());
  CHECK(*json.text("b") == "x\n\xc3\xa9\xf0\x9f\x98\x80/");
  CHECK(*json.find("c")->text("d") == "");
  CHECK(json.find("e") == nullptr);
  CHECK(json.text("a") == nullptr);
  CHECK((*items)[0].find("a") == nullptr);
}

TEST_CASE("what is no JSON is refused with its place") {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[",
                           "\"",
                           "[1,]",
                           "[1 2]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{a:1}",
                           "tru",
                           "01",
                           "-",
                           "1.",
                           "1e",
                           "+1",
                           ".5",
                           "1e999",
                           "NaN",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u12g4\"",
                           "\"\\ud800\"",
                           "\"\\ud800\\u0041\"",
                           "\"\\udc00\"",
                           "\"a\nb\"",
                           "1 1",
                           "{\"a\":1,\"a\":2}",
                           "[}",
                           "{]",
                           "\"\\",
                           "\"\\u"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_json(text), Error);
  }
  CHECK_THROWS_WITH_AS(parse_json("[1, x]"), "not valid JSON: something that is no value at byte 4",
                       Error);
}

TEST_CASE("depth is bounded") {
  const std::string deep(1 << 20, '[');
  CHECK_THROWS_WITH_AS(parse_json(deep), "not valid JSON: too many levels at byte 64", Error);
  CHECK_NOTHROW(parse_json(std::string(64, '[') + std::string(64, ']')));
}

TEST_CASE("every cut of a text is refused") {
  const std::string text = R"({"key": [1.5e3, "a\u00e9", {"x": null}], "other": true})";
  for (size_t length = 0; length < text.size(); ++length) {
    CAPTURE(length);
    CHECK_THROWS_AS(parse_json(text.substr(0, length)), Error);
  }
  CHECK_NOTHROW(parse_json(text));
}

}  // namespace
}  // namespace specrt

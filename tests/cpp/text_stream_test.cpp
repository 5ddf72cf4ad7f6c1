// Tokens to text: whole characters, stop strings that straddle tokens, tables that are damaged.
#include "decode/text_stream.h"

#include <doctest/doctest.h>

#include <random>

#include "base/error.h"

namespace specrt {
namespace {

// A token table made of texts, and the vocabulary that reads it.
class Table {
 public:
  explicit Table(const std::vector<std::string>& texts, uint32_t flags = 0) {
    words_ = {flags, 0};
    std::string joined;
    for (const std::string& text : texts) {
      joined += text;
      words_.push_back(static_cast<uint32_t>(joined.size()));
    }
    size_ = static_cast<int32_t>(texts.size());
    bytes_ = words_.size() * 4 + joined.size();
    const size_t head = words_.size();
    words_.resize(head + joined.size() / 4 + 1);
    std::copy(joined.begin(), joined.end(), reinterpret_cast<char*>(words_.data() + head));
  }
  Vocabulary vocabulary() const {
    return {reinterpret_cast<const std::byte*>(words_.data()), bytes_, size_};
  }
  std::vector<uint32_t> words_;
  size_t bytes_ = 0;
  int32_t size_ = 0;
};

TEST_CASE("incomplete_utf8 holds back what may become a character") {
  CHECK(incomplete_utf8("") == 0);
  CHECK(incomplete_utf8("abc") == 0);
  CHECK(incomplete_utf8("a\xc3") == 1);
  CHECK(incomplete_utf8("a\xc3\xa9") == 0);
  CHECK(incomplete_utf8("\xe2\x98") == 2);
  CHECK(incomplete_utf8("\xe2\x98\x83") == 0);
  CHECK(incomplete_utf8("\xf0\x9f\x98") == 3);
  CHECK(incomplete_utf8("\x80\x80\x80\x80") == 0);
}

TEST_CASE("text comes in whole characters") {
  const Table table({"a", "\xf0\x9f", "\x98\x80", "\xe2"});
  const Vocabulary vocabulary = table.vocabulary();
  const SamplingParams params;
  TextStream text(vocabulary, params);
  text.push(0);
  CHECK(text.take() == "a");
  text.push(1);
  CHECK(text.take().empty());
  text.push(2);
  CHECK(text.take() == "\xf0\x9f\x98\x80");
  text.push(3);
  CHECK(text.take().empty());
  CHECK(text.finish() == "\xe2");
}

TEST_CASE("SentencePiece text begins without the first token's space") {
  const Table table({" the", "", "x"}, 1);
  const Vocabulary vocabulary = table.vocabulary();
  const SamplingParams params;
  TextStream text(vocabulary, params);
  for (const int32_t token : {1, 0, 0, 2}) text.push(token);
  CHECK(text.finish() == "the thex");
}

// What the stream must give: the shortest run of tokens whose text holds a stop.
struct Expected {
  size_t tokens;
  std::string text;
};

Expected by_hand(const std::vector<std::string>& texts, const std::vector<int32_t>& tokens,
                 const std::vector<std::string>& stops, size_t min_tokens) {
  std::string text;
  for (size_t n = 0; n < tokens.size(); ++n) {
    const size_t before = text.size();
    text += texts[static_cast<size_t>(tokens[n])];
    if (n + 1 < min_tokens) continue;
    size_t first = std::string::npos;
    for (const std::string& stop : stops) {
      for (size_t at = 0; at + stop.size() <= text.size(); ++at) {
        if (at + stop.size() > before && text.compare(at, stop.size(), stop) == 0) {
          first = std::min(first, at);
        }
      }
    }
    if (first != std::string::npos) return {n + 1, text.substr(0, first)};
  }
  return {tokens.size(), text};
}

TEST_CASE("random stops end the text at the first token that completes one") {
  const std::vector<std::string> texts = {"a", "b", "ab", "ba", "", "aab", "bb"};
  const Table table(texts);
  const Vocabulary vocabulary = table.vocabulary();
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int run = 0; run < 5000; ++run) {
    SamplingParams params;
    for (int s = below(3); s >= 0; --s) {
      std::string stop;
      for (int c = below(6); c >= 0; --c) stop += below(2) != 0 ? 'a' : 'b';
      params.stop.push_back(stop);
    }
    params.min_tokens = below(2) != 0 ? 0 : below(6);
    std::vector<int32_t> tokens;
    for (int t = 0; t < 12; ++t) tokens.push_back(below(7));
    const Expected expected =
        by_hand(texts, tokens, params.stop, static_cast<size_t>(params.min_tokens));
    TextStream stream(vocabulary, params);
    std::string text;
    size_t fed = 0;
    for (const int32_t token : tokens) {
      ++fed;
      if (stream.push(token)) break;
      text += stream.take();
    }
    text += stream.finish();
    REQUIRE(fed == expected.tokens);
    REQUIRE(text == expected.text);
  }
}

TEST_CASE("a damaged token table is refused") {
  Table table({"ab", "c"});
  CHECK(table.vocabulary().text(1) == "c");
  table.words_[3] = 4;  // the end of the last token
  CHECK_THROWS_WITH_AS(table.vocabulary(), doctest::Contains("token 1"), Error);
  table.words_[3] = 1;  // before the end of the first
  CHECK_THROWS_WITH_AS(table.vocabulary(), doctest::Contains("token 1"), Error);
  table.words_[0] = 2;
  CHECK_THROWS_WITH_AS(table.vocabulary(), doctest::Contains("flags"), Error);
  table.size_ = 1000;
  CHECK_THROWS_WITH_AS(table.vocabulary(), doctest::Contains("cannot hold"), Error);
}

}  // namespace
}  // namespace specrt

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/byte_reader.h"
#include "base/json.h"
#include "check.h"
#include "model/tokenizer.h"

using chatllm::ByteReader;
using chatllm::CharClass;
using chatllm::JsonView;
using chatllm::Tokenizer;
using chatllm::Utf8Stream;

namespace {

using Ids = std::vector<std::int32_t>;

// Builds the vocabulary and merges of a file, record by record.
class SectionWriter {
public:
    SectionWriter &i32(std::int32_t value) {
        char bytes[4];
        std::memcpy(bytes, &value, 4);
        bytes_.append(bytes, 4);
        return *this;
    }
    SectionWriter &raw(std::string_view text) {
        bytes_ += text;
        return *this;
    }
    SectionWriter &token(std::string_view text, int type = 1) {
        return i32(static_cast<std::int32_t>(text.size()))
            .raw(text)
            .raw(std::string(1, static_cast<char>(type)));
    }
    SectionWriter &merge(std::string_view text) {
        return i32(static_cast<std::int32_t>(text.size())).raw(text);
    }
    SectionWriter &end() { return i32(-1); }
    const std::string &bytes() const { return bytes_; }

private:
    std::string bytes_;
};

std::span<const std::byte> as_bytes(const std::string &text) { return std::as_bytes(std::span(text)); }

// `config` is the text of tokenizer_config.json, none when empty.
Tokenizer read(const std::string &bytes, std::string_view config = {}, std::int32_t vocab_size = 1000,
               std::size_t *end = nullptr) {
    ByteReader reader(as_bytes(bytes), "m.bin");
    const auto json = config.empty() ? std::nullopt : std::optional(JsonView::parse(config, "m.bin"));
    Tokenizer tokenizer = Tokenizer::read(reader, json, vocab_size);
    if (end != nullptr) *end = reader.position();
    return tokenizer;
}

// The byte alphabet by itself: byte b spelt as GPT-2 does.
std::string spell(unsigned char byte) {
    static const std::array<int, 256> codes = [] {
        std::array<int, 256> made{};
        int next = 256;
        for (int b = 0; b < 256; ++b) {
            const bool prints = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
            made[static_cast<std::size_t>(b)] = prints ? b : next++;
        }
        return made;
    }();
    const int code = codes[byte];
    if (code < 0x80) return {static_cast<char>(code)};
    return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

std::string spell(std::string_view text) {
    std::string spelt;
    for (const char c : text) spelt += spell(static_cast<unsigned char>(c));
    return spelt;
}

// Ids 0 to 255 are the bytes; then one token for each merge, given as plain text with '|' between the sides.
SectionWriter byte_level(const std::vector<std::string_view> &merges) {
    SectionWriter writer;
    for (unsigned byte = 0; byte < 256; ++byte) writer.token(spell(static_cast<unsigned char>(byte)));
    for (const std::string_view merge : merges) {
        const std::size_t bar = merge.find('|');
        writer.token(spell(merge.substr(0, bar)) + spell(merge.substr(bar + 1)));
    }
    writer.end();
    for (const std::string_view merge : merges) {
        const std::size_t bar = merge.find('|');
        writer.merge(spell(merge.substr(0, bar)) + " " + spell(merge.substr(bar + 1)));
    }
    writer.end();
    return writer;
}

Ids byte_ids(std::string_view text) {
    Ids ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
}

std::string decode(const Tokenizer &tokenizer, const Ids &ids) {
    std::string out;
    for (const std::int32_t id : ids) tokenizer.append_bytes(id, out);
    return out;
}

constexpr std::string_view two_added =
    R"({"added_tokens_decoder": {"256": {"content": "<|im_start|>", "special": true},
                                 "300": {"content": "<asr_text>", "special": false}}})";

}  // namespace

TEST(tokenizer_bytes_both_ways) {
    const std::string bytes = byte_level({}).bytes();
    std::size_t end = 0;
    const Tokenizer tokenizer = read(bytes, {}, 1000, &end);
    CHECK_EQ(end, bytes.size());
    CHECK_EQ(tokenizer.size(), 256);
    std::string all;
    for (int byte = 0; byte < 256; ++byte) {
        std::string one;
        tokenizer.append_bytes(byte, one);
        CHECK_EQ(one, std::string(1, static_cast<char>(byte)));
    }
    const std::string text = std::string("a\0 \n\xc2\xad中😀", 14);
    CHECK_EQ(tokenizer.encode(text), byte_ids(text));
    CHECK_EQ(decode(tokenizer, tokenizer.encode(text)), text);
    CHECK_EQ(tokenizer.encode(""), Ids{});
    tokenizer.append_bytes(-1, all);
    tokenizer.append_bytes(256, all);
    tokenizer.append_bytes(2147483647, all);
    CHECK_EQ(all, "");
}

TEST(tokenizer_merges_lowest_rank_first) {
    // bc before ab: "abc" is a + bc, although ab stands further left.
    const std::string bytes = byte_level({"b|c", "a|b", "a|a", "aa|aa"}).bytes();
    const Tokenizer tokenizer = read(bytes);
    CHECK_EQ(tokenizer.encode("abc"), (Ids{'a', 256}));
    CHECK_EQ(tokenizer.encode("ab"), Ids{257});
    CHECK_EQ(tokenizer.encode("aaa"), (Ids{258, 'a'}));  // the leftmost of equal ranks
    CHECK_EQ(tokenizer.encode("aaaaaaa"), (Ids{259, 258, 'a'}));
    CHECK_EQ(tokenizer.encode("abab"), (Ids{257, 257}));
    CHECK_EQ(tokenizer.encode("b c"), (Ids{'b', ' ', 'c'}));  // never across words
}

TEST(tokenizer_merge_without_product_is_not_applied) {
    const std::string bytes = SectionWriter()
                                  .token("a")
                                  .token("b")
                                  .token("c")
                                  .token("bc")
                                  .end()
                                  .merge("a b")
                                  .merge("b c")
                                  .merge("x y")
                                  .end()
                                  .bytes();
    const Tokenizer tokenizer = read(bytes);
    CHECK_EQ(tokenizer.encode("abc"), (Ids{0, 3}));
    CHECK_EQ(tokenizer.encode("a?b"), (Ids{0, 1}));  // a byte without a token is left out
}

TEST(tokenizer_duplicates) {
    const std::string bytes = SectionWriter()
                                  .token("a")
                                  .token("b")
                                  .token("a")
                                  .token("c")
                                  .token("ab")
                                  .token("bc")
                                  .token("ab")
                                  .end()
                                  .merge("a b")
                                  .merge("b c")
                                  .merge("a b")
                                  .end()
                                  .bytes();
    const Tokenizer tokenizer = read(bytes);
    CHECK_EQ(tokenizer.encode("a"), Ids{0});
    CHECK_EQ(tokenizer.encode("ab"), Ids{4});
    CHECK_EQ(tokenizer.encode("abc"), (Ids{0, 5}));  // the second "a b" ranks behind "b c"
    CHECK_EQ(decode(tokenizer, {2, 6}), "aab");
}

// Word boundaries show in where merges apply: with a token for every pair of these characters, each word of
// two is one.
TEST(tokenizer_words) {
    const std::vector<std::string_view> merges = {"'|s",   "'|S",  "'|\xC5", "'\xC5|\xBF", "'|x", " |a",
                                                  "\n|\n", " | ",  "  | ",   " |\n",       "1|2", "!|\n",
                                                  " |!",   "\t|a", "a|\xCC", "!|!"};
    const std::string bytes = byte_level(merges).bytes();
    const Tokenizer tokenizer = read(bytes);
    const auto pieces = [&](std::string_view text) {
        std::vector<std::string> made;
        for (const std::int32_t id : tokenizer.encode(text)) made.push_back(decode(tokenizer, {id}));
        return made;
    };
    using Pieces = std::vector<std::string>;
    CHECK_EQ(pieces("x's"), (Pieces{"x", "'s"}));
    CHECK_EQ(pieces("'Sa"), (Pieces{"'S", "a"}));
    CHECK_EQ(pieces("'ſ"), (Pieces{"'\xC5\xBF"}));
    CHECK_EQ(pieces("'xa"), (Pieces{"'x", "a"}));
    CHECK_EQ(pieces("   a"), (Pieces{"  ", " a"}));
    CHECK_EQ(pieces("   "), (Pieces{"   "}));
    CHECK_EQ(pieces(" \n  a"), (Pieces{" \n", " ", " a"}));
    CHECK_EQ(pieces("12"), (Pieces{"1", "2"}));
    CHECK_EQ(pieces(" !\n\n"), (Pieces{" !", "\n\n"}));
    CHECK_EQ(pieces("\ta"), (Pieces{"\ta"}));
    CHECK_EQ(pieces("\na"), (Pieces{"\n", "a"}));
    CHECK_EQ(pieces("a\xCC\x81"), (Pieces{"a", "\xCC", "\x81"}));  // a mark is no letter
}

TEST(tokenizer_broken_utf8_is_replaced) {
    const std::string bytes = byte_level({}).bytes();
    const Tokenizer tokenizer = read(bytes);
    CHECK_EQ(tokenizer.encode("a\xF0\x9F\x98z"), byte_ids("a\uFFFDz"));
    CHECK_EQ(tokenizer.encode("\xFF\xC0"), byte_ids("\uFFFD\uFFFD"));
    CHECK_EQ(tokenizer.encode("\xE4\xB8"), byte_ids("\uFFFD"));
}

TEST(tokenizer_added_tokens_from_metadata) {
    const std::string bytes = byte_level({}).bytes();
    const Tokenizer tokenizer = read(bytes, two_added);
    CHECK_EQ(tokenizer.size(), 301);
    CHECK_EQ(tokenizer.added_id("<|im_start|>"), std::optional<std::int32_t>(256));
    CHECK_EQ(tokenizer.added_id("<asr_text>"), std::optional<std::int32_t>(300));
    CHECK(!tokenizer.added_id("<asr_text"));
    CHECK(!tokenizer.added_id("a"));
    CHECK(tokenizer.is_special(256));
    CHECK(!tokenizer.is_special(300));
    CHECK(!tokenizer.is_special(97));
    CHECK_EQ(decode(tokenizer, {256, 97, 299, 300}), "<|im_start|>a<asr_text>");
    CHECK_EQ(tokenizer.encode("<asr_text>"), byte_ids("<asr_text>"));
    CHECK_EQ(tokenizer.encode_with_added("<asr_text><|im_start|>a<|im_start|"),
             (Ids{300, 256, 'a', '<', '|', 'i', 'm', '_', 's', 't', 'a', 'r', 't', '|'}));
}

TEST(tokenizer_added_tokens_leftmost_longest) {
    const std::string bytes = byte_level({}).bytes();
    const Tokenizer tokenizer =
        read(bytes, R"({"added_tokens_decoder": {"900": {"content": "ab"}, "901": {"content": "abcd"},
                                              "902": {"content": "bcde"}, "903": {"content": "é"}}})");
    CHECK_EQ(tokenizer.encode_with_added("abcx"), (Ids{900, 'c', 'x'}));
    CHECK_EQ(tokenizer.encode_with_added("abcde"), (Ids{901, 'e'}));
    CHECK_EQ(tokenizer.encode_with_added("xbcdeé"), (Ids{'x', 902, 903}));
}

TEST(tokenizer_added_tokens_in_the_list) {
    const std::string bytes =
        SectionWriter().token("a").token("<|x|>", 3).token("<y z>", 4).end().end().bytes();
    const Tokenizer tokenizer =
        read(bytes, R"({"added_tokens_decoder": {"2": {"content": "<y z>", "special": true}}})");
    CHECK_EQ(tokenizer.encode_with_added("a<|x|><y z>"), (Ids{0, 1, 2}));
    CHECK(tokenizer.is_special(1));
    CHECK(tokenizer.is_special(2));
    CHECK(!read(bytes).is_special(2));
}

TEST(tokenizer_moves) {
    const std::string bytes = byte_level({"a|b"}).bytes();
    Tokenizer first = read(bytes, R"({"added_tokens_decoder": {"300": {"content": "<asr_text>"}}})");
    const Tokenizer second = std::move(first);
    CHECK_EQ(second.encode_with_added("ab<asr_text>"), (Ids{256, 300}));
}

TEST(tokenizer_refuses_bad_sections) {
    const auto refused = [](const SectionWriter &writer, std::string_view reason,
                            std::int32_t vocab_size = 1000) {
        CHECK_THROWS(read(writer.bytes(), {}, vocab_size), reason);
    };
    using Writer = SectionWriter;
    refused(Writer(), "m.bin: vocabulary entry's length at offset 0: needs 4 bytes, only 0 are left");
    refused(Writer().end().end(), "is empty");
    refused(Writer().i32(5).raw("ab"), "vocabulary entry's text at offset 4: needs 5 bytes, only 2 are left");
    refused(Writer().i32(2).raw("ab"), "vocabulary entry's type at offset 6");
    refused(Writer().i32(0x7FFFFFFF).raw("ab"), "token 0 is 2147483647 bytes long");
    refused(Writer().token(""), "token 0 is 0 bytes long");
    refused(Writer().token(std::string(1025, 'a')), "token 0 is 1025 bytes long");
    refused(Writer().token("a", 0), "vocabulary entry's type at offset 5: is 0");
    refused(Writer().token("a", 2), "is 2, allowed are 1 (normal), 3 (control) and 4 (user-defined)");
    refused(Writer().token("a").token("b c"),
            "vocabulary entry's text at offset 11: \"b c\" is not written in");
    refused(Writer().token("\xC5\x84"), "byte-level alphabet");  // U+0144, one past the last
    refused(Writer().token("\xC2\xAD"), "byte-level alphabet");  // the soft hyphen is spelt U+0143
    refused(Writer().token("\xC4"), "offset 4");
    refused(Writer().token("a\xE4\xB8\xAD"), "offset 5");
    refused(Writer().token("a").token("b").end().end(), "more entries than the config's vocab_size of 1", 1);
    refused(Writer().token("a").end().end(), "vocab_size is 0", 0);
    refused(Writer().token("a").end(), "merge's length at offset 10");
    refused(Writer().token("a").end().i32(3).raw("a"), "merge's text at offset 14");
    for (const std::string_view merge : {"", "a", "ab", " b", "a ", "ab ", " "}) {
        refused(Writer().token("a").end().merge(merge), "is not two tokens with a space between");
    }
    refused(Writer().token("a").end().i32(0x40000000), "merge 0 is 1073741824 bytes long");
    refused(Writer().token("a").end().merge("a b"), "merge's length at offset 17");
}

TEST(tokenizer_refuses_bad_added_tokens) {
    const std::string bytes = byte_level({}).bytes();
    const auto refused = [&](std::string_view members, std::string_view reason) {
        const std::string config = R"({"added_tokens_decoder": {)" + std::string(members) + "}}";
        CHECK_THROWS(read(bytes, config, 1000), reason);
    };
    refused(R"("x": {"content": "a"})", "added token id \"x\" is not a number from 0 to 999");
    refused(R"("": {"content": "a"})", "is not a number");
    refused(R"("-1": {"content": "a"})", "is not a number");
    refused(R"("1000": {"content": "a"})", "is not a number from 0 to 999");
    refused(R"("99999999999": {"content": "a"})", "is not a number");
    refused(R"("9 ": {"content": "a"})", "is not a number");
    refused(R"("300": "a")", "expected an object");
    refused(R"("300": {})", "has no content");
    refused(R"("300": {"content": 1})", "expected a string");
    refused(R"("300": {"content": ""})", "content of 0 bytes");
    refused(R"("300": {"content": ")" + std::string(257, 'a') + "\"}", "content of 257 bytes");
    refused(R"("300": {"content": "a", "special": 1})", "expected true or false");
    refused(R"("300": {"content": "x"}, "300": {"content": "y"})", "added token 300 stands twice");
    refused(R"("300": {"content": "x"}, "301": {"content": "x"})", "\"x\" has the ids 300 and 301");
    refused(R"("97": {"content": "x"})", "added token 97 \"x\" is \"a\" in the vocabulary");
    CHECK_THROWS(read(bytes, R"({"added_tokens_decoder": []})"), "expected an object, found an array");
    CHECK_THROWS(read(bytes, "[]"), "expected an object, found an array");

    std::string many;
    for (int id = 256; id < 256 + 4097; ++id) {
        many += (many.empty() ? "" : ",") + ("\"" + std::to_string(id)) + R"(": {"content": "<)" +
                std::to_string(id) + ">\"}";
    }
    CHECK_THROWS(read(bytes, R"({"added_tokens_decoder": {)" + many + "}}", 10000),
                 "more than 4096 added tokens");
    CHECK_THROWS(read(SectionWriter().token("\xFF", 4).end().end().bytes()), "must be UTF-8");
}

TEST(tokenizer_every_truncation_is_refused) {
    const std::string bytes = byte_level({"a|b", "b|c"}).bytes();
    for (std::size_t length = 0; length < bytes.size(); length += 1 + length / 100) {
        CHECK_THROWS(read(bytes.substr(0, length)), "m.bin: ");
    }
    CHECK_THROWS(read(bytes.substr(0, bytes.size() - 1)), "merge's length");
}

// A file can be made so that its texts share one hash: the second 8 bytes cancel what the hash made of the
// first.
TEST(tokenizer_texts_made_to_collide_are_refused) {
    constexpr std::uint64_t factor = 0x9E3779B97F4A7C15u;
    const auto prints = [](char c) { return c > ' ' && c < 0x7F; };
    SectionWriter writer;
    std::string text(16, 'A');
    int n_made = 0;
    for (std::uint64_t i = 0; n_made < 1200; ++i) {
        for (std::size_t at = 0; at < 8; ++at) text[at] = static_cast<char>('A' + (i >> (4 * at)) % 16);
        std::uint64_t state;
        std::memcpy(&state, text.data(), 8);
        state = (16 ^ state) * factor;
        state ^= state >> 32;
        std::memcpy(text.data() + 8, &state, 8);  // the state after it is 0, whatever i was
        if (!std::ranges::all_of(text, prints)) continue;
        writer.token(text);
        ++n_made;
    }
    writer.end().end();
    CHECK_THROWS(read(writer.bytes(), {}, 2000), "too many texts with the same hash");
}

// Merges that make one token are told apart by where it is split, and are as many as it has bytes at most.
TEST(tokenizer_merges_with_one_product) {
    SectionWriter writer;
    for (const std::string_view token : {"a", "b", "c", "ab", "bc", "abc"}) writer.token(token);
    writer.end();
    for (const std::string_view merge : {"b c", "ab c", "a bc", "ab c", "a b"}) writer.merge(merge);
    const std::string bytes = writer.end().bytes();
    CHECK_EQ(read(bytes).encode("abc"), Ids{5});  // b c, then a bc
    CHECK_EQ(read(bytes).encode("ab"), Ids{3});
    writer = {};
    for (const std::string_view token : {"a", "b", "c", "ab", "bc", "abc"}) writer.token(token);
    writer.end().merge("a b").merge("b c").merge("a bc").end();
    CHECK_EQ(read(writer.bytes()).encode("abc"), (Ids{3, 2}));  // ab c is no merge, though abc is a token
}

// As the other way round in a trained vocabulary, where the products stand in the order of the merges.
TEST(tokenizer_products_in_any_order) {
    SectionWriter writer;
    const std::vector<std::string> tokens = {"abcd", "cd", "ab", "<x>", "d", "c", "b", "a"};
    for (const std::string &token : tokens) writer.token(token, token == "<x>" ? 4 : 1);
    writer.end();
    for (const std::string_view merge : {"a b", "< x>", "c d", "ab cd"}) writer.merge(merge);
    const std::string bytes = writer.end().bytes();
    const Tokenizer tokenizer = read(bytes);
    CHECK_EQ(tokenizer.encode("abcd"), Ids{0});
    CHECK_EQ(tokenizer.encode("abd"), (Ids{2, 4}));
    CHECK_EQ(tokenizer.encode("cdc"), (Ids{1, 5}));
}

// Tokens of every length up to the limit, found by their texts wherever the words of 8 bytes end.
TEST(tokenizer_tokens_of_every_length) {
    SectionWriter writer;
    writer.token("a");
    std::string text = "a";
    for (int length = 2; length <= 1024; ++length) writer.token(text += "a");
    writer.end();
    for (std::size_t length = 1; length < 1024; ++length) writer.merge(std::string(length, 'a') + " a");
    const std::string bytes = writer.end().bytes();
    const Tokenizer tokenizer = read(bytes, {}, 1024);
    for (std::size_t length = 1; length <= 1024; ++length) {
        // From the left: aa, then aaa, and so on; what is left over begins anew.
        const Ids ids = tokenizer.encode(std::string(length, 'a'));
        std::size_t n_bytes = 0;
        for (const std::int32_t id : ids) n_bytes += static_cast<std::size_t>(id) + 1;
        CHECK_EQ(n_bytes, length);
        CHECK_EQ(decode(tokenizer, {static_cast<std::int32_t>(length) - 1}), std::string(length, 'a'));
    }
    CHECK_EQ(tokenizer.encode("aaa"), Ids{2});
}

// Tables are bounded by the file: millions of the smallest tokens would need more.
TEST(tokenizer_tables_are_no_larger_than_file_and_16_mib) {
    SectionWriter writer;
    for (int i = 0; i < 1'400'000; ++i) writer.token("a");
    writer.end().end();
    CHECK_THROWS(read(writer.bytes(), {}, 2'000'000), "need tables larger than the file");
}

TEST(tokenizer_long_words_take_no_quadratic_time) {
    const std::string bytes = byte_level({"a|a", "aa|aa", "aaaa|aaaa", "aaaaaaaa|aaaaaaaa"}).bytes();
    const Tokenizer tokenizer =
        read(bytes, R"({"added_tokens_decoder": {"300": {"content": "<asr_text>"}}})");
    const std::size_t n = std::size_t{1} << 19;
    const auto before = std::chrono::steady_clock::now();
    CHECK_EQ(tokenizer.encode(std::string(n, 'a')).size(), n / 16);
    CHECK_EQ(tokenizer.encode(std::string(n, ' ')).size(), n);
    CHECK_EQ(tokenizer.encode(std::string(n, '!')).size(), n);
    CHECK_EQ(tokenizer.encode_with_added(std::string(n, '<')).size(), n);
    // Quadratic time would be hours; a sanitizer on a busy machine stays far below.
    CHECK(std::chrono::steady_clock::now() - before < std::chrono::seconds(60));
}

TEST(tokenizer_too_long_a_text_is_refused) {
    const std::string bytes = byte_level({}).bytes();
    CHECK_THROWS(read(bytes).encode(std::string((16u << 20) + 1, 'a')), "is longer than the limit");
}

TEST(utf8_stream_holds_back_unfinished_characters) {
    Utf8Stream stream;
    CHECK_EQ(stream.feed("a\xE4"), "a");
    CHECK_EQ(stream.feed("\xB8"), "");
    CHECK_EQ(stream.feed("\xAD\xF0\x9F"), "中");
    CHECK_EQ(stream.feed("\x98\x80"), "😀");
    CHECK_EQ(stream.flush(), "");
    CHECK_EQ(stream.feed("\xF0\x9F\x98"), "");
    CHECK_EQ(stream.flush(), "\uFFFD");
    CHECK_EQ(stream.flush(), "");
}

// Expected: Python's bytes.decode("utf-8", "replace").
TEST(utf8_stream_replaces_as_python_does) {
    const std::vector<std::pair<std::string_view, std::string_view>> cases = {
        {"\x80", "\uFFFD"},
        {"\xC0\xAF", "\uFFFD\uFFFD"},
        {"\xE0\x80\xAF", "\uFFFD\uFFFD\uFFFD"},
        {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
        {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
        {"\xF0\x9F\x98"
         "a",
         "\uFFFD"
         "a"},
        {"\xE4\xB8\xE4\xB8\xAD", "\uFFFD中"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "\uFFFD\uFFFD\uFFFD\uFFFD"
                                                 "A"},  // Unicode, table 3-11
        {"\xFF\xFE", "\uFFFD\uFFFD"},
    };
    for (const auto &[bytes, expected] : cases) {
        Utf8Stream whole;
        std::string text = whole.feed(bytes);
        text += whole.flush();
        CHECK_EQ(text, expected);

        Utf8Stream bytewise;
        std::string pieces;
        for (const char byte : bytes) pieces += bytewise.feed(std::string_view(&byte, 1));
        pieces += bytewise.flush();
        CHECK_EQ(pieces, expected);
    }
}

TEST(unicode_classes) {
    CHECK(chatllm::char_class('a') == CharClass::letter);
    CHECK(chatllm::char_class(0x4E2D) == CharClass::letter);
    CHECK(chatllm::char_class(0x1C89) == CharClass::letter);  // new in Unicode 16
    CHECK(chatllm::char_class(0xA7CE) == CharClass::other);   // new in Unicode 17
    CHECK(chatllm::char_class('7') == CharClass::number);
    CHECK(chatllm::char_class(0x00BD) == CharClass::number);
    CHECK(chatllm::char_class(0x3000) == CharClass::space);
    CHECK(chatllm::char_class(0x0085) == CharClass::space);
    CHECK(chatllm::char_class(0x001C) == CharClass::other);
    CHECK(chatllm::char_class(0x200B) == CharClass::other);
    CHECK(chatllm::char_class(0x0301) == CharClass::other);
    CHECK(chatllm::char_class(0x10FFFF) == CharClass::other);
}

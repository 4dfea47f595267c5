#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "check.h"

using chatllm::JsonKind;
using chatllm::JsonView;

namespace {

JsonView parse(std::string_view text) { return JsonView::parse(text, "m.bin", 20); }

std::string nested(std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

}  // namespace

TEST(json_scalars) {
    CHECK(parse("null").kind() == JsonKind::null);
    CHECK_EQ(parse(" true ").as_bool(), true);
    CHECK_EQ(parse("false").as_bool(), false);
    CHECK_EQ(parse("-0").as_int64(), 0);
    CHECK_EQ(parse("9223372036854775807").as_int64(), std::numeric_limits<std::int64_t>::max());
    CHECK_EQ(parse("-9223372036854775808").as_int64(), std::numeric_limits<std::int64_t>::min());
    CHECK_EQ(parse("1e-06").as_double(), 1e-06);
    CHECK_EQ(parse("-12.5E+1").as_double(), -125.0);
    CHECK_EQ(parse("1000000").as_double(), 1e6);
    CHECK_THROWS(parse("9223372036854775808").as_int64(), "64 bits");
    CHECK_THROWS(parse("1.0").as_int64(), "whole number");
    CHECK_THROWS(parse("1e3").as_int64(), "whole number");
    CHECK_THROWS(parse("1e999").as_double(), "out of range");
}

TEST(json_strings) {
    CHECK_EQ(parse(R"("")").as_string(), "");
    CHECK_EQ(parse(R"("a\"\\\/\b\f\n\r\tz")").as_string(), "a\"\\/\b\f\n\r\tz");
    CHECK_EQ(parse(R"("\u4e2d\uD83D\uDE00\u00e9")").as_string(), "中😀é");
    CHECK_EQ(parse("\"中😀é\"").as_string(), "中😀é");
    CHECK_EQ(parse(R"("\u0000")").as_string(), std::string(1, '\0'));
    CHECK(parse(R"("\u0041b")").is_string("Ab"));
    CHECK(!parse(R"("Ab")").is_string("A"));
    CHECK(!parse(R"("A")").is_string("Ab"));
    CHECK(!parse("1").is_string("1"));
}

TEST(json_objects) {
    const JsonView root =
        parse(R"( { "a" : {"b": [1, {"c": "}]"}], "x,\"": 2}, "\u0061b": null, "a": 3, "e": {}, "f": [] } )");
    CHECK(root.kind() == JsonKind::object);
    CHECK(root.find("a")->kind() == JsonKind::object);  // the first of two
    CHECK_EQ(root.find("a")->find("x,\"")->as_int64(), 2);
    CHECK(root.find("ab")->kind() == JsonKind::null);
    CHECK(!root.find("b"));
    CHECK(!root.find("e")->find("x"));

    std::vector<std::string> keys;
    root.for_each_member([&](JsonView key, JsonView) { keys.push_back(key.as_string()); });
    CHECK_EQ(keys, (std::vector<std::string>{"a", "ab", "a", "e", "f"}));

    std::vector<JsonKind> kinds;
    root.find("a")->find("b")->for_each_element([&](JsonView element) { kinds.push_back(element.kind()); });
    CHECK_EQ(kinds, (std::vector<JsonKind>{JsonKind::number, JsonKind::object}));
    root.find("f")->for_each_element([&](JsonView) { CHECK(false); });
}

TEST(json_wrong_kind_names_file_and_offset) {
    const JsonView root = parse(R"({"a": "text"})");
    CHECK_THROWS(root.find("a")->as_int64(),
                 "m.bin: metadata at offset 26: expected a number, found a string");
    CHECK_THROWS(root.find("a")->find("b"), "expected an object");
    CHECK_THROWS(root.as_string(), "m.bin: metadata at offset 20: expected a string, found an object");
    CHECK_THROWS(root.for_each_element([](JsonView) {}), "expected an array");
    CHECK_THROWS(parse("1").as_bool(), "expected true or false");
}

TEST(json_refuses_bad_documents) {
    for (const std::string_view text : {"",
                                        " ",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        "[1",
                                        "[1,",
                                        "[1,]",
                                        "[,1]",
                                        "[1 2]",
                                        "{1:2}",
                                        "{\"a\"}",
                                        "{\"a\":}",
                                        "{\"a\":1,}",
                                        "{\"a\":1",
                                        "{\"a\" 1}",
                                        "{a:1}",
                                        "'a'",
                                        "\"",
                                        "\"a",
                                        "\"\\",
                                        "\"\\\"",
                                        "\"\\x\"",
                                        "\"\\u12\"",
                                        "\"\\u12g4\"",
                                        "\"\\u+123\"",
                                        "\"\\ud800\"",
                                        "\"\\ud800\\u0041\"",
                                        "\"\\ud800\\ud800\"",
                                        "\"\\udc00\"",
                                        "\"\\ud83d\\",
                                        "\"\t\"",
                                        "\"\x80\"",
                                        "\"\xc3\"",
                                        "\"\xc0\xaf\"",
                                        "\"\xed\xa0\x80\"",
                                        "\"\xf4\x90\x80\x80\"",
                                        "\"\xe4\xb8",
                                        "01",
                                        "-",
                                        "+1",
                                        ".5",
                                        "1.",
                                        "1.e5",
                                        "1e",
                                        "1e+",
                                        "--1",
                                        "0x10",
                                        "NaN",
                                        "Infinity",
                                        "tru",
                                        "True",
                                        "nul",
                                        "1 1",
                                        "{} {}",
                                        "\xef\xbb\xbf{}",
                                        "[1}",
                                        "{\"a\":1]",
                                        "// c\n1"}) {
        CHECK_THROWS(parse(text), "m.bin: metadata at offset ");
    }
    CHECK_THROWS(parse(std::string_view("1\0", 2)), "offset 21");
    CHECK_THROWS(parse(std::string_view("\"\0\"", 3)), "control character");
}

TEST(json_depth_is_limited) {
    CHECK(parse(nested(64)).kind() == JsonKind::array);
    CHECK_THROWS(parse(nested(65)), "nested deeper than 64");
    CHECK_THROWS(parse(std::string(1 << 20, '[')), "nested deeper than 64");
}

// Every cut of a document is either refused or, when only white space is lost, accepted.
TEST(json_truncations) {
    const std::string text = R"({"a": [1.5e3, "\ud83d\ude00é", {"b": true}], "c": null})";
    for (std::size_t length = 0; length < text.size(); ++length) {
        CHECK_THROWS(parse(text.substr(0, length)), "metadata at offset");
    }
    CHECK(parse(text).find("c").has_value());
}

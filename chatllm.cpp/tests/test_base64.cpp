#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/base64.h"
#include "check.h"

using chatllm::decode_base64;

namespace {

std::string decoded(std::string_view text) {
    const std::vector<std::byte> bytes = decode_base64(text);
    return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
}

}  // namespace

// The examples of RFC 4648, section 10.
TEST(base64_rfc_examples) {
    CHECK_EQ(decoded(""), "");
    CHECK_EQ(decoded("Zg=="), "f");
    CHECK_EQ(decoded("Zm8="), "fo");
    CHECK_EQ(decoded("Zm9v"), "foo");
    CHECK_EQ(decoded("Zm9vYg=="), "foob");
    CHECK_EQ(decoded("Zm9vYmE="), "fooba");
    CHECK_EQ(decoded("Zm9vYmFy"), "foobar");
}

TEST(base64_every_byte_value) {
    const std::string text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo"
                             "7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJT"
                             "VFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn+"
                             "AgYKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6ChoqOkpaan"
                             "qKmqq6ytrq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/"
                             "g4eLj5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7"
                             "/P3+/w==";
    const std::vector<std::byte> bytes = decode_base64(text);
    CHECK_EQ(bytes.size(), 256);
    for (std::size_t i = 0; i < bytes.size(); ++i) CHECK_EQ(bytes[i], static_cast<std::byte>(i));
}

TEST(base64_white_space_only_at_the_end) {
    CHECK_EQ(decoded("Zm9v\r\n"), "foo");
    CHECK_EQ(decoded(" \n"), "");
    CHECK_THROWS(decode_base64("Zm9v\nZm9vAAA"), "offset 4");
    CHECK_THROWS(decode_base64(" Zm9vAAA"), "offset 0");
}

TEST(base64_refuses_what_is_not_base64) {
    CHECK_THROWS(decode_base64("Zg"), "multiple of 4");
    CHECK_THROWS(decode_base64("Zg="), "multiple of 4");
    CHECK_THROWS(decode_base64("Zg==Zg=="), "offset 2");
    CHECK_THROWS(decode_base64("===="), "offset 0");
    CHECK_THROWS(decode_base64("A==="), "offset 1");
    CHECK_THROWS(decode_base64("Zm9_"), "offset 3");
    CHECK_THROWS(decode_base64(std::string_view("Zm\0v", 4)), "offset 2");
    CHECK_THROWS(decode_base64("Zm9\xff"), "offset 3");
    CHECK_THROWS(decode_base64("Zh=="), "padding");
    CHECK_THROWS(decode_base64("Zm9="), "padding");
}

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace chatllm {

inline constexpr char32_t replacement_char = 0xFFFD;

enum class Utf8Status {
    valid,
    invalid,    // these bytes can begin no character
    truncated,  // the text ends within what may still become a character
};

struct Utf8Char {
    char32_t code;  // U+FFFD unless valid
    std::size_t
        length;  // bytes it takes; of what is not valid, the maximal subpart (Unicode 16, section 3.9)
    Utf8Status status;
};

// The character at `position`, which must lie within `text`. Replacing each result that is not valid by
// U+FFFD gives what Python's bytes.decode("utf-8", "replace") gives.
Utf8Char decode_utf8(std::string_view text, std::size_t position);

// `code` must be a Unicode scalar value.
void append_utf8(char32_t code, std::string &out);

}  // namespace chatllm

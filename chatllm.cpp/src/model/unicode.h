#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace chatllm {

// What the pre-tokeniser tells apart: \p{L}, \p{N}, \s (White_Space) and all else, by Unicode 16.0.0.
enum class CharClass : std::uint8_t { other, letter, number, space };

CharClass char_class(char32_t code);

// Turns bytes that come in pieces into whole characters. Bytes that are not UTF-8 become U+FFFD exactly as in
// Python's bytes.decode("utf-8", "replace").
class Utf8Stream {
public:
    // The characters completed so far; up to three bytes of an unfinished one are held back.
    std::string feed(std::string_view bytes);
    // Call at the end: what was held back becomes U+FFFD.
    std::string flush();

private:
    std::string held_;
};

}  // namespace chatllm

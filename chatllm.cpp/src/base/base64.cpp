#include "base/base64.h"

#include <array>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace chatllm {

namespace {

constexpr std::uint8_t not_a_digit = 64;

constexpr std::array<std::uint8_t, 256> make_digits() {
    constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::array<std::uint8_t, 256> digits{};
    digits.fill(not_a_digit);
    for (std::size_t i = 0; i < alphabet.size(); ++i) {
        digits[static_cast<unsigned char>(alphabet[i])] = static_cast<std::uint8_t>(i);
    }
    return digits;
}

constexpr std::array<std::uint8_t, 256> digits = make_digits();

}  // namespace

std::vector<std::byte> decode_base64(std::string_view text) {
    const std::size_t last = text.find_last_not_of(" \t\r\n");
    text = text.substr(0, last == std::string_view::npos ? 0 : last + 1);
    if (text.size() % 4 != 0) {
        throw Error("base64: " + std::to_string(text.size()) +
                    " characters are not a multiple of 4: the text is cut off or not base64");
    }
    const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;

    std::vector<std::byte> bytes;
    bytes.reserve(text.size() / 4 * 3);
    std::uint32_t group = 0;
    for (std::size_t i = 0; i < text.size() - padding; ++i) {
        const std::uint8_t digit = digits[static_cast<unsigned char>(text[i])];
        if (digit == not_a_digit) {
            throw Error("base64: offset " + std::to_string(i) + " holds a character that is not base64");
        }
        group = (group << 6) | digit;
        // Of each group of four digits, the second, third and fourth complete a byte.
        if (i % 4 != 0) bytes.push_back(static_cast<std::byte>((group >> (6 - 2 * (i % 4))) & 0xFF));
    }
    const std::uint32_t spare_bits = padding == 2 ? 0xF : padding == 1 ? 0x3 : 0;
    if ((group & spare_bits) != 0) throw Error("base64: the bits before the padding are not zero");
    return bytes;
}

}  // namespace chatllm

#include "base/utf8.h"

namespace chatllm {

Utf8Char decode_utf8(std::string_view text, std::size_t position) {
    const auto byte_at = [text](std::size_t at) { return static_cast<unsigned char>(text[at]); };
    const unsigned char lead = byte_at(position);
    if (lead < 0x80) return {lead, 1, Utf8Status::valid};

    // Unicode 16, table 3-7: the second byte's range closes out overlong forms, surrogates and U+110000
    // upward.
    std::size_t length;
    unsigned second_low = 0x80, second_high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
        length = 2;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        length = 3;
        if (lead == 0xE0) second_low = 0xA0;
        if (lead == 0xED) second_high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        length = 4;
        if (lead == 0xF0) second_low = 0x90;
        if (lead == 0xF4) second_high = 0x8F;
    } else {
        return {replacement_char, 1, Utf8Status::invalid};
    }

    char32_t code = lead & (0x7Fu >> length);
    for (std::size_t taken = 1; taken < length; ++taken) {
        if (position + taken >= text.size()) return {replacement_char, taken, Utf8Status::truncated};
        const unsigned char byte = byte_at(position + taken);
        const unsigned low = taken == 1 ? second_low : 0x80, high = taken == 1 ? second_high : 0xBF;
        if (byte < low || byte > high) return {replacement_char, taken, Utf8Status::invalid};
        code = (code << 6) | (byte & 0x3F);
    }
    return {code, length, Utf8Status::valid};
}

void append_utf8(char32_t code, std::string &out) {
    const auto put = [&out](char32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) {
        put(code);
    } else if (code < 0x800) {
        put(0xC0 | (code >> 6));
        put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        put(0xE0 | (code >> 12));
        put(0x80 | ((code >> 6) & 0x3F));
        put(0x80 | (code & 0x3F));
    } else {
        put(0xF0 | (code >> 18));
        put(0x80 | ((code >> 12) & 0x3F));
        put(0x80 | ((code >> 6) & 0x3F));
        put(0x80 | (code & 0x3F));
    }
}

}  // namespace chatllm

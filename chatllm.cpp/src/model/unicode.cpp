#include "model/unicode.h"

#include <algorithm>
#include <cstddef>

#include "base/utf8.h"

namespace chatllm {

namespace {

struct CharRange {
    char32_t first;
    char32_t last;
    CharClass char_class;
};

constexpr CharRange ranges[] = {
#include "model/unicode_tables.inc"
};

}  // namespace

CharClass char_class(char32_t code) {
    const auto *range = std::ranges::lower_bound(ranges, code, {}, &CharRange::last);
    return range != std::end(ranges) && range->first <= code ? range->char_class : CharClass::other;
}

std::string Utf8Stream::feed(std::string_view bytes) {
    held_ += bytes;
    std::string out;
    out.reserve(held_.size());
    std::size_t position = 0;
    while (position < held_.size()) {
        const Utf8Char decoded = decode_utf8(held_, position);
        if (decoded.status == Utf8Status::truncated) break;
        if (decoded.status == Utf8Status::valid) {
            out.append(held_, position, decoded.length);
        } else {
            append_utf8(replacement_char, out);
        }
        position += decoded.length;
    }
    held_.erase(0, position);
    return out;
}

std::string Utf8Stream::flush() {
    std::string out;
    if (!held_.empty()) append_utf8(replacement_char, out);
    held_.clear();
    return out;
}

}  // namespace chatllm

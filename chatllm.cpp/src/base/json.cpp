#include "base/json.h"

#include <algorithm>
#include <charconv>
#include <system_error>

#include "base/utf8.h"

namespace chatllm {

namespace {

constexpr int max_depth = 64;

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

[[noreturn]] void fail_at(std::string_view file_name, std::size_t offset, std::string_view reason) {
    std::string message(file_name);
    message += ": metadata at offset " + std::to_string(offset) + ": ";
    message += reason;
    throw Error(message);
}

// The value of four hexadecimal digits, or none when they are not four.
std::optional<char32_t> hex4(std::string_view digits) {
    std::uint16_t value = 0;
    if (digits.size() != 4) return std::nullopt;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + 4, value, 16);
    if (error != std::errc{} || end != digits.data() + 4) return std::nullopt;
    return value;
}

bool is_high_surrogate(char32_t code) { return code >= 0xD800 && code <= 0xDBFF; }
bool is_low_surrogate(char32_t code) { return code >= 0xDC00 && code <= 0xDFFF; }

struct EscapedChar {
    char32_t code;
    std::size_t length;  // 0 when the escape is not one
};

// The escape at the beginning of `text`, which begins with a backslash.
EscapedChar read_escape(std::string_view text) {
    if (text.size() < 2) return {0, 0};
    switch (text[1]) {
    case '"':
        return {'"', 2};
    case '\\':
        return {'\\', 2};
    case '/':
        return {'/', 2};
    case 'b':
        return {'\b', 2};
    case 'f':
        return {'\f', 2};
    case 'n':
        return {'\n', 2};
    case 'r':
        return {'\r', 2};
    case 't':
        return {'\t', 2};
    case 'u':
        break;
    default:
        return {0, 0};
    }
    const auto first = hex4(text.substr(2, 4));
    if (!first || is_low_surrogate(*first)) return {0, 0};
    if (!is_high_surrogate(*first)) return {*first, 6};
    if (text.substr(6, 2) != "\\u") return {0, 0};
    const auto second = hex4(text.substr(8, 4));
    if (!second || !is_low_surrogate(*second)) return {0, 0};
    return {0x10000 + ((*first - 0xD800) << 10) + (*second - 0xDC00), 12};
}

class Validator {
public:
    Validator(std::string_view text, std::string_view file_name, std::size_t offset)
        : text_(text), file_name_(file_name), offset_(offset) {}

    // Returns where the document's value begins and ends.
    std::string_view document() {
        skip_space();
        const std::size_t begin = position_;
        value(0);
        const std::size_t end = position_;
        skip_space();
        if (position_ != text_.size()) fail("text after the end of the JSON document");
        return text_.substr(begin, end - begin);
    }

private:
    [[noreturn]] void fail(std::string_view reason) const {
        fail_at(file_name_, offset_ + position_, reason);
    }

    bool at_end() const { return position_ == text_.size(); }
    char peek() const { return at_end() ? '\0' : text_[position_]; }
    bool accept(char c) {
        if (at_end() || text_[position_] != c) return false;
        ++position_;
        return true;
    }

    void skip_space() {
        while (!at_end() && is_space(text_[position_])) ++position_;
    }

    void value(int depth) {
        if (depth == max_depth) fail("nested deeper than " + std::to_string(max_depth) + " levels");
        if (at_end()) fail("the JSON document ends early");
        switch (peek()) {
        case '{':
            return object(depth);
        case '[':
            return array(depth);
        case '"':
            return string();
        case 't':
            return word("true");
        case 'f':
            return word("false");
        case 'n':
            return word("null");
        default:
            return number();
        }
    }

    void object(int depth) {
        ++position_;
        skip_space();
        if (accept('}')) return;
        do {
            skip_space();
            if (peek() != '"') fail("expected a key in double quotes");
            string();
            skip_space();
            if (!accept(':')) fail("expected ':' after a key");
            skip_space();
            value(depth + 1);
            skip_space();
        } while (accept(','));
        if (!accept('}')) fail("expected ',' or '}' in an object");
    }

    void array(int depth) {
        ++position_;
        skip_space();
        if (accept(']')) return;
        do {
            skip_space();
            value(depth + 1);
            skip_space();
        } while (accept(','));
        if (!accept(']')) fail("expected ',' or ']' in an array");
    }

    void string() {
        ++position_;
        while (!accept('"')) {
            if (at_end()) fail("a string is not closed");
            const auto byte = static_cast<unsigned char>(text_[position_]);
            if (byte < 0x20) fail("a control character in a string");
            if (byte == '\\') {
                const EscapedChar escaped = read_escape(text_.substr(position_));
                if (escaped.length == 0) fail("an invalid escape or an unpaired surrogate in a string");
                position_ += escaped.length;
            } else if (byte < 0x80) {
                ++position_;
            } else {
                const Utf8Char decoded = decode_utf8(text_, position_);
                if (decoded.status != Utf8Status::valid) fail("a string is not UTF-8");
                position_ += decoded.length;
            }
        }
    }

    void word(std::string_view expected) {
        if (text_.substr(position_, expected.size()) != expected) fail("expected a JSON value");
        position_ += expected.size();
    }

    void digits() {
        if (!is_digit(peek())) fail("expected a JSON value: a number lacks a digit");
        while (is_digit(peek())) ++position_;
    }

    void number() {
        accept('-');
        if (!accept('0')) digits();
        if (accept('.')) digits();
        if (accept('e') || accept('E')) {
            if (!accept('+')) accept('-');
            digits();
        }
    }

    std::string_view text_;
    std::string_view file_name_;
    std::size_t offset_;
    std::size_t position_ = 0;
};

// Calls put(std::string_view piece) for the pieces of a checked string's unescaped text until put returns
// false. `quoted` includes the quotes.
template <typename Put> void unescape(std::string_view quoted, Put &&put) {
    std::string_view rest = quoted.substr(1, quoted.size() - 2);
    std::string one;  // at most 4 bytes: no allocation
    while (!rest.empty()) {
        if (rest[0] != '\\') {
            const std::size_t length = std::min(rest.find('\\'), rest.size());
            if (!put(rest.substr(0, length))) return;
            rest.remove_prefix(length);
        } else {
            const EscapedChar escaped = read_escape(rest);
            one.clear();
            append_utf8(escaped.code, one);
            if (!put(std::string_view(one))) return;
            rest.remove_prefix(escaped.length);
        }
    }
}

JsonKind kind_of(char first) {
    switch (first) {
    case '{':
        return JsonKind::object;
    case '[':
        return JsonKind::array;
    case '"':
        return JsonKind::string;
    case 't':
    case 'f':
        return JsonKind::boolean;
    case 'n':
        return JsonKind::null;
    default:
        return JsonKind::number;
    }
}

std::string_view kind_name(JsonKind kind) {
    switch (kind) {
    case JsonKind::object:
        return "an object";
    case JsonKind::array:
        return "an array";
    case JsonKind::string:
        return "a string";
    case JsonKind::boolean:
        return "true or false";
    case JsonKind::null:
        return "null";
    case JsonKind::number:
        break;
    }
    return "a number";
}

// The end of the value that begins at `position` of a checked text.
std::size_t value_end(std::string_view text, std::size_t position) {
    std::size_t depth = 0;
    do {
        const char c = text[position];
        if (c == '"') {
            while (text[++position] != '"') {
                if (text[position] == '\\') ++position;
            }
            ++position;
        } else if (c == '{' || c == '[') {
            ++depth;
            ++position;
        } else if (c == '}' || c == ']') {
            --depth;
            ++position;
        } else if (depth == 0) {  // a number or a word
            position = std::min(text.find_first_of(",]} \t\n\r", position), text.size());
        } else {
            ++position;
        }
    } while (depth > 0);
    return position;
}

}  // namespace

JsonView JsonView::parse(std::string_view text, std::string_view file_name, std::size_t offset) {
    const std::string_view document = Validator(text, file_name, offset).document();
    return JsonView(document, file_name, offset + static_cast<std::size_t>(document.data() - text.data()));
}

void JsonView::fail(std::string_view reason) const { fail_at(file_name_, offset_, reason); }

JsonKind JsonView::kind() const { return kind_of(value_[0]); }

void JsonView::expect(JsonKind kind) const {
    if (this->kind() == kind) return;
    std::string reason = "expected ";
    reason += kind_name(kind);
    reason += ", found ";
    reason += kind_name(this->kind());
    fail(reason);
}

std::int64_t JsonView::as_int64() const {
    expect(JsonKind::number);
    std::int64_t number = 0;
    const char *end = value_.data() + value_.size();
    const auto [stop, error] = std::from_chars(value_.data(), end, number);
    if (error == std::errc::result_out_of_range) fail("the number does not fit into 64 bits");
    if (stop != end) fail("expected a whole number");
    return number;
}

double JsonView::as_double() const {
    expect(JsonKind::number);
    double number = 0;
    const auto [stop, error] = std::from_chars(value_.data(), value_.data() + value_.size(), number);
    if (error != std::errc{}) fail("the number is out of range");
    return number;
}

bool JsonView::as_bool() const {
    expect(JsonKind::boolean);
    return value_[0] == 't';
}

std::string JsonView::as_string() const {
    expect(JsonKind::string);
    std::string text;
    unescape(value_, [&text](std::string_view piece) {
        text += piece;
        return true;
    });
    return text;
}

bool JsonView::is_string(std::string_view text) const {
    if (kind() != JsonKind::string) return false;
    bool equal = true;
    unescape(value_, [&text, &equal](std::string_view piece) {
        equal = text.starts_with(piece);
        if (equal) text.remove_prefix(piece.size());
        return equal;
    });
    return equal && text.empty();
}

std::optional<JsonView> JsonView::find(std::string_view key) const {
    expect(JsonKind::object);
    for (Cursor cursor = first(); cursor.position < value_.size(); cursor = after(cursor)) {
        const bool found = element(cursor).is_string(key);
        cursor = after(cursor);
        if (found) return element(cursor);
    }
    return std::nullopt;
}

JsonView JsonView::element(Cursor cursor) const {
    return JsonView(value_.substr(cursor.position, cursor.end - cursor.position), file_name_,
                    offset_ + cursor.position);
}

JsonView::Cursor JsonView::cursor_from(std::size_t position) const {
    while (is_space(value_[position]) || value_[position] == ',' || value_[position] == ':') ++position;
    if (value_[position] == '}' || value_[position] == ']') return {value_.size(), value_.size()};
    return {position, value_end(value_, position)};
}

JsonView::Cursor JsonView::first() const { return cursor_from(1); }
JsonView::Cursor JsonView::after(Cursor cursor) const { return cursor_from(cursor.end); }

}  // namespace chatllm

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace chatllm {

enum class JsonKind { null, boolean, number, string, array, object };

// A value within a JSON document that was checked as a whole. It points into the text and owns nothing, so a
// document costs no more than its own bytes; what is looked up is searched for each time. The text and the
// file's name must outlive it. Every failure is an Error that names the file and the offset.
class JsonView {
public:
    // Checks the whole document (RFC 8259; nesting of at most 64; UTF-8 and surrogate pairs complete).
    // `offset` is where `text` begins in its file.
    static JsonView parse(std::string_view text, std::string_view file_name, std::size_t offset = 0);

    JsonKind kind() const;
    std::size_t raw_size() const { return value_.size(); }  // bytes in the document
    std::int64_t as_int64() const;                          // a number without fraction and exponent
    double as_double() const;
    bool as_bool() const;
    std::string as_string() const;                // unescaped
    bool is_string(std::string_view text) const;  // a string that reads `text` once unescaped

    // The first member of an object with this key.
    std::optional<JsonView> find(std::string_view key) const;

    // Calls visit(JsonView key, JsonView value) for each member of an object, in order.
    template <typename Visit> void for_each_member(Visit &&visit) const {
        expect(JsonKind::object);
        for (Cursor cursor = first(); cursor.position < value_.size(); cursor = after(cursor)) {
            const JsonView key = element(cursor);
            visit(key, element(cursor = after(cursor)));
        }
    }

    // Calls visit(JsonView element) for each element of an array, in order.
    template <typename Visit> void for_each_element(Visit &&visit) const {
        expect(JsonKind::array);
        for (Cursor cursor = first(); cursor.position < value_.size(); cursor = after(cursor))
            visit(element(cursor));
    }

    // Throws Error("FILE: metadata at offset N: REASON"), N being where this value begins.
    [[noreturn]] void fail(std::string_view reason) const;

private:
    // A key, a member's value or an element; at the end both are the container's size.
    struct Cursor {
        std::size_t position;
        std::size_t end;
    };

    JsonView(std::string_view value, std::string_view file_name, std::size_t offset)
        : value_(value), file_name_(file_name), offset_(offset) {}

    void expect(JsonKind kind) const;
    Cursor first() const;
    Cursor after(Cursor cursor) const;
    Cursor cursor_from(std::size_t position) const;
    JsonView element(Cursor cursor) const;

    std::string_view value_;  // from the first character of the value to its last
    std::string_view file_name_;
    std::size_t offset_;  // of value_ in the file
};

}  // namespace chatllm

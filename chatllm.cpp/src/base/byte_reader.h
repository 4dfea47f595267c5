#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace chatllm {

// Walks over untrusted bytes. Nothing is read before it is proven to be there, by comparing with what remains
// rather than by adding sizes up; every failure names the file, the field and the offset.
class ByteReader {
public:
    // `bytes` is the whole file, so that positions are absolute offsets.
    ByteReader(std::span<const std::byte> bytes, std::string_view file_name, std::size_t position = 0)
        : bytes_(bytes), file_name_(file_name), position_(position) {}

    std::size_t position() const { return position_; }
    std::size_t size() const { return bytes_.size(); }
    std::size_t remaining() const { return bytes_.size() - position_; }
    bool at_end() const { return position_ == bytes_.size(); }

    std::int32_t i32(std::string_view field);
    std::uint32_t u32(std::string_view field);
    float f32(std::string_view field);
    std::uint8_t u8(std::string_view field);
    std::span<const std::byte> take(std::size_t n_bytes, std::string_view field);
    std::string_view text(std::size_t n_bytes, std::string_view field);
    void seek(std::size_t offset, std::string_view field);
    // Moves forward to the next multiple of `alignment` of the absolute offset.
    void align(std::size_t alignment, std::string_view field);

    // Throws Error("FILE: FIELD at offset N: REASON").
    [[noreturn]] void fail(std::string_view field, std::size_t offset, std::string_view reason) const;
    [[noreturn]] void fail(std::string_view field, std::string_view reason) const {
        fail(field, position_, reason);
    }

private:
    template <typename T> T scalar(std::string_view field);

    std::span<const std::byte> bytes_;
    std::string_view file_name_;
    std::size_t position_;
};

// Text from an untrusted file, made safe to print: at most `max_bytes`, control and non-ASCII bytes escaped.
std::string printable(std::string_view text, std::size_t max_bytes = 80);

}  // namespace chatllm

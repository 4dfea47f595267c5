#include "base/byte_reader.h"

#include <cstring>

namespace chatllm {

template <typename T> T ByteReader::scalar(std::string_view field) {
    T value;
    std::memcpy(&value, take(sizeof(T), field).data(), sizeof(T));
    return value;
}

std::int32_t ByteReader::i32(std::string_view field) { return scalar<std::int32_t>(field); }
std::uint32_t ByteReader::u32(std::string_view field) { return scalar<std::uint32_t>(field); }
float ByteReader::f32(std::string_view field) { return scalar<float>(field); }
std::uint8_t ByteReader::u8(std::string_view field) { return scalar<std::uint8_t>(field); }

std::span<const std::byte> ByteReader::take(std::size_t n_bytes, std::string_view field) {
    if (n_bytes > remaining()) {
        fail(field, "needs " + std::to_string(n_bytes) + " bytes, only " + std::to_string(remaining()) +
                        " are left: the file is truncated or corrupt");
    }
    const auto taken = bytes_.subspan(position_, n_bytes);
    position_ += n_bytes;
    return taken;
}

std::string_view ByteReader::text(std::size_t n_bytes, std::string_view field) {
    const auto taken = take(n_bytes, field);
    return {reinterpret_cast<const char *>(taken.data()), taken.size()};
}

void ByteReader::seek(std::size_t offset, std::string_view field) {
    if (offset > bytes_.size()) {
        fail(field, "points to offset " + std::to_string(offset) + " beyond the end of the file (" +
                        std::to_string(bytes_.size()) + " bytes)");
    }
    position_ = offset;
}

void ByteReader::align(std::size_t alignment, std::string_view field) {
    take((alignment - position_ % alignment) % alignment, field);
}

void ByteReader::fail(std::string_view field, std::size_t offset, std::string_view reason) const {
    std::string message(file_name_);
    message += ": ";
    message += field;
    message += " at offset " + std::to_string(offset) + ": ";
    message += reason;
    throw Error(message);
}

std::string printable(std::string_view text, std::size_t max_bytes) {
    static constexpr char hex[] = "0123456789abcdef";
    std::string safe;
    for (const char c : text.substr(0, max_bytes)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20 && byte < 0x7f) {
            safe += c;
        } else {
            safe += "\\x";
            safe += hex[byte >> 4];
            safe += hex[byte & 15];
        }
    }
    if (text.size() > max_bytes) safe += "...";
    return safe;
}

}  // namespace chatllm

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <numbers>
#include <string>
#include <string_view>

#include "random.h"

// WAV files for tests, byte by byte.
namespace chatllm::check {

template <typename T> void append(std::string &bytes, T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    bytes.append(raw, sizeof(T));
}

struct WavHeader {
    std::uint16_t encoding = 1;  // 1: integers, 3: floats, 0xFFFE: extensible
    std::uint16_t n_channels = 1;
    std::uint32_t rate = 16000;
    std::uint16_t bits = 16;
    std::uint16_t sub_encoding = 1;  // of the extensible form
};

inline std::string chunk(std::string_view tag, std::string_view content) {
    std::string bytes(tag);
    append(bytes, static_cast<std::uint32_t>(content.size()));
    bytes += content;
    if (content.size() % 2 == 1) bytes += '\0';
    return bytes;
}

inline std::string format_chunk(const WavHeader &header) {
    std::string content;
    const auto frame_bytes = static_cast<std::uint16_t>(header.n_channels * (header.bits / 8));
    append(content, header.encoding);
    append(content, header.n_channels);
    append(content, header.rate);
    append(content, header.rate * frame_bytes);
    append(content, frame_bytes);
    append(content, header.bits);
    if (header.encoding == 0xFFFE) {
        append(content, std::uint16_t{22});  // bytes that follow
        append(content, header.bits);
        append(content, std::uint32_t{0});  // no speaker positions
        append(content, header.sub_encoding);
        content.append("\x00\x00\x00\x00\x10\x00\x80\x00\x00\xAA\x00\x38\x9B\x71",
                       14);  // KSDATAFORMAT_SUBTYPE
    }
    return chunk("fmt ", content);
}

inline std::string riff(std::string_view chunks) {
    std::string bytes = "RIFF";
    append(bytes, static_cast<std::uint32_t>(chunks.size() + 4));
    bytes += "WAVE";
    bytes += chunks;
    return bytes;
}

inline std::string wav(const WavHeader &header, std::string_view data) {
    return riff(format_chunk(header) + chunk("data", data));
}

// A clip at 16 kHz with something to hear: a rising tone with noise.
inline std::string clip_wav(double seconds, std::uint64_t seed = 1) {
    Random random(seed);
    std::string data;
    const auto n = static_cast<int>(seconds * 16000);
    for (int i = 0; i < n; ++i) {
        const double t = i / 16000.0;
        const double tone = 0.4 * std::sin(2 * std::numbers::pi * (200 + 300 * t) * t);
        append(data, static_cast<std::int16_t>(32767 * (tone + static_cast<double>(random.real(0.05f)))));
    }
    return wav({}, data);
}

}  // namespace chatllm::check

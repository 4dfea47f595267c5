#include "audio/wav.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/byte_reader.h"

namespace chatllm {
namespace {

constexpr std::uint32_t sample_rate = 16000;
constexpr int max_chunks = 1000;  // before the samples: real files have a few
constexpr std::uint16_t pcm = 1;
constexpr std::uint16_t ieee_float = 3;
constexpr std::uint16_t extensible = 0xFFFE;

struct Format {
    std::uint16_t encoding = 0;
    std::uint16_t n_channels = 0;
    std::uint16_t bits = 0;
};

std::uint16_t u16(std::span<const std::byte> bytes, std::size_t at) {
    std::uint16_t value;
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    return value;
}

Format read_format(ByteReader &reader, std::size_t n_bytes) {
    const std::size_t at = reader.position();
    if (n_bytes < 16)
        reader.fail("fmt chunk", at, "has " + std::to_string(n_bytes) + " bytes, fewer than 16");
    const auto chunk = reader.take(n_bytes, "fmt chunk");
    Format format{u16(chunk, 0), u16(chunk, 2), u16(chunk, 14)};
    // The extensible form keeps the encoding in the first bytes of a GUID.
    if (format.encoding == extensible && n_bytes >= 40) format.encoding = u16(chunk, 24);
    std::uint32_t rate;
    std::memcpy(&rate, chunk.data() + 4, sizeof(rate));
    if (rate != sample_rate) {
        reader.fail("sample rate", at + 4,
                    "is " + std::to_string(rate) + " Hz: resample the clip to 16000 Hz");
    }
    if (format.n_channels == 0) reader.fail("number of channels", at + 2, "is 0");
    const bool known =
        (format.encoding == pcm && (format.bits == 16 || format.bits == 24 || format.bits == 32)) ||
        (format.encoding == ieee_float && format.bits == 32);
    if (!known) {
        reader.fail("sample format", at,
                    "is encoding " + std::to_string(format.encoding) + " with " +
                        std::to_string(format.bits) +
                        " bits: convert the clip to 16, 24 or 32-bit PCM or 32-bit float");
    }
    return format;
}

float sample_at(const std::byte *at, const Format &format) {
    if (format.encoding == ieee_float) {
        float value;
        std::memcpy(&value, at, sizeof(value));
        return value;
    }
    // Left-aligned in 32 bits, so that one scale fits all widths.
    std::uint32_t bits = 0;
    const std::size_t n_bytes = format.bits / 8;
    std::memcpy(reinterpret_cast<std::byte *>(&bits) + (4 - n_bytes), at, n_bytes);
    return static_cast<float>(static_cast<double>(static_cast<std::int32_t>(bits)) * 0x1p-31);
}

}  // namespace

Clip Clip::read_wav(const std::string &path, std::size_t max_samples) {
    const FileMap file(path);
    return parse_wav(file.bytes(), path, max_samples);
}

Clip Clip::parse_wav(std::span<const std::byte> bytes, std::string_view name, std::size_t max_samples) {
    ByteReader reader(bytes, name);
    const auto is = [&](std::size_t at, std::string_view tag) {
        return bytes.size() >= at + 4 && std::memcmp(bytes.data() + at, tag.data(), 4) == 0;
    };
    if (!is(0, "RIFF") || !is(8, "WAVE"))
        reader.fail("header", 0, "is not that of a RIFF WAVE file: convert the clip to 16 kHz WAV");
    reader.seek(12, "header");

    Format format;
    std::span<const std::byte> data;
    for (int n_chunks = 0; data.empty(); ++n_chunks) {
        if (n_chunks == max_chunks) reader.fail("data chunk", "is not among the first 1000 chunks");
        if (reader.remaining() < 8)
            reader.fail(format.n_channels == 0 ? "fmt chunk" : "data chunk", "is missing or empty");
        const std::string_view tag = reader.text(4, "chunk name");
        std::size_t n_bytes = reader.u32("chunk size");
        if (tag == "fmt ") {
            format = read_format(reader, n_bytes);
        } else if (tag == "data") {
            if (format.n_channels == 0) reader.fail("data chunk", "comes before the fmt chunk");
            // Programs that write to a pipe cannot know the size and leave the largest number.
            if (n_bytes >= 0xFFFFFF00u) n_bytes = reader.remaining();
            data = reader.take(n_bytes, "data chunk");
        } else {
            reader.take(n_bytes, "chunk");
        }
        if (n_bytes % 2 == 1 && !reader.at_end()) reader.take(1, "chunk padding");
    }

    const std::size_t sample_bytes = format.bits / 8u;
    const std::size_t frame_bytes = sample_bytes * format.n_channels;
    const std::size_t n_frames = data.size() / frame_bytes;
    if (n_frames == 0) reader.fail("data chunk", "holds no sample");

    if (n_frames > max_samples) {
        reader.fail("data chunk", "holds " + std::to_string(n_frames / sample_rate) + " s, more than the " +
                                      std::to_string(max_samples / sample_rate) +
                                      " s that fit into the context: cut the clip or raise the context (-c)");
    }

    Clip clip;
    clip.n_samples_ = std::max(n_frames, min_samples);
    clip.seconds_ = static_cast<double>(n_frames) / sample_rate;
    clip.memory_ = AnonymousMap(clip.n_samples_ * sizeof(float), "samples of the clip");
    auto *samples = reinterpret_cast<float *>(clip.memory_.data());
    if (format.bits == 16 && format.n_channels == 1) {
        // What the harness writes; it needs no check of each sample.
        const std::byte *at = data.data();
        for (std::size_t i = 0; i < n_frames; ++i) {
            std::int16_t sample;
            std::memcpy(&sample, at + i * sizeof(sample), sizeof(sample));
            samples[i] = static_cast<float>(sample) * 0x1p-15f;
        }
        return clip;
    }
    float peak = 0;
    for (std::size_t i = 0; i < n_frames; ++i) {
        float sum = 0;
        for (std::size_t c = 0; c < format.n_channels; ++c)
            sum += sample_at(data.data() + i * frame_bytes + c * sample_bytes, format);
        samples[i] = sum / static_cast<float>(format.n_channels);
        if (!std::isfinite(samples[i])) reader.fail("sample " + std::to_string(i), "is not a finite number");
        peak = std::max(peak, std::fabs(samples[i]));
    }
    if (peak > 1) {
        for (std::size_t i = 0; i < n_frames; ++i) samples[i] /= peak;
    }
    return clip;
}

}  // namespace chatllm

#include "audio/wav.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "check.h"
#include "temporary.h"
#include "wav_writer.h"

using chatllm::Clip;
using chatllm::check::append;
using chatllm::check::chunk;
using chatllm::check::format_chunk;
using chatllm::check::riff;
using chatllm::check::wav;
using chatllm::check::WavHeader;

namespace {

constexpr std::size_t most_samples = 1 << 24;

Clip parse(const std::string &bytes) {
    return Clip::parse_wav(std::as_bytes(std::span(bytes)), "clip.wav", most_samples);
}

template <typename T> std::string data_of(const std::vector<T> &values) {
    std::string data;
    for (const T value : values) append(data, value);
    return data;
}

std::string data_of_24_bits(const std::vector<std::int32_t> &values) {
    std::string data;
    for (const std::int32_t value : values) {
        for (int byte = 0; byte < 3; ++byte) data += static_cast<char>(value >> (8 * byte));
    }
    return data;
}

// The samples before the padding.
std::vector<float> samples(const Clip &clip) {
    const auto n = static_cast<std::size_t>(std::lround(clip.seconds() * 16000));
    return {clip.samples().begin(), clip.samples().begin() + static_cast<std::ptrdiff_t>(n)};
}

using Floats = std::vector<float>;

}  // namespace

TEST(integers_of_every_width) {
    const Floats expected{0.0f, 0.5f, -0.5f, -1.0f};
    CHECK_EQ(samples(parse(wav({}, data_of<std::int16_t>({0, 16384, -16384, -32768})))), expected);
    CHECK_EQ(samples(parse(wav({.bits = 24}, data_of_24_bits({0, 1 << 22, -(1 << 22), -(1 << 23)})))),
             expected);
    CHECK_EQ(samples(parse(wav({.bits = 32}, data_of<std::int32_t>({0, 1 << 30, -(1 << 30), INT32_MIN})))),
             expected);
}

TEST(sixteen_bits_are_divided_by_32768) {
    std::vector<std::int16_t> values;
    for (int v = -32768; v < 32768; v += 13) values.push_back(static_cast<std::int16_t>(v));
    const Floats read = samples(parse(wav({}, data_of(values))));
    for (std::size_t i = 0; i < values.size(); ++i)
        CHECK_EQ(read[i], static_cast<float>(values[i]) / 32768.0f);
}

TEST(floats_are_taken_as_they_are) {
    const Floats values{0.0f, 0.25f, -1.0f, 1e-20f};
    CHECK_EQ(samples(parse(wav({.encoding = 3, .bits = 32}, data_of(values)))), values);
}

TEST(the_extensible_form) {
    const std::string data = data_of<std::int16_t>({16384});
    CHECK_EQ(samples(parse(wav({.encoding = 0xFFFE}, data))), Floats{0.5f});
    const std::string floats = data_of<float>({0.75f});
    CHECK_EQ(samples(parse(wav({.encoding = 0xFFFE, .bits = 32, .sub_encoding = 3}, floats))), Floats{0.75f});
    CHECK_THROWS(parse(wav({.encoding = 0xFFFE, .sub_encoding = 6}, data)),
                 "clip.wav: sample format at offset 20: is encoding 6");
}

TEST(channels_are_averaged) {
    CHECK_EQ(samples(parse(wav({.n_channels = 2}, data_of<std::int16_t>({16384, 0, -16384, -16384})))),
             (Floats{0.25f, -0.5f}));
    CHECK_EQ(
        samples(parse(wav({.encoding = 3, .n_channels = 3, .bits = 32}, data_of<float>({0.3f, 0.3f, 0.3f}))))
            .size(),
        1u);
    // The rest of a frame at the end is no frame.
    CHECK_EQ(samples(parse(wav({.n_channels = 2}, data_of<std::int16_t>({16384, 16384, 7})))), Floats{0.5f});
}

TEST(a_peak_above_one_is_brought_down_to_one) {
    CHECK_EQ(samples(parse(wav({.encoding = 3, .bits = 32}, data_of<float>({4.0f, -2.0f, 1.0f})))),
             (Floats{1.0f, -0.5f, 0.25f}));
    CHECK_EQ(samples(parse(wav({.encoding = 3, .bits = 32}, data_of<float>({0.1f, -0.9f})))),
             (Floats{0.1f, -0.9f}));
    const auto huge = samples(parse(wav({.encoding = 3, .bits = 32}, data_of<float>({3e38f, -3e38f}))));
    CHECK_EQ(huge, (Floats{1.0f, -1.0f}));
}

TEST(short_clips_are_padded_with_silence) {
    const Clip clip = parse(wav({}, data_of<std::int16_t>({16384})));
    CHECK_EQ(clip.samples().size(), 8000u);
    CHECK_EQ(clip.seconds(), 1 / 16000.0);
    CHECK_EQ(clip.samples()[0], 0.5f);
    for (const float sample : clip.samples().subspan(1)) CHECK_EQ(sample, 0.0f);
    for (const std::size_t n : {7999u, 8000u, 8001u}) {
        const Clip exact = parse(wav({}, std::string(2 * n, '\1')));
        CHECK_EQ(exact.samples().size(), std::max<std::size_t>(n, 8000));
        CHECK_EQ(exact.samples()[n - 1], 257 / 32768.0f);
    }
}

TEST(other_chunks_are_passed_over) {
    const std::string data = data_of<std::int16_t>({16384});
    const std::string odd = chunk("LIST", "odd");  // padded to an even length
    CHECK_EQ(samples(parse(riff(odd + format_chunk({}) + chunk("fact", "1234") + chunk("data", data) + odd))),
             Floats{0.5f});
    CHECK_EQ(samples(parse(riff(format_chunk({}) + chunk("data", "") + chunk("data", data)))), Floats{0.5f});
    CHECK_THROWS(parse(riff(chunk("data", data) + format_chunk({}))),
                 "data chunk at offset 20: comes before the fmt chunk");
}

TEST(a_stream_of_unknown_length_reaches_to_the_end) {
    std::string bytes = wav({}, data_of<std::int16_t>({16384, -16384}));
    const std::uint32_t unknown = 0xFFFFFFFF;
    std::memcpy(bytes.data() + 40, &unknown, 4);
    CHECK_EQ(samples(parse(bytes)), (Floats{0.5f, -0.5f}));
}

TEST(every_truncation_is_an_error) {
    const std::string whole = wav({.encoding = 0xFFFE}, data_of<std::int16_t>({1, 2, 3, 4}));
    for (std::size_t n = 0; n < whole.size(); ++n) CHECK_THROWS(parse(whole.substr(0, n)), "clip.wav: ");
}

TEST(what_is_wrong_is_named) {
    const std::string data = data_of<std::int16_t>({1, 2});
    CHECK_THROWS(parse("ID3\x03 an mp3 file, say"),
                 "clip.wav: header at offset 0: is not that of a RIFF WAVE file");
    CHECK_THROWS(parse("RIFF\x10\x00\x00\x00"
                       "AVI LIST"),
                 "clip.wav: header at offset 0");
    CHECK_THROWS(parse(riff("")), "fmt chunk at offset 12: is missing or empty");
    CHECK_THROWS(parse(riff(format_chunk({}))), "data chunk at offset 36: is missing or empty");
    CHECK_THROWS(parse(riff(chunk("fmt ", "too short"))),
                 "fmt chunk at offset 20: has 9 bytes, fewer than 16");
    CHECK_THROWS(parse(wav({.rate = 0}, data)), "sample rate at offset 24: is 0 Hz: resample the clip");
    CHECK_THROWS(parse(wav({.rate = 44100}, data)), "sample rate at offset 24: is 44100 Hz");
    CHECK_THROWS(parse(wav({.n_channels = 0}, data)), "number of channels at offset 22: is 0");
    CHECK_THROWS(parse(wav({.bits = 8}, data)), "sample format at offset 20: is encoding 1 with 8 bits");
    CHECK_THROWS(parse(wav({.encoding = 3, .bits = 64}, data)),
                 "sample format at offset 20: is encoding 3 with 64 bits");
    CHECK_THROWS(parse(wav({.encoding = 7}, data)), "sample format at offset 20: is encoding 7");
    CHECK_THROWS(parse(wav({.n_channels = 3}, data)), "holds no sample");
    CHECK_THROWS(parse(riff("fmt \xFF\xFF\xFF\x7F")),
                 "clip.wav: fmt chunk at offset 20: needs 2147483647 bytes");
}

TEST(samples_must_be_numbers) {
    for (const float wrong :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        const std::string bytes = wav({.encoding = 3, .bits = 32}, data_of<float>({0.0f, wrong}));
        CHECK_THROWS(parse(bytes), "clip.wav: sample 1 at offset 52: is not a finite number");
    }
}

TEST(files_are_read_by_name) {
    const chatllm::check::TemporaryFolder folder;
    const std::string path = folder.write("a.wav", wav({}, data_of<std::int16_t>({16384})));
    CHECK_EQ(samples(Clip::read_wav(path, most_samples)), Floats{0.5f});
    CHECK_THROWS(Clip::read_wav(folder.path("b.wav"), most_samples), "b.wav: cannot open");
}

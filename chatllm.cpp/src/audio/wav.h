#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/memory_map.h"

namespace chatllm {

// A clip as the model takes it: mono, 16 kHz, single precision, peak at most 1, zero-padded to half a second.
class Clip {
public:
    static constexpr std::size_t min_samples = 8000;

    // Reads a RIFF WAVE file at 16 kHz: 16, 24 or 32-bit integers or 32-bit floats; channels are averaged.
    // Throws Error naming the file, the field and the remedy; a clip of more than `max_samples` is one,
    // before anything is taken for it.
    static Clip read_wav(const std::string &path, std::size_t max_samples);
    // The same from bytes; `name` stands for the file in messages.
    static Clip parse_wav(std::span<const std::byte> bytes, std::string_view name, std::size_t max_samples);

    std::span<const float> samples() const {
        return {reinterpret_cast<const float *>(memory_.data()), n_samples_};
    }
    // Of the recording, without padding.
    double seconds() const { return seconds_; }

private:
    Clip() = default;

    AnonymousMap memory_;
    std::size_t n_samples_ = 0;
    double seconds_ = 0;
};

}  // namespace chatllm

// Any bytes as a clip: numbers within [-1, 1], or a message.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "audio/wav.h"
#include "base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t n) {
    try {
        const auto clip = chatllm::Clip::parse_wav(std::as_bytes(std::span(data, n)), "clip.wav", 1 << 22);
        if (clip.samples().size() < chatllm::Clip::min_samples) std::abort();
        for (const float sample : clip.samples()) {
            if (!(std::fabs(sample) <= 1.0f)) std::abort();
        }
    } catch (const chatllm::Error &) {
        return 0;
    }
    return 0;
}

#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>

#include "tiny_model.h"

namespace chatllm::fuzz {

// Of one matrix, sixteen rows are stored together.
inline tiny::Model sound_model() {
    return tiny::write_model({.matrices = TensorType::q8_0,
                              .types = {{"model.layers.0.self_attn.o_proj.weight", TensorType::q4_0_16x4}}});
}

// A sound model file with the fuzzer's bytes laid over it: their first four are where, and whether the file
// ends behind them. So a few bytes reach any field, which a fuzzer would not find in a whole file.
inline std::string patched_model(std::span<const std::uint8_t> input) {
    static const std::string sound = sound_model().bytes;
    std::uint32_t place;
    if (input.size() < sizeof(place)) return std::string(input.begin(), input.end());
    std::memcpy(&place, input.data(), sizeof(place));
    const bool cut = place >> 31 != 0;
    const std::size_t at = (place & 0x7FFFFFFFu) % sound.size();
    const auto patch = input.subspan(sizeof(place));
    std::string bytes = sound;
    const std::size_t n = std::min(patch.size(), bytes.size() - at);
    std::copy_n(patch.begin(), n, bytes.begin() + static_cast<std::ptrdiff_t>(at));
    if (cut) bytes.resize(at + n);
    return bytes;
}

// A file in memory, with a path.
class MemoryFile {
public:
    explicit MemoryFile(std::string_view bytes) : fd_(memfd_create("model", MFD_CLOEXEC)) {
        if (fd_ < 0 || write(fd_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
            std::abort();
    }
    ~MemoryFile() { close(fd_); }
    MemoryFile(const MemoryFile &) = delete;
    MemoryFile &operator=(const MemoryFile &) = delete;

    std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

private:
    int fd_;
};

}  // namespace chatllm::fuzz

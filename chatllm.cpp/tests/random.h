#pragma once

#include <cstdint>
#include <vector>

namespace chatllm::check {

// SplitMix64 (Steele, Lea and Flood, 2014): the same numbers from the same seed on every machine.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    std::uint64_t bits() {
        state_ += 0x9e3779b97f4a7c15u;
        std::uint64_t z = state_;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    // In [0, n).
    std::size_t below(std::size_t n) { return static_cast<std::size_t>(bits() % n); }
    // In [-amplitude, amplitude).
    float real(float amplitude) {
        return amplitude * static_cast<float>(static_cast<double>(bits() >> 11) * 0x1p-52 - 1.0);
    }
    std::vector<float> reals(std::size_t n, float amplitude) {
        std::vector<float> values(n);
        for (float &value : values) value = real(amplitude);
        return values;
    }

private:
    std::uint64_t state_;
};

}  // namespace chatllm::check

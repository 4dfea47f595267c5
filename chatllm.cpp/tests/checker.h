#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "kernels/kernels.h"
#include "random.h"

namespace chatllm::check {

inline bool same_bits(float a, float b) {
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

// Says which kernel of which table was wrong, a few times at most.
class Checker {
public:
    explicit Checker(std::string subject) : subject_(std::move(subject)) {}
    Checker(const Kernels &kernels, const std::string &kernel, long long size)
        : Checker(std::string(kernels.name) + " " + kernel + " of size " + std::to_string(size)) {}

    void near(double value, double expected, double ceiling) {
        const bool same = value == expected || (std::isnan(value) && std::isnan(expected));
        if (same || std::fabs(value - expected) <= ceiling) return;
        std::ostringstream text;
        text << value << " is not " << expected << " within " << ceiling << ", error " << value - expected;
        that(false, text.str());
    }
    void that(bool condition, const std::string &what) {
        if (!condition && ++n_reported_ <= 3) report(__FILE__, __LINE__, subject_ + ": " + what);
    }

private:
    std::string subject_;
    int n_reported_ = 0;
};

// Sizes around the widths of registers.
inline constexpr int odd_sizes[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257};

// Zero, denormal, tiny and everyday values.
inline std::vector<float> telling_values(std::size_t n, float amplitude, std::uint64_t seed) {
    static constexpr float special[] = {0.0f, -0.0f, 1e-40f, -1e-40f, 1e-20f, 1.0f, -1.0f};
    auto values = Random(seed).reals(n, amplitude);
    for (std::size_t i = 0; i < n; i += 5) values[i] = special[i / 5 % std::size(special)];
    return values;
}

}  // namespace chatllm::check

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "kernels/kernels.h"
#include "stored.h"

// How far from exact arithmetic a table of kernels may be.
namespace chatllm::check {

inline constexpr double float_step = 0x1p-24;  // relative error of an operation in single precision

// Of a sum of n_terms, times the sum of the magnitudes of its terms. The worst case grows with their number;
// errors that do not conspire grow with its root.
inline double sum_ceiling(std::size_t n_terms) {
    return float_step * (2 * std::sqrt(static_cast<double>(n_terms)) + 8);
}
// What may vanish of a product or its sum where numbers become subnormal, times the number of terms:
// absolute.
inline constexpr double vanishing = 1e-37;

// What an arithmetic makes of activations before it multiplies them.
enum class Rounding {
    none,
    half,      // bfloat16, and of the weights too: half a step of 2^-7 each
    block16,   // half a step of a 32512th of the largest of its block
    block8,    // half a step of a 127th of the largest of its block
    vector16,  // half a step of a 32512th of the largest of all
};
inline constexpr double half_ceiling = 0x1p-7 + 0x1p-16;  // of a product of two rounded numbers: relative
inline constexpr double half_a_step = 0.51;               // with the error of the scale itself
inline constexpr double least_scaled = 1e-33;  // values below may become anything up to twice their size

// Elementwise.
inline constexpr double gelu_ceiling = 3e-7;         // times max(1, |y|): absolute
inline constexpr double silu_ceiling = 4e-7;         // times max(1, |y|) * |x|: absolute
inline constexpr double exponential_ceiling = 4e-7;  // relative
inline constexpr double exponential_floor = 2e-38;   // absolute: below exp(-87) a table may give 0
inline constexpr double norm_ceiling = 2e-6;         // times the largest output: absolute

struct Expected {
    double value;
    double ceiling;
};

inline float largest_magnitude(const float *x, std::size_t n) {
    float largest = 0;
    for (std::size_t c = 0; c < n; ++c) largest = std::max(largest, std::fabs(x[c]));
    return largest;
}

// The exact product of a row of weights with a row of activations, and the ceiling of its error.
inline Expected expected_product(Rounding rounding, const ExactRow &w, const float *x) {
    const std::size_t n = w.values.size();
    double sum = 0, magnitude = 0, rounded = 0;
    double half_step = 0;
    for (std::size_t c = 0; c < n; ++c) {
        const bool of_blocks = rounding == Rounding::block16 || rounding == Rounding::block8;
        if (of_blocks ? c % quant_block == 0 : rounding == Rounding::vector16 && c == 0) {
            const double largest = largest_magnitude(x + c, of_blocks ? quant_block : n);
            const double most = rounding == Rounding::block8 ? 127 : 32512;
            half_step = largest < least_scaled ? 2 * largest : half_a_step * largest / most;
        }
        const double exact = x[c], product = w.values[c] * exact;
        sum += product;
        magnitude += w.magnitudes[c] * (std::fabs(exact) + half_step);
        rounded += std::fabs(w.values[c]) * half_step;
        if (rounding == Rounding::half) {
            const bool vanishes = std::fabs(exact) < 0x1p-126 || std::fabs(w.values[c]) < 0x1p-126;
            rounded += std::fabs(product) * (vanishes ? 1 : half_ceiling);
        }
    }
    // Blocks are added up in whole numbers, and each, with its offset, to a sum in single precision.
    const bool plain = rounding == Rounding::none || rounding == Rounding::half;
    const std::size_t n_terms = plain ? n : 2 * n / quant_block;
    return {sum, rounded + magnitude * sum_ceiling(n_terms) + vanishing * static_cast<double>(n)};
}

}  // namespace chatllm::check

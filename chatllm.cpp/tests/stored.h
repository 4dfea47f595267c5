#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "fenced.h"
#include "interleaved.h"
#include "kernels/kernels.h"
#include "model/tensor.h"
#include "random.h"

// Random matrices in every storage, and what they mean by the words of the file format.
namespace chatllm::check {

inline double half_value(std::uint16_t half) {
    const int exponent = half >> 10 & 31;
    const int fraction = half & 1023;
    const double sign = half & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31) return fraction == 0 ? sign * HUGE_VAL : std::numeric_limits<double>::quiet_NaN();
    if (exponent == 0) return sign * std::ldexp(fraction, -24);
    return sign * std::ldexp(1024 + fraction, exponent - 25);
}

// value = quant * scale + offset; a value that is not quantised is its scale.
struct StoredValue {
    int quant;
    double scale;
    double offset;
    int bias = 0;  // that makes the quant unsigned: a table may add it, and take its products away again

    double value() const { return quant * scale + offset; }
    // Of what is added up for it.
    double magnitude() const { return (std::abs(quant) + bias) * std::fabs(scale) + std::fabs(offset); }
};

// Element c of a row.
inline StoredValue stored_value(Storage storage, const std::byte *row, std::size_t c) {
    const auto byte = [](const std::byte *at) { return std::to_integer<int>(*at); };
    const auto half = [](const std::byte *at) {
        std::uint16_t bits;
        std::memcpy(&bits, at, sizeof(bits));
        return half_value(bits);
    };
    // Elements 0 to 15 of a block in the low halves of its bytes, 16 to 31 in the high ones.
    const auto nibble = [&](const std::byte *block) {
        const int both = byte(block + c % 16);
        return c % 32 < 16 ? both & 15 : both >> 4;
    };
    switch (storage) {
    case Storage::f32: {
        float value;
        std::memcpy(&value, row + 4 * c, sizeof(value));
        return {1, value, 0};
    }
    case Storage::f16:
        return {1, half(row + 2 * c), 0};
    case Storage::q4_0: {
        const std::byte *block = row + c / 32 * 18;
        return {nibble(block + 2) - 8, half(block), 0, 8};
    }
    case Storage::q4_1: {
        const std::byte *block = row + c / 32 * 20;
        return {nibble(block + 4), half(block), half(block + 2)};
    }
    case Storage::q8_0: {
        const std::byte *block = row + c / 32 * 34;
        return {static_cast<std::int8_t>(byte(block + 2 + c % 32)), half(block), 0, 128};
    }
    case Storage::q4_k: {
        // By ggml's super-block: 12 bytes are eight scales and eight minima of 6 bits.
        const std::byte *super = row + c / 256 * 144;
        const std::byte *packed = super + 4;
        const std::size_t block = c % 256 / 32;
        int scale, minimum;
        if (block < 4) {
            scale = byte(packed + block) & 63;
            minimum = byte(packed + block + 4) & 63;
        } else {
            scale = (byte(packed + block + 4) & 15) | (byte(packed + block - 4) >> 6) << 4;
            minimum = byte(packed + block + 4) >> 4 | (byte(packed + block) >> 6) << 4;
        }
        const int both = byte(super + 16 + c % 256 / 64 * 32 + c % 32);
        return {block % 2 == 0 ? both & 15 : both >> 4, half(super) * scale, -half(super + 2) * minimum};
    }
    case Storage::q4_0_16x4:
        break;  // there are no rows before they are separated
    }
    return {};
}

// What rows are before those that are stored together are interleaved.
inline Storage storage_of_rows(Storage storage) {
    return storage == Storage::q4_0_16x4 ? Storage::q4_0 : storage;
}

// At least n_rows rows, as many as a matrix can have.
inline int whole_groups(Storage storage, int n_rows) {
    const int together = traits(storage).rows_together;
    return (n_rows + together - 1) / together * together;
}

// A row as exact numbers.
struct ExactRow {
    std::vector<double> values;
    std::vector<double> magnitudes;
};

// Four kinds of rows take turns: everyday values; corners (the least and greatest quants, zero and negative
// scales); subnormal scales; the greatest scales. The last row ends before an unreadable page.
class StoredMatrix {
public:
    // `gap` bytes lie between the rows, unless they are stored together.
    StoredMatrix(Storage storage, int n_rows, int n_cols, std::uint64_t seed, std::size_t gap = 0)
        : StoredMatrix(storage, n_rows, n_cols, traits(storage).rows_together > 1 ? 0 : gap,
                       [storage, random = Random(seed)](int r, int b, std::byte *out) mutable {
                           fill_block(storage_of_rows(storage), static_cast<Kind>(r % 4), b, random, out);
                       }) {}

    // In q4_1: row r is zero but for 15 in column first_col + r, so that products show single activations.
    static StoredMatrix selecting(int first_col, int n_rows, int n_cols) {
        return {Storage::q4_1, n_rows, n_cols, 0, [first_col](int r, int b, std::byte *out) {
                    const std::uint16_t one = f32_to_f16(1.0f);
                    std::memset(out, 0, 20);
                    std::memcpy(out, &one, sizeof(one));
                    const int c = first_col + r - b * quant_block;
                    if (c >= 0 && c < quant_block)
                        out[4 + c % 16] = static_cast<std::byte>(c < 16 ? 15 : 15 << 4);
                }};
    }

    Storage storage() const { return storage_; }
    std::size_t row_bytes() const { return row_bytes_; }
    int n_rows() const { return static_cast<int>(exact_.size()); }
    int n_cols() const { return static_cast<int>(exact_[0].values.size()); }
    // Row r, or the rows that are stored together of which r is the first.
    const std::byte *row(int r) const { return memory_.data() + static_cast<std::size_t>(r) * row_bytes_; }
    const ExactRow &exact(int r) const { return exact_[static_cast<std::size_t>(r)]; }
    Tensor tensor() const {
        Tensor tensor;
        tensor.type = storage_;
        tensor.n_dims = 2;
        tensor.dims = {n_rows(), n_cols()};
        tensor.data = memory_.data();
        tensor.n_bytes = memory_.size();
        return tensor;
    }

private:
    enum class Kind { everyday, corners, subnormal, greatest };

    // fill(r, b, out) makes block b of row r.
    template <std::invocable<int, int, std::byte *> Fill>
    StoredMatrix(Storage storage, int n_rows, int n_cols, std::size_t gap, Fill &&fill)
        : storage_(storage),
          row_bytes_(static_cast<std::size_t>(n_cols / traits(storage).block) *
                         static_cast<std::size_t>(traits(storage).block_bytes) +
                     gap),
          memory_(static_cast<std::size_t>(n_rows) * row_bytes_ - gap) {
        for (int r = 0; r < n_rows; ++r) {
            std::byte *out = memory_.data() + static_cast<std::size_t>(r) * row_bytes_;
            for (int b = 0; b < n_cols / traits(storage).block; ++b, out += traits(storage).block_bytes)
                fill(r, b, out);
            ExactRow exact;
            for (std::size_t c = 0; c < static_cast<std::size_t>(n_cols); ++c) {
                const StoredValue value = stored_value(storage_of_rows(storage), row(r), c);
                exact.values.push_back(value.value());
                exact.magnitudes.push_back(value.magnitude());
            }
            exact_.push_back(std::move(exact));
        }
        if (storage == Storage::q4_0_16x4) {
            const std::vector<std::byte> rows(memory_.data(), memory_.data() + memory_.size());
            interleave_rows(rows.data(), n_rows, n_cols, memory_.data());
        }
    }

    static float scale(Kind kind, int block, Random &random) {
        static constexpr std::array<float, 6> corners{1.5f, -2.0f, 0.0f, -0.0f, 0x1p-24f, -5e-5f};
        switch (kind) {
        case Kind::everyday:
            return random.real(2.0f);
        case Kind::corners:
            return corners[static_cast<std::size_t>(block) % corners.size()];
        case Kind::subnormal:
            return random.real(0x1p-15f);
        case Kind::greatest:
            return block % 2 == 0 ? 65504.0f : -65504.0f;
        }
        return 0;
    }

    static void fill_block(Storage storage, Kind kind, int block, Random &random, std::byte *out) {
        const auto put_half = [&](std::size_t at, float value) {
            const std::uint16_t half = f32_to_f16(value);
            std::memcpy(out + at, &half, sizeof(half));
        };
        const auto bytes = static_cast<std::size_t>(traits(storage).block_bytes);
        if (storage == Storage::f32) {
            static constexpr std::array<float, 6> corners{0.0f, -0.0f, 1e-40f, -1e-20f, 1.0f, -2.0f};
            const float value = kind == Kind::corners
                                    ? corners[static_cast<std::size_t>(block) % corners.size()]
                                    : scale(kind, block, random);
            std::memcpy(out, &value, sizeof(value));
            return;
        }
        if (storage == Storage::f16) return put_half(0, scale(kind, block, random));
        static constexpr std::array<int, 4> corners{0x00, 0xff, 0x80, 0x7f};
        for (std::size_t i = 0; i < bytes; ++i) {
            out[i] = static_cast<std::byte>(kind == Kind::corners && block % 5 != 4
                                                ? corners[static_cast<std::size_t>(block % 5)]
                                                : static_cast<int>(random.below(256)));
        }
        put_half(0, scale(kind, block, random));
        if (storage == Storage::q4_1 || storage == Storage::q4_k) put_half(2, scale(kind, block + 3, random));
    }

    Storage storage_;
    std::size_t row_bytes_;
    Fenced<std::byte> memory_;
    std::vector<ExactRow> exact_;
};

}  // namespace chatllm::check

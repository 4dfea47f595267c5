// Every table against formulas in double precision, and against `scalar`, within the ceilings stated here.

#include "kernels/kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "random.h"

using chatllm::available_kernels;
using chatllm::Kernels;
using chatllm::quant_block;
using chatllm::QuantActivations;
using chatllm::QuantRows;
using chatllm::scalar_kernels;
using chatllm::check::Random;

namespace {

using Size = std::size_t;

// Ceilings. Sums are held to a multiple of the sum of the magnitudes of what is added: a float's relative
// step for each addition.
constexpr double step = 0x1p-24;
double sum_ceiling(Size n_terms) { return step * static_cast<double>(n_terms + 4); }
constexpr double gelu_ceiling = 3e-7;         // times max(1, |y|): absolute
constexpr double silu_ceiling = 4e-7;         // times max(1, |y|) * |x|: absolute
constexpr double exponential_ceiling = 4e-7;  // relative
constexpr double exponential_floor = 2e-38;   // absolute: below exp(-87) a table may give 0
constexpr double norm_ceiling = 2e-6;         // times the largest output: absolute

const int sizes[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257};
constexpr int most_quant = 32767;  // of activations
const int token_counts[] = {1, 2, 3, 5, 17};

// Values at an address that is aligned to a float and to nothing wider, between guards that no kernel may
// touch.
class Row {
public:
    explicit Row(const std::vector<float> &values)
        : n_(values.size()), memory_(n_ + 2 * n_guards + 1, guard) {
        std::copy(values.begin(), values.end(), data());
    }
    explicit Row(Size n) : Row(std::vector<float>(n, 0.0f)) {}

    float *data() { return memory_.data() + n_guards + 1; }
    float operator[](Size i) { return data()[i]; }
    bool is_guarded() const {
        const auto intact = [](float value) { return value == guard; };
        return std::all_of(memory_.begin(), memory_.begin() + n_guards + 1, intact) &&
               std::all_of(memory_.end() - n_guards, memory_.end(), intact);
    }

private:
    static constexpr float guard = 12345.0f;
    static constexpr int n_guards = 16;

    Size n_;
    std::vector<float> memory_;
};

// Says which kernel of which table was wrong, at most a few times each.
struct Checker {
    std::string subject;
    int n_reported = 0;

    void near(double value, double expected, double ceiling) {
        const bool same = value == expected || (std::isnan(value) && std::isnan(expected));
        if (same || std::fabs(value - expected) <= ceiling || ++n_reported > 3) return;
        chatllm::check::report(__FILE__, __LINE__,
                               subject + ": " + std::to_string(value) + " is not " +
                                   std::to_string(expected) + " within " + std::to_string(ceiling) +
                                   ", error " + std::to_string(value - expected));
    }
    void that(bool condition, const std::string &what) {
        if (!condition && ++n_reported <= 3)
            chatllm::check::report(__FILE__, __LINE__, subject + ": " + what);
    }
};

Checker checker(const Kernels &kernels, const char *kernel, long long size = 0) {
    return {std::string(kernels.name) + " " + kernel + " of size " + std::to_string(size), 0};
}

// Zero, denormal, huge and everyday values.
std::vector<float> telling_values(Size n, float amplitude, std::uint64_t seed) {
    static constexpr float special[] = {0.0f, -0.0f, 1e-40f, -1e-40f, 1e-20f, 1.0f, -1.0f};
    auto values = Random(seed).reals(n, amplitude);
    for (Size i = 0; i < n; i += 5) values[i] = special[i / 5 % std::size(special)];
    return values;
}

double half_value(std::uint16_t half) {
    const int exponent = half >> 10 & 31;
    const int fraction = half & 1023;
    const double sign = half & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31) return fraction == 0 ? sign * HUGE_VAL : std::numeric_limits<double>::quiet_NaN();
    if (exponent == 0) return sign * std::ldexp(fraction, -24);
    return sign * std::ldexp(1024 + fraction, exponent - 25);
}

// The half nearest to a finite float, ties to even, as a double.
double rounded_to_half(float value) {
    const double exact = value;
    if (std::fabs(exact) >= 65520) return std::copysign(HUGE_VAL, exact);
    const double quantum = exact == 0 ? 1 : std::ldexp(1.0, std::max(std::ilogb(exact) - 10, -24));
    return std::nearbyint(exact / quantum) * quantum;
}

std::vector<std::byte> random_bytes(Size n, Random &random) {
    std::vector<std::byte> bytes(n);
    for (std::byte &b : bytes) b = static_cast<std::byte>(random.bits());
    return bytes;
}

void put_half(std::vector<std::byte> &bytes, Size at, float value) {
    const std::uint16_t half = chatllm::f32_to_f16(value);
    std::memcpy(bytes.data() + at, &half, sizeof(half));
}

float half_at(const std::byte *at) {
    std::uint16_t half;
    std::memcpy(&half, at, sizeof(half));
    return static_cast<float>(half_value(half));
}

int byte_at(const std::byte *bytes, Size at) { return std::to_integer<int>(bytes[at]); }

}  // namespace

TEST(a_table_is_chosen_by_name) {
    CHECK_EQ(std::string(chatllm::choose_kernels("scalar").name), "scalar");
    CHECK_EQ(&chatllm::choose_kernels(""), available_kernels().back());
    CHECK_EQ(available_kernels().front(), &scalar_kernels());
    CHECK_THROWS(chatllm::choose_kernels("z80"), "this processor offers scalar");
}

TEST(every_half_becomes_its_float) {
    std::vector<std::uint16_t> halves(65536);
    std::iota(halves.begin(), halves.end(), std::uint16_t{0});
    for (const std::uint16_t half : halves)
        CHECK(std::isnan(half_value(half)) || chatllm::f16_to_f32(half) == half_value(half));
    for (const Kernels *kernels : available_kernels()) {
        Checker check = checker(*kernels, "unpack_f16", 65536);
        Row out(halves.size());
        kernels->unpack_f16(reinterpret_cast<const std::byte *>(halves.data()), 65536, out.data());
        for (Size i = 0; i < halves.size(); ++i) check.near(out[i], half_value(halves[i]), 0);
        check.that(std::signbit(out[0x8000]), "lost the sign of zero");
    }
}

TEST(every_half_survives_the_way_through_a_float) {
    for (const Kernels *kernels : available_kernels()) {
        Checker check = checker(*kernels, "pack_f16", 65536);
        std::vector<float> values;
        for (unsigned half = 0; half < 65536; ++half)
            values.push_back(chatllm::f16_to_f32(static_cast<std::uint16_t>(half)));
        std::vector<std::uint16_t> halves(values.size());
        kernels->pack_f16(values.data(), 65536, halves.data());
        for (unsigned half = 0; half < 65536; ++half) {
            const bool same =
                halves[half] == half || (std::isnan(values[half]) && std::isnan(half_value(halves[half])));
            check.that(same, std::to_string(half) + " became " + std::to_string(halves[half]));
        }
    }
}

TEST(floats_round_to_the_nearest_half) {
    std::vector<float> values{0.0f,
                              -0.0f,
                              65504.0f,
                              65519.996f,
                              65520.0f,
                              -65520.0f,
                              1e30f,
                              -3e38f,
                              0x1p-25f,
                              0x1.8p-25f,
                              1e-40f,
                              std::numeric_limits<float>::min(),
                              std::numeric_limits<float>::max()};
    // Between each half and the next: the middle, and the floats beside it.
    for (std::uint16_t half = 0; half < 0x7bff; ++half) {
        const auto middle =
            static_cast<float>((half_value(half) + half_value(static_cast<std::uint16_t>(half + 1))) / 2);
        for (const float value : {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, 1e6f)}) {
            values.push_back(value);
            values.push_back(-value);
        }
    }
    Random random(7);
    while (values.size() < 300'000) {
        const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(random.bits()));
        if (!std::isnan(value)) values.push_back(value);
    }
    for (const Kernels *kernels : available_kernels()) {
        Checker check = checker(*kernels, "pack_f16", static_cast<long long>(values.size()));
        std::vector<std::uint16_t> halves(values.size());
        kernels->pack_f16(values.data(), static_cast<int>(values.size()), halves.data());
        for (Size i = 0; i < values.size(); ++i)
            check.near(half_value(halves[i]), rounded_to_half(values[i]), 0);
    }
    CHECK_EQ(chatllm::f32_to_f16(std::numeric_limits<float>::infinity()), 0x7c00);
    CHECK(std::isnan(half_value(chatllm::f32_to_f16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(half_precision_tails) {
    for (const Kernels *kernels : available_kernels()) {
        for (const int n : sizes) {
            Checker check = checker(*kernels, "pack_f16 and unpack_f16", n);
            const auto count = static_cast<Size>(n);
            const Row values(Random(3).reals(count, 100.0f));
            std::vector<std::uint16_t> halves(count + 2, 0xABCD);
            kernels->pack_f16(Row(values).data(), n, halves.data() + 1);
            Row back(count);
            kernels->unpack_f16(reinterpret_cast<const std::byte *>(halves.data() + 1), n, back.data());
            for (Size i = 0; i < count; ++i) check.near(back[i], rounded_to_half(Row(values)[i]), 0);
            check.that(halves.front() == 0xABCD && halves.back() == 0xABCD && back.is_guarded(),
                       "wrote beyond its end");
        }
    }
}

TEST(gemm_f32_is_a_product_of_matrices) {
    for (const Kernels *kernels : available_kernels()) {
        for (const int n_cols : sizes) {
            for (const int n_tokens : token_counts) {
                for (const int n_rows : {1, 3, 4, 9}) {
                    Checker check = checker(*kernels, "gemm_f32", n_cols);
                    const auto cols = static_cast<Size>(n_cols), rows = static_cast<Size>(n_rows);
                    const auto tokens = static_cast<Size>(n_tokens);
                    const Size w_stride = cols + 3, x_stride = cols + 1, out_stride = rows + 2;
                    Row w(telling_values(rows * w_stride, 2.0f, 1));
                    Row x(telling_values(tokens * x_stride, 3.0f, 2));
                    Row out(tokens * out_stride);
                    kernels->gemm_f32(w.data(), w_stride, n_rows, x.data(), x_stride, n_tokens, n_cols,
                                      out.data(), out_stride);
                    for (Size t = 0; t < tokens; ++t) {
                        for (Size r = 0; r < rows; ++r) {
                            double sum = 0, magnitude = 0;
                            for (Size c = 0; c < cols; ++c) {
                                const double term =
                                    static_cast<double>(w[r * w_stride + c]) * x[t * x_stride + c];
                                sum += term;
                                magnitude += std::fabs(term);
                            }
                            // Products of denormals vanish.
                            check.near(out[t * out_stride + r], sum,
                                       magnitude * sum_ceiling(cols) + 1e-44 * n_cols);
                        }
                        for (Size r = rows; r < out_stride; ++r)
                            check.that(out[t * out_stride + r] == 0, "wrote between rows");
                    }
                    check.that(out.is_guarded(), "wrote beyond its end");
                }
            }
        }
    }
}

TEST(gemm_f32_does_not_depend_on_the_batch) {
    for (const Kernels *kernels : available_kernels()) {
        constexpr int n_cols = 100, n_rows = 9, n_tokens = 17;
        Row w(Random(1).reals(n_rows * n_cols, 1.0f));
        Row x(Random(2).reals(n_tokens * n_cols, 1.0f));
        Row together(n_tokens * n_rows), apart(n_tokens * n_rows);
        kernels->gemm_f32(w.data(), n_cols, n_rows, x.data(), n_cols, n_tokens, n_cols, together.data(),
                          n_rows);
        for (int t = 0; t < n_tokens; ++t) {
            for (int r = 0; r < n_rows; ++r) {
                kernels->gemm_f32(w.data() + r * n_cols, n_cols, 1, x.data() + t * n_cols, n_cols, 1, n_cols,
                                  apart.data() + t * n_rows + r, n_rows);
            }
        }
        Checker check = checker(*kernels, "gemm_f32 in batches", n_cols);
        for (Size i = 0; i < n_tokens * n_rows; ++i) check.near(together[i], apart[i], 0);
    }
}

namespace {

struct QuantCase {
    std::vector<std::int8_t> w;
    std::vector<std::int16_t> x;
    std::vector<float> w_scales, offsets, x_scales, sums;
};

QuantCase quant_case(Size rows, Size tokens, Size cols, bool nibbles, Random &random) {
    QuantCase made;
    for (Size i = 0; i < rows * cols; ++i) {
        const int full = static_cast<int>(random.below(256)) - 128;
        made.w.push_back(static_cast<std::int8_t>(nibbles ? full & 15 : full));
    }
    // The corners, where narrow sums would overflow.
    const int most = nibbles ? 15 : -128;
    std::fill_n(made.w.begin(), quant_block, static_cast<std::int8_t>(most));
    for (Size i = 0; i < tokens * cols; ++i) {
        made.x.push_back(static_cast<std::int16_t>(
            i < quant_block ? most_quant : static_cast<int>(random.below(65535)) - most_quant));
    }
    made.w_scales = random.reals(rows * cols / quant_block, 0.1f);
    made.offsets = random.reals(rows * cols / quant_block, 0.5f);
    made.x_scales = random.reals(tokens * cols / quant_block, 0.001f);
    for (Size b = 0; b < tokens * cols / quant_block; ++b) {
        int sum = 0;
        for (Size i = 0; i < quant_block; ++i) sum += made.x[b * quant_block + i];
        made.sums.push_back(made.x_scales[b] * static_cast<float>(sum));
    }
    return made;
}

}  // namespace

TEST(gemm_quants_is_a_product_of_quantised_matrices) {
    for (const Kernels *kernels : available_kernels()) {
        for (const int n_cols : {32, 64, 96, 128, 288}) {
            for (const int n_tokens : token_counts) {
                for (const bool nibbles : {false, true}) {
                    Checker check =
                        checker(*kernels, nibbles ? "gemm_quants with offsets" : "gemm_quants", n_cols);
                    const Size rows = 5, cols = static_cast<Size>(n_cols),
                               tokens = static_cast<Size>(n_tokens);
                    const Size n_blocks = cols / quant_block, out_stride = rows + 1;
                    Random random(static_cast<std::uint64_t>(n_cols));
                    const QuantCase made = quant_case(rows, tokens, cols, nibbles, random);
                    Row out(tokens * out_stride);
                    kernels->gemm_quants(
                        {made.w.data(), made.w_scales.data(), nibbles ? made.offsets.data() : nullptr}, 5,
                        {made.x.data(), made.x_scales.data(), made.sums.data()}, n_tokens, n_cols, out.data(),
                        out_stride);
                    for (Size t = 0; t < tokens; ++t) {
                        for (Size r = 0; r < rows; ++r) {
                            double sum = 0, magnitude = 0;
                            for (Size b = 0; b < n_blocks; ++b) {
                                double dot = 0;
                                for (Size i = 0; i < quant_block; ++i) {
                                    dot += made.w[r * cols + b * quant_block + i] *
                                           made.x[t * cols + b * quant_block + i];
                                }
                                const Size wb = r * n_blocks + b, xb = t * n_blocks + b;
                                const double term = dot * made.w_scales[wb] * made.x_scales[xb];
                                const double shift =
                                    nibbles ? static_cast<double>(made.offsets[wb]) * made.sums[xb] : 0;
                                sum += term + shift;
                                // Lanes are summed apart, so the magnitude is that of single products.
                                for (Size i = 0; i < quant_block; ++i) {
                                    magnitude += std::fabs(
                                        static_cast<double>(made.w[r * cols + b * quant_block + i]) *
                                        made.x[t * cols + b * quant_block + i] * made.w_scales[wb] *
                                        made.x_scales[xb]);
                                }
                                magnitude += std::fabs(shift);
                            }
                            check.near(out[t * out_stride + r], sum, magnitude * sum_ceiling(2 * n_blocks));
                        }
                    }
                    check.that(out.is_guarded(), "wrote beyond its end");
                }
            }
        }
    }
}

TEST(quantise_row_loses_half_a_step_at_most) {
    for (const float amplitude : {0.0f, 1e-44f, 1e-40f, 2e-38f, 1e-35f, 2e-34f, 1e-20f, 1.0f, 1e4f, 1e36f}) {
        const Size n = 7 * quant_block;
        auto values = Random(9).reals(n, amplitude);
        values[quant_block] = 0;
        values[2 * quant_block] = -amplitude;
        std::fill_n(values.begin() + 3 * quant_block, quant_block, 0.0f);
        Row x(values);
        std::vector<std::int16_t> reference(n);
        for (const Kernels *kernels : available_kernels()) {
            Checker check =
                checker(*kernels, ("quantise_row of values up to " + std::to_string(amplitude)).c_str(),
                        static_cast<long long>(n));
            std::vector<std::int16_t> quants(n + 1, 99);
            Row scales(n / quant_block), sums(n / quant_block);
            kernels->quantise_row(x.data(), static_cast<int>(n), quants.data(), scales.data(), sums.data());
            for (Size b = 0; b < n / quant_block; ++b) {
                double largest = 0;
                int sum = 0;
                for (Size i = 0; i < quant_block; ++i) {
                    largest = std::max(largest, std::fabs(static_cast<double>(x[b * quant_block + i])));
                }
                for (Size i = b * quant_block; i < (b + 1) * quant_block; ++i) {
                    sum += quants[i];
                    // Below 1e-34 the step's inverse is no float, and all that counts is that the result
                    // stays as small.
                    const double ceiling = largest < 1e-34 ? 2 * largest : 0.502 * largest / most_quant;
                    check.near(quants[i] * static_cast<double>(scales[b]), x[i], ceiling);
                    check.that(quants[i] > -32768, "gave -32768, whose negation does not fit");
                }
                check.near(scales[b], largest / most_quant, largest * 2 * step / most_quant + 0x1p-149);
                check.near(sums[b], scales[b] * static_cast<double>(sum),
                           std::fabs(scales[b] * static_cast<double>(sum)) * step + 0x1p-149);
            }
            check.that(quants[n] == 99 && scales.is_guarded() && sums.is_guarded(), "wrote beyond its end");
            // The choice of a table must not change what is multiplied.
            if (kernels == &scalar_kernels()) std::copy_n(quants.begin(), n, reference.begin());
            check.that(std::equal(reference.begin(), reference.end(), quants.begin()), "differs from scalar");
        }
    }
}

TEST(quantise_row_rounds_halves_to_even) {
    std::vector<float> values(quant_block, 0.0f);
    values[0] = most_quant;
    for (int i = 1; i < quant_block; ++i) values[static_cast<Size>(i)] = static_cast<float>(i - 16) + 0.5f;
    for (const Kernels *kernels : available_kernels()) {
        Checker check = checker(*kernels, "quantise_row", quant_block);
        std::vector<std::int16_t> quants(quant_block);
        float scale = 0, sum = 0;
        kernels->quantise_row(values.data(), quant_block, quants.data(), &scale, &sum);
        for (Size i = 1; i < quant_block; ++i)
            check.that(quants[i] % 2 == 0, "rounded a half to an odd number");
    }
}

TEST(quantise_row_takes_what_is_no_number) {
    std::vector<float> values(quant_block, 1.0f);
    values[3] = std::numeric_limits<float>::infinity();
    values[4] = -std::numeric_limits<float>::infinity();
    values[5] = std::numeric_limits<float>::quiet_NaN();
    for (const Kernels *kernels : available_kernels()) {
        Checker check = checker(*kernels, "quantise_row", quant_block);
        std::vector<std::int16_t> quants(quant_block);
        float scale = 0, sum = 0;
        kernels->quantise_row(values.data(), quant_block, quants.data(), &scale, &sum);
        for (const std::int16_t quant : quants) check.that(quant > -32768, "gave -32768");
    }
}

// The layouts as the file format states them, element by element.
TEST(unpacking_follows_the_file_format) {
    Random random(11);
    const Size n_blocks = 9, n = n_blocks * quant_block;
    for (const Kernels *kernels : available_kernels()) {
        std::vector<std::int8_t> quants(n);
        std::vector<float> scales(n_blocks), offsets(n_blocks);
        const auto value = [&](Size i) {
            return static_cast<double>(quants[i]) * scales[i / quant_block] +
                   static_cast<double>(offsets[i / quant_block]);
        };
        const auto block_scale = [&](const std::byte *block) { return static_cast<double>(half_at(block)); };

        auto bytes = random_bytes(n_blocks * 18 + 1, random);
        for (Size b = 0; b < n_blocks; ++b) put_half(bytes, 1 + b * 18, random.real(2.0f));
        Checker q4_0 = checker(*kernels, "unpack_q4_0", static_cast<long long>(n));
        kernels->unpack_q4_0(bytes.data() + 1, static_cast<int>(n), quants.data(), scales.data());
        std::fill(offsets.begin(), offsets.end(), 0.0f);
        for (Size i = 0; i < n; ++i) {
            const std::byte *block = bytes.data() + 1 + i / 32 * 18;
            const int packed = byte_at(block, 2 + i % 16);
            const int q = i % 32 < 16 ? packed & 15 : packed >> 4;
            q4_0.near(value(i), (q - 8) * block_scale(block), 0);
        }

        bytes = random_bytes(n_blocks * 20 + 1, random);
        for (Size b = 0; b < n_blocks; ++b) {
            put_half(bytes, 1 + b * 20, random.real(2.0f));
            put_half(bytes, 3 + b * 20, random.real(2.0f));
        }
        Checker q4_1 = checker(*kernels, "unpack_q4_1", static_cast<long long>(n));
        kernels->unpack_q4_1(bytes.data() + 1, static_cast<int>(n), quants.data(), scales.data(),
                             offsets.data());
        for (Size i = 0; i < n; ++i) {
            const std::byte *block = bytes.data() + 1 + i / 32 * 20;
            const int packed = byte_at(block, 4 + i % 16);
            const int q = i % 32 < 16 ? packed & 15 : packed >> 4;
            q4_1.near(value(i), q * block_scale(block) + block_scale(block + 2), 0);
        }

        bytes = random_bytes(n_blocks * 34 + 1, random);
        for (Size b = 0; b < n_blocks; ++b) put_half(bytes, 1 + b * 34, random.real(2.0f));
        Checker q8_0 = checker(*kernels, "unpack_q8_0", static_cast<long long>(n));
        kernels->unpack_q8_0(bytes.data() + 1, static_cast<int>(n), quants.data(), scales.data());
        for (Size i = 0; i < n; ++i) {
            const std::byte *block = bytes.data() + 1 + i / 32 * 34;
            const double q = static_cast<std::int8_t>(byte_at(block, 2 + i % 32));
            q8_0.near(static_cast<double>(quants[i]) * scales[i / quant_block], q * block_scale(block), 0);
        }
    }
}

// ggml's super-block by its bits: the 12 bytes are eight scales and eight minima of 6 bits.
TEST(unpacking_q4_k_follows_the_file_format) {
    Random random(12);
    const Size n_supers = 3, n = n_supers * 256;
    for (const Kernels *kernels : available_kernels()) {
        Checker check = checker(*kernels, "unpack_q4_k", static_cast<long long>(n));
        auto bytes = random_bytes(n_supers * 144 + 1, random);
        for (Size s = 0; s < n_supers; ++s) {
            put_half(bytes, 1 + s * 144, random.real(0.1f));
            put_half(bytes, 3 + s * 144, random.real(0.1f));
        }
        std::vector<std::int8_t> quants(n);
        std::vector<float> scales(n / 32), offsets(n / 32);
        kernels->unpack_q4_k(bytes.data() + 1, static_cast<int>(n), quants.data(), scales.data(),
                             offsets.data());
        for (Size i = 0; i < n; ++i) {
            const std::byte *super = bytes.data() + 1 + i / 256 * 144;
            const Size block = i % 256 / 32;
            const auto six_bits = [&](Size low_at, int low_shift, Size high_at) {
                return (byte_at(super, 4 + low_at) >> low_shift & 15) | (byte_at(super, 4 + high_at) >> 6)
                                                                            << 4;
            };
            const int scale = block < 4 ? byte_at(super, 4 + block) & 63 : six_bits(block + 4, 0, block - 4);
            const int minimum = block < 4 ? byte_at(super, 8 + block) & 63 : six_bits(block + 4, 4, block);
            const int packed = byte_at(super, 16 + i % 256 / 64 * 32 + i % 32);
            const int q = block % 2 == 0 ? packed & 15 : packed >> 4;
            const double expected = static_cast<double>(half_at(super)) * scale * q -
                                    static_cast<double>(half_at(super + 2)) * minimum;
            const double value =
                static_cast<double>(quants[i]) * scales[i / 32] + static_cast<double>(offsets[i / 32]);
            check.near(value, expected, 1e-6);
        }
    }
}

TEST(elementwise_kernels) {
    for (const Kernels *kernels : available_kernels()) {
        for (const int n : sizes) {
            const auto count = static_cast<Size>(n);
            Row y(telling_values(count, 5.0f, 21)), x(telling_values(count, 7.0f, 22));
            Row sum = y, scaled_sum = y, scaled = y;
            kernels->add(sum.data(), x.data(), n);
            kernels->add_scaled(scaled_sum.data(), x.data(), 0.3f, n);
            kernels->scale(scaled.data(), -1.7f, n);
            Checker add = checker(*kernels, "add", n), add_scaled = checker(*kernels, "add_scaled", n);
            Checker scale = checker(*kernels, "scale", n), maximum = checker(*kernels, "maximum", n);
            double largest = -HUGE_VAL;
            for (Size i = 0; i < count; ++i) {
                const double a = y[i], b = x[i], product = 0.3f * b;
                add.near(sum[i], a + b, std::fabs(a + b) * step);
                add_scaled.near(scaled_sum[i], a + product,
                                (std::fabs(a) + std::fabs(product)) * 2 * step + 0x1p-149);
                scale.near(scaled[i], -1.7f * a, std::fabs(1.7 * a) * step + 0x1p-149);
                largest = std::max(largest, a);
            }
            maximum.near(kernels->maximum(y.data(), n), largest, 0);
            add.that(sum.is_guarded() && scaled_sum.is_guarded() && scaled.is_guarded(),
                     "wrote beyond its end");
        }
        Row below_zero(std::vector<float>(11, -3e38f));
        checker(*kernels, "maximum", 11).near(kernels->maximum(below_zero.data(), 11), -3e38f, 0);
    }
}

TEST(gelu_and_silu) {
    for (const Kernels *kernels : available_kernels()) {
        for (const int n : {1, 7, 8, 13, 4001}) {
            const auto count = static_cast<Size>(n);
            auto values = telling_values(count, 12.0f, 31);
            if (n > 100) {
                const float extremes[] = {-100.0f, 100.0f, -1e30f, 1e30f, -1e38f,
                                          1e38f,   -87.5f, -88.5f, 88.5f};
                std::copy(std::begin(extremes), std::end(extremes), values.begin());
            }
            Row y(values), x(Random(32).reals(count, 2.0f));
            Row gelu = y, silu = y;
            kernels->gelu(gelu.data(), n);
            kernels->silu_multiply(silu.data(), x.data(), n);
            Checker check_gelu = checker(*kernels, "gelu", n),
                    check_silu = checker(*kernels, "silu_multiply", n);
            for (Size i = 0; i < count; ++i) {
                const double v = y[i], magnitude = std::max(1.0, std::fabs(v));
                check_gelu.near(gelu[i], v * std::erfc(-v / std::sqrt(2.0)) / 2, gelu_ceiling * magnitude);
                check_silu.near(silu[i], v / (1 + std::exp(-v)) * x[i],
                                silu_ceiling * magnitude * std::fabs(x[i]));
            }
            check_gelu.that(gelu.is_guarded() && silu.is_guarded(), "wrote beyond its end");
        }
    }
}

TEST(exponentials_and_their_sum) {
    for (const Kernels *kernels : available_kernels()) {
        for (const int n : {1, 2, 3, 5, 8, 9, 64, 100, 4001}) {
            const auto count = static_cast<Size>(n);
            auto values = telling_values(count, 45.0f, 41);
            if (n > 8) values[7] = -3e38f;
            Row x(values);
            const float largest = kernels->maximum(x.data(), n);
            Row y = x;
            const float sum = kernels->exponentials(y.data(), largest, n);
            Checker check = checker(*kernels, "exponentials", n);
            double expected_sum = 0;
            for (Size i = 0; i < count; ++i) {
                // The difference in single precision, as softmax takes it: its rounding is no error of the
                // exponential.
                const double expected = std::exp(static_cast<double>(x[i] - largest));
                check.near(y[i], expected, expected * exponential_ceiling + exponential_floor);
                expected_sum += expected;
            }
            check.near(sum, expected_sum, expected_sum * (exponential_ceiling + sum_ceiling(count)));
            check.that(y.is_guarded(), "wrote beyond its end");
        }
    }
}

TEST(norms) {
    for (const Kernels *kernels : available_kernels()) {
        for (const int n : sizes) {
            for (const float amplitude : {1e-3f, 1.0f, 1e4f}) {
                const auto count = static_cast<Size>(n);
                Row x(telling_values(count, amplitude, 51)), weight(Random(52).reals(count, 2.0f));
                Row bias(Random(53).reals(count, 1.0f)), rms(count), layer(count), in_place = x;
                kernels->rms_norm(x.data(), weight.data(), 1e-6f, n, rms.data());
                kernels->rms_norm(in_place.data(), weight.data(), 1e-6f, n, in_place.data());
                kernels->layer_norm(x.data(), weight.data(), bias.data(), 1e-5f, n, layer.data());
                double mean = 0, squares = 0, variance = 0;
                for (Size i = 0; i < count; ++i) {
                    mean += x[i] / static_cast<double>(n);
                    squares += static_cast<double>(x[i]) * x[i] / n;
                }
                for (Size i = 0; i < count; ++i) variance += (x[i] - mean) * (x[i] - mean) / n;
                Checker check_rms = checker(*kernels, "rms_norm", n),
                        check_layer = checker(*kernels, "layer_norm", n);
                // Where the variance is that of rounding, as with one value, the quotient means nothing.
                const double layer_noise = std::fabs(mean) * sum_ceiling(count) / std::sqrt(variance + 1e-5);
                for (Size i = 0; i < count; ++i) {
                    const double by_rms = x[i] / std::sqrt(squares + 1e-6) * weight[i];
                    const double by_layer = (x[i] - mean) / std::sqrt(variance + 1e-5) * weight[i];
                    check_rms.near(rms[i], by_rms, norm_ceiling * 2 * std::sqrt(n));
                    check_layer.near(layer[i], by_layer + bias[i],
                                     norm_ceiling * 2 * std::sqrt(n) + 2 * layer_noise);
                    check_rms.near(in_place[i], rms[i], 0);
                }
                check_rms.that(rms.is_guarded() && layer.is_guarded() && in_place.is_guarded(),
                               "wrote beyond its end");
            }
        }
        Row zeros(Size{9}), ones(std::vector<float>(9, 1.0f)), out(Size{9});
        kernels->rms_norm(zeros.data(), ones.data(), 1e-6f, 9, out.data());
        for (Size i = 0; i < 9; ++i) checker(*kernels, "rms_norm of zeros", 9).near(out[i], 0, 0);
        kernels->layer_norm(ones.data(), ones.data(), zeros.data(), 1e-5f, 9, out.data());
        for (Size i = 0; i < 9; ++i) checker(*kernels, "layer_norm of a constant", 9).near(out[i], 0, 0);
    }
}

TEST(an_element_does_not_depend_on_its_place) {
    for (const Kernels *kernels : available_kernels()) {
        Row all(Random(61).reals(13, 3.0f)), factors(std::vector<float>(13, 1.0f));
        Row gelu = all, silu = all;
        kernels->gelu(gelu.data(), 13);
        kernels->silu_multiply(silu.data(), factors.data(), 13);
        for (Size i = 0; i < 13; ++i) {
            float one = all[i], other = all[i];
            kernels->gelu(&one, 1);
            kernels->silu_multiply(&other, factors.data(), 1);
            checker(*kernels, "gelu", 1).near(one, gelu[i], 0);
            checker(*kernels, "silu_multiply", 1).near(other, silu[i], 0);
        }
    }
}

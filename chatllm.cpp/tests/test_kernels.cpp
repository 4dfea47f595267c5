// Every table against formulas in double precision, within the ceilings of ceilings.h: all but the products
// of matrices, which test_products.cpp has.

#include "kernels/kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "ceilings.h"
#include "check.h"
#include "checker.h"
#include "fenced.h"
#include "random.h"
#include "stored.h"

using namespace chatllm;
using namespace chatllm::check;

namespace {

using Size = std::size_t;
using Row = Fenced<float>;

// The half nearest to a finite float, ties to even, as a double.
double rounded_to_half(float value) {
    const double exact = value;
    if (std::fabs(exact) >= 65520) return std::copysign(HUGE_VAL, exact);
    const double quantum = exact == 0 ? 1 : std::ldexp(1.0, std::max(std::ilogb(exact) - 10, -24));
    return std::nearbyint(exact / quantum) * quantum;
}

}  // namespace

TEST(a_table_is_chosen_by_name) {
    CHECK_EQ(std::string(choose_kernels("scalar").name), "scalar");
    CHECK_EQ(&choose_kernels(""), available_kernels().back());
    CHECK_EQ(available_kernels().front(), &scalar_kernels());
    CHECK_THROWS(choose_kernels("z80"), "this processor offers scalar");
}

TEST(every_half_becomes_its_float) {
    std::vector<std::uint16_t> halves(65536);
    std::iota(halves.begin(), halves.end(), std::uint16_t{0});
    for (const std::uint16_t half : halves)
        CHECK(std::isnan(half_value(half)) || f16_to_f32(half) == half_value(half));
    for (const Kernels *kernels : available_kernels()) {
        Checker check(*kernels, "unpack_f16", 65536);
        Row out(halves.size());
        kernels->unpack_f16(reinterpret_cast<const std::byte *>(halves.data()), 65536, out.data());
        for (Size i = 0; i < halves.size(); ++i) check.near(out[i], half_value(halves[i]), 0);
        check.that(std::signbit(out[0x8000]), "lost the sign of zero");
    }
}

TEST(every_half_survives_the_way_through_a_float) {
    for (const Kernels *kernels : available_kernels()) {
        Checker check(*kernels, "pack_f16", 65536);
        std::vector<float> values;
        for (unsigned half = 0; half < 65536; ++half)
            values.push_back(f16_to_f32(static_cast<std::uint16_t>(half)));
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
        Checker check(*kernels, "pack_f16", static_cast<long long>(values.size()));
        std::vector<std::uint16_t> halves(values.size());
        kernels->pack_f16(values.data(), static_cast<int>(values.size()), halves.data());
        for (Size i = 0; i < values.size(); ++i)
            check.near(half_value(halves[i]), rounded_to_half(values[i]), 0);
    }
    CHECK_EQ(f32_to_f16(std::numeric_limits<float>::infinity()), 0x7c00);
    CHECK(std::isnan(half_value(f32_to_f16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(half_precision_tails) {
    for (const Kernels *kernels : available_kernels()) {
        for (const int n : odd_sizes) {
            Checker check(*kernels, "pack_f16 and unpack_f16", n);
            const auto count = static_cast<Size>(n);
            const Row values(Random(3).reals(count, 100.0f));
            Fenced<std::uint16_t> halves(count);
            kernels->pack_f16(values.data(), n, halves.data());
            Row back(count);
            kernels->unpack_f16(reinterpret_cast<const std::byte *>(halves.data()), n, back.data());
            for (Size i = 0; i < count; ++i) check.near(back[i], rounded_to_half(values[i]), 0);
            check.that(halves.is_intact() && back.is_intact(), "wrote around its result");
        }
    }
}

TEST(floats_round_to_the_nearest_bfloat16) {
    std::vector<float> values{0.0f,
                              -0.0f,
                              1.0f,
                              0x1.01p0f,  // a tie, to even: down
                              0x1.03p0f,  // and up
                              0x1.010002p0f,
                              0x1p-126f,
                              3.38e38f,
                              std::numeric_limits<float>::max(),
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::quiet_NaN(),
                              1e-40f};
    Random random(13);
    while (values.size() < 100'000)
        values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random.bits())));
    const auto expected = [](float value) {
        const double quantum = value == 0 ? 1 : std::ldexp(1.0, std::max(std::ilogb(value) - 7, -133));
        const double nearest = std::nearbyint(value / quantum) * quantum;
        return std::fabs(nearest) >= 0x1p128 ? std::copysign(HUGE_VAL, nearest) : nearest;
    };
    for (const float value : values) {
        const double rounded = bf16_to_f32(f32_to_bf16(value));
        CHECK(std::isfinite(value) ? rounded == expected(value)
                                   : rounded == value || (std::isnan(value) && std::isnan(rounded)));
    }
    const auto check_row = [&](const Kernels &kernels, Size n) {
        Checker check(kernels, "round_to_half", static_cast<long long>(n));
        const Row x(std::vector<float>(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(n)));
        Fenced<std::uint16_t> out(n);
        kernels.round_to_half(x.data(), static_cast<int>(n), out.data());
        for (Size i = 0; i < n; ++i) {
            const bool subnormal = std::fabs(x[i]) < std::numeric_limits<float>::min();
            // Subnormal numbers may become zero.
            if (subnormal && (out[i] & 0x7fff) == 0) continue;
            check.near(bf16_to_f32(out[i]), bf16_to_f32(f32_to_bf16(x[i])), 0);
            check.that(std::signbit(bf16_to_f32(out[i])) == std::signbit(x[i]), "lost a sign");
        }
        check.that(out.is_intact(), "wrote around its result");
    };
    for (const Kernels *kernels : available_kernels()) {
        for (const int n : odd_sizes) check_row(*kernels, static_cast<Size>(n));
        check_row(*kernels, values.size());
    }
}

TEST(rows_of_words_are_interleaved) {
    for (const Kernels *kernels : available_kernels()) {
        for (Size n_rows = 1; n_rows <= static_cast<Size>(kernels->single.panel_rows); ++n_rows) {
            for (const int n_words : odd_sizes) {
                Checker check(*kernels, "interleave of " + std::to_string(n_rows) + " rows", n_words);
                const auto words = static_cast<Size>(n_words);
                // One after the other, the last before an unreadable page.
                Fenced<std::uint32_t> memory(n_rows * words);
                std::vector<const std::uint32_t *> rows;
                for (Size i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::uint32_t>(7 * i);
                for (Size r = 0; r < n_rows; ++r) rows.push_back(memory.data() + r * words);
                Fenced<std::uint32_t> out(n_rows * words);
                kernels->interleave(rows.data(), static_cast<int>(n_rows), n_words, out.data());
                for (Size i = 0; i < out.size(); ++i)
                    check.that(out[i] == rows[i % n_rows][i / n_rows], "put a word in the wrong place");
                check.that(out.is_intact(), "wrote around its result");
            }
        }
    }
}

TEST(attention_of_one_position) {
    for (const Kernels *kernels : available_kernels()) {
        for (const int width : {1, 7, 16, 40, 64, 128}) {
            for (const int n_heads : {1, 2, 3, 4}) {
                for (const int n : {0, 1, 2, 5, 33}) {
                    Checker check(*kernels,
                                  "attention of " + std::to_string(n_heads) + " heads to " +
                                      std::to_string(n) + " positions",
                                  width);
                    const auto heads = static_cast<Size>(n_heads), cols = static_cast<Size>(width);
                    const auto count = static_cast<Size>(n);
                    const Size stride = cols + 5, score_stride = count + 2;
                    const Row q(Random(14).reals(heads * cols, 3.0f));
                    Fenced<std::uint16_t> rows(n == 0 ? 0 : (count - 1) * stride + cols);
                    Random random(15);
                    for (Size i = 0; i < rows.size(); ++i)
                        rows[i] = f32_to_f16(i % 9 == 0 ? random.real(0x1p-16f) : random.real(4.0f));

                    Row scores((heads - 1) * score_stride + count);
                    const Row untouched = scores;
                    kernels->attention_scores(q.data(), n_heads, width, rows.data(), stride, n, 0.125f,
                                              scores.data(), score_stride);
                    for (Size i = 0; i < scores.size(); ++i) {
                        const Size h = i / score_stride, at = i % score_stride;
                        if (at >= count) {
                            check.that(same_bits(scores[i], untouched[i]), "wrote between the heads");
                            continue;
                        }
                        double sum = 0, magnitude = 0;
                        for (Size c = 0; c < cols; ++c) {
                            const double term = 0.125 * q[h * cols + c] * half_value(rows[at * stride + c]);
                            sum += term;
                            magnitude += std::fabs(term);
                        }
                        check.near(scores[i], sum, magnitude * sum_ceiling(cols));
                    }

                    const Row weights(Random(16).reals((heads - 1) * score_stride + count, 1.0f));
                    Row out(Random(17).reals(heads * cols, 1.0f));
                    const Row before = out;
                    kernels->attention_values(weights.data(), score_stride, n_heads, width, rows.data(),
                                              stride, n, out.data());
                    for (Size i = 0; i < out.size(); ++i) {
                        double sum = before[i], magnitude = std::fabs(before[i]);
                        for (Size at = 0; at < count; ++at) {
                            const double term = static_cast<double>(weights[i / cols * score_stride + at]) *
                                                half_value(rows[at * stride + i % cols]);
                            sum += term;
                            magnitude += std::fabs(term);
                        }
                        check.near(out[i], sum, magnitude * sum_ceiling(count));
                    }
                    check.that(scores.is_intact() && out.is_intact(), "wrote around its result");
                }
            }
        }
    }
}

// The layouts as the file format states them, element by element.
TEST(unpacking_follows_the_file_format) {
    for (const Storage storage :
         {Storage::f32, Storage::f16, Storage::q4_0, Storage::q4_1, Storage::q8_0, Storage::q4_k}) {
        const bool quantised = traits(storage).quantised;
        std::vector<int> sizes{256, 512, 1024};
        if (!quantised) sizes.assign(std::begin(odd_sizes), std::end(odd_sizes));
        if (traits(storage).block == quant_block) sizes.insert(sizes.end(), {32, 96, 288});
        for (const int n : sizes) {
            Checker check("unpack_row of " + std::string(traits(storage).name) + " of size " +
                          std::to_string(n));
            const auto count = static_cast<Size>(n);
            const StoredMatrix rows(storage, 8, n, 18, static_cast<Size>(traits(storage).block == 1 ? 4 : 2));
            for (int r = 0; r < rows.n_rows(); ++r) {
                Row out(count);
                unpack_row(storage, rows.row(r), n, out.data());
                // Rounded once, where the offset is added.
                for (Size c = 0; c < count; ++c)
                    check.near(out[c], static_cast<float>(rows.exact(r).values[c]), 0);
                check.that(out.is_intact(), "wrote around its result");
                if (!quantised) continue;

                const bool has_offsets = storage == Storage::q4_1 || storage == Storage::q4_k;
                Fenced<std::int8_t> quants(count);
                Row scales(count / quant_block), offsets(has_offsets ? count / quant_block : 0);
                unpack_quants(storage, rows.row(r), n, quants.data(), scales.data(), offsets.data());
                for (Size c = 0; c < count; ++c) {
                    const StoredValue value = stored_value(storage, rows.row(r), c);
                    check.that(quants[c] == value.quant, "wrong quant");
                    check.near(scales[c / quant_block], value.scale, 0);
                    if (has_offsets) check.near(offsets[c / quant_block], value.offset, 0);
                }
                check.that(quants.is_intact() && scales.is_intact() && offsets.is_intact(),
                           "wrote around its result");
            }
        }
    }
}

TEST(rows_that_are_stored_together_are_separated) {
    for (const int n_cols : {32, 64, 96, 1024}) {
        Checker check("separate_rows of size " + std::to_string(n_cols));
        // The same numbers.
        const StoredMatrix groups(Storage::q4_0_16x4, 2 * interleaved_rows, n_cols, 19);
        const StoredMatrix rows(Storage::q4_0, 2 * interleaved_rows, n_cols, 19);
        for (int first = 0; first < rows.n_rows(); first += interleaved_rows) {
            Fenced<std::byte> separated(interleaved_rows * rows.row_bytes());
            separate_rows(groups.row(first), n_cols, separated.data());
            check.that(std::equal(separated.data(), separated.data() + separated.size(), rows.row(first)),
                       "put a byte in the wrong place");
            check.that(separated.is_intact(), "wrote around its result");
        }
    }
}

TEST(elementwise_kernels) {
    for (const Kernels *kernels : available_kernels()) {
        for (const int n : odd_sizes) {
            const auto count = static_cast<Size>(n);
            Row y(telling_values(count, 5.0f, 21)), x(telling_values(count, 7.0f, 22));
            Row sum = y, scaled = y;
            kernels->add(sum.data(), x.data(), n);
            kernels->scale(scaled.data(), -1.7f, n);
            Checker add(*kernels, "add", n), scale(*kernels, "scale", n);
            Checker maximum(*kernels, "maximum", n);
            double largest = -HUGE_VAL;
            for (Size i = 0; i < count; ++i) {
                const double a = y[i], b = x[i];
                add.near(sum[i], a + b, std::fabs(a + b) * float_step);
                scale.near(scaled[i], -1.7f * a, std::fabs(1.7 * a) * float_step + 0x1p-149);
                largest = std::max(largest, a);
            }
            maximum.near(kernels->maximum(y.data(), n), largest, 0);
            add.that(sum.is_intact() && scaled.is_intact(), "wrote around its result");
        }
        Row below_zero(std::vector<float>(11, -3e38f));
        Checker(*kernels, "maximum", 11).near(kernels->maximum(below_zero.data(), 11), -3e38f, 0);
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
            Checker check_gelu(*kernels, "gelu", n), check_silu(*kernels, "silu_multiply", n);
            for (Size i = 0; i < count; ++i) {
                const double v = y[i], magnitude = std::max(1.0, std::fabs(v));
                check_gelu.near(gelu[i], v * std::erfc(-v / std::sqrt(2.0)) / 2, gelu_ceiling * magnitude);
                check_silu.near(silu[i], v / (1 + std::exp(-v)) * x[i],
                                silu_ceiling * magnitude * std::fabs(x[i]));
            }
            check_gelu.that(gelu.is_intact() && silu.is_intact(), "wrote around its result");
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
            Checker check(*kernels, "exponentials", n);
            double expected_sum = 0;
            for (Size i = 0; i < count; ++i) {
                // The difference in single precision, as softmax takes it: its rounding is no error of the
                // exponential.
                const double expected = std::exp(static_cast<double>(x[i] - largest));
                check.near(y[i], expected, expected * exponential_ceiling + exponential_floor);
                expected_sum += expected;
            }
            check.near(sum, expected_sum, expected_sum * (exponential_ceiling + sum_ceiling(count)));
            check.that(y.is_intact(), "wrote around its result");
        }
    }
}

TEST(norms) {
    for (const Kernels *kernels : available_kernels()) {
        for (const int n : odd_sizes) {
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
                Checker check_rms(*kernels, "rms_norm", n), check_layer(*kernels, "layer_norm", n);
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
                check_rms.that(rms.is_intact() && layer.is_intact() && in_place.is_intact(),
                               "wrote around its result");
            }
        }
        const Row zeros(std::vector<float>(9, 0.0f)), ones(std::vector<float>(9, 1.0f));
        Row out(9);
        kernels->rms_norm(zeros.data(), ones.data(), 1e-6f, 9, out.data());
        for (Size i = 0; i < 9; ++i) Checker(*kernels, "rms_norm of zeros", 9).near(out[i], 0, 0);
        kernels->layer_norm(ones.data(), ones.data(), zeros.data(), 1e-5f, 9, out.data());
        for (Size i = 0; i < 9; ++i) Checker(*kernels, "layer_norm of a constant", 9).near(out[i], 0, 0);
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
            Checker(*kernels, "gelu", 1).near(one, gelu[i], 0);
            Checker(*kernels, "silu_multiply", 1).near(other, silu[i], 0);
        }
    }
}

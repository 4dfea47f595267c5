// Every way of every table to multiply matrices, against exact products and against `scalar`, within the
// ceilings of ceilings.h.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "ceilings.h"
#include "check.h"
#include "checker.h"
#include "fenced.h"
#include "kernels/kernels.h"
#include "random.h"
#include "stored.h"

using namespace chatllm;
using namespace chatllm::check;

namespace {

using Size = std::size_t;

constexpr Storage plain_storages[] = {Storage::f32, Storage::f16};
constexpr Storage quantised_storages[] = {Storage::q4_0, Storage::q4_1, Storage::q8_0, Storage::q4_k,
                                          Storage::q4_0_16x4};

struct Way {
    const char *name;
    const Arithmetic *arithmetic;
    Rounding rounding;
    bool quantised;
};

std::vector<Way> ways(const Kernels &kernels) {
    const bool half = kernels.half_bytes == 2;
    const bool bytes = kernels.quick.multiply != kernels.precise.multiply;
    return {{"single", &kernels.single, Rounding::none, false},
            {"half", &kernels.half, half ? Rounding::half : Rounding::none, false},
            {"precise", &kernels.precise, Rounding::block16, true},
            {"quick", &kernels.quick, bytes ? Rounding::block8 : Rounding::block16, true}};
}

std::vector<int> sizes(Storage storage) {
    if (storage == Storage::q4_k) return {256, 512, 1024, 3072};
    if (traits(storage).quantised) return {32, 64, 96, 288, 1024, 3072};
    std::vector<int> all(std::begin(odd_sizes), std::end(odd_sizes));
    all.push_back(1024);
    return all;
}

// Rows of activations, the last of which ends before an unreadable page.
struct Activations {
    Fenced<float> values;
    Size stride;
    int n;

    const float *row(int t) const { return values.data() + static_cast<Size>(t) * stride; }
};

// Four kinds take turns, in three orders of magnitude: random, constant, constant and negative (the greatest
// sums), blocks of different size with zeros among them.
Activations telling_activations(int n, int n_cols, std::uint64_t seed) {
    const auto cols = static_cast<Size>(n_cols);
    const Size stride = cols + 3;
    Activations made{Fenced<float>(static_cast<Size>(n - 1) * stride + cols), stride, n};
    Random random(seed);
    static constexpr float amplitudes[] = {1.0f, 1e-25f, 1e20f};
    for (int t = 0; t < n; ++t) {
        float *row = made.values.data() + static_cast<Size>(t) * stride;
        const float amplitude = amplitudes[t % 3];
        for (Size c = 0; c < cols; ++c) {
            const Size b = c / quant_block;
            const float everyday = random.real(amplitude);
            const float by_block =
                b % 4 == 3 ? 0.0f : everyday * std::ldexp(1.0f, static_cast<int>(b % 7) - 3);
            row[c] = t % 4 == 0 ? everyday : t % 4 == 1 ? amplitude : t % 4 == 2 ? -amplitude : by_block;
        }
    }
    return made;
}

// The products of some rows of weights with some rows of activations by one tile and one panel, [token][row].
// Whatever lies around the buffers, and between the rows of `out`, must stay as it is. Given `before`, the
// products are added to it.
std::vector<float> multiply(const Way &way, const StoredMatrix &w, int first_row, int n_rows,
                            const Activations &x, int first_token, int n_tokens, Checker &check,
                            const std::vector<float> *before = nullptr) {
    const Arithmetic &arithmetic = *way.arithmetic;
    const int n_cols = w.n_cols();
    Fenced<std::byte> tile(arithmetic.tile_bytes(n_cols), kernel_alignment);
    Fenced<std::byte> panel(static_cast<Size>(n_tokens) * arithmetic.panel_row_bytes(n_cols),
                            kernel_alignment);
    const Size rows = static_cast<Size>(n_rows), tokens = static_cast<Size>(n_tokens), stride = rows + 2;
    Fenced<float> out((tokens - 1) * stride + rows);
    const Fenced<float> untouched = out;
    if (before != nullptr) {
        for (Size i = 0; i < tokens * rows; ++i) out[i / rows * stride + i % rows] = (*before)[i];
    }
    arithmetic.unpack(w.storage(), w.row(first_row), w.row_bytes(), n_rows, n_cols, tile.data());
    arithmetic.pack(x.row(first_token), x.stride, n_tokens, n_cols, panel.data());
    arithmetic.multiply(tile.data(), n_rows, panel.data(), n_tokens, n_cols, before != nullptr, out.data(),
                        stride);

    std::vector<float> products;
    for (Size i = 0; i < out.size(); ++i) {
        if (i % stride < rows) {
            products.push_back(out[i]);
        } else {
            check.that(same_bits(out[i], untouched[i]), "wrote between rows");
        }
    }
    check.that(tile.is_intact(), "wrote around its tile");
    check.that(panel.is_intact(), "wrote around its panel");
    check.that(out.is_intact(), "wrote around its products");
    return products;
}

std::string subject(const Way &way, Storage storage) {
    return std::string(way.name) + " " + std::string(traits(storage).name);
}

// Calls test(kernels, way, storage) for all that multiply.
template <typename Test> void for_all_ways(Test &&test) {
    for (const Kernels *kernels : available_kernels()) {
        for (const Way &way : ways(*kernels)) {
            if (way.quantised) {
                for (const Storage storage : quantised_storages)
                    if (unpacks(*kernels, storage)) test(*kernels, way, storage);
            } else {
                for (const Storage storage : plain_storages) test(*kernels, way, storage);
            }
        }
    }
}

// A full tile with a full panel.
struct Case {
    StoredMatrix w;
    Activations x;

    Case(const Kernels &kernels, const Way &way, Storage storage, int n_cols)
        : w(storage, kernels.tile_rows, n_cols, 1, static_cast<Size>(traits(storage).block == 1 ? 4 : 2)),
          x(telling_activations(way.arithmetic->panel_rows, n_cols, 2)) {}

    std::vector<float> products(const Way &way, Checker &check) const {
        return multiply(way, w, 0, w.n_rows(), x, 0, x.n, check);
    }
    Size at(int token, int row) const {
        return static_cast<Size>(token) * static_cast<Size>(w.n_rows()) + static_cast<Size>(row);
    }
};

}  // namespace

TEST(products_are_within_their_ceilings) {
    for_all_ways([](const Kernels &kernels, const Way &way, Storage storage) {
        for (const int n_cols : sizes(storage)) {
            Checker check(kernels, subject(way, storage), n_cols);
            const Case made(kernels, way, storage, n_cols);
            const auto products = made.products(way, check);
            for (int t = 0; t < made.x.n; ++t) {
                for (int r = 0; r < made.w.n_rows(); ++r) {
                    const Expected expected = expected_product(way.rounding, made.w.exact(r), made.x.row(t));
                    check.near(products[made.at(t, r)], expected.value, expected.ceiling);
                }
            }
        }
    });
}

// A column at a time, where errors cannot cancel each other.
TEST(activations_lose_half_a_step_at_most) {
    constexpr int n_cols = 512;
    const Activations x = telling_activations(1, n_cols, 10);
    for (const Kernels *kernels : available_kernels()) {
        for (const Way &way : ways(*kernels)) {
            if (!way.quantised) continue;
            Checker check(*kernels, std::string(way.name) + " of single columns", n_cols);
            for (int first = 0; first + kernels->tile_rows <= n_cols; first += kernels->tile_rows) {
                const auto w = StoredMatrix::selecting(first, kernels->tile_rows, n_cols);
                const auto products = multiply(way, w, 0, w.n_rows(), x, 0, 1, check);
                for (int r = 0; r < w.n_rows(); ++r) {
                    const Expected expected = expected_product(way.rounding, w.exact(r), x.row(0));
                    check.near(products[static_cast<Size>(r)], expected.value, expected.ceiling);
                }
            }
        }
    }
}

TEST(products_are_those_of_scalar) {
    const Kernels &scalar = scalar_kernels();
    for_all_ways([&](const Kernels &kernels, const Way &way, Storage storage) {
        const Way reference = ways(scalar)[way.quantised ? 2 : 0];
        for (const int n_cols : {256, 1024}) {
            Checker check(kernels, subject(way, storage) + " beside scalar", n_cols);
            const Case made(kernels, way, storage, n_cols);
            const Case in_rows(kernels, way, storage_of_rows(storage), n_cols);  // the same numbers
            const auto products = made.products(way, check);
            for (int t = 0; t < made.x.n; ++t) {
                for (int r = 0; r < made.w.n_rows(); ++r) {
                    const float plain = multiply(reference, in_rows.w, r, 1, made.x, t, 1, check)[0];
                    const Expected ours = expected_product(way.rounding, made.w.exact(r), made.x.row(t));
                    const Expected theirs =
                        expected_product(reference.rounding, made.w.exact(r), made.x.row(t));
                    check.near(products[made.at(t, r)], plain, ours.ceiling + theirs.ceiling);
                }
            }
        }
    });
}

// Any number of rows in any place of the tile and the panel. The last ones end before unreadable pages.
TEST(a_product_does_not_depend_on_its_neighbours) {
    for_all_ways([](const Kernels &kernels, const Way &way, Storage storage) {
        for (const int n_cols : sizes(storage)) {
            Checker check(kernels, subject(way, storage) + " among others", n_cols);
            const Case made(kernels, way, storage, n_cols);
            const auto all = made.products(way, check);
            const int together = traits(storage).rows_together,
                      step = std::max(n_cols < 300 ? 1 : 7, together);
            for (int n_rows = together; n_rows <= made.w.n_rows(); n_rows += step) {
                for (int n_tokens = 1; n_tokens <= made.x.n; ++n_tokens) {
                    const int first_row = made.w.n_rows() - n_rows, first_token = made.x.n - n_tokens;
                    const auto some =
                        multiply(way, made.w, first_row, n_rows, made.x, first_token, n_tokens, check);
                    Size i = 0;
                    for (int t = first_token; t < made.x.n; ++t) {
                        for (int r = first_row; r < made.w.n_rows(); ++r) {
                            check.that(same_bits(some[i++], all[made.at(t, r)]),
                                       std::to_string(n_rows) + " rows by " + std::to_string(n_tokens) +
                                           " differ from all");
                        }
                    }
                }
            }
        }
    });
}

TEST(products_are_added_to_what_is_there) {
    for_all_ways([](const Kernels &kernels, const Way &way, Storage storage) {
        const int n_cols = 256;
        Checker check(kernels, subject(way, storage) + " added", n_cols);
        const Case made(kernels, way, storage, n_cols);
        const int together = traits(storage).rows_together;
        for (int n_rows = together; n_rows <= made.w.n_rows(); n_rows += std::max(3, together)) {
            for (int n_tokens = 1; n_tokens <= made.x.n; ++n_tokens) {
                const auto products = multiply(way, made.w, 0, n_rows, made.x, 0, n_tokens, check);
                const auto before = Random(3).reals(products.size(), 100.0f);
                const auto sums = multiply(way, made.w, 0, n_rows, made.x, 0, n_tokens, check, &before);
                for (Size i = 0; i < sums.size(); ++i) {
                    const double a = before[i], b = products[i];
                    check.near(sums[i], a + b, 2 * float_step * (std::fabs(a) + std::fabs(b)));
                }
            }
        }
    });
}

TEST(zeros_give_zeros_and_no_number_spoils_another_row) {
    static constexpr float infinity = std::numeric_limits<float>::infinity();
    static constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    static constexpr float greatest = std::numeric_limits<float>::max();
    for_all_ways([](const Kernels &kernels, const Way &way, Storage storage) {
        for (const int n_cols : {256, 768}) {
            Checker check(kernels, subject(way, storage) + " of what is no number", n_cols);
            Case made(kernels, way, storage, n_cols);
            const auto all = made.products(way, check);
            const auto cols = static_cast<Size>(n_cols);
            enum { zeros, one_nan, infinities, huge, subnormal, nans, n_kinds };
            // Every other row stays as it was.
            for (int shift = 0; shift < n_kinds; ++shift) {
                const auto kind = [&](int t) { return (t / 2 + shift) % n_kinds; };
                Case spoilt(kernels, way, storage, n_cols);
                for (int t = 0; t < spoilt.x.n; t += 2) {
                    float *row = spoilt.x.values.data() + static_cast<Size>(t) * spoilt.x.stride;
                    for (Size c = 0; c < cols; ++c) {
                        const float sign = c % 3 == 0 ? -1.0f : 1.0f;
                        if (kind(t) == one_nan && c == 5) row[c] = nan;
                        if (kind(t) == zeros) row[c] = 0.0f * sign;
                        if (kind(t) == infinities && c % 40 < 2) row[c] = c % 40 == 0 ? infinity : -infinity;
                        if (kind(t) == huge) row[c] = sign * greatest;
                        if (kind(t) == subnormal) row[c] = sign * 1e-41f;
                        if (kind(t) == nans) row[c] = nan;
                    }
                }
                const auto products = spoilt.products(way, check);
                for (int t = 0; t < spoilt.x.n; ++t) {
                    for (int r = 0; r < spoilt.w.n_rows(); ++r) {
                        const float product = products[spoilt.at(t, r)];
                        if (t % 2 != 0) {
                            check.that(same_bits(product, all[spoilt.at(t, r)]),
                                       "a row spoilt its neighbour");
                        } else if (kind(t) == zeros) {
                            check.that(product == 0, "zeros gave " + std::to_string(product));
                        } else if (kind(t) == subnormal) {
                            const Expected expected =
                                expected_product(way.rounding, spoilt.w.exact(r), spoilt.x.row(t));
                            check.near(product, expected.value, expected.ceiling);
                        } else if (kind(t) == one_nan || kind(t) == nans) {
                            check.that(way.quantised || std::isnan(product), "lost a NaN");
                        }
                    }
                }
            }
        }
    });
}

TEST(interleaved_rows_are_those_of_q4_0) {
    for_all_ways([](const Kernels &kernels, const Way &way, Storage storage) {
        if (storage != Storage::q4_0_16x4) return;
        for (const int n_cols : sizes(storage)) {
            Checker check(kernels, subject(way, storage) + " beside q4_0", n_cols);
            const auto products = Case(kernels, way, storage, n_cols).products(way, check);
            const auto in_rows = Case(kernels, way, Storage::q4_0, n_cols).products(way, check);
            for (Size i = 0; i < products.size(); ++i)
                check.that(same_bits(products[i], in_rows[i]), "another product");
        }
    });
}

TEST(quick_multiplies_the_tiles_of_precise) {
    for (const Kernels *kernels : available_kernels()) {
        CHECK_EQ(kernels->quick.unpack, kernels->precise.unpack);
        for (const int n_cols : {32, 256, 3072})
            CHECK_EQ(kernels->quick.tile_bytes(n_cols), kernels->precise.tile_bytes(n_cols));
    }
}

// Layouts that callers rely on when they make panels of their own.
TEST(single_precision_lies_column_by_column) {
    for (const Kernels *kernels : available_kernels()) {
        const Arithmetic &single = kernels->single;
        const auto tile_rows = static_cast<Size>(kernels->tile_rows);
        for (const int n_cols : odd_sizes) {
            Checker check(*kernels, "layout of single", n_cols);
            const auto cols = static_cast<Size>(n_cols);
            CHECK_EQ(single.tile_bytes(n_cols), cols * tile_rows * sizeof(float));
            CHECK_EQ(single.panel_row_bytes(n_cols), cols * sizeof(float));
            const StoredMatrix w(Storage::f16, kernels->tile_rows, n_cols, 4);
            Fenced<float> tile(cols * tile_rows, kernel_alignment);
            single.unpack(w.storage(), w.row(0), w.row_bytes(), w.n_rows(), n_cols,
                          reinterpret_cast<std::byte *>(tile.data()));
            for (Size i = 0; i < tile.size(); ++i)
                check.near(tile[i], w.exact(static_cast<int>(i % tile_rows)).values[i / tile_rows], 0);
            for (int n = 1; n <= single.panel_rows; ++n) {
                const Activations x = telling_activations(n, n_cols, 5);
                Fenced<float> panel(cols * static_cast<Size>(n), kernel_alignment);
                single.pack(x.values.data(), x.stride, n, n_cols,
                            reinterpret_cast<std::byte *>(panel.data()));
                for (Size i = 0; i < panel.size(); ++i) {
                    const float *row = x.row(static_cast<int>(i % static_cast<Size>(n)));
                    check.near(panel[i], row[i / static_cast<Size>(n)], 0);
                }
            }
        }
    }
}

TEST(half_precision_lies_two_columns_to_a_word) {
    for (const Kernels *kernels : available_kernels()) {
        const Arithmetic &half = kernels->half;
        CHECK(kernels->half_bytes == 2 || kernels->half_bytes == 4);
        if (kernels->half_bytes == 4) {
            CHECK_EQ(half.pack, kernels->single.pack);
            CHECK_EQ(half.multiply, kernels->single.multiply);
            continue;
        }
        for (const int n_cols : odd_sizes) {
            Checker check(*kernels, "layout of half", n_cols);
            const Size cols = static_cast<Size>(n_cols), words = (cols + 1) / 2;
            CHECK_EQ(half.panel_row_bytes(n_cols), 4 * words);
            for (int n = 1; n <= half.panel_rows; ++n) {
                const auto rows = static_cast<Size>(n);
                const Activations x = telling_activations(n, n_cols, 6);
                Fenced<std::uint32_t> panel(words * rows, kernel_alignment);
                half.pack(x.values.data(), x.stride, n, n_cols, reinterpret_cast<std::byte *>(panel.data()));
                for (Size i = 0; i < panel.size(); ++i) {
                    const float *row = x.row(static_cast<int>(i % rows));
                    const Size c = i / rows * 2;
                    check.that((panel[i] & 0xffffu) == f32_to_bf16(row[c]), "wrong lower half");
                    check.that(panel[i] >> 16 == (c + 1 < cols ? f32_to_bf16(row[c + 1]) : 0u),
                               "wrong upper half");
                }
            }
        }
    }
}

namespace {

std::vector<float> multiply_vector(const VectorProduct &product, const StoredMatrix &w, int first_row,
                                   const float *x, Checker &check) {
    const int n_rows = w.n_rows() - first_row;
    Fenced<std::byte> prepared(product.prepared_bytes(w.n_cols()), kernel_alignment);
    Fenced<float> out(static_cast<Size>(n_rows));
    product.prepare(x, w.n_cols(), prepared.data());
    check.that(prepared.is_intact(), "wrote around its prepared vector");
    const Fenced<std::byte> before = prepared;
    product.multiply(w.row(first_row), w.row_bytes(), n_rows, w.n_cols(), prepared.data(), out.data());
    check.that(std::memcmp(before.data(), prepared.data(), before.size()) == 0, "changed its vector");
    check.that(out.is_intact(), "wrote around its products");
    return {out.data(), out.data() + out.size()};
}

// Calls test(kernels, product, storage) for all that multiply vectors.
template <typename Test> void for_all_vector_products(Test &&test) {
    for (const Kernels *kernels : available_kernels()) {
        for (const Storage storage : {Storage::f32, Storage::f16, Storage::q4_0, Storage::q4_1, Storage::q8_0,
                                      Storage::q4_k, Storage::q4_0_16x4}) {
            const VectorProduct *product = kernels->vector_product(storage);
            if (product != nullptr) test(*kernels, *product, storage);
        }
    }
}

Rounding vector_rounding(const VectorProduct &product) {
    return product.bits == 8 ? Rounding::block8 : product.bits == 16 ? Rounding::vector16 : Rounding::none;
}

std::string vector_subject(Storage storage) {
    return "vector product of " + std::string(traits(storage).name);
}

}  // namespace

TEST(vector_products_are_within_their_ceilings) {
    for_all_vector_products([](const Kernels &kernels, const VectorProduct &product, Storage storage) {
        auto all_sizes = sizes(storage);
        if (traits(storage).block == quant_block) {
            // Every remainder that a row of blocks can leave in a register.
            for (int n_blocks = 4; n_blocks <= 40; ++n_blocks) all_sizes.push_back(n_blocks * quant_block);
        }
        for (const int n_cols : all_sizes) {
            Checker check(kernels, vector_subject(storage), n_cols);
            const int together = traits(storage).rows_together, n_rows = together == 1 ? 11 : 3 * together;
            const StoredMatrix w(storage, n_rows, n_cols, 7, storage == Storage::f32 ? 4 : 2);
            for (int t = 0; t < 4; ++t) {
                const Activations x = telling_activations(t + 1, n_cols, 8);
                for (int first_row = 0; first_row < n_rows; first_row += together) {
                    const auto products = multiply_vector(product, w, first_row, x.row(t), check);
                    for (int r = first_row; r < n_rows; ++r) {
                        const Expected expected =
                            expected_product(vector_rounding(product), w.exact(r), x.row(t));
                        check.near(products[static_cast<Size>(r - first_row)], expected.value,
                                   expected.ceiling);
                    }
                }
            }
        }
    });
}

TEST(vector_products_of_what_is_no_number) {
    for_all_vector_products([](const Kernels &kernels, const VectorProduct &product, Storage storage) {
        constexpr int n_cols = 512;
        Checker check(kernels, vector_subject(storage) + ", special", n_cols);
        const StoredMatrix w(storage, whole_groups(storage, 5), n_cols, 9);
        const auto products = [&](float everywhere, float somewhere) {
            std::vector<float> x(n_cols, everywhere);
            x[100] = somewhere;
            return multiply_vector(product, w, 0, Fenced<float>(x).data(), check);
        };
        for (const float sum : products(0.0f, -0.0f))
            check.that(sum == 0, "zeros gave " + std::to_string(sum));
        for (const float sum : products(1e-42f, -1e-42f))
            check.that(std::fabs(sum) < 1e-25f, "next to nothing gave " + std::to_string(sum));
        const float infinity = std::numeric_limits<float>::infinity();
        const float nan = std::numeric_limits<float>::quiet_NaN();
        for (const float somewhere : {nan, infinity, -infinity, std::numeric_limits<float>::max()})
            for (const float everywhere : {0.0f, 1.0f, somewhere}) products(everywhere, somewhere);
        if (!traits(storage).quantised)
            for (const float sum : products(1.0f, nan)) check.that(std::isnan(sum), "lost a NaN");
    });
}

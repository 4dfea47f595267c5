// Linear layers, as the models call them: any table, any number of threads, any mix of storages.

#include "model/compute.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
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

constexpr Storage storages[] = {Storage::f32,  Storage::f16,  Storage::q4_0,     Storage::q4_1,
                                Storage::q8_0, Storage::q4_k, Storage::q4_0_16x4};

// A weight matrix that lies as in a file, of n_rows or the next number of them that its storage can have.
struct Weight {
    StoredMatrix matrix;
    Tensor tensor;

    Weight(Storage storage, int n_rows, int n_cols, std::uint64_t seed)
        : matrix(storage, whole_groups(storage, n_rows), n_cols, seed), tensor(matrix.tensor()) {}

    int n_rows() const { return matrix.n_rows(); }
};

struct Layer {
    const Weight *weight;
    const std::vector<float> *bias = nullptr;
    const std::vector<float> *before = nullptr;  // [n, rows]: the products are added to it
};

// Runs a layer between fences; one vector of results for every product.
std::vector<std::vector<float>> linear(Compute &compute, const std::vector<float> &x, int n, int n_precise,
                                       const std::vector<Layer> &layers, Finish finish = Finish::none) {
    const int n_cols = layers[0].weight->matrix.n_cols();
    const Fenced<float> activations(x);
    Fenced<std::byte> panels(compute.panel_bytes(n, n_cols), kernel_alignment);
    std::vector<std::unique_ptr<Fenced<float>>> outs;
    std::vector<Product> products;
    for (const Layer &layer : layers) {
        const auto size = product(n, layer.weight->matrix.n_rows());
        outs.push_back(layer.before == nullptr ? std::make_unique<Fenced<float>>(size)
                                               : std::make_unique<Fenced<float>>(*layer.before));
        products.push_back({&layer.weight->tensor, layer.bias == nullptr ? nullptr : layer.bias->data(),
                            outs.back()->data(), layer.before != nullptr});
    }
    compute.linear(activations.data(), n, n_cols, n_precise, products, finish, panels.data());
    std::vector<std::vector<float>> results;
    CHECK(panels.is_intact());
    for (const auto &out : outs) {
        CHECK(out->is_intact());
        results.emplace_back(out->data(), out->data() + out->size());
    }
    return results;
}

bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](float one, float other) { return check::same_bits(one, other); });
}

// How a table rounds activations for a storage.
Rounding rounding(const Kernels &kernels, Storage storage, bool rounded, int n, bool precise) {
    const VectorProduct *vector = n == 1 ? kernels.vector_product(storage) : nullptr;
    if (!traits(storage).quantised) {
        const bool half = storage == Storage::f16 && rounded && kernels.half_bytes == 2;
        return half && vector == nullptr ? Rounding::half : Rounding::none;
    }
    if (vector != nullptr) return vector->bits == 8 ? Rounding::block8 : Rounding::vector16;
    const bool bytes = !precise && kernels.quick.multiply != kernels.precise.multiply;
    return bytes ? Rounding::block8 : Rounding::block16;
}

// The exact product of row r with token t of n, the last n_precise of which are precise.
Expected expected(const Kernels &kernels, const Weight &weight, bool rounded, const std::vector<float> &x,
                  int n, int n_precise, int t, int r) {
    const Rounding how = rounding(kernels, weight.matrix.storage(), rounded, n, t >= n - n_precise);
    return expected_product(how, weight.matrix.exact(r), x.data() + product(t, weight.matrix.n_cols()));
}

double gelu(double y) { return y * std::erfc(-y / std::sqrt(2.0)) / 2; }
double silu(double y) { return y / (1 + std::exp(-y)); }
// The greatest slopes of these.
constexpr double gelu_slope = 1.13, silu_slope = 1.1;

}  // namespace

TEST(a_layer_is_within_its_ceilings) {
    for (const Kernels *kernels : available_kernels()) {
        for (const bool rounded : {false, true}) {
            for (const Storage storage : storages) {
                Compute compute(*kernels, 2, 512, rounded);
                for (const int n_cols : {traits(storage).block == 1 ? 27 : 256, 512}) {
                    const Weight weight(storage, 41, n_cols, 1);
                    for (const int n : {1, 2, 7, 19, 40}) {
                        Checker check(*kernels, "linear of " + std::string(traits(storage).name), n);
                        const auto x = Random(2).reals(product(n, n_cols), 1.0f);
                        const auto out = linear(compute, x, n, 3, {{&weight}})[0];
                        for (int t = 0; t < n; ++t) {
                            for (int r = 0; r < weight.n_rows(); ++r) {
                                const Expected exact = expected(*kernels, weight, rounded, x, n, 3, t, r);
                                check.near(out[product(t, weight.n_rows()) + static_cast<Size>(r)],
                                           exact.value, exact.ceiling);
                            }
                        }
                    }
                }
            }
        }
    }
}

TEST(results_do_not_depend_on_the_number_of_threads) {
    for (const Kernels *kernels : available_kernels()) {
        for (const Storage storage : storages) {
            constexpr int n_cols = 256;
            const Weight one(storage, 301, n_cols, 3), other(storage, 301, n_cols, 4);
            const auto bias = Random(5).reals(static_cast<Size>(one.n_rows()), 1.0f);
            for (const int n : {1, 3, 33}) {
                for (const Finish finish : {Finish::none, Finish::gelu, Finish::swiglu}) {
                    const auto x = Random(6).reals(product(n, n_cols), 1.0f);
                    std::vector<std::vector<float>> first;
                    for (const int n_threads : {1, 2, 3, 7}) {
                        Compute compute(*kernels, n_threads, n_cols, true);
                        const auto out = linear(compute, x, n, 1, {{&one, &bias}, {&other}}, finish);
                        if (first.empty()) first = out;
                        CHECK(same_bits(out[0], first[0]));
                        CHECK(same_bits(out[1], first[1]));
                    }
                }
            }
        }
    }
}

// A row is the same among any number of others, as long as the same arithmetic multiplies it.
TEST(results_do_not_depend_on_the_number_of_rows) {
    for (const Kernels *kernels : available_kernels()) {
        for (const Storage storage : storages) {
            constexpr int n_cols = 256, most = 37;
            const Weight weight(storage, 50, n_cols, 7);
            const int n_rows = weight.n_rows();
            Compute compute(*kernels, 2, n_cols, true);
            const auto x = Random(8).reals(product(most, n_cols), 1.0f);
            const auto all = linear(compute, x, most, most, {{&weight}})[0];
            for (const int n : {2, 3, 12, 13, 36}) {
                const std::vector<float> some(x.begin(), x.begin() + n * n_cols);
                CHECK(same_bits(linear(compute, some, n, n, {{&weight}})[0],
                                {all.begin(), all.begin() + n * n_rows}));
            }
            // One row may take another way.
            const std::vector<float> row(x.begin(), x.begin() + n_cols);
            const auto alone = linear(compute, row, 1, 1, {{&weight}})[0];
            Checker check(*kernels, "one row of " + std::string(traits(storage).name), n_cols);
            for (int r = 0; r < n_rows; ++r) {
                const Expected by_vector = expected(*kernels, weight, true, row, 1, 1, 0, r);
                const Expected by_panel = expected(*kernels, weight, true, x, most, most, 0, r);
                check.near(alone[static_cast<Size>(r)], all[static_cast<Size>(r)],
                           by_vector.ceiling + by_panel.ceiling);
            }
        }
    }
}

TEST(the_last_rows_are_precise) {
    for (const Kernels *kernels : available_kernels()) {
        for (const Storage storage :
             {Storage::q4_0, Storage::q4_1, Storage::q8_0, Storage::q4_k, Storage::q4_0_16x4}) {
            constexpr int n = 29, n_cols = 512;
            const Weight weight(storage, 20, n_cols, 9);
            const std::ptrdiff_t n_rows = weight.n_rows();
            Compute compute(*kernels, 2, n_cols, true);
            const auto x = Random(10).reals(product(n, n_cols), 1.0f);
            const auto quick = linear(compute, x, n, 0, {{&weight}})[0];
            const auto precise = linear(compute, x, n, n, {{&weight}})[0];
            for (const int n_precise : {1, 2, 13, 28, 100}) {
                const auto mixed = linear(compute, x, n, n_precise, {{&weight}})[0];
                const std::ptrdiff_t values = n_rows * std::max(0, n - n_precise);
                CHECK(same_bits({mixed.begin(), mixed.begin() + values},
                                {quick.begin(), quick.begin() + values}));
                CHECK(same_bits({mixed.begin() + values, mixed.end()},
                                {precise.begin() + values, precise.end()}));
            }
            CHECK_EQ(same_bits(quick, precise), kernels->quick.multiply == kernels->precise.multiply);
        }
    }
}

TEST(products_together_are_those_alone) {
    for (const Kernels *kernels : available_kernels()) {
        for (const Storage storage : storages) {
            constexpr int n_cols = 256;
            const Weight q(storage, 70, n_cols, 11), k(storage, 35, n_cols, 12), v(storage, 1, n_cols, 13);
            Compute compute(*kernels, 3, n_cols, false);
            for (const int n : {1, 14}) {
                const auto x = Random(14).reals(product(n, n_cols), 1.0f);
                const auto together = linear(compute, x, n, 1, {{&q}, {&k}, {&v}});
                CHECK(same_bits(together[0], linear(compute, x, n, 1, {{&q}})[0]));
                CHECK(same_bits(together[1], linear(compute, x, n, 1, {{&k}})[0]));
                CHECK(same_bits(together[2], linear(compute, x, n, 1, {{&v}})[0]));
            }
        }
    }
}

TEST(a_layer_of_mixed_storages) {
    struct Mixture {
        Storage one, other;
        int n_rows;
    };
    for (const Kernels *kernels : available_kernels()) {
        for (const auto &[storage, other_storage, n_rows] :
             {Mixture{Storage::q4_0, Storage::f16, 33}, Mixture{Storage::q4_0, Storage::q4_0_16x4, 48},
              Mixture{Storage::q4_0_16x4, Storage::q4_0, 48}}) {
            constexpr int n_cols = 512;
            const Weight one(storage, n_rows, n_cols, 15), other(other_storage, n_rows, n_cols, 16);
            const auto bias = Random(17).reals(static_cast<Size>(n_rows), 1.0f);
            Compute compute(*kernels, 2, n_cols, true);
            for (const int n : {1, 9}) {
                const auto x = Random(18).reals(product(n, n_cols), 1.0f);
                const auto mixed = linear(compute, x, n, 1, {{&one, &bias}, {&other}});
                const auto first = linear(compute, x, n, 1, {{&one, &bias}})[0];
                const auto second = linear(compute, x, n, 1, {{&other}})[0];
                CHECK(same_bits(mixed[0], first));
                CHECK(same_bits(mixed[1], second));
                const auto gelus = linear(compute, x, n, 1, {{&one, &bias}, {&other}}, Finish::gelu);
                CHECK(same_bits(gelus[0], linear(compute, x, n, 1, {{&one, &bias}}, Finish::gelu)[0]));
                const auto gated = linear(compute, x, n, 1, {{&one, &bias}, {&other}}, Finish::swiglu)[0];
                auto gate = first;
                kernels->silu_multiply(gate.data(), second.data(), static_cast<int>(gate.size()));
                CHECK(same_bits(gated, gate));
            }
        }
    }
}

// Many rows meet the same numbers in the same order, whichever way these are stored.
TEST(interleaved_rows_are_those_of_q4_0) {
    for (const Kernels *kernels : available_kernels()) {
        constexpr int n_cols = 288, n_rows = 304;
        const Weight groups(Storage::q4_0_16x4, n_rows, n_cols, 30), rows(Storage::q4_0, n_rows, n_cols, 30);
        for (const int n_threads : {1, 3}) {
            Compute compute(*kernels, n_threads, n_cols, true);
            for (const int n : {2, 7, 19, 40}) {
                const auto x = Random(31).reals(product(n, n_cols), 1.0f);
                CHECK(same_bits(linear(compute, x, n, 2, {{&groups}})[0],
                                linear(compute, x, n, 2, {{&rows}})[0]));
            }
        }
    }
}

// Large enough that the threads share one row of activations, and that its sums are added in two pieces.
TEST(threads_share_whole_groups_of_rows) {
    for (const Kernels *kernels : available_kernels()) {
        constexpr int n_cols = 288, n_rows = 1040;
        const Weight weight(Storage::q4_0_16x4, n_rows, n_cols, 32);
        const auto x = Random(33).reals(n_cols, 1.0f), before = Random(34).reals(n_rows, 100.0f);
        for (const int n_threads : {1, 2, 3, 7}) {
            Checker check(*kernels, "groups of rows, threads", n_threads);
            Compute compute(*kernels, n_threads, n_cols, false);
            const auto out = linear(compute, x, 1, 1, {{&weight}})[0];
            const auto added = linear(compute, x, 1, 1, {{&weight, nullptr, &before}})[0];
            for (int r = 0; r < n_rows; ++r) {
                const auto i = static_cast<Size>(r);
                const Expected exact = expected(*kernels, weight, false, x, 1, 1, 0, r);
                check.near(out[i], exact.value, exact.ceiling);
                check.that(check::same_bits(added[i], before[i] + out[i]), "another sum");
            }
        }
    }
}

TEST(bias_accumulation_and_finish) {
    for (const Kernels *kernels : available_kernels()) {
        for (const Storage storage : storages) {
            constexpr int n_cols = 256;
            const Weight one(storage, 37, n_cols, 19), other(storage, 37, n_cols, 20);
            const int n_rows = one.n_rows();
            const auto bias = Random(21).reals(static_cast<Size>(n_rows), 2.0f);
            Compute compute(*kernels, 2, n_cols, false);
            for (const int n : {1, 10}) {
                Checker check(*kernels, "finish of " + std::string(traits(storage).name), n);
                // Small enough that functions are not saturated everywhere.
                const auto x = Random(22).reals(product(n, n_cols), 0.02f);
                const auto before = Random(23).reals(product(n, n_rows), 5.0f);
                const auto biased = linear(compute, x, n, 1, {{&one, &bias}})[0];
                const auto added = linear(compute, x, n, 1, {{&one, &bias, &before}})[0];
                const auto gelus = linear(compute, x, n, 1, {{&one, &bias}}, Finish::gelu)[0];
                const auto gated = linear(compute, x, n, 1, {{&one, &bias}, {&other}}, Finish::swiglu);
                const auto up = linear(compute, x, n, 1, {{&other}})[0];
                CHECK(same_bits(gated[1], up));
                for (int t = 0; t < n; ++t) {
                    for (int r = 0; r < n_rows; ++r) {
                        const Size i = product(t, n_rows) + static_cast<Size>(r);
                        const Expected exact = expected(*kernels, one, false, x, n, 1, t, r);
                        const double b = bias[static_cast<Size>(r)];
                        const double sum = exact.value + b, old = before[i];
                        const double ceiling =
                            exact.ceiling + 4 * float_step * (std::fabs(sum) + std::fabs(b) + std::fabs(old));
                        check.near(biased[i], sum, ceiling);
                        check.near(added[i], sum + old, ceiling);
                        const double size = std::max(1.0, std::fabs(sum));
                        check.near(gelus[i], gelu(sum), gelu_slope * ceiling + gelu_ceiling * size);
                        check.near(gated[0][i], silu(sum) * up[i],
                                   (silu_slope * ceiling + silu_ceiling * size) *
                                       std::fabs(static_cast<double>(up[i])));
                    }
                }
            }
        }
    }
}

TEST(work_is_counted_once) {
    const Weight q4(Storage::q4_0, 40, 256, 24), f16(Storage::f16, 40, 256, 25),
        f32(Storage::f32, 40, 256, 26);
    Compute compute(scalar_kernels(), 1, 256, true);
    constexpr int n = 5;
    const auto x = Random(27).reals(n * 256, 1.0f);
    {
        const Stages::Timer timer(compute.stages(), Stage::encoder);
        linear(compute, x, n, 1, {{&q4}, {&f16}, {&f32}});
        linear(compute, x, n, 1, {{&q4}, {&q4}});
    }
    linear(compute, x, n, 1, {{&q4}});  // in no stage
    const Work &work = compute.stages().entries()[static_cast<Size>(Stage::encoder)].work;
    CHECK_EQ(work.int8_operations, 3 * 2 * 40 * 256 * n);
    CHECK_EQ(work.bf16_operations, 2 * 40 * 256 * n);
    CHECK_EQ(work.f32_operations, 2 * 40 * 256 * n);
    CHECK_EQ(work.bytes, 40 * (3 * 256 / 32 * 18 + 256 * 2 + 256 * 4));
}

TEST(an_aborted_layer_ends) {
    const Weight weight(Storage::q4_0, 40, 256, 28);
    Compute compute(scalar_kernels(), 2, 256, true);
    const auto x = Random(29).reals(5 * 256, 1.0f);
    compute.pool().abort();
    CHECK_THROWS(linear(compute, x, 5, 1, {{&weight}}), "aborted");
    compute.pool().clear_abort();
    CHECK_EQ(linear(compute, x, 5, 1, {{&weight}})[0].size(), 200u);
}

// bench-kernels [NAME-FILTER]: each kernel of each table at the model's shapes, on one thread. The filter is
// a part of "TABLE KERNEL". Times are medians of repetitions after a warm-up; an operation is a
// multiplication or an addition, and bytes are those of the larger side: weights, activations or elements
// that are read.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/memory_map.h"
#include "interleaved.h"
#include "kernels/kernels.h"
#include "model/tensor.h"
#include "random.h"

using namespace chatllm;

namespace {

using Size = std::size_t;
using Clock = std::chrono::steady_clock;

Size size(int n) { return static_cast<Size>(n); }

// Seconds of a call: the median of 11 samples of at least 4 milliseconds, after one that is thrown away.
template <typename Call> double seconds_per_call(Call &&call) {
    const auto seconds = [&](long n_calls) {
        const auto start = Clock::now();
        for (long i = 0; i < n_calls; ++i) call();
        return std::chrono::duration<double>(Clock::now() - start).count();
    };
    long n_calls = 1;
    for (double spent = seconds(1); spent < 4e-3; spent = seconds(n_calls)) n_calls *= 2;
    std::vector<double> samples;
    for (int i = 0; i < 11; ++i) samples.push_back(seconds(n_calls) / static_cast<double>(n_calls));
    std::nth_element(samples.begin(), samples.begin() + 5, samples.end());
    return samples[5];
}

class Bench {
public:
    Bench(const Kernels &kernels, std::string_view filter) : kernels_(kernels), filter_(filter) {}

    bool wants(const std::string &kernel) const {
        return full_name(kernel).find(filter_) != std::string::npos;
    }

    // Measures a call that takes so many operations and so many bytes, either of which may be 0.
    template <typename Call> void measure(const std::string &kernel, const std::string &shape,
                                          double operations, double bytes, Call &&call) const {
        if (!wants(kernel)) return;
        const double seconds = seconds_per_call(call);
        std::printf("%-32s %-16s %12.2f us", full_name(kernel).c_str(), shape.c_str(), seconds * 1e6);
        if (operations > 0) std::printf(" %9.1f GOP/s", operations / seconds * 1e-9);
        if (bytes > 0) std::printf(" %9.2f GB/s", bytes / seconds * 1e-9);
        std::printf("\n");
        std::fflush(stdout);
    }

    const Kernels &kernels() const { return kernels_; }

private:
    std::string full_name(const std::string &kernel) const {
        return std::string(kernels_.name) + " " + kernel;
    }

    const Kernels &kernels_;
    std::string_view filter_;
};

Size stored_bytes(Storage storage, int n_cols) {
    return size(n_cols / traits(storage).block) * size(traits(storage).block_bytes);
}

// Rows of small numbers: quants at random, scales and plain values of 2^-7 or so.
void fill_rows(Storage storage, int n_rows, int n_cols, std::byte *out) {
    check::Random random(1);
    const auto &type = traits(storage);
    std::vector<std::byte> row(stored_bytes(storage, n_cols));
    for (int r = 0; r < n_rows; ++r) {
        // A few rows differ, the others repeat them.
        for (Size at = 0; r < 16 && at < row.size(); at += size(type.block_bytes)) {
            for (Size i = 0; i < size(type.block_bytes); ++i)
                row[at + i] = static_cast<std::byte>(random.below(256));
            const float value = random.real(0.01f);
            const std::uint16_t halves[] = {f32_to_f16(value), f32_to_f16(-value)};
            if (storage == Storage::f32) std::memcpy(row.data() + at, &value, sizeof(value));
            if (storage == Storage::f16 || type.quantised) std::memcpy(row.data() + at, halves, 2);
            if (storage == Storage::q4_1 || storage == Storage::q4_k)
                std::memcpy(row.data() + at + 2, halves + 1, 2);
        }
        std::memcpy(out + size(r) * row.size(), row.data(), row.size());
    }
    if (storage != Storage::q4_0_16x4) return;
    std::vector<std::byte> group(interleaved_rows * row.size());
    for (int r = 0; r < n_rows; r += interleaved_rows, out += group.size()) {
        std::memcpy(group.data(), out, group.size());
        check::interleave_rows(group.data(), interleaved_rows, n_cols, out);
    }
}

std::string columns(int n_cols) { return "K " + std::to_string(n_cols); }

std::string stored(Storage storage) { return std::string(" ").append(traits(storage).name); }

void bench_pack(const Bench &bench, const std::string &name, const Arithmetic &arithmetic, int n_cols) {
    const int n_rows = arithmetic.panel_rows;
    const auto x = check::Random(2).reals(size(n_rows) * size(n_cols), 1.0f);
    const AnonymousMap panel(size(n_rows) * arithmetic.panel_row_bytes(n_cols), "a panel");
    bench.measure(name + " pack", columns(n_cols), 0, static_cast<double>(x.size() * sizeof(float)),
                  [&] { arithmetic.pack(x.data(), size(n_cols), n_rows, n_cols, panel.data()); });
}

void bench_unpack(const Bench &bench, const std::string &name, const Arithmetic &arithmetic, Storage storage,
                  int n_cols) {
    const int n_rows = bench.kernels().tile_rows;
    const Size row_bytes = stored_bytes(storage, n_cols);
    const AnonymousMap rows(size(n_rows) * row_bytes, "rows");
    const AnonymousMap tile(arithmetic.tile_bytes(n_cols), "a tile");
    fill_rows(storage, n_rows, n_cols, rows.data());
    bench.measure(name + " unpack" + stored(storage), columns(n_cols), 0,
                  static_cast<double>(size(n_rows) * row_bytes),
                  [&] { arithmetic.unpack(storage, rows.data(), row_bytes, n_rows, n_cols, tile.data()); });
}

// A tile with as many full panels as a clip of 11 s has rows.
void bench_multiply(const Bench &bench, const std::string &name, const Arithmetic &arithmetic,
                    Storage storage, int n_cols) {
    constexpr int n_tokens = 160;
    const int n_rows = bench.kernels().tile_rows, panel_rows = arithmetic.panel_rows;
    const Size n_panels = size((n_tokens + panel_rows - 1) / panel_rows);
    const Size row_bytes = stored_bytes(storage, n_cols);
    const Size panel_bytes = (size(panel_rows) * arithmetic.panel_row_bytes(n_cols) + kernel_alignment - 1) /
                             kernel_alignment * kernel_alignment;
    const AnonymousMap rows(size(n_rows) * row_bytes, "rows");
    const AnonymousMap tile(arithmetic.tile_bytes(n_cols), "a tile");
    const AnonymousMap panels(n_panels * panel_bytes, "panels");
    fill_rows(storage, n_rows, n_cols, rows.data());
    const auto x = check::Random(2).reals(size(panel_rows) * size(n_cols), 1.0f);
    std::vector<float> out(size(panel_rows) * size(n_rows));
    arithmetic.unpack(storage, rows.data(), row_bytes, n_rows, n_cols, tile.data());
    for (Size i = 0; i < n_panels; ++i)
        arithmetic.pack(x.data(), size(n_cols), panel_rows, n_cols, panels.data() + i * panel_bytes);
    const double operations = 2.0 * n_rows * n_cols * panel_rows * static_cast<double>(n_panels);
    bench.measure(name + " multiply" + stored(storage), columns(n_cols), operations, 0, [&] {
        for (Size i = 0; i < n_panels; ++i) {
            arithmetic.multiply(tile.data(), n_rows, panels.data() + i * panel_bytes, panel_rows, n_cols,
                                false, out.data(), size(n_rows));
        }
    });
}

// A matrix that a cache holds, and one that comes from memory.
void bench_vector(const Bench &bench, Storage storage, int n_cols) {
    const VectorProduct *product = bench.kernels().vector_product(storage);
    if (product == nullptr) return;
    const Size row_bytes = stored_bytes(storage, n_cols);
    const AnonymousMap prepared(product->prepared_bytes(n_cols), "a vector");
    const auto x = check::Random(3).reals(size(n_cols), 1.0f);
    product->prepare(x.data(), n_cols, prepared.data());
    const std::string name = "vector" + stored(storage);
    bench.measure(name + " prepare", columns(n_cols), 0, static_cast<double>(x.size() * sizeof(float)),
                  [&] { product->prepare(x.data(), n_cols, prepared.data()); });
    for (const bool cached : {true, false}) {
        const std::string kernel = name + (cached ? " cached" : " memory");
        if (!bench.wants(kernel)) continue;
        const Size group_bytes = size(traits(storage).rows_together) * row_bytes;
        const Size n_groups = (cached ? Size{256} << 10 : Size{128} << 20) / group_bytes;
        const int n_rows = static_cast<int>(n_groups) * traits(storage).rows_together;
        const Size bytes = size(n_rows) * row_bytes;
        const AnonymousMap rows(bytes, "rows");
        fill_rows(storage, n_rows, n_cols, rows.data());
        std::vector<float> out(size(n_rows));
        bench.measure(kernel, columns(n_cols), 2.0 * n_rows * n_cols, static_cast<double>(bytes), [&] {
            product->multiply(rows.data(), row_bytes, n_rows, n_cols, prepared.data(), out.data());
        });
    }
}

// A decoder's query heads that share keys and values, at the end of an 11-second clip.
void bench_attention(const Bench &bench) {
    constexpr int n = 200, n_heads = 2, width = 128;
    constexpr Size stride = 8 * width;
    check::Random random(4);
    std::vector<std::uint16_t> rows(n * stride);
    for (auto &half : rows) half = f32_to_f16(random.real(1.0f));
    const auto q = random.reals(n_heads * width, 1.0f);
    std::vector<float> scores(n_heads * n), out(n_heads * width);
    constexpr double operations = 2.0 * n * n_heads * width, bytes = 2.0 * n * width;
    const std::string shape = std::to_string(n) + " positions";
    bench.measure("attention_scores", shape, operations, bytes, [&] {
        bench.kernels().attention_scores(q.data(), n_heads, width, rows.data(), stride, n, 0.1f,
                                         scores.data(), n);
    });
    std::fill(scores.begin(), scores.end(), 1.0f / n);
    bench.measure("attention_values", shape, operations, bytes, [&] {
        std::fill(out.begin(), out.end(), 0.0f);
        bench.kernels().attention_values(scores.data(), n, n_heads, width, rows.data(), stride, n,
                                         out.data());
    });
}

void bench_elementwise(const Bench &bench) {
    const Kernels &kernels = bench.kernels();
    for (const int n : {1024, 3072}) {
        check::Random random(5);
        auto x = random.reals(size(n), 1.0f), y = random.reals(size(n), 1.0f);
        auto out = random.reals(size(n), 1.0f);
        std::vector<std::uint16_t> halves(size(n));
        const auto *packed = reinterpret_cast<const std::byte *>(halves.data());
        kernels.pack_f16(x.data(), n, halves.data());
        // What a kernel changes in place is copied in anew, so that it meets the same numbers every time.
        const auto anew = [&] { std::copy(y.begin(), y.end(), out.begin()); };
        const auto each = [&](const char *name, auto &&call) {
            bench.measure(name, "n " + std::to_string(n), 0, 4.0 * n, call);
        };
        each("copy alone", anew);
        each("add", [&] { anew(), kernels.add(out.data(), x.data(), n); });
        each("scale", [&] { anew(), kernels.scale(out.data(), 0.5f, n); });
        each("gelu", [&] { anew(), kernels.gelu(out.data(), n); });
        each("silu_multiply", [&] { anew(), kernels.silu_multiply(out.data(), x.data(), n); });
        each("exponentials", [&] { anew(), kernels.exponentials(out.data(), 1.0f, n); });
        each("maximum", [&] { out[0] = kernels.maximum(x.data(), n); });
        each("rms_norm", [&] { kernels.rms_norm(x.data(), y.data(), 1e-6f, n, out.data()); });
        each("layer_norm", [&] { kernels.layer_norm(x.data(), y.data(), y.data(), 1e-5f, n, out.data()); });
        each("unpack_f16", [&] { kernels.unpack_f16(packed, n, out.data()); });
        each("pack_f16", [&] { kernels.pack_f16(x.data(), n, halves.data()); });
        each("round_to_half", [&] { kernels.round_to_half(x.data(), n, halves.data()); });
    }
}

void bench_interleave(const Bench &bench) {
    const int n_rows = bench.kernels().single.panel_rows, n_words = 480;  // of a convolution's channels
    const std::vector<std::uint32_t> words(size(n_rows) * size(n_words), 1);
    std::vector<const std::uint32_t *> rows;
    for (int r = 0; r < n_rows; ++r) rows.push_back(words.data() + size(r) * size(n_words));
    std::vector<std::uint32_t> out(words.size());
    bench.measure("interleave", std::to_string(n_rows) + " x " + std::to_string(n_words), 0,
                  static_cast<double>(4 * words.size()),
                  [&] { bench.kernels().interleave(rows.data(), n_rows, n_words, out.data()); });
}

}  // namespace

int main(int argc, char **argv) {
    if (argc > 2) {
        std::fprintf(stderr, "usage: bench-kernels [NAME-FILTER]\n");
        return 2;
    }
    for (const Kernels *kernels : available_kernels()) {
        const Bench bench(*kernels, argc == 2 ? argv[1] : "");
        // Columns of encoder and decoder layers; 4320 of a 3x3 convolution of 480 channels.
        for (const int n_cols : {1024, 4320}) {
            bench_pack(bench, "single", kernels->single, n_cols);
            bench_unpack(bench, "single", kernels->single, Storage::f32, n_cols);
            bench_multiply(bench, "single", kernels->single, Storage::f32, n_cols);
            bench_pack(bench, "half", kernels->half, n_cols);
            bench_unpack(bench, "half", kernels->half, Storage::f16, n_cols);
            bench_multiply(bench, "half", kernels->half, Storage::f16, n_cols);
        }
        for (const int n_cols : {1024, 2048, 3072, 6144}) {
            bench_pack(bench, "precise", kernels->precise, n_cols);
            bench_pack(bench, "quick", kernels->quick, n_cols);
            for (const Storage storage :
                 {Storage::q4_0, Storage::q4_1, Storage::q8_0, Storage::q4_k, Storage::q4_0_16x4}) {
                if (!unpacks(*kernels, storage)) continue;
                bench_unpack(bench, "precise", kernels->precise, storage, n_cols);  // the tiles of both
                bench_multiply(bench, "precise", kernels->precise, storage, n_cols);
                bench_multiply(bench, "quick", kernels->quick, storage, n_cols);
            }
        }
        for (const Storage storage : {Storage::f32, Storage::f16, Storage::q4_0, Storage::q4_1, Storage::q8_0,
                                      Storage::q4_k, Storage::q4_0_16x4}) {
            for (const int n_cols : {1024, 2048, 3072, 6144}) bench_vector(bench, storage, n_cols);
        }
        bench_attention(bench);
        bench_interleave(bench);
        bench_elementwise(bench);
    }
    return 0;
}

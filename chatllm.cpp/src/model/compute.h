#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arena.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/tensor.h"

namespace chatllm {

// The number of elements of a matrix.
inline std::size_t product(int rows, int cols) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
}

// Rows of activations, in single precision and, where weights need it, quantised as well.
struct Activations {
    const float *values;      // [n, n_cols]
    QuantActivations quants;  // null pointers unless prepared
    int n;
    int n_cols;

    // Rows [first, first + count).
    Activations tokens(int first, int count) const;
};

// Buffers for the quantised copy of activations.
struct QuantBuffers {
    std::int16_t *quants = nullptr;  // [n, n_cols]
    float *scales = nullptr;         // [n, n_cols / 32]
    float *sums = nullptr;           // [n, n_cols / 32]

    void layout(ArenaCursor &arena, std::size_t n, std::size_t n_cols);
};

// What carries out the arithmetic of a session: one table of kernels, one pool of threads, scratch for each
// thread. Results depend on the table only, never on the number of threads or on how rows are batched.
class Compute {
public:
    // `widest_row` is the longest row of any weight matrix.
    Compute(const Kernels &kernels, int n_threads, int widest_row);

    const Kernels &kernels() const { return kernels_; }
    ThreadPool &pool() { return pool_; }

    // Makes x ready for products with weights of which at least one is quantised, if `quantise`.
    Activations prepare(const float *x, int n, int n_cols, bool quantise, const QuantBuffers &buffers);
    // out[t, r] = weight[r] . x[t] (+ bias[r]) for all rows of the weight; bias may be null. [x.n, rows]
    void linear(const Tensor &weight, const float *bias, const Activations &x, float *out);
    // The part of `linear` for rows [first, last), on the calling thread; `thread` chooses the scratch.
    void multiply_rows(const Tensor &weight, int first, int last, const Activations &x, float *out,
                       std::size_t out_stride, int thread);
    // One row of a matrix as single precision, e.g. an embedding. [weight.cols()]
    void unpack_row(const Tensor &weight, int row, float *out);

    // Calls work(first, last, thread) for ranges of at most `step` that cover [0, n).
    template <typename Work> void for_ranges(int n, int step, Work &&work) {
        pool_.run((n + step - 1) / step, [&](int chunk, int thread) {
            const int first = chunk * step;
            work(first, first + step < n ? first + step : n, thread);
        });
    }

private:
    struct Scratch {
        float *values;        // [tile_rows_, widest_row_]
        std::int8_t *quants;  // [tile_rows_, widest_row_]
        float *scales;        // [tile_rows_, widest_row_ / 32]
        float *offsets;       // [tile_rows_, widest_row_ / 32]
    };

    Scratch scratch(int thread) const;
    // Unpacks a quantised row into place `index` of a tile.
    void unpack_quants(const Tensor &weight, int row, const Scratch &tile, std::size_t index) const;

    const Kernels &kernels_;
    std::size_t widest_row_;
    int tile_rows_;  // rows of weights that are unpacked together
    std::size_t scratch_bytes_;
    AnonymousMap scratch_memory_;
    ThreadPool pool_;
};

}  // namespace chatllm

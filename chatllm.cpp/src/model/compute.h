#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/stages.h"
#include "model/tensor.h"

namespace chatllm {

// The number of elements of a matrix.
inline std::size_t product(int rows, int cols) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
}

// One matrix among those that a linear layer multiplies with the same activations.
struct Product {
    const Tensor *weight;
    const float *bias;  // [rows], or null
    float *out;         // [n, rows]
    bool accumulate = false;
};

// What is done to the products before they leave the cache.
enum class Finish {
    none,
    gelu,    // of every product
    swiglu,  // the first becomes silu(first) * second
};

// What carries out the arithmetic of a session: one table of kernels, one pool of threads, scratch for each
// thread. Results depend on the table only, never on the number of threads.
class Compute {
public:
    // `widest_row` is the longest row of any weight matrix. With `rounded`, f16 weights are multiplied in
    // bfloat16 where that is faster: for models whose other weights are coarser than that anyway.
    Compute(const Kernels &kernels, int n_threads, int widest_row, bool rounded);

    const Kernels &kernels() const { return kernels_; }
    ThreadPool &pool() { return pool_; }
    int n_threads() const { return pool_.size(); }
    Stages &stages() { return stages_; }

    // Bytes of the buffer that `linear` needs for n rows of n_cols.
    std::size_t panel_bytes(int n, int n_cols) const;
    // out[t, r] = weight[r] . x[t] (+ bias[r]) for every product; x: [n, n_cols], all weights of n_cols
    // columns. Quantised weights meet activations of 16 bits in the last n_precise rows, and of 8 bits before
    // them if the table is faster with those. `panels` holds panel_bytes(n, n_cols). Where n is 1, threads
    // that are done begin to fetch the weights of what comes `next`.
    void linear(const float *x, int n, int n_cols, int n_precise, std::span<const Product> products,
                Finish finish, std::byte *panels, std::span<const Product> next = {});

    // Adds operations with a weight, and the weight's bytes, to the stage in progress.
    void count(const Tensor &weight, std::int64_t operations);
    // The arithmetic for weights of a storage; the quantised one is for rows that matter most.
    const Arithmetic &arithmetic(Storage storage) const;
    // Whether that is the one with rounded operands, two to a word.
    bool is_half(const Arithmetic &arithmetic) const {
        return &arithmetic == &kernels_.half && kernels_.half_bytes == 2;
    }
    // Of all threads.
    std::size_t scratch_bytes() const { return scratch_memory_.size(); }
    // A tile of scratch that holds tile_rows rows of widest_row in any arithmetic; behind it is room for the
    // rows that are stored together, where they do not make a tile.
    std::byte *tile(int thread) const {
        return scratch_memory_.data() + static_cast<std::size_t>(thread) * scratch_bytes_;
    }

    // Calls work(first, last, thread) for ranges of at most `step` that cover [0, n).
    template <typename Task> void for_ranges(int n, int step, Task &&task) {
        pool_.run((n + step - 1) / step, [&](int chunk, int thread) {
            const int first = chunk * step;
            task(first, first + step < n ? first + step : n, thread);
        });
    }

    // Calls task(chunk, thread) for every chunk, on all threads only if reading `n_bytes` is worth waking
    // them.
    template <typename Task> void share(int n_chunks, std::size_t n_bytes, Task &&task) {
        if (n_bytes >= least_shared_bytes) return pool_.run(n_chunks, task);
        pool_.run(1, [&](int, int thread) {
            for (int chunk = 0; chunk < n_chunks; ++chunk) task(chunk, thread);
        });
    }

private:
    // Some ten microseconds of one thread, against one or two for calling another.
    static constexpr std::size_t least_shared_bytes = std::size_t{128} << 10;

    struct Panel;
    class Panels;
    class Chunks;

    void multiply_vector(const float *x, std::span<const Product> products, const VectorProduct &kernel,
                         Finish finish, std::byte *prepared);
    // Tells each thread the rows that it will multiply first when one row meets these.
    void expect(std::span<const Product> next);
    void multiply_panels(const float *x, int n, int n_precise, std::span<const Product> products,
                         Finish finish, std::byte *buffer);
    // Bias and finish of rows [first, last) of n rows.
    void finish_rows(std::span<const Product> products, int first, int last, int n, Finish finish) const;

    const Kernels &kernels_;
    bool rounded_;
    std::size_t tile_bytes_;
    std::size_t scratch_bytes_;
    AnonymousMap scratch_memory_;
    ThreadPool pool_;
    Stages stages_;
};

}  // namespace chatllm

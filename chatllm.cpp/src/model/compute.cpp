#include "model/compute.h"

#include <algorithm>
#include <initializer_list>

namespace chatllm {
namespace {

// Of a chunk of many rows, few enough that an abort is seen in time.
constexpr int most_chunk_tiles = 4;
constexpr std::int64_t most_chunk_operations = std::int64_t{1} << 31;
constexpr int most_sums = 1024;
static_assert(most_sums % interleaved_rows == 0);
constexpr std::int64_t vector_chunk_bytes = std::int64_t{1} << 15;  // of weights: some microseconds of memory

// Quantised rows are whole blocks, others need not be.
constexpr int whole_blocks(int n_cols) { return (n_cols + quant_block - 1) / quant_block * quant_block; }

constexpr std::size_t aligned(std::size_t bytes) {
    return (bytes + kernel_alignment - 1) / kernel_alignment * kernel_alignment;
}

std::size_t tile_bytes(const Kernels &kernels, int n_cols) {
    return aligned(std::max({kernels.single.tile_bytes(n_cols), kernels.half.tile_bytes(n_cols),
                             kernels.precise.tile_bytes(n_cols)}));
}

// For rows that are stored together and have to be separated for this table's tiles, whether or not a file
// has such; widest_row is in whole blocks.
std::size_t separated_bytes(const Kernels &kernels, int widest_row) {
    if (unpacks(kernels, Storage::q4_0_16x4)) return 0;
    const TypeTraits &type = traits(Storage::q4_0);
    return aligned(product(interleaved_rows, widest_row / type.block * type.block_bytes));
}

// Rows of a chunk that meets one row of activations.
int vector_step(const Tensor &weight) {
    const auto row_bytes = static_cast<std::int64_t>(weight.row_bytes());
    const std::int64_t together = std::max(4, traits(weight.type).rows_together);
    return static_cast<int>(std::clamp<std::int64_t>(vector_chunk_bytes / row_bytes / together * together,
                                                     together, weight.rows() + together));
}

// Rows that are read next, while these are multiplied.
void prefetch_rows(const Tensor &weight, int first, int count) {
    const int last = std::min(first + count, weight.rows());
    if (first >= last) return;
    const std::byte *end = weight.row(last - 1) + weight.row_bytes();
    for (const std::byte *line = weight.row(first); line < end; line += 64) __builtin_prefetch(line, 0, 2);
}

}  // namespace

// Rows of activations that are multiplied together.
struct Compute::Panel {
    const Arithmetic *arithmetic;
    int first;
    int count;
    std::size_t offset;  // in the buffer
};

// How n rows are cut into panels of almost equal size, the precise ones last.
class Compute::Panels {
public:
    Panels(const Arithmetic &most, const Arithmetic &last, int n, int n_last, int n_cols)
        : parts_{{&most, 0, n - n_last, 0}, {&last, n - n_last, n_last, 0}} {
        std::size_t offset = 0;
        for (Part &part : parts_) {
            part.row_bytes = aligned(part.arithmetic->panel_row_bytes(n_cols));
            part.offset = offset;
            part.n_panels = (part.count + part.arithmetic->panel_rows - 1) / part.arithmetic->panel_rows;
            offset += static_cast<std::size_t>(part.count) * part.row_bytes;
        }
    }

    int size() const { return parts_[0].n_panels + parts_[1].n_panels; }

    Panel operator[](int index) const {
        const Part &part = index < parts_[0].n_panels ? parts_[0] : parts_[1];
        const int i = index < parts_[0].n_panels ? index : index - parts_[0].n_panels;
        const auto bound = [&](std::int64_t k) { return static_cast<int>(k * part.count / part.n_panels); };
        const int begin = bound(i);
        const int end = bound(i + 1);
        return {part.arithmetic, part.first + begin, end - begin,
                part.offset + static_cast<std::size_t>(begin) * part.row_bytes};
    }

private:
    struct Part {
        const Arithmetic *arithmetic;
        int first;
        int count;
        int n_panels;
        std::size_t row_bytes = 0;
        std::size_t offset = 0;
    };
    Part parts_[2];
};

// Rows of several products cut into chunks, one product after the other; for swiglu, of both at once.
class Compute::Chunks {
public:
    struct Chunk {
        std::span<const Product> products;
        int first;  // row
        int last;
    };

    Chunks(std::span<const Product> products, Finish finish, int step)
        : products_(products), together_(finish == Finish::swiglu), step_(step) {
        for (const Product &each : together_ ? products.first(1) : products) size_ += chunks_of(each);
    }

    int size() const { return size_; }

    Chunk operator[](int index) const { return join(index, index + 1); }

    // As many of the chunks [index, end) as follow each other in one product; moves index past them.
    Chunk take(int &index, int end) const {
        const Chunk chunk = join(index, end);
        index += (chunk.last - chunk.first + step_ - 1) / step_;
        return chunk;
    }

private:
    Chunk join(int index, int end) const {
        std::size_t part = 0;
        for (; index >= chunks_of(products_[part]); ++part) {
            index -= chunks_of(products_[part]);
            end -= chunks_of(products_[part]);
        }
        const int n_rows = products_[part].weight->rows();
        end = std::min(end, chunks_of(products_[part]));
        return {together_ ? products_ : products_.subspan(part, 1), index * step_,
                std::min(end * step_, n_rows)};
    }
    int chunks_of(const Product &each) const { return (each.weight->rows() + step_ - 1) / step_; }

    std::span<const Product> products_;
    bool together_;
    int step_;
    int size_ = 0;
};

Compute::Compute(const Kernels &kernels, int n_threads, int widest_row, bool rounded)
    : kernels_(kernels),
      rounded_(rounded),
      tile_bytes_(tile_bytes(kernels, whole_blocks(widest_row))),
      scratch_bytes_(tile_bytes_ + separated_bytes(kernels, whole_blocks(widest_row))),
      scratch_memory_(static_cast<std::size_t>(n_threads) * scratch_bytes_, "scratch of the threads"),
      pool_(n_threads) {}

const Arithmetic &Compute::arithmetic(Storage storage) const {
    switch (storage) {
    case Storage::f32:
        return kernels_.single;
    case Storage::f16:
        return rounded_ ? kernels_.half : kernels_.single;
    case Storage::q4_0:
    case Storage::q4_1:
    case Storage::q8_0:
    case Storage::q4_k:
    case Storage::q4_0_16x4:
        return kernels_.precise;
    }
    return kernels_.single;
}

std::size_t Compute::panel_bytes(int n, int n_cols) const {
    const int n_padded = whole_blocks(n_cols);
    std::size_t most = 0;
    for (const Arithmetic *each : {&kernels_.single, &kernels_.half, &kernels_.precise, &kernels_.quick})
        most = std::max(most, aligned(each->panel_row_bytes(n_padded)));
    most *= static_cast<std::size_t>(n);
    for (const Storage storage :
         {Storage::f32, Storage::f16, Storage::q4_0, Storage::q8_0, Storage::q4_0_16x4}) {
        const VectorProduct *vector = kernels_.vector_product(storage);
        if (vector != nullptr) most = std::max(most, vector->prepared_bytes(n_padded));
    }
    return aligned(most);
}

void Compute::count(const Tensor &weight, std::int64_t operations) {
    Work work;
    if (traits(weight.type).quantised) {
        work.int8_operations = operations;
    } else if (weight.type == Storage::f16) {
        work.bf16_operations = operations;
    } else {
        work.f32_operations = operations;
    }
    work.bytes = static_cast<std::int64_t>(weight.n_bytes);
    stages_.add(work);
}

void Compute::expect(std::span<const Product> next) {
    const Chunks chunks(next, Finish::none, vector_step(*next[0].weight));
    for (int thread = 0; thread < n_threads(); ++thread) {
        const auto [parts, first, last] = chunks[chunks.size() * thread / n_threads()];
        const Tensor &weight = *parts[0].weight;
        pool_.expect(thread, weight.row(first), static_cast<std::size_t>(last - first) * weight.row_bytes());
    }
}

void Compute::linear(const float *x, int n, int n_cols, int n_precise, std::span<const Product> products,
                     Finish finish, std::byte *panels, std::span<const Product> next) {
    // All at once, unless the file stores them in different ways.
    const auto same = [&](const Product &other) { return other.weight->type == products[0].weight->type; };
    if (!std::all_of(products.begin(), products.end(), same)) {
        for (const Product &product : products) {
            const bool swiglu = finish == Finish::swiglu;
            linear(x, n, n_cols, n_precise, {&product, 1}, swiglu ? Finish::none : finish, panels);
        }
        if (finish == Finish::swiglu) {
            const std::size_t values = product(n, products[0].weight->rows());
            kernels_.silu_multiply(products[0].out, products[1].out, static_cast<int>(values));
        }
        return;
    }
    for (const Product &product : products) count(*product.weight, 2 * product.weight->n_elements() * n);
    if (n == 1 && !next.empty()) expect(next);
    const VectorProduct *vector = n == 1 ? kernels_.vector_product(products[0].weight->type) : nullptr;
    if (vector != nullptr) {
        multiply_vector(x, products, *vector, finish, panels);
    } else {
        multiply_panels(x, n, std::min(n, n_precise), products, finish, panels);
    }
}

void Compute::finish_rows(std::span<const Product> products, int first, int last, int n,
                          Finish finish) const {
    const int count = last - first;
    for (int t = 0; t < n; ++t) {
        for (const Product &each : products) {
            float *out = each.out + product(t, each.weight->rows()) + first;
            if (each.bias != nullptr) kernels_.add(out, each.bias + first, count);
            if (finish == Finish::gelu) kernels_.gelu(out, count);
        }
        if (finish == Finish::swiglu) {
            const std::size_t at = product(t, products[0].weight->rows()) + static_cast<std::size_t>(first);
            kernels_.silu_multiply(products[0].out + at, products[1].out + at, count);
        }
    }
}

void Compute::multiply_vector(const float *x, std::span<const Product> products, const VectorProduct &kernel,
                              Finish finish, std::byte *prepared) {
    const int n_cols = products[0].weight->cols();
    kernel.prepare(x, n_cols, prepared);
    const Chunks chunks(products, finish, vector_step(*products[0].weight));
    std::size_t n_bytes = 0;
    for (const Product &each : products) n_bytes += each.weight->n_bytes;
    const auto multiply = [&](int begin, int end, int) {
        while (begin < end) {
            const auto [parts, first, last] = chunks.take(begin, end);
            for (const Product &each : parts) {
                if (!each.accumulate) {
                    kernel.multiply(each.weight->row(first), each.weight->row_bytes(), last - first, n_cols,
                                    prepared, each.out + first);
                    continue;
                }
                for (int row = first; row < last; row += most_sums) {
                    float sums[most_sums];
                    const int n_rows = std::min(most_sums, last - row);
                    kernel.multiply(each.weight->row(row), each.weight->row_bytes(), n_rows, n_cols, prepared,
                                    sums);
                    kernels_.add(each.out + row, sums, n_rows);
                }
            }
            finish_rows(parts, first, last, 1, finish);
        }
    };
    if (n_bytes < least_shared_bytes) {
        multiply(0, chunks.size(), 0);
    } else {
        pool_.run_ranges(chunks.size(), multiply);
    }
}

void Compute::multiply_panels(const float *x, int n, int n_precise, std::span<const Product> products,
                              Finish finish, std::byte *buffer) {
    const Tensor &weight = *products[0].weight;
    const int n_cols = weight.cols();
    const Arithmetic &last = arithmetic(weight.type);
    const Arithmetic &most = traits(weight.type).quantised ? kernels_.quick : last;
    const Panels panels(most, last, n, &most == &last ? 0 : n_precise, n_cols);
    for_ranges(panels.size(), 1, [&](int index, int, int) {
        const Panel panel = panels[index];
        panel.arithmetic->pack(x + product(panel.first, n_cols), static_cast<std::size_t>(n_cols),
                               panel.count, n_cols, buffer + panel.offset);
    });

    const int tile_rows = kernels_.tile_rows;
    const int together = traits(weight.type).rows_together;
    const bool separate = !unpacks(kernels_, weight.type);
    const Storage unpacked_type = separate ? Storage::q4_0 : weight.type;
    int n_tiles = 0;
    for (const Product &each : products) n_tiles += (each.weight->rows() + tile_rows - 1) / tile_rows;
    const std::int64_t tile_operations = 2 * std::int64_t{n} * n_cols * tile_rows;
    const auto most_tiles = static_cast<int>(
        std::clamp<std::int64_t>(most_chunk_operations / tile_operations, 1, most_chunk_tiles));
    const int step = tile_rows * std::clamp(n_tiles / (8 * n_threads()), 1, most_tiles);
    const Chunks chunks(products, finish, (step + together - 1) / together * together);

    pool_.run(chunks.size(), [&](int index, int thread) {
        const auto [parts, first, end] = chunks[index];
        std::byte *unpacked = tile(thread);
        std::byte *separated = unpacked + tile_bytes_;
        for (const Product &each : parts) {
            const int n_rows = each.weight->rows();
            const std::size_t row_bytes = each.weight->row_bytes();
            for (int row = first; row < end; row += tile_rows) {
                const int count = std::min(tile_rows, end - row);
                const int within = row % together;  // rows of its group that came before
                if (separate && within == 0) separate_rows(each.weight->row(row), n_cols, separated);
                const std::byte *rows = separate ? separated + static_cast<std::size_t>(within) * row_bytes
                                                 : each.weight->row(row);
                last.unpack(unpacked_type, rows, row_bytes, count, n_cols, unpacked);
                prefetch_rows(*each.weight, row + std::max(tile_rows, together), tile_rows);
                for (int i = 0; i < panels.size(); ++i) {
                    const Panel panel = panels[i];
                    panel.arithmetic->multiply(unpacked, count, buffer + panel.offset, panel.count, n_cols,
                                               each.accumulate, each.out + product(panel.first, n_rows) + row,
                                               static_cast<std::size_t>(n_rows));
                }
            }
        }
        finish_rows(parts, first, end, n, finish);
    });
}

}  // namespace chatllm

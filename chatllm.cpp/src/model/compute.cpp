#include "model/compute.h"

#include <algorithm>

namespace chatllm {
namespace {

constexpr int most_tile_rows = 16;                            // enough to pay for the loop around them
constexpr std::size_t scratch_budget = std::size_t{1} << 20;  // of a thread; about what its cache holds
constexpr int batch_tokens = 256;                             // multiplied with a tile of rows in one chunk
// Of one chunk: few enough that abort is seen in time, in scalar code too.
constexpr std::int64_t chunk_products = std::int64_t{1} << 24;

constexpr std::size_t tile_row_bytes(std::size_t widest_row) {
    return widest_row * (sizeof(float) + 1) + 2 * sizeof(float) * (widest_row / quant_block);
}

bool has_offsets(TensorType type) { return type == TensorType::q4_1 || type == TensorType::q4_k; }

}  // namespace

void QuantBuffers::layout(ArenaCursor &arena, std::size_t n, std::size_t n_cols) {
    quants = arena.take<std::int16_t>(n * n_cols);
    const std::size_t n_blocks = (n_cols + quant_block - 1) / quant_block;
    scales = arena.take<float>(n * n_blocks);
    sums = arena.take<float>(n * n_blocks);
}

Activations Activations::tokens(int first, int count) const {
    const std::size_t at = product(first, n_cols);
    Activations part{values + at, quants, count, n_cols};
    if (quants.quants != nullptr) {
        part.quants = {quants.quants + at, quants.scales + at / quant_block, quants.sums + at / quant_block};
    }
    return part;
}

Compute::Compute(const Kernels &kernels, int n_threads, int widest_row)
    : kernels_(kernels),
      // A multiple of the block, so that scales have whole rows.
      widest_row_((static_cast<std::size_t>(widest_row) + quant_block - 1) / quant_block * quant_block),
      tile_rows_(static_cast<int>(
          std::clamp<std::size_t>(scratch_budget / tile_row_bytes(widest_row_), 1, most_tile_rows))),
      scratch_bytes_((static_cast<std::size_t>(tile_rows_) * tile_row_bytes(widest_row_) + 63) / 64 * 64),
      scratch_memory_(static_cast<std::size_t>(n_threads) * scratch_bytes_, "scratch of the threads"),
      pool_(n_threads) {}

Compute::Scratch Compute::scratch(int thread) const {
    std::byte *base = scratch_memory_.data() + static_cast<std::size_t>(thread) * scratch_bytes_;
    const std::size_t n_values = static_cast<std::size_t>(tile_rows_) * widest_row_;
    const std::size_t n_scales = n_values / quant_block;
    Scratch tile{};
    tile.values = reinterpret_cast<float *>(base);
    tile.scales = tile.values + n_values;
    tile.offsets = tile.scales + n_scales;
    tile.quants = reinterpret_cast<std::int8_t *>(tile.offsets + n_scales);
    return tile;
}

Activations Compute::prepare(const float *x, int n, int n_cols, bool quantise, const QuantBuffers &buffers) {
    Activations prepared{x, {nullptr, nullptr, nullptr}, n, n_cols};
    if (!quantise) return prepared;
    for_ranges(n, 8, [&](int first, int last, int) {
        for (int t = first; t < last; ++t) {
            const auto row = static_cast<std::size_t>(t) * static_cast<std::size_t>(n_cols);
            kernels_.quantise_row(x + row, n_cols, buffers.quants + row, buffers.scales + row / quant_block,
                                  buffers.sums + row / quant_block);
        }
    });
    prepared.quants = {buffers.quants, buffers.scales, buffers.sums};
    return prepared;
}

void Compute::unpack_quants(const Tensor &weight, int row, const Scratch &tile, std::size_t index) const {
    const int n = weight.cols();
    const std::byte *packed = weight.row(row);
    const auto at = index * static_cast<std::size_t>(n);
    std::int8_t *quants = tile.quants + at;
    float *scales = tile.scales + at / quant_block;
    float *offsets = tile.offsets + at / quant_block;
    switch (weight.type) {
    case TensorType::q4_0:
        return kernels_.unpack_q4_0(packed, n, quants, scales);
    case TensorType::q4_1:
        return kernels_.unpack_q4_1(packed, n, quants, scales, offsets);
    case TensorType::q4_k:
        return kernels_.unpack_q4_k(packed, n, quants, scales, offsets);
    case TensorType::q8_0:
        return kernels_.unpack_q8_0(packed, n, quants, scales);
    case TensorType::f32:
    case TensorType::f16:
        return;
    }
}

void Compute::multiply_rows(const Tensor &weight, int first, int last, const Activations &x, float *out,
                            std::size_t out_stride, int thread) {
    const int n_cols = x.n_cols;
    const auto stride = static_cast<std::size_t>(n_cols);
    if (weight.type == TensorType::f32) {
        const float *rows = weight.floats() + static_cast<std::size_t>(first) * stride;
        kernels_.gemm_f32(rows, stride, last - first, x.values, stride, x.n, n_cols, out + first, out_stride);
        return;
    }
    const Scratch tile = scratch(thread);
    for (int row = first; row < last; row += tile_rows_) {
        const int n_rows = std::min(tile_rows_, last - row);
        if (weight.type == TensorType::f16) {
            for (int r = 0; r < n_rows; ++r) {
                kernels_.unpack_f16(weight.row(row + r), n_cols,
                                    tile.values + static_cast<std::size_t>(r) * stride);
            }
            kernels_.gemm_f32(tile.values, stride, n_rows, x.values, stride, x.n, n_cols, out + row,
                              out_stride);
        } else {
            for (int r = 0; r < n_rows; ++r)
                unpack_quants(weight, row + r, tile, static_cast<std::size_t>(r));
            const QuantRows rows{tile.quants, tile.scales, has_offsets(weight.type) ? tile.offsets : nullptr};
            kernels_.gemm_quants(rows, n_rows, x.quants, x.n, n_cols, out + row, out_stride);
        }
    }
}

void Compute::linear(const Tensor &weight, const float *bias, const Activations &x, float *out) {
    const int n_rows = weight.rows();
    const auto stride = static_cast<std::size_t>(n_rows);
    // Some eight chunks a thread even out their speeds; whole tiles keep the unpacking cheap.
    const std::int64_t row_products = std::int64_t{std::min(x.n, batch_tokens)} * x.n_cols;
    const auto most = static_cast<int>(
        std::clamp<std::int64_t>(chunk_products / row_products, tile_rows_, 16 * tile_rows_));
    const int step = std::clamp(n_rows / (8 * pool_.size()), tile_rows_, most) / tile_rows_ * tile_rows_;
    const int n_row_chunks = (n_rows + step - 1) / step;
    const int n_batches = (x.n + batch_tokens - 1) / batch_tokens;
    pool_.run(n_row_chunks * n_batches, [&](int chunk, int thread) {
        const int first = chunk % n_row_chunks * step;
        const int last = std::min(first + step, n_rows);
        const int token = chunk / n_row_chunks * batch_tokens;
        const Activations batch = x.tokens(token, std::min(batch_tokens, x.n - token));
        float *batch_out = out + static_cast<std::size_t>(token) * stride;
        multiply_rows(weight, first, last, batch, batch_out, stride, thread);
        if (bias == nullptr) return;
        for (int t = 0; t < batch.n; ++t) {
            kernels_.add(batch_out + static_cast<std::size_t>(t) * stride + first, bias + first,
                         last - first);
        }
    });
}

void Compute::unpack_row(const Tensor &weight, int row, float *out) {
    const int n = weight.cols();
    if (weight.type == TensorType::f32) {
        std::copy_n(weight.floats() + static_cast<std::size_t>(row) * static_cast<std::size_t>(n), n, out);
        return;
    }
    if (weight.type == TensorType::f16) {
        kernels_.unpack_f16(weight.row(row), n, out);
        return;
    }
    const Scratch tile = scratch(0);
    unpack_quants(weight, row, tile, 0);
    for (int i = 0; i < n; ++i) {
        const int block = i / quant_block;
        out[i] = static_cast<float>(tile.quants[i]) * tile.scales[block];
        if (has_offsets(weight.type)) out[i] += tile.offsets[block];
    }
}

}  // namespace chatllm

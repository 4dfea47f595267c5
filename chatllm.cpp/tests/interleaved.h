#pragma once

#include <cstddef>

#include "kernels/kernels.h"

namespace chatllm::check {

// Rows of q4_0, as q4_0_16x4 has them by the words of the file format.
inline void interleave_rows(const std::byte *rows, int n_rows, int n_cols, std::byte *out) {
    constexpr std::size_t block_bytes = 18, together = 16;
    const std::size_t n_blocks = static_cast<std::size_t>(n_cols) / quant_block;
    for (std::size_t row = 0; row < static_cast<std::size_t>(n_rows); ++row) {
        const std::size_t r = row % together;
        for (std::size_t b = 0; b < n_blocks; ++b) {
            const std::byte *block = rows + (row * n_blocks + b) * block_bytes;
            std::byte *blocks = out + ((row - r) * n_blocks + b * together) * block_bytes;
            for (std::size_t i = 0; i < 2; ++i) blocks[2 * r + i] = block[i];
            for (std::size_t g = 0; g < 4; ++g) {
                for (std::size_t i = 0; i < 4; ++i) blocks[32 + 64 * g + 4 * r + i] = block[2 + 4 * g + i];
            }
        }
    }
}

}  // namespace chatllm::check

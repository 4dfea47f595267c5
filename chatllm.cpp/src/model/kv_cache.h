#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/memory_map.h"
#include "model/model_file.h"

namespace chatllm {

// Keys and values of every layer in half precision, in blocks of positions that are mapped as the context
// grows: its memory follows the tokens in use, and nothing is copied when it grows.
class KvCache {
public:
    static constexpr int block_positions = 256;

    explicit KvCache(const TextConfig &config)
        : width_(static_cast<std::size_t>(config.n_kv_heads) * static_cast<std::size_t>(config.head_width)),
          n_layers_(static_cast<std::size_t>(config.n_layers)) {}

    // Makes room for `n` positions. Throws Error when the system refuses memory; what is there stays.
    void reserve(int n) {
        while (static_cast<int>(blocks_.size()) * block_positions < n) {
            blocks_.emplace_back(n_layers_ * 2 * block_positions * width_ * sizeof(std::uint16_t),
                                 "KV cache");
        }
    }
    // Gives all memory back.
    void clear() { std::vector<AnonymousMap>().swap(blocks_); }

    // [n_kv_heads, head_width] at a reserved position; consecutive positions of one block are `stride` apart.
    std::uint16_t *key(int layer, int position) const { return row(layer, 0, position); }
    std::uint16_t *value(int layer, int position) const { return row(layer, 1, position); }
    std::size_t stride() const { return width_; }

private:
    std::uint16_t *row(int layer, std::size_t which, int position) const {
        const auto &block = blocks_[static_cast<std::size_t>(position / block_positions)];
        const auto plane = static_cast<std::size_t>(layer) * 2 + which;
        const auto at = plane * block_positions + static_cast<std::size_t>(position % block_positions);
        return reinterpret_cast<std::uint16_t *>(block.data()) + at * width_;
    }

    std::size_t width_;
    std::size_t n_layers_;
    std::vector<AnonymousMap> blocks_;
};

}  // namespace chatllm

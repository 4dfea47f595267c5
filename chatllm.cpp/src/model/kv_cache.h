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
        : width_(static_cast<std::size_t>(config.head_width)),
          n_heads_(static_cast<std::size_t>(config.n_kv_heads)),
          n_layers_(static_cast<std::size_t>(config.n_layers)) {}

    // The most that `n` positions keep resident.
    std::size_t resident_bytes(int n) const {
        const int n_blocks = (n + block_positions - 1) / block_positions;
        return static_cast<std::size_t>(n_blocks) * AnonymousMap::resident_bytes(block_bytes());
    }
    // Makes room for `n` positions. Throws Error when the system refuses memory; what is there stays.
    void reserve(int n) {
        while (static_cast<int>(blocks_.size()) * block_positions < n) {
            blocks_.emplace_back(block_bytes(), "KV cache");
        }
    }
    // Gives all memory back.
    void clear() { std::vector<AnonymousMap>().swap(blocks_); }

    // One head at a reserved position; consecutive positions of one block lie side by side. [head_width]
    std::uint16_t *key(int layer, int head, int position) const { return row(layer, 0, head, position); }
    std::uint16_t *value(int layer, int head, int position) const { return row(layer, 1, head, position); }
    std::size_t stride() const { return width_; }

private:
    std::size_t block_bytes() const {
        return n_layers_ * 2 * n_heads_ * block_positions * width_ * sizeof(std::uint16_t);
    }
    std::uint16_t *row(int layer, std::size_t which, int head, int position) const {
        const auto &block = blocks_[static_cast<std::size_t>(position / block_positions)];
        const auto plane =
            (static_cast<std::size_t>(layer) * 2 + which) * n_heads_ + static_cast<std::size_t>(head);
        const auto at = plane * block_positions + static_cast<std::size_t>(position % block_positions);
        return reinterpret_cast<std::uint16_t *>(block.data()) + at * width_;
    }

    std::size_t width_;  // of a head
    std::size_t n_heads_;
    std::size_t n_layers_;
    std::vector<AnonymousMap> blocks_;
};

}  // namespace chatllm

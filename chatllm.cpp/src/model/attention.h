#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "base/arena.h"
#include "model/compute.h"

namespace chatllm {

struct AttentionShape {
    int n_heads;
    int n_kv_heads;  // divides n_heads: grouped-query attention
    int head_width;
};

// Consecutive keys and values of one head where they lie.
struct KeysValues {
    Storage storage;  // f32 or f16
    const std::byte *keys;
    const std::byte *values;
    std::size_t row_bytes;  // from one position to the next, of both
};

// Softmax attention of many positions in tiles of keys, with the running maximum and sum of Milakov and
// Gimelshein (2018), so that its memory does not grow with the context.
class Attention {
public:
    static constexpr int tile_keys = 128;  // divides the blocks of the KV cache

    // Scratch for every thread, from `arena`.
    void layout(ArenaCursor &arena, const AttentionShape &shape, const Kernels &kernels, int n_threads) {
        shape_ = shape;
        const auto width = static_cast<std::size_t>(padded(shape.head_width, kernels));
        const auto panel = static_cast<std::size_t>(kernels.single.panel_rows);
        const auto n_rows = static_cast<std::size_t>(group() * query_block(kernels));
        per_thread_ = 2 * n_rows * width + 2 * tile_keys * width + 2 * panel * tile_keys + 2 * n_rows + width;
        scratch_ = arena.take<float>(per_thread_ * static_cast<std::size_t>(n_threads));
    }

    // q, out: [n_queries, n_heads * head_width]. Query i sees the keys [0, n_keys(i)); n_keys is at least 1
    // and does not decrease with i. load(kv_head, first) gives the keys from `first` on, a multiple of
    // tile_keys, of which it must hold tile_keys or all that are left.
    template <typename Count, typename Load> void run(Compute &compute, const float *q, int n_queries,
                                                      const Count &n_keys, const Load &load,
                                                      float *out) const {
        // Long contexts are mostly attention, which grows with their square: there, f16 keys and values are
        // worth the faster arithmetic. Up to a minute of speech it costs little to be exact.
        const bool is_long = n_keys(n_queries - 1) > long_context;
        const Kernels &kernels = compute.kernels();
        const Arithmetic &arithmetic = is_long ? compute.arithmetic(load(0, 0).storage) : kernels.single;
        const int step = query_block(kernels);
        const int n_blocks = (n_queries + step - 1) / step;
        compute.pool().run(n_blocks * shape_.n_kv_heads, [&](int chunk, int thread) {
            // The last queries see the most keys: they come first, so that no thread is left with one alone.
            const int first = (n_blocks - 1 - chunk / shape_.n_kv_heads) * step;
            const int count = std::min(step, n_queries - first);
            run_block(compute, arithmetic, q, first, count, chunk % shape_.n_kv_heads, n_keys, load, out,
                      scratch_ + static_cast<std::size_t>(thread) * per_thread_);
        });
    }

private:
    static constexpr int long_context = 1024;

    static int query_block(const Kernels &kernels) { return 4 * kernels.single.panel_rows; }
    static int padded(int n, const Kernels &kernels) {
        return (n + kernels.tile_rows - 1) / kernels.tile_rows * kernels.tile_rows;
    }
    int group() const { return shape_.n_heads / shape_.n_kv_heads; }

    template <typename Count, typename Load>
    void run_block(const Compute &compute, const Arithmetic &arithmetic, const float *q, int first, int count,
                   int kv_head, const Count &n_keys, const Load &load, float *out, float *scratch) const {
        const Kernels &kernels = compute.kernels();
        const int width = shape_.head_width;
        const int padded_width = padded(width, kernels);
        const int panel_rows = std::min(arithmetic.panel_rows, kernels.single.panel_rows);
        const auto stride = product(shape_.n_heads, width);
        const float scale = 1.0f / std::sqrt(static_cast<float>(width));
        const int n_rows = group() * query_block(kernels);

        float *queries = scratch;                         // panels of [width, rows]
        float *values = queries + n_rows * padded_width;  // weighted sums of them, [rows, padded_width]
        float *key_tiles = values + n_rows * padded_width;
        float *value_tiles = key_tiles + tile_keys * padded_width;  // tiles of [keys, tile_rows]
        float *scores = value_tiles + tile_keys * padded_width;     // [panel_rows, tile_keys]
        float *weights = scores + panel_rows * tile_keys;           // a panel of [keys, rows]
        float *maxima = weights + panel_rows * tile_keys;           // [rows]
        float *sums = maxima + n_rows;                              // [rows]
        float *row_of_values = sums + n_rows;                       // [head_width]

        const int n_panels = (count + panel_rows - 1) / panel_rows;  // of each head
        const auto for_panels = [&](auto &&task) {
            for (int head = 0; head < group(); ++head) {
                for (int panel = 0; panel < n_panels; ++panel) {
                    const int begin = panel * count / n_panels;
                    const int rows = (panel + 1) * count / n_panels - begin;
                    const auto at = static_cast<std::size_t>(first + begin) * stride +
                                    product(kv_head * group() + head, width);
                    task(head * query_block(kernels) + begin, begin, rows, at);
                }
            }
        };
        for_panels([&](int row, int, int rows, std::size_t at) {
            arithmetic.pack(q + at, stride, rows, width,
                            reinterpret_cast<std::byte *>(queries + row * padded_width));
            for (int t = 0; t < rows; ++t) {
                maxima[row + t] = -std::numeric_limits<float>::infinity();
                sums[row + t] = 0;
            }
        });

        const int last_key = n_keys(first + count - 1);
        for (int key = 0; key < last_key; key += tile_keys) {
            const int n_tile = std::min(tile_keys, last_key - key);
            const KeysValues tile = load(kv_head, key);
            unpack_keys(kernels, arithmetic, tile, n_tile, key_tiles);
            if (compute.is_half(arithmetic)) {
                unpack_values_in_pairs(kernels, tile, n_tile, row_of_values, value_tiles);
            } else {
                unpack_values(kernels, tile, n_tile, value_tiles);
            }
            for_panels([&](int row, int begin, int rows, std::size_t) {
                if (n_keys(first + begin + rows - 1) <= key) return;
                for (int i = 0; i < n_tile; i += kernels.tile_rows) {
                    arithmetic.multiply(reinterpret_cast<const std::byte *>(key_tiles + i * padded_width),
                                        std::min(kernels.tile_rows, n_tile - i),
                                        reinterpret_cast<const std::byte *>(queries + row * padded_width),
                                        rows, width, false, scores + i, tile_keys);
                }
                for (int t = 0; t < rows; ++t) {
                    float *score = scores + t * tile_keys;
                    const int n_seen = std::clamp(n_keys(first + begin + t) - key, 0, n_tile);
                    std::fill(score + n_seen, score + n_tile, 0.0f);
                    if (n_seen == 0) continue;
                    kernels.scale(score, scale, n_seen);
                    float &largest = maxima[row + t];
                    const float maximum = std::max(largest, kernels.maximum(score, n_seen));
                    const float correction = std::exp(largest - maximum);
                    largest = maximum;
                    sums[row + t] = sums[row + t] * correction + kernels.exponentials(score, maximum, n_seen);
                    if (key > 0 && correction != 1.0f)
                        kernels.scale(values + (row + t) * padded_width, correction, width);
                }
                arithmetic.pack(scores, tile_keys, rows, n_tile, reinterpret_cast<std::byte *>(weights));
                for (int c = 0; c < width; c += kernels.tile_rows) {
                    arithmetic.multiply(reinterpret_cast<const std::byte *>(value_tiles + c * tile_keys),
                                        std::min(kernels.tile_rows, width - c),
                                        reinterpret_cast<const std::byte *>(weights), rows, n_tile, key > 0,
                                        values + row * padded_width + c,
                                        static_cast<std::size_t>(padded_width));
                }
            });
        }
        for_panels([&](int row, int, int rows, std::size_t at) {
            for (int t = 0; t < rows; ++t) {
                float *to = out + at + static_cast<std::size_t>(t) * stride;
                std::copy_n(values + (row + t) * padded_width, width, to);
                kernels.scale(to, 1.0f / sums[row + t], width);
            }
        });
    }

    void unpack_keys(const Kernels &kernels, const Arithmetic &arithmetic, const KeysValues &tile, int n_keys,
                     float *key_tiles) const {
        for (int i = 0; i < n_keys; i += kernels.tile_rows) {
            arithmetic.unpack(
                tile.storage, tile.keys + static_cast<std::size_t>(i) * tile.row_bytes, tile.row_bytes,
                std::min(kernels.tile_rows, n_keys - i), shape_.head_width,
                reinterpret_cast<std::byte *>(key_tiles + i * padded(shape_.head_width, kernels)));
        }
    }

    // The transposed matrix: columns of the head as rows of the tile.
    void unpack_values(const Kernels &kernels, const KeysValues &tile, int n_keys, float *value_tiles) const {
        const int width = shape_.head_width;
        const int rows = kernels.tile_rows;
        for (int i = 0; i < n_keys; ++i) {
            const std::byte *row = tile.values + static_cast<std::size_t>(i) * tile.row_bytes;
            for (int c = 0; c < width; c += rows) {
                const int n = std::min(rows, width - c);
                float *to = value_tiles + c * tile_keys + i * rows;
                if (tile.storage == Storage::f16) {
                    kernels.unpack_f16(row + 2 * c, n, to);
                } else {
                    std::copy_n(reinterpret_cast<const float *>(row) + c, n, to);
                }
            }
        }
    }

    // The same in the layout of `half`: two keys to a word.
    void unpack_values_in_pairs(const Kernels &kernels, const KeysValues &tile, int n_keys, float *values,
                                float *value_tiles) const {
        const int width = shape_.head_width;
        const int rows = kernels.tile_rows;
        constexpr int most_width = 256;
        std::uint16_t pair[2][most_width];
        for (int i = 0; i < n_keys; i += 2) {
            for (int begin = 0; begin < width; begin += most_width) {
                const int count = std::min(most_width, width - begin);
                for (int k = 0; k < 2; ++k) {
                    if (i + k == n_keys) {
                        std::fill_n(pair[k], count, std::uint16_t{0});
                        continue;
                    }
                    const std::byte *row = tile.values + static_cast<std::size_t>(i + k) * tile.row_bytes;
                    kernels.unpack_f16(row + 2 * begin, count, values);
                    kernels.round_to_half(values, count, pair[k]);
                }
                for (int c = begin; c < begin + count; c += rows) {
                    auto *to = reinterpret_cast<std::uint32_t *>(value_tiles + c * tile_keys) + i / 2 * rows;
                    const std::uint16_t *first = pair[0] + c - begin;
                    const std::uint16_t *second = pair[1] + c - begin;
                    const int n = std::min(rows, begin + count - c);
                    for (int j = 0; j < n; ++j) to[j] = first[j] | std::uint32_t{second[j]} << 16;
                }
            }
        }
    }

    AttentionShape shape_{};
    std::size_t per_thread_ = 0;
    float *scratch_ = nullptr;
};

}  // namespace chatllm

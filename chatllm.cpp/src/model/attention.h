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

// A few keys and values of one head in single precision: row i is key (value) first + i.
struct KeyValueTile {
    const float *keys;
    std::size_t key_stride;
    const float *values;
    std::size_t value_stride;
};

// Softmax attention in tiles of keys, with the running maximum and sum of Milakov and Gimelshein (2018), so
// that its memory does not grow with the context.
class Attention {
public:
    static constexpr int tile_keys = 64;  // divides the blocks of the KV cache

    // Scratch for every thread, from `arena`.
    void layout(ArenaCursor &arena, const AttentionShape &shape, int n_threads) {
        const auto width = static_cast<std::size_t>(shape.head_width);
        const auto n_rows = static_cast<std::size_t>(query_block * (shape.n_heads / shape.n_kv_heads));
        per_thread_ = 2 * tile_keys * width + n_rows * tile_keys + 2 * n_rows;
        scratch_ = arena.take<float>(per_thread_ * static_cast<std::size_t>(n_threads));
        shape_ = shape;
    }

    // q, out: [n_queries, n_heads * head_width]. Query i sees the keys [0, n_keys(i)); n_keys is at least 1
    // and does not decrease with i. load(kv_head, first, count, key_scratch, value_scratch) returns a
    // KeyValueTile; the scratches hold tile_keys rows of head_width.
    template <typename Count, typename Load> void run(Compute &compute, const float *q, int n_queries,
                                                      const Count &n_keys, const Load &load,
                                                      float *out) const {
        const int n_blocks = (n_queries + query_block - 1) / query_block;
        compute.pool().run(n_blocks * shape_.n_kv_heads, [&](int chunk, int thread) {
            const int first = chunk / shape_.n_kv_heads * query_block;
            const int count = std::min(query_block, n_queries - first);
            run_block(compute.kernels(), q, first, count, chunk % shape_.n_kv_heads, n_keys, load, out,
                      scratch_ + static_cast<std::size_t>(thread) * per_thread_);
        });
    }

private:
    static constexpr int query_block = 16;

    template <typename Count, typename Load>
    void run_block(const Kernels &kernels, const float *q, int first, int count, int kv_head,
                   const Count &n_keys, const Load &load, float *out, float *scratch) const {
        const int width = shape_.head_width;
        const int group = shape_.n_heads / shape_.n_kv_heads;
        const auto stride = static_cast<std::size_t>(shape_.n_heads) * static_cast<std::size_t>(width);
        const float scale = 1.0f / std::sqrt(static_cast<float>(width));
        const int n_rows = group * count;

        float *key_scratch = scratch;
        float *value_scratch = key_scratch + tile_keys * width;
        float *scores = value_scratch + tile_keys * width;  // [group, count, tile_keys]
        float *maxima = scores + n_rows * tile_keys;        // [group, count]
        float *sums = maxima + n_rows;                      // [group, count]
        std::fill_n(maxima, n_rows, -std::numeric_limits<float>::infinity());
        std::fill_n(sums, n_rows, 0.0f);
        const auto place = [&](int head, int query) {
            return static_cast<std::size_t>(first + query) * stride +
                   static_cast<std::size_t>((kv_head * group + head) * width);
        };
        for (int head = 0; head < group; ++head) {
            for (int query = 0; query < count; ++query) std::fill_n(out + place(head, query), width, 0.0f);
        }

        const int last_key = n_keys(first + count - 1);
        for (int key = 0; key < last_key; key += tile_keys) {
            const int n_tile = std::min(tile_keys, last_key - key);
            const KeyValueTile tile = load(kv_head, key, n_tile, key_scratch, value_scratch);
            for (int head = 0; head < group; ++head) {
                kernels.gemm_f32(tile.keys, tile.key_stride, n_tile, q + place(head, 0), stride, count, width,
                                 scores + head * count * tile_keys, tile_keys);
                for (int query = 0; query < count; ++query) {
                    const int n_seen = std::min(n_tile, n_keys(first + query) - key);
                    if (n_seen <= 0) continue;
                    const int row = head * count + query;
                    float *weights = scores + row * tile_keys;
                    float *sum = out + place(head, query);
                    kernels.scale(weights, scale, n_seen);
                    const float maximum = std::max(maxima[row], kernels.maximum(weights, n_seen));
                    const float correction = std::exp(maxima[row] - maximum);
                    maxima[row] = maximum;
                    sums[row] = sums[row] * correction + kernels.exponentials(weights, maximum, n_seen);
                    kernels.scale(sum, correction, width);
                    for (int i = 0; i < n_seen; ++i) {
                        kernels.add_scaled(sum, tile.values + static_cast<std::size_t>(i) * tile.value_stride,
                                           weights[i], width);
                    }
                }
            }
        }
        for (int head = 0; head < group; ++head) {
            for (int query = 0; query < count; ++query) {
                kernels.scale(out + place(head, query), 1.0f / sums[head * count + query], width);
            }
        }
    }

    AttentionShape shape_{};
    std::size_t per_thread_ = 0;
    float *scratch_ = nullptr;
};

}  // namespace chatllm

#include "model/decoder.h"

#include <algorithm>
#include <cmath>

namespace chatllm {
Decoder::Decoder(const ModelFile &file) : config_(file.text()) {
    const int width = config_.width;
    const int query_width = config_.n_heads * config_.head_width;
    const int key_width = config_.n_kv_heads * config_.head_width;
    const auto matrix = [&](const std::string &name, int rows, int cols) {
        const Tensor *loaded = &file.tensor(name + ".weight", {rows, cols});
        quantised_ = quantised_ || traits(loaded->type).quantised;
        return loaded;
    };
    const auto norm = [&](const std::string &name, int n) { return file.vector(name + ".weight", n); };

    embedding_ = &file.tensor("model.embed_tokens.weight", {config_.vocab_size, width});
    for (int i = 0; i < config_.n_layers; ++i) {
        const std::string prefix = "model.layers." + std::to_string(i) + ".";
        layers_.push_back({
            .attention_norm = norm(prefix + "input_layernorm", width),
            .query = matrix(prefix + "self_attn.q_proj", query_width, width),
            .key = matrix(prefix + "self_attn.k_proj", key_width, width),
            .value = matrix(prefix + "self_attn.v_proj", key_width, width),
            .output = matrix(prefix + "self_attn.o_proj", width, query_width),
            .query_norm = norm(prefix + "self_attn.q_norm", config_.head_width),
            .key_norm = norm(prefix + "self_attn.k_norm", config_.head_width),
            .ffn_norm = norm(prefix + "post_attention_layernorm", width),
            .gate = matrix(prefix + "mlp.gate_proj", config_.ffn_width, width),
            .up = matrix(prefix + "mlp.up_proj", config_.ffn_width, width),
            .down = matrix(prefix + "mlp.down_proj", width, config_.ffn_width),
        });
    }
    final_norm_ = norm("model.norm", width);
    // Always stored, even where it equals the embedding: a file that was cut off before it is no tied model.
    output_ = matrix("lm_head", config_.vocab_size, width);

    const int half = config_.head_width / 2;
    for (int i = 0; i < half; ++i) {
        const float exponent = static_cast<float>(2 * i) / static_cast<float>(config_.head_width);
        frequencies_.push_back(1.0f / std::pow(config_.rope_theta, exponent));
    }
}

int Decoder::widest_row() const {
    return std::max({config_.width, config_.n_heads * config_.head_width, config_.ffn_width});
}

Decoder::Workspace::Workspace(const Decoder &decoder, int n, int n_threads) {
    const TextConfig &config = decoder.config_;
    const int query_width = config.n_heads * config.head_width;
    const int key_width = config.n_kv_heads * config.head_width;
    memory_ = build_arena("decoder workspace", [&](ArenaCursor &arena) {
        x_ = arena.take<float>(product(n, config.width));
        normed_ = arena.take<float>(product(n, config.width));
        query_ = arena.take<float>(product(n, query_width));
        key_ = arena.take<float>(product(n, key_width));
        value_ = arena.take<float>(product(n, key_width));
        attended_ = arena.take<float>(product(n, query_width));
        gate_ = arena.take<float>(product(n, config.ffn_width));
        up_ = arena.take<float>(product(n, config.ffn_width));
        cosines_ = arena.take<float>(product(n, config.head_width / 2));
        sines_ = arena.take<float>(product(n, config.head_width / 2));
        logits_ = arena.take<float>(static_cast<std::size_t>(config.vocab_size));
        if (decoder.quantised_) {
            quants_.layout(arena, static_cast<std::size_t>(n),
                           static_cast<std::size_t>(decoder.widest_row()));
        }
        attention_.layout(arena, {config.n_heads, config.n_kv_heads, config.head_width}, n_threads);
    });
}

std::span<const float> Decoder::run(Compute &compute, KvCache &cache, Workspace &work, int first, int n,
                                    bool want_logits) const {
    const int half = config_.head_width / 2;
    for (int t = 0; t < n; ++t) {
        for (int i = 0; i < half; ++i) {
            // The product in single precision, as the reference computes it.
            const float angle = static_cast<float>(first + t) * frequencies_[static_cast<std::size_t>(i)];
            work.cosines_[product(t, half) + static_cast<std::size_t>(i)] = std::cos(angle);
            work.sines_[product(t, half) + static_cast<std::size_t>(i)] = std::sin(angle);
        }
    }
    for (int layer = 0; layer < config_.n_layers; ++layer) run_layer(compute, cache, work, layer, first, n);
    if (!want_logits) return {};
    compute.kernels().rms_norm(work.x_ + product(n - 1, config_.width), final_norm_, config_.norm_epsilon,
                               config_.width, work.normed_);
    const bool quantise = traits(output_->type).quantised;
    compute.linear(*output_, nullptr, compute.prepare(work.normed_, 1, config_.width, quantise, work.quants_),
                   work.logits_);
    return {work.logits_, static_cast<std::size_t>(config_.vocab_size)};
}

void Decoder::norm_and_rotate(Compute &compute, const Workspace &work, const float *norm, int n_heads, int n,
                              float *rows) const {
    const int width = config_.head_width;
    const int half = width / 2;
    compute.for_ranges(n, 8, [&](int begin, int end, int) {
        for (int t = begin; t < end; ++t) {
            const float *cosines = work.cosines_ + product(t, half);
            const float *sines = work.sines_ + product(t, half);
            for (int head = 0; head < n_heads; ++head) {
                float *row = rows + product(t * n_heads + head, width);
                compute.kernels().rms_norm(row, norm, config_.norm_epsilon, width, row);
                for (int i = 0; i < half; ++i) {
                    const float low = row[i];
                    const float high = row[i + half];
                    row[i] = low * cosines[i] - high * sines[i];
                    row[i + half] = high * cosines[i] + low * sines[i];
                }
            }
        }
    });
}

void Decoder::run_layer(Compute &compute, KvCache &cache, Workspace &work, int layer, int first,
                        int n) const {
    const Kernels &kernels = compute.kernels();
    const Layer &weights = layers_[static_cast<std::size_t>(layer)];
    const int width = config_.width;
    const int head_width = config_.head_width;
    const int key_width = config_.n_kv_heads * head_width;
    const auto normalise = [&](const float *norm) {
        compute.for_ranges(n, 8, [&](int begin, int end, int) {
            for (int t = begin; t < end; ++t) {
                kernels.rms_norm(work.x_ + product(t, width), norm, config_.norm_epsilon, width,
                                 work.normed_ + product(t, width));
            }
        });
    };
    const auto prepare = [&](const float *rows, int n_cols) {
        return compute.prepare(rows, n, n_cols, quantised_, work.quants_);
    };
    const auto add_residual = [&](const float *y) { kernels.add(work.x_, y, n * width); };

    normalise(weights.attention_norm);
    const auto normed = prepare(work.normed_, width);
    compute.linear(*weights.query, nullptr, normed, work.query_);
    compute.linear(*weights.key, nullptr, normed, work.key_);
    compute.linear(*weights.value, nullptr, normed, work.value_);
    norm_and_rotate(compute, work, weights.query_norm, config_.n_heads, n, work.query_);
    norm_and_rotate(compute, work, weights.key_norm, config_.n_kv_heads, n, work.key_);
    for (int t = 0; t < n; ++t) {
        kernels.pack_f16(work.key_ + product(t, key_width), key_width, cache.key(layer, first + t));
        kernels.pack_f16(work.value_ + product(t, key_width), key_width, cache.value(layer, first + t));
    }
    work.attention_.run(
        compute, work.query_, n, [&](int query) { return first + query + 1; },
        [&](int head, int key, int count, float *keys, float *values) {
            // A tile lies within one block of the cache.
            const auto head_at = product(head, head_width);
            for (int i = 0; i < count; ++i) {
                const auto at = static_cast<std::size_t>(i) * cache.stride() + head_at;
                const auto *key_row = reinterpret_cast<const std::byte *>(cache.key(layer, key) + at);
                const auto *value_row = reinterpret_cast<const std::byte *>(cache.value(layer, key) + at);
                kernels.unpack_f16(key_row, head_width, keys + product(i, head_width));
                kernels.unpack_f16(value_row, head_width, values + product(i, head_width));
            }
            const auto stride = static_cast<std::size_t>(head_width);
            return KeyValueTile{keys, stride, values, stride};
        },
        work.attended_);
    compute.linear(*weights.output, nullptr, prepare(work.attended_, config_.n_heads * head_width),
                   work.normed_);
    add_residual(work.normed_);

    normalise(weights.ffn_norm);
    const auto ffn_in = prepare(work.normed_, width);
    compute.linear(*weights.gate, nullptr, ffn_in, work.gate_);
    compute.linear(*weights.up, nullptr, ffn_in, work.up_);
    compute.for_ranges(n, 8, [&](int begin, int end, int) {
        const auto at = product(begin, config_.ffn_width);
        kernels.silu_multiply(work.gate_ + at, work.up_ + at, (end - begin) * config_.ffn_width);
    });
    compute.linear(*weights.down, nullptr, prepare(work.gate_, config_.ffn_width), work.normed_);
    add_residual(work.normed_);
}

}  // namespace chatllm

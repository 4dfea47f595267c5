#include "model/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

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
    if (const TypeTraits &type = traits(embedding_->type); type.rows_together > 1)
        file.fail(*embedding_, "is " + std::string(type.name) + ", whose rows cannot be read one by one");
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

void Decoder::Workspace::lay_out(ArenaCursor &arena, const Decoder &decoder, int n, const Compute &compute) {
    const TextConfig &config = decoder.config_;
    const int n_threads = compute.n_threads();
    const int query_width = config.n_heads * config.head_width;
    const int key_width = config.n_kv_heads * config.head_width;
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
    const int group = config.n_heads / config.n_kv_heads;
    scores_ = arena.take<float>(product(n_threads * group, KvCache::block_positions));
    panels_ = arena.take<std::byte>(compute.panel_bytes(n, decoder.widest_row()));
    attention_.layout(arena, {config.n_heads, config.n_kv_heads, config.head_width}, compute.kernels(),
                      n_threads);
}

Decoder::Workspace::Workspace(const Decoder &decoder, int n, const Compute &compute) {
    memory_ =
        build_arena("decoder workspace", [&](ArenaCursor &arena) { lay_out(arena, decoder, n, compute); });
}

std::size_t Decoder::Workspace::bytes(const Decoder &decoder, int n, const Compute &compute) {
    ArenaCursor measure(nullptr);
    Workspace().lay_out(measure, decoder, n, compute);
    return measure.used();
}

void Decoder::run(Compute &compute, KvCache &cache, Workspace &work, int first, int n, int n_precise) const {
    const int half = config_.head_width / 2;
    compute.for_ranges(n, 8, [&](int begin, int end, int) {
        for (int t = begin; t < end; ++t) {
            for (int i = 0; i < half; ++i) {
                // The product in single precision, as the reference computes it.
                const float angle = static_cast<float>(first + t) * frequencies_[static_cast<std::size_t>(i)];
                work.cosines_[product(t, half) + static_cast<std::size_t>(i)] = std::cos(angle);
                work.sines_[product(t, half) + static_cast<std::size_t>(i)] = std::sin(angle);
            }
        }
    });
    for (int layer = 0; layer < config_.n_layers; ++layer)
        run_layer(compute, cache, work, layer, first, n, n_precise);
}

std::span<const float> Decoder::logits(Compute &compute, Workspace &work, int n) const {
    compute.kernels().rms_norm(work.x_ + product(n - 1, config_.width), final_norm_, config_.norm_epsilon,
                               config_.width, work.normed_);
    const Product product{output_, nullptr, work.logits_};
    compute.linear(work.normed_, 1, config_.width, 1, {&product, 1}, Finish::none, work.panels_);
    return {work.logits_, static_cast<std::size_t>(config_.vocab_size)};
}

void Decoder::norm_and_rotate(const Kernels &kernels, const Workspace &work, const float *norm, int n_heads,
                              int t, float *heads) const {
    const int width = config_.head_width;
    const int half = width / 2;
    const float *cosines = work.cosines_ + product(t, half);
    const float *sines = work.sines_ + product(t, half);
    for (int head = 0; head < n_heads; ++head) {
        float *row = heads + product(head, width);
        kernels.rms_norm(row, norm, config_.norm_epsilon, width, row);
        for (int i = 0; i < half; ++i) {
            const float low = row[i];
            const float high = row[i + half];
            row[i] = low * cosines[i] - high * sines[i];
            row[i + half] = high * cosines[i] + low * sines[i];
        }
    }
}

void Decoder::attend_many(Compute &compute, KvCache &cache, const Workspace &work, int layer, int first,
                          int n) const {
    const Kernels &kernels = compute.kernels();
    const Layer &weights = layers_[static_cast<std::size_t>(layer)];
    const int head_width = config_.head_width;
    const int key_width = config_.n_kv_heads * head_width;
    compute.for_ranges(n, 8, [&](int begin, int end, int) {
        for (int t = begin; t < end; ++t) {
            float *key = work.key_ + product(t, key_width);
            norm_and_rotate(kernels, work, weights.query_norm, config_.n_heads, t,
                            work.query_ + product(t, config_.n_heads * head_width));
            norm_and_rotate(kernels, work, weights.key_norm, config_.n_kv_heads, t, key);
            const float *value = work.value_ + product(t, key_width);
            for (int head = 0; head < config_.n_kv_heads; ++head) {
                const auto at = product(head, head_width);
                kernels.pack_f16(key + at, head_width, cache.key(layer, head, first + t));
                kernels.pack_f16(value + at, head_width, cache.value(layer, head, first + t));
            }
        }
    });
    work.attention_.run(
        compute, work.query_, n, [&](int query) { return first + query + 1; },
        [&](int head, int key) {
            // A tile lies within one block of the cache.
            return KeysValues{Storage::f16, reinterpret_cast<const std::byte *>(cache.key(layer, head, key)),
                              reinterpret_cast<const std::byte *>(cache.value(layer, head, key)),
                              cache.stride() * sizeof(std::uint16_t)};
        },
        work.attended_);
}

void Decoder::attend_one(Compute &compute, KvCache &cache, const Workspace &work, int layer,
                         int position) const {
    const Kernels &kernels = compute.kernels();
    const Layer &weights = layers_[static_cast<std::size_t>(layer)];
    const int width = config_.head_width;
    const int group = config_.n_heads / config_.n_kv_heads;
    const float scale = 1.0f / std::sqrt(static_cast<float>(width));
    const auto cache_bytes = product(config_.n_kv_heads, width) * 2 * sizeof(std::uint16_t) *
                             static_cast<std::size_t>(position + 1);
    compute.share(config_.n_kv_heads, cache_bytes, [&](int head, int thread) {
        const auto at = product(head, width);
        float *query = work.query_ + product(head * group, width);
        norm_and_rotate(kernels, work, weights.query_norm, group, 0, query);
        norm_and_rotate(kernels, work, weights.key_norm, 1, 0, work.key_ + at);
        kernels.pack_f16(work.key_ + at, width, cache.key(layer, head, position));
        kernels.pack_f16(work.value_ + at, width, cache.value(layer, head, position));

        constexpr int block = KvCache::block_positions;
        float *out = work.attended_ + product(head * group, width);
        float *scores = work.scores_ + product(thread * group, block);
        std::fill_n(out, product(group, width), 0.0f);
        // A block of the cache at a time; when the maximum grows, what was summed up before shrinks.
        constexpr int most_heads = 64;
        for (int begin = 0; begin < group; begin += most_heads) {
            const int n_heads = std::min(most_heads, group - begin);
            float maxima[most_heads];
            float sums[most_heads] = {};
            std::fill_n(maxima, n_heads, -std::numeric_limits<float>::infinity());
            float *heads_out = out + product(begin, width);
            for (int key = 0; key <= position; key += block) {
                const int n = std::min(block, position + 1 - key);
                kernels.attention_scores(query + product(begin, width), n_heads, width,
                                         cache.key(layer, head, key), cache.stride(), n, scale, scores,
                                         block);
                for (int h = 0; h < n_heads; ++h) {
                    float *score = scores + product(h, block);
                    const float maximum = std::max(maxima[h], kernels.maximum(score, n));
                    const float correction = std::exp(maxima[h] - maximum);
                    maxima[h] = maximum;
                    sums[h] = sums[h] * correction + kernels.exponentials(score, maximum, n);
                    if (key > 0) kernels.scale(heads_out + product(h, width), correction, width);
                }
                kernels.attention_values(scores, block, n_heads, width, cache.value(layer, head, key),
                                         cache.stride(), n, heads_out);
            }
            for (int h = 0; h < n_heads; ++h)
                kernels.scale(heads_out + product(h, width), 1.0f / sums[h], width);
        }
    });
}

void Decoder::run_layer(Compute &compute, KvCache &cache, Workspace &work, int layer, int first, int n,
                        int n_precise) const {
    const Kernels &kernels = compute.kernels();
    const Layer &weights = layers_[static_cast<std::size_t>(layer)];
    const int width = config_.width;
    const int query_width = config_.n_heads * config_.head_width;
    const int key_width = config_.n_kv_heads * config_.head_width;
    const auto normalise = [&](const float *norm) {
        compute.for_ranges(n, 8, [&](int begin, int end, int) {
            for (int t = begin; t < end; ++t) {
                kernels.rms_norm(work.x_ + product(t, width), norm, config_.norm_epsilon, width,
                                 work.normed_ + product(t, width));
            }
        });
    };
    const auto linear = [&](const float *x, int n_cols, std::span<const Product> products, Finish finish,
                            std::span<const Product> next) {
        compute.linear(x, n, n_cols, n_precise, products, finish, work.panels_, next);
    };
    const auto attention_inputs = [&](const Layer &of) {
        return std::array<Product, 3>{{{of.query, nullptr, work.query_},
                                       {of.key, nullptr, work.key_},
                                       {of.value, nullptr, work.value_}}};
    };
    const auto inputs = attention_inputs(weights);
    const Product output[] = {{weights.output, nullptr, work.x_, true}};
    const Product gated[] = {{weights.gate, nullptr, work.gate_}, {weights.up, nullptr, work.up_}};
    const Product down[] = {{weights.down, nullptr, work.x_, true}};

    normalise(weights.attention_norm);
    linear(work.normed_, width, inputs, Finish::none, output);
    if (n == 1) {
        attend_one(compute, cache, work, layer, first);
    } else {
        attend_many(compute, cache, work, layer, first, n);
    }
    // Two products, of a query with a key and of a weight with a value, for each pair that sees each other.
    const std::int64_t n_pairs = std::int64_t{n} * first + std::int64_t{n} * (n + 1) / 2;
    compute.stages().add(
        {.bf16_operations = 4 * n_pairs * query_width,  // the cache is f16
         .bytes = std::int64_t{2} * (first + n) * key_width * std::int64_t{sizeof(std::uint16_t)}});
    linear(work.attended_, query_width, output, Finish::none, {gated, 1});

    normalise(weights.ffn_norm);
    linear(work.normed_, width, gated, Finish::swiglu, down);
    if (layer + 1 < config_.n_layers) {
        linear(work.gate_, config_.ffn_width, down, Finish::none,
               attention_inputs(layers_[static_cast<std::size_t>(layer) + 1]));
    } else {
        const Product logits[] = {{output_, nullptr, work.logits_}};
        linear(work.gate_, config_.ffn_width, down, Finish::none, logits);
    }
}

}  // namespace chatllm

#include "model/encoder.h"

#include <algorithm>
#include <cmath>

#include "base/arena.h"
#include "model/attention.h"

namespace chatllm {
namespace {

constexpr float norm_epsilon = 1e-5f;  // torch.nn.LayerNorm's default, as the model was trained
constexpr int n_taps = 9;              // 3 x 3
constexpr int position_tile = 32;      // output positions of a convolution computed together

// Length of an axis behind a convolution of width 3, stride 2, padding 1.
constexpr int halved(int n) { return (n + 1) / 2; }
constexpr int halved_thrice(int n) { return halved(halved(halved(n))); }

}  // namespace

struct Encoder::Workspace {
    float *conv[2];  // [positions, channels] of the convolution before and the one after
    float *patches;  // per thread [position_tile, channels * 9]
    float *columns;  // [n_tokens, channels * conv_bands]
    float *x;        // [n_tokens, width]
    float *normed;   // [n_tokens, width]
    float *query;    // [n_tokens, width], and likewise
    float *key;
    float *value;
    float *attended;
    float *ffn;  // [n_tokens, ffn_width]
    QuantBuffers quants;
    Attention attention;
};

Encoder::Encoder(const ModelFile &file) : config_(file.audio()), text_width_(file.text().width) {
    const auto affine = [&](const std::string &name, std::initializer_list<int> dims) {
        const Affine loaded{&file.tensor(name + ".weight", dims), file.vector(name + ".bias", *dims.begin())};
        quantised_ = quantised_ || traits(loaded.weight->type).quantised;
        return loaded;
    };
    const auto norm = [&](const std::string &name) {
        return Norm{file.vector(name + ".weight", config_.width), file.vector(name + ".bias", config_.width)};
    };
    const int channels = config_.conv_channels;
    const int width = config_.width;
    convolutions_[0] = affine("audio.conv2d1", {channels, 1, 3, 3});
    convolutions_[1] = affine("audio.conv2d2", {channels, channels, 3, 3});
    convolutions_[2] = affine("audio.conv2d3", {channels, channels, 3, 3});
    conv_out_ = &file.tensor("audio.conv_out.weight", {width, channels * halved_thrice(config_.n_mel_bands)});
    quantised_ = quantised_ || traits(conv_out_->type).quantised;
    for (int i = 0; i < config_.n_layers; ++i) {
        const std::string prefix = "audio.layers." + std::to_string(i) + ".";
        layers_.push_back({
            .attention_norm = norm(prefix + "input_layernorm"),
            .query = affine(prefix + "self_attn.q_proj", {width, width}),
            .key = affine(prefix + "self_attn.k_proj", {width, width}),
            .value = affine(prefix + "self_attn.v_proj", {width, width}),
            .output = affine(prefix + "self_attn.o_proj", {width, width}),
            .ffn_norm = norm(prefix + "post_attention_layernorm"),
            .ffn_in = affine(prefix + "mlp.fc0", {config_.ffn_width, width}),
            .ffn_out = affine(prefix + "mlp.fc1", {width, config_.ffn_width}),
        });
    }
    final_norm_ = norm("audio.ln_post");
    projector_[0] = affine("multi_modal_projector.proj1", {width, width});
    projector_[1] = affine("multi_modal_projector.proj2", {text_width_, width});

    // Sinusoids as in Whisper: first half sine, second half cosine.
    const int chunk_tokens = halved_thrice(config_.chunk_frames);
    const int half = width / 2;
    positions_.resize(product(chunk_tokens, width));
    for (int t = 0; t < chunk_tokens; ++t) {
        for (int j = 0; j < half; ++j) {
            const float timescale =
                std::exp(-std::log(10000.0f) / static_cast<float>(half - 1) * static_cast<float>(j));
            const float angle = static_cast<float>(t) * timescale;
            positions_[product(t, width) + static_cast<std::size_t>(j)] = std::sin(angle);
            positions_[product(t, width) + static_cast<std::size_t>(half + j)] = std::cos(angle);
        }
    }
}

int Encoder::widest_row() const {
    const int conv = config_.conv_channels * std::max(n_taps, halved_thrice(config_.n_mel_bands));
    return std::max({conv, config_.width, config_.ffn_width});
}

int Encoder::n_tokens(int n_frames) const {
    return n_frames / config_.chunk_frames * halved_thrice(config_.chunk_frames) +
           halved_thrice(n_frames % config_.chunk_frames);
}

void Encoder::run(Compute &compute, const float *mel, int n_frames, bool whole_clip, float *out,
                  const Trace &trace) const {
    const int width = config_.width;
    const int channels = config_.conv_channels;
    const int chunk_frames = config_.chunk_frames;
    const int conv_bands = halved_thrice(config_.n_mel_bands);
    const int column_width = channels * conv_bands;
    const int segment_frames =
        whole_clip ? (n_frames + chunk_frames - 1) / chunk_frames * chunk_frames : config_.window_frames;
    const int most_tokens = std::min(n_tokens(segment_frames), n_tokens(n_frames));
    const auto most = static_cast<std::size_t>(most_tokens);
    const int n_threads = compute.pool().size();

    Workspace work{};
    const AnonymousMap memory = build_arena("audio encoder", [&](ArenaCursor &arena) {
        const int height = halved(config_.n_mel_bands);
        const int columns = halved(chunk_frames);
        work.conv[0] = arena.take<float>(product(height, columns) * static_cast<std::size_t>(channels));
        work.conv[1] =
            arena.take<float>(product(halved(height), halved(columns)) * static_cast<std::size_t>(channels));
        work.patches = arena.take<float>(product(n_threads * position_tile, channels * n_taps));
        work.columns = arena.take<float>(most * static_cast<std::size_t>(column_width));
        for (float **rows : {&work.x, &work.normed, &work.query, &work.key, &work.value, &work.attended}) {
            *rows = arena.take<float>(most * static_cast<std::size_t>(width));
        }
        work.ffn = arena.take<float>(most * static_cast<std::size_t>(config_.ffn_width));
        if (quantised_) work.quants.layout(arena, most, static_cast<std::size_t>(widest_row()));
        work.attention.layout(arena, {config_.n_heads, config_.n_heads, width / config_.n_heads}, n_threads);
    });
    std::vector<float> embedded;  // of the whole clip, for the trace
    const auto linear = [&](const Affine &layer, const float *x, int n, float *y) {
        const bool quantise = traits(layer.weight->type).quantised;
        const auto activations = compute.prepare(x, n, layer.weight->cols(), quantise, work.quants);
        compute.linear(*layer.weight, layer.bias, activations, y);
    };

    const int chunk_tokens = halved_thrice(chunk_frames);
    for (int segment = 0; segment < n_frames; segment += segment_frames) {
        const int segment_end = std::min(segment + segment_frames, n_frames);
        int n = 0;
        for (int frame = segment; frame < segment_end; frame += chunk_frames) {
            convolve_chunk(compute, work, mel, n_frames, frame, work.columns + product(n, column_width));
            n += n_tokens(std::min(chunk_frames, segment_end - frame));
        }
        linear({conv_out_, nullptr}, work.columns, n, work.x);
        for (int t = 0; t < n; ++t) {
            compute.kernels().add(work.x + product(t, width),
                                  positions_.data() + product(t % chunk_tokens, width), width);
        }
        if (trace) embedded.insert(embedded.end(), work.x, work.x + product(n, width));

        for (const Layer &layer : layers_) run_layer(compute, layer, work, n);

        for (int t = 0; t < n; ++t) {
            compute.kernels().layer_norm(work.x + product(t, width), final_norm_.weight, final_norm_.bias,
                                         norm_epsilon, width, work.normed + product(t, width));
        }
        linear(projector_[0], work.normed, n, work.query);
        compute.for_ranges(n, 8, [&](int first, int last, int) {
            compute.kernels().gelu(work.query + product(first, width), (last - first) * width);
        });
        linear(projector_[1], work.query, n, out);
        out += product(n, text_width_);
    }
    trace.show("enc_in", embedded.data(), {n_tokens(n_frames), width});
}

void Encoder::convolve_chunk(Compute &compute, Workspace &work, const float *mel, int n_frames,
                             int first_frame, float *columns) const {
    const Kernels &kernels = compute.kernels();
    const int channels = config_.conv_channels;
    int height = config_.n_mel_bands;  // of the input of each convolution
    int width = config_.chunk_frames;

    for (int stage = 0; stage < 3; ++stage) {
        const int n_inputs = stage == 0 ? 1 : channels;
        const int patch = n_inputs * n_taps;
        const int out_height = halved(height);
        const int out_width = halved(width);
        const float *input = stage == 0 ? nullptr : work.conv[(stage + 1) % 2];
        float *output = work.conv[stage % 2];
        const Affine &convolution = convolutions_[stage];

        compute.for_ranges(out_height * out_width, position_tile, [&](int first, int last, int thread) {
            float *patches = work.patches + product(thread * position_tile, channels * n_taps);
            for (int position = first; position < last; ++position) {
                const int top = position / out_width * 2 - 1;
                const int left = position % out_width * 2 - 1;
                float *row = patches + product(position - first, patch);
                for (int tap = 0; tap < n_taps; ++tap) {
                    const int y = top + tap / 3;
                    const int x = left + tap % 3;
                    const bool inside = y >= 0 && y < height && x >= 0 && x < width;
                    if (stage == 0) {
                        // Frames behind the end of the clip are zero in the normalised domain.
                        const int frame = first_frame + x;
                        row[tap] = inside && frame < n_frames
                                       ? mel[product(y, n_frames) + static_cast<std::size_t>(frame)]
                                       : 0.0f;
                    } else if (inside) {
                        const float *source = input + product(y * width + x, channels);
                        for (int c = 0; c < channels; ++c) row[c * n_taps + tap] = source[c];
                    } else {
                        for (int c = 0; c < channels; ++c) row[c * n_taps + tap] = 0.0f;
                    }
                }
            }
            const int count = last - first;
            float *out = output + product(first, channels);
            const Activations activations{patches, {nullptr, nullptr, nullptr}, count, patch};
            compute.multiply_rows(*convolution.weight, 0, channels, activations, out,
                                  static_cast<std::size_t>(channels), thread);
            for (int t = 0; t < count; ++t)
                kernels.add(out + product(t, channels), convolution.bias, channels);
            kernels.gelu(out, count * channels);
        });
        height = out_height;
        width = out_width;
    }

    // One token a column of time: channel-major, index = channel * bands + band.
    const float *output = work.conv[0];
    const int n_valid = n_tokens(std::min(config_.chunk_frames, n_frames - first_frame));
    for (int t = 0; t < n_valid; ++t) {
        for (int band = 0; band < height; ++band) {
            const float *source = output + product(band * width + t, channels);
            for (int c = 0; c < channels; ++c)
                columns[product(t, channels * height) + product(c, height) + static_cast<std::size_t>(band)] =
                    source[c];
        }
    }
}

void Encoder::run_layer(Compute &compute, const Layer &layer, Workspace &work, int n_tokens) const {
    const Kernels &kernels = compute.kernels();
    const int width = config_.width;
    const int head_width = width / config_.n_heads;
    const auto normalise = [&](const Norm &norm) {
        compute.for_ranges(n_tokens, 8, [&](int first, int last, int) {
            for (int t = first; t < last; ++t) {
                kernels.layer_norm(work.x + product(t, width), norm.weight, norm.bias, norm_epsilon, width,
                                   work.normed + product(t, width));
            }
        });
    };
    const auto add_residual = [&](const float *y) { kernels.add(work.x, y, n_tokens * width); };

    normalise(layer.attention_norm);
    const auto normed = compute.prepare(work.normed, n_tokens, width, quantised_, work.quants);
    compute.linear(*layer.query.weight, layer.query.bias, normed, work.query);
    compute.linear(*layer.key.weight, layer.key.bias, normed, work.key);
    compute.linear(*layer.value.weight, layer.value.bias, normed, work.value);
    const auto stride = static_cast<std::size_t>(width);
    work.attention.run(
        compute, work.query, n_tokens, [&](int) { return n_tokens; },
        [&](int head, int first, int, float *, float *) {
            const auto at = product(first, width) + product(head, head_width);
            return KeyValueTile{work.key + at, stride, work.value + at, stride};
        },
        work.attended);
    const auto attended = compute.prepare(work.attended, n_tokens, width, quantised_, work.quants);
    compute.linear(*layer.output.weight, layer.output.bias, attended, work.normed);
    add_residual(work.normed);

    normalise(layer.ffn_norm);
    const auto ffn_in = compute.prepare(work.normed, n_tokens, width, quantised_, work.quants);
    compute.linear(*layer.ffn_in.weight, layer.ffn_in.bias, ffn_in, work.ffn);
    compute.for_ranges(n_tokens, 8, [&](int first, int last, int) {
        kernels.gelu(work.ffn + product(first, config_.ffn_width), (last - first) * config_.ffn_width);
    });
    const auto ffn_out = compute.prepare(work.ffn, n_tokens, config_.ffn_width, quantised_, work.quants);
    compute.linear(*layer.ffn_out.weight, layer.ffn_out.bias, ffn_out, work.normed);
    add_residual(work.normed);
}

}  // namespace chatllm

#include "model/encoder.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "base/arena.h"
#include "model/attention.h"

namespace chatllm {
namespace {

constexpr float norm_epsilon = 1e-5f;  // torch.nn.LayerNorm's default, as the model was trained
constexpr int n_taps = 9;              // 3 x 3
constexpr int batch_windows = 4;       // whose tokens go through the layers together
constexpr int group_chunks = 4;        // that go through the convolutions together
constexpr int n_panels = 2;            // of positions that meet a tile of weights while it is in the cache

// Length of an axis behind a convolution of width 3, stride 2, padding 1.
constexpr int halved(int n) { return (n + 1) / 2; }
constexpr int halved_thrice(int n) { return halved(halved(halved(n))); }

}  // namespace

// Chunks at one stage of the convolutions: pixels of `channels` elements each, padded to whole words.
struct Encoder::Map {
    std::byte *pixels;  // [n_chunks, height, width, pixel_bytes]
    int n_chunks;
    int height;
    int width;
    std::size_t pixel_bytes;
    int element_bytes;

    int n_positions() const { return n_chunks * height * width; }
    std::byte *pixel(int position) const { return pixels + static_cast<std::size_t>(position) * pixel_bytes; }
};

// Consecutive chunks with the same number of valid tokens.
struct Encoder::Group {
    const float *mel;  // [bands, n_frames]
    int n_frames;
    int first_frame;
    int n_chunks;
    int n_tokens;  // of each
};

struct Encoder::Workspace {
    std::byte *maps[2];       // pixels behind the first and the second convolution
    std::byte *weights[2];    // tiles of the second and the third convolution
    std::size_t tile_bytes;   // of such a tile
    std::byte *nothing;       // a pixel of zeros
    std::byte *patches;       // per thread: panels of positions, or rows of weights
    std::size_t patch_bytes;  // of a thread
    int thread_positions;     // that a thread holds at once
    float *positions;         // per thread [thread_positions, channels]
    float *columns;           // [n_tokens, channels * conv_bands]
    float *x;                 // [n_tokens, width]
    float *normed;            // [n_tokens, width]
    float *query;             // [n_tokens, width], and likewise
    float *key;
    float *value;
    float *attended;
    float *ffn;  // [n_tokens, ffn_width]
    std::byte *panels;
    Attention attention;

    // Elements of the maps: bfloat16 where the convolutions' arithmetic is, else single precision.
    const Arithmetic *arithmetic;
    int element_bytes;
    int padded_channels;  // whole words
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

Encoder::Cut Encoder::cut(int n_frames, bool whole_clip) const {
    const int chunk = config_.chunk_frames;
    const int all_frames = (n_frames + chunk - 1) / chunk * chunk;
    if (whole_clip) return {all_frames, n_tokens(all_frames)};
    return {batch_windows * config_.window_frames, n_tokens(config_.window_frames)};
}

void Encoder::lay_out(ArenaCursor &arena, Workspace &work, const Compute &compute, int n_frames,
                      bool whole_clip) const {
    const Kernels &kernels = compute.kernels();
    const int channels = config_.conv_channels;
    const int n_threads = compute.n_threads();
    const int most_tokens = std::min(n_tokens(cut(n_frames, whole_clip).batch_frames), n_tokens(n_frames));
    const auto most = static_cast<std::size_t>(most_tokens);

    const bool both_f16 =
        convolutions_[1].weight->type == Storage::f16 && convolutions_[2].weight->type == Storage::f16;
    work.arithmetic = &compute.arithmetic(both_f16 ? Storage::f16 : Storage::f32);
    work.element_bytes = compute.is_half(*work.arithmetic) ? 2 : 4;
    work.padded_channels = work.element_bytes == 2 ? (channels + 1) / 2 * 2 : channels;
    const int taps_width = n_taps * work.padded_channels;
    const auto pixel_bytes = product(work.padded_channels, work.element_bytes);
    const int n_chunks = std::min(group_chunks, (n_frames + config_.chunk_frames - 1) / config_.chunk_frames);
    int height = config_.n_mel_bands;
    int width = config_.chunk_frames;
    for (std::byte *&map : work.maps) {
        height = halved(height);
        width = halved(width);
        map = arena.take<std::byte>(product(n_chunks * height, width) * pixel_bytes);
    }
    work.tile_bytes = work.arithmetic->tile_bytes(taps_width);
    const int n_tiles = (channels + kernels.tile_rows - 1) / kernels.tile_rows;
    for (std::byte *&tiles : work.weights)
        tiles = arena.take<std::byte>(static_cast<std::size_t>(n_tiles) * work.tile_bytes);
    work.nothing = arena.take<std::byte>(pixel_bytes);
    // Positions of panels, and rows of weights while they are put in order.
    work.thread_positions = n_panels * std::max(work.arithmetic->panel_rows, kernels.single.panel_rows);
    const int most_rows = std::max(work.thread_positions, kernels.tile_rows);
    work.patch_bytes = (product(most_rows, taps_width) * sizeof(float) + 63) / 64 * 64;
    work.patches = arena.take<std::byte>(work.patch_bytes * static_cast<std::size_t>(n_threads));
    work.positions = arena.take<float>(product(n_threads * work.thread_positions, channels));
    work.columns = arena.take<float>(most * product(channels, halved_thrice(config_.n_mel_bands)));
    for (float **rows : {&work.x, &work.normed, &work.query, &work.key, &work.value, &work.attended}) {
        *rows = arena.take<float>(product(most_tokens, config_.width));
    }
    work.ffn = arena.take<float>(product(most_tokens, config_.ffn_width));
    work.panels = arena.take<std::byte>(compute.panel_bytes(most_tokens, widest_row()));
    work.attention.layout(arena, {config_.n_heads, config_.n_heads, config_.width / config_.n_heads}, kernels,
                          n_threads);
}

std::size_t Encoder::workspace_bytes(const Compute &compute, int n_frames, bool whole_clip) const {
    ArenaCursor measure(nullptr);
    Workspace work{};
    lay_out(measure, work, compute, n_frames, whole_clip);
    return measure.used();
}

void Encoder::run(Compute &compute, const float *mel, int n_frames, bool whole_clip, float *out,
                  const Trace &trace) const {
    const Kernels &kernels = compute.kernels();
    const int width = config_.width;
    const int chunk_frames = config_.chunk_frames;
    const int chunk_tokens = halved_thrice(chunk_frames);
    const int column_width = config_.conv_channels * halved_thrice(config_.n_mel_bands);
    const auto [batch_frames, window_tokens] = cut(n_frames, whole_clip);

    Workspace work{};
    const AnonymousMap memory = build_arena(
        "audio encoder", [&](ArenaCursor &arena) { lay_out(arena, work, compute, n_frames, whole_clip); });
    std::vector<float> embedded;  // of the whole clip, for the trace
    const auto linear = [&](const Affine &layer, const float *x, int n, float *y, Finish finish) {
        const Product each{layer.weight, layer.bias, y};
        compute.linear(x, n, layer.weight->cols(), n, {&each, 1}, finish, work.panels);
    };

    {
        const Stages::Timer timer(compute.stages(), Stage::convolutions);
        unpack_convolutions(compute, work);
    }
    for (int batch = 0; batch < n_frames; batch += batch_frames) {
        const int batch_end = std::min(batch + batch_frames, n_frames);
        int n = 0;
        {
            const Stages::Timer timer(compute.stages(), Stage::convolutions);
            for (int frame = batch; frame < batch_end;) {
                const int n_whole = std::min((batch_end - frame) / chunk_frames, group_chunks);
                const Group group{mel, n_frames, frame, std::max(n_whole, 1),
                                  n_whole > 0 ? chunk_tokens : n_tokens(batch_end - frame)};
                convolve(compute, work, group, work.columns + product(n, column_width));
                n += group.n_chunks * group.n_tokens;
                frame += group.n_chunks * chunk_frames;
            }
            linear({conv_out_, nullptr}, work.columns, n, work.x, Finish::none);
        }
        for (int t = 0; t < n; ++t) {
            kernels.add(work.x + product(t, width), positions_.data() + product(t % chunk_tokens, width),
                        width);
        }
        if (trace) embedded.insert(embedded.end(), work.x, work.x + product(n, width));

        {
            const Stages::Timer timer(compute.stages(), Stage::encoder);
            for (const Layer &layer : layers_) run_layer(compute, layer, work, n, window_tokens);
        }
        const Stages::Timer timer(compute.stages(), Stage::projector);
        for (int t = 0; t < n; ++t) {
            kernels.layer_norm(work.x + product(t, width), final_norm_.weight, final_norm_.bias, norm_epsilon,
                               width, work.normed + product(t, width));
        }
        linear(projector_[0], work.normed, n, work.query, Finish::gelu);
        linear(projector_[1], work.query, n, out, Finish::none);
        out += product(n, text_width_);
    }
    trace.show("enc_in", embedded.data(), {n_tokens(n_frames), width});
}

void Encoder::unpack_convolutions(Compute &compute, Workspace &work) const {
    const int channels = config_.conv_channels;
    const int padded = work.padded_channels;
    const int tile_rows = compute.kernels().tile_rows;
    const int n_tiles = (channels + tile_rows - 1) / tile_rows;
    compute.pool().run(2 * n_tiles, [&](int chunk, int thread) {
        const Tensor &weight = *convolutions_[1 + chunk / n_tiles].weight;
        const int first = chunk % n_tiles * tile_rows;
        const int n_rows = std::min(tile_rows, channels - first);
        auto *rows =
            reinterpret_cast<float *>(work.patches + static_cast<std::size_t>(thread) * work.patch_bytes);
        auto *row = reinterpret_cast<float *>(compute.tile(thread));
        for (int r = 0; r < n_rows; ++r) {
            unpack_row(weight.type, weight.row(first + r), channels * n_taps, row);
            float *to = rows + product(r, n_taps * padded);
            for (int tap = 0; tap < n_taps; ++tap) {
                for (int c = 0; c < padded; ++c) *to++ = c < channels ? row[c * n_taps + tap] : 0.0f;
            }
        }
        const auto row_bytes = product(n_taps * padded, sizeof(float));
        std::byte *tile =
            work.weights[chunk / n_tiles] + static_cast<std::size_t>(chunk % n_tiles) * work.tile_bytes;
        work.arithmetic->unpack(Storage::f32, reinterpret_cast<const std::byte *>(rows), row_bytes, n_rows,
                                n_taps * padded, tile);
    });
}

void Encoder::convolve(Compute &compute, Workspace &work, const Group &group, float *columns) const {
    // Only the columns that the valid tokens depend on.
    const auto pixel_bytes = product(work.padded_channels, work.element_bytes);
    const int width_1 = halved(config_.chunk_frames);
    const int width_2 = halved(width_1);
    const int needed_2 = std::min(width_2, 2 * group.n_tokens);
    const int needed_1 = std::min(width_1, 2 * needed_2);
    const int height_1 = halved(config_.n_mel_bands);
    const Map first{work.maps[0], group.n_chunks, height_1, needed_1, pixel_bytes, work.element_bytes};
    const Map second{work.maps[1], group.n_chunks, halved(height_1),
                     needed_2,     pixel_bytes,    work.element_bytes};
    const Map third{nullptr, group.n_chunks, halved(second.height), group.n_tokens, 0, 0};
    convolve_first(compute, work, group, first);
    convolve_map(compute, work, 1, first, second, nullptr);
    convolve_map(compute, work, 2, second, third, columns);
}

void Encoder::convolve_first(Compute &compute, Workspace &work, const Group &group, const Map &out) const {
    const Kernels &kernels = compute.kernels();
    const Arithmetic &single = kernels.single;
    const Tensor &weight = *convolutions_[0].weight;
    const int channels = config_.conv_channels;
    const int tile_rows = kernels.tile_rows;
    const int n_tiles = (channels + tile_rows - 1) / tile_rows;
    const auto tile_bytes = single.tile_bytes(n_taps);
    const int step = n_panels * single.panel_rows;
    compute.count(weight, 2 * std::int64_t{out.n_positions()} * n_taps * channels);
    compute.for_ranges(out.n_positions(), 8 * step, [&](int begin, int end, int thread) {
        // All of its weights are a few kilobytes: unpacked again for every range.
        std::byte *tiles = compute.tile(thread);
        for (int tile = 0; tile < n_tiles; ++tile) {
            const int row = tile * tile_rows;
            single.unpack(weight.type, weight.row(row), weight.row_bytes(),
                          std::min(tile_rows, channels - row), n_taps,
                          tiles + static_cast<std::size_t>(tile) * tile_bytes);
        }
        auto *patches =
            reinterpret_cast<float *>(work.patches + static_cast<std::size_t>(thread) * work.patch_bytes);
        float *panel = patches + single.panel_rows * n_taps;
        float *values = work.positions + product(thread * work.thread_positions, channels);
        for (int first = begin; first < end; first += single.panel_rows) {
            const int n = std::min(single.panel_rows, end - first);
            for (int i = 0; i < n; ++i) {
                const int position = first + i;
                const int chunk = position / (out.height * out.width);
                const int top = position / out.width % out.height * 2 - 1;
                const int left = position % out.width * 2 - 1;
                for (int tap = 0; tap < n_taps; ++tap) {
                    const int y = top + tap / 3;
                    const int x = left + tap % 3;
                    const int frame = group.first_frame + chunk * config_.chunk_frames + x;
                    // Frames behind the end of the clip are zero in the normalised domain.
                    const bool inside = y >= 0 && y < config_.n_mel_bands && x >= 0 &&
                                        x < config_.chunk_frames && frame < group.n_frames;
                    patches[i * n_taps + tap] =
                        inside ? group.mel[product(y, group.n_frames) + static_cast<std::size_t>(frame)]
                               : 0.0f;
                }
            }
            single.pack(patches, n_taps, n, n_taps, reinterpret_cast<std::byte *>(panel));
            for (int tile = 0; tile < n_tiles; ++tile) {
                const int row = tile * tile_rows;
                single.multiply(tiles + static_cast<std::size_t>(tile) * tile_bytes,
                                std::min(tile_rows, channels - row),
                                reinterpret_cast<const std::byte *>(panel), n, n_taps, false, values + row,
                                static_cast<std::size_t>(channels));
            }
            store(compute, 0, values, first, n, out, nullptr);
        }
    });
}

void Encoder::convolve_map(Compute &compute, Workspace &work, int stage, const Map &in, const Map &out,
                           float *columns) const {
    const Kernels &kernels = compute.kernels();
    const Arithmetic &arithmetic = *work.arithmetic;
    const Tensor &weight = *convolutions_[stage].weight;
    const int channels = config_.conv_channels;
    const int taps_width = n_taps * work.padded_channels;
    const int n_words = static_cast<int>(in.pixel_bytes / 4);
    const int tile_rows = kernels.tile_rows;
    const int n_tiles = (channels + tile_rows - 1) / tile_rows;
    const int step = n_panels * arithmetic.panel_rows;
    const std::int64_t operations = 2 * std::int64_t{out.n_positions()} * n_taps * channels * channels;
    compute.count(weight, operations);
    compute.for_ranges(out.n_positions(), step, [&](int begin, int end, int thread) {
        std::byte *panels = work.patches + static_cast<std::size_t>(thread) * work.patch_bytes;
        const auto panel_bytes =
            arithmetic.panel_row_bytes(taps_width) * static_cast<std::size_t>(arithmetic.panel_rows);
        float *values = work.positions + product(thread * work.thread_positions, channels);
        for (int first = begin; first < end; first += arithmetic.panel_rows) {
            const int n = std::min(arithmetic.panel_rows, end - first);
            auto *panel = reinterpret_cast<std::uint32_t *>(
                panels + static_cast<std::size_t>((first - begin) / arithmetic.panel_rows) * panel_bytes);
            for (int tap = 0; tap < n_taps; ++tap, panel += product(n_words, n)) {
                const std::uint32_t *pixels[64];
                for (int i = 0; i < n; ++i) {
                    const int position = first + i;
                    const int chunk = position / (out.height * out.width);
                    const int y = position / out.width % out.height * 2 - 1 + tap / 3;
                    const int x = position % out.width * 2 - 1 + tap % 3;
                    const bool inside = y >= 0 && y < in.height && x >= 0 && x < in.width;
                    pixels[i] = reinterpret_cast<const std::uint32_t *>(
                        inside ? in.pixel((chunk * in.height + y) * in.width + x) : work.nothing);
                }
                kernels.interleave(pixels, n, n_words, panel);
            }
        }
        for (int tile = 0; tile < n_tiles; ++tile) {
            const int row = tile * tile_rows;
            for (int first = begin; first < end; first += arithmetic.panel_rows) {
                arithmetic.multiply(
                    work.weights[stage - 1] + static_cast<std::size_t>(tile) * work.tile_bytes,
                    std::min(tile_rows, channels - row),
                    panels + static_cast<std::size_t>((first - begin) / arithmetic.panel_rows) * panel_bytes,
                    std::min(arithmetic.panel_rows, end - first), taps_width, false,
                    values + product(first - begin, channels) + row, static_cast<std::size_t>(channels));
            }
        }
        store(compute, stage, values, begin, end - begin, out, columns);
    });
}

void Encoder::store(Compute &compute, int stage, float *values, int first, int n, const Map &out,
                    float *columns) const {
    const Kernels &kernels = compute.kernels();
    const int channels = config_.conv_channels;
    for (int i = 0; i < n; ++i)
        kernels.add(values + product(i, channels), convolutions_[stage].bias, channels);
    kernels.gelu(values, n * channels);
    for (int i = 0; i < n; ++i) {
        const float *value = values + product(i, channels);
        const int position = first + i;
        if (columns != nullptr) {
            // One token a column of time, index = channel * bands + band.
            const int chunk = position / (out.height * out.width);
            const int band = position / out.width % out.height;
            const int token = chunk * out.width + position % out.width;
            float *to = columns + product(token, channels * out.height) + band;
            for (int c = 0; c < channels; ++c) to[product(c, out.height)] = value[c];
        } else if (out.element_bytes == 2) {
            auto *pixel = reinterpret_cast<std::uint16_t *>(out.pixel(position));
            kernels.round_to_half(value, channels, pixel);
            std::fill(pixel + channels, pixel + out.pixel_bytes / sizeof(*pixel), std::uint16_t{0});
        } else {
            std::copy_n(value, channels, reinterpret_cast<float *>(out.pixel(position)));
        }
    }
}

void Encoder::run_layer(Compute &compute, const Layer &layer, Workspace &work, int n_tokens,
                        int window_tokens) const {
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
    const auto linear = [&](const float *x, int n_cols, std::initializer_list<Product> products,
                            Finish finish = Finish::none) {
        compute.linear(x, n_tokens, n_cols, n_tokens, products, finish, work.panels);
    };

    normalise(layer.attention_norm);
    linear(work.normed, width,
           {{layer.query.weight, layer.query.bias, work.query},
            {layer.key.weight, layer.key.bias, work.key},
            {layer.value.weight, layer.value.bias, work.value}});
    for (int first = 0; first < n_tokens; first += window_tokens) {
        const int n = std::min(window_tokens, n_tokens - first);
        const auto at = product(first, width);
        work.attention.run(
            compute, work.query + at, n, [&](int) { return n; },
            [&](int head, int key) {
                const auto head_at = at + product(key, width) + product(head, head_width);
                return KeysValues{Storage::f32, reinterpret_cast<const std::byte *>(work.key + head_at),
                                  reinterpret_cast<const std::byte *>(work.value + head_at),
                                  product(width, sizeof(float))};
            },
            work.attended + at);
        compute.stages().add({.f32_operations = 4 * std::int64_t{n} * n * width});
    }
    linear(work.attended, width, {{layer.output.weight, layer.output.bias, work.x, true}});

    normalise(layer.ffn_norm);
    linear(work.normed, width, {{layer.ffn_in.weight, layer.ffn_in.bias, work.ffn}}, Finish::gelu);
    linear(work.ffn, config_.ffn_width, {{layer.ffn_out.weight, layer.ffn_out.bias, work.x, true}});
}

}  // namespace chatllm

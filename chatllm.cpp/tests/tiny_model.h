#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "interleaved.h"
#include "kernels/kernels.h"
#include "model/tensor.h"
#include "random.h"

// Writes valid model files of random weights, small enough for valgrind: an encoder of one layer, 64 wide,
// behind 8 convolution channels, and a decoder of one layer with two heads of 32 over one key-value head.
// What they say means nothing, but the same file always says the same.
namespace chatllm::tiny {

struct Settings {
    std::uint64_t seed = 1;
    // Rows that its block does not divide become f16. With q4_0_16x4 the embedding, and what is no matrix of
    // whole groups of rows, are q4_0.
    TensorType matrices = TensorType::f16;
    std::map<std::string, TensorType, std::less<>> types{};  // of single tensors, by name
    int ffn_width = 64;  // of encoder and decoder; 256 where rows of q4_K are wanted
    int max_length = 512;
    int channels = 8;     // of the convolutions
    int unnamed_ids = 5;  // behind the added tokens, as in the official vocabulary; 2 make 272 ids
};

struct Model {
    std::string bytes;
    // Where fields lie, by name: "magic", "version", "offset of the model type", "config vocab_size",
    // "vocabulary", "merges", "tensors"; and for each tensor NAME "NAME length", "NAME dims", "NAME type",
    // "NAME data".
    std::map<std::string, std::size_t, std::less<>> offsets;

    std::size_t at(std::string_view field) const { return offsets.find(field)->second; }
    template <typename T> T get(std::size_t offset) const {
        T value;
        std::memcpy(&value, bytes.data() + offset, sizeof(T));
        return value;
    }
    template <typename T> void put(std::size_t offset, T value) {
        std::memcpy(bytes.data() + offset, &value, sizeof(T));
    }
    template <typename T> void put(std::string_view field, T value) { put(at(field), value); }
};

namespace detail {

inline constexpr std::array added_tokens{"<|endoftext|>", "<|im_start|>",  "<|im_end|>", "<|audio_start|>",
                                         "<|audio_end|>", "<|audio_pad|>", "<asr_text>"};
inline constexpr std::array merges{"s y", "sy s", "u s", "us e", "use r", "l a", "la n"};
inline constexpr int width = 64;
inline constexpr int n_mel_bands = 128;
inline constexpr int head_width = 32;

// GPT-2's byte alphabet: printable bytes stand for themselves, the others for the characters from U+0100 on.
inline std::vector<std::string> byte_tokens() {
    std::vector<std::string> tokens;
    unsigned other = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
        const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
        const unsigned code = printable ? byte : other++;
        if (code < 0x80) {
            tokens.push_back({static_cast<char>(code)});
        } else {
            tokens.push_back({static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))});
        }
    }
    return tokens;
}

class Writer {
public:
    explicit Writer(const Settings &settings) : settings_(settings), random_(settings.seed) {}

    Model write() {
        for (const auto &token : byte_tokens()) tokens_.push_back(token);
        for (std::string merge : merges) {
            merge.erase(merge.find(' '), 1);
            tokens_.push_back(merge);
        }
        vocab_size_ = static_cast<std::int32_t>(tokens_.size() + added_tokens.size()) + settings_.unnamed_ids;

        mark("magic").text("ggmm");
        mark("version").i32(1);
        for (const char *field :
             {"offset of the model type", "offset of the vocabulary", "offset of the tensors"}) {
            mark(field).i32(0);
        }
        mark("metadata").text(metadata());
        while (model_.bytes.size() % 4 != 0) model_.bytes += '\0';
        point("offset of the model type").mark("model type").i32(0x1000010F);
        mark("model-file version").i32(1);
        config();
        point("offset of the vocabulary").mark("vocabulary");
        for (const std::string &token : tokens_)
            i32(static_cast<std::int32_t>(token.size())).text(token).text("\x01");
        mark("end of the vocabulary").i32(-1).mark("merges");
        for (const std::string_view merge : merges) i32(static_cast<std::int32_t>(merge.size())).text(merge);
        mark("end of the merges").i32(-1);
        point("offset of the tensors").mark("tensors");
        tensors();
        return std::move(model_);
    }

private:
    Writer &mark(const std::string &field) {
        model_.offsets[field] = model_.bytes.size();
        return *this;
    }
    // The header's field points to here.
    Writer &point(std::string_view field) {
        model_.put(field, static_cast<std::uint32_t>(model_.bytes.size()));
        return *this;
    }
    template <typename T> Writer &raw(T value) {
        char bytes[sizeof(T)];
        std::memcpy(bytes, &value, sizeof(T));
        model_.bytes.append(bytes, sizeof(T));
        return *this;
    }
    Writer &i32(std::int32_t value) { return raw(value); }
    Writer &text(std::string_view bytes) {
        model_.bytes += bytes;
        return *this;
    }

    std::string metadata() const {
        std::string added;
        auto id = static_cast<int>(tokens_.size());
        for (const char *content : added_tokens) {
            added += (added.empty() ? "\"" : ", \"") + std::to_string(id++) + R"(": {"content": ")" +
                     content + R"(", "special": true})";
        }
        return R"({"config.json": {"support_languages": ["Chinese", "English"], "thinker_config": {"audio_config": )"
               R"({"d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": )" +
               std::to_string(settings_.ffn_width) + R"(, "num_mel_bins": 128, "downsample_hidden_size": )" +
               std::to_string(settings_.channels) +
               R"(, "n_window": 50, "n_window_infer": 800}, )"
               R"("text_config": {"rms_norm_eps": 1e-06}}}, "tokenizer_config.json": {"added_tokens_decoder": {)" +
               added +
               R"(}}, "preprocessor_config.json": {"n_fft": 400, "hop_length": 160, "feature_size": 128}, )"
               R"("model_name": "tiny"})";
    }

    void config() {
        const auto field = [&](const char *name, auto value) {
            mark(std::string("config ") + name).raw(value);
        };
        const auto integer = [&](const char *name, int value) { field(name, std::int32_t{value}); };
        integer("dtype", static_cast<int>(settings_.matrices));
        integer("vocab_size", vocab_size_);
        integer("hidden_size", width);
        integer("num_attention_heads", 2);
        integer("num_hidden_layers", 1);
        integer("intermediate_size", settings_.ffn_width);
        integer("max_length", settings_.max_length);
        for (int i = 0; i < 4; ++i) i32(-1);  // bos, eos, pad, sep
        integer("num_key_value_heads", 1);
        integer("head_dim", head_width);
        field("rope_theta", 1e6f);
        field("yarn factor", -1.0f);
        i32(-1);                                       // yarn original length
        i32(1).i32(-1).i32(-1).i32(-1).i32(0).i32(0);  // experts: none; tied: written as 0
        for (int i = 0; i < 128 + 4; ++i) i32(0);
    }

    void tensors() {
        const int ffn = settings_.ffn_width;
        const int channels = settings_.channels;
        const auto affine = [&](const std::string &name, std::vector<int> dims) {
            const int n = dims.front();
            matrix(name + ".weight", std::move(dims));
            vector(name + ".bias", n, 0.0f);
        };
        const auto norm = [&](const std::string &name) {
            vector(name + ".weight", width, 1.0f);
            vector(name + ".bias", width, 0.0f);
        };
        affine("audio.conv2d1", {channels, 1, 3, 3});
        affine("audio.conv2d2", {channels, channels, 3, 3});
        affine("audio.conv2d3", {channels, channels, 3, 3});
        matrix("audio.conv_out.weight", {width, channels * n_mel_bands / 8});
        norm("audio.layers.0.input_layernorm");
        for (const char *part : {"q", "k", "v", "o"}) {
            affine(std::string("audio.layers.0.self_attn.") + part + "_proj", {width, width});
        }
        norm("audio.layers.0.post_attention_layernorm");
        affine("audio.layers.0.mlp.fc0", {ffn, width});
        affine("audio.layers.0.mlp.fc1", {width, ffn});
        norm("audio.ln_post");
        affine("multi_modal_projector.proj1", {width, width});
        affine("multi_modal_projector.proj2", {width, width});

        matrix("model.embed_tokens.weight", {vocab_size_, width});
        matrix("lm_head.weight", {vocab_size_, width});
        vector("model.layers.0.input_layernorm.weight", width, 1.0f);
        matrix("model.layers.0.self_attn.q_proj.weight", {2 * head_width, width});
        matrix("model.layers.0.self_attn.k_proj.weight", {head_width, width});
        matrix("model.layers.0.self_attn.v_proj.weight", {head_width, width});
        matrix("model.layers.0.self_attn.o_proj.weight", {width, 2 * head_width});
        vector("model.layers.0.self_attn.q_norm.weight", head_width, 1.0f);
        vector("model.layers.0.self_attn.k_norm.weight", head_width, 1.0f);
        vector("model.layers.0.post_attention_layernorm.weight", width, 1.0f);
        matrix("model.layers.0.mlp.gate_proj.weight", {ffn, width});
        matrix("model.layers.0.mlp.up_proj.weight", {ffn, width});
        matrix("model.layers.0.mlp.down_proj.weight", {width, ffn});
        vector("model.norm.weight", width, 1.0f);
    }

    void record(const std::string &name, const std::vector<int> &dims, TensorType type) {
        mark(name + " length").i32(static_cast<std::int32_t>(name.size())).text(name);
        i32(static_cast<std::int32_t>(dims.size())).mark(name + " dims");
        for (const int dim : dims) i32(dim);
        mark(name + " type").i32(static_cast<std::int32_t>(type));
        mark(name + " padding");
        while (model_.bytes.size() % 16 != 0) model_.bytes += '\0';
        mark(name + " data");
    }

    void vector(const std::string &name, int n, float centre) {
        record(name, {n}, TensorType::f32);
        for (int i = 0; i < n; ++i) raw(centre + random_.real(0.2f));
    }

    void matrix(const std::string &name, std::vector<int> dims) {
        TensorType type = type_of(name, dims);
        if (dims.back() % traits(type).block != 0) type = TensorType::f16;
        record(name, dims, type);
        const std::size_t at = model_.bytes.size();
        std::size_t n = 1;
        for (const int dim : dims) n *= static_cast<std::size_t>(dim);
        const float amplitude = 0.25f;
        for (std::size_t i = 0; i < n / static_cast<std::size_t>(traits(type).block); ++i)
            block(type, amplitude);
        if (type == TensorType::q4_0_16x4) {
            const std::string rows = model_.bytes.substr(at);
            check::interleave_rows(reinterpret_cast<const std::byte *>(rows.data()), dims[0], dims[1],
                                   reinterpret_cast<std::byte *>(model_.bytes.data() + at));
        }
    }

    TensorType type_of(const std::string &name, const std::vector<int> &dims) const {
        const auto chosen = settings_.types.find(name);
        if (chosen != settings_.types.end()) return chosen->second;
        const bool row_by_row =
            name == "model.embed_tokens.weight" || dims.size() != 2 || dims[0] % interleaved_rows != 0;
        if (settings_.matrices == TensorType::q4_0_16x4 && row_by_row) return TensorType::q4_0;
        return settings_.matrices;
    }

    // A block of random quants under a scale that keeps its values within the amplitude.
    void block(TensorType type, float amplitude) {
        const auto half = [&](float value) { raw(f32_to_f16(value)); };
        const auto quants = [&](int n) {
            for (int i = 0; i < n; ++i) raw(static_cast<std::uint8_t>(random_.bits()));
        };
        switch (type) {
        case TensorType::f32:
            raw(random_.real(amplitude));
            return;
        case TensorType::f16:
            half(random_.real(amplitude));
            return;
        case TensorType::q4_0:
        case TensorType::q4_0_16x4:
            half(amplitude / 8);
            return quants(16);
        case TensorType::q4_1:
            half(amplitude / 8);
            half(-amplitude);
            return quants(16);
        case TensorType::q8_0:
            half(amplitude / 128);
            return quants(32);
        case TensorType::q4_k:
            half(amplitude / 500);
            half(amplitude / 63);
            return quants(12 + 128);
        }
    }

    const Settings &settings_;
    check::Random random_;
    Model model_;
    std::vector<std::string> tokens_;
    std::int32_t vocab_size_ = 0;
};

}  // namespace detail

inline Model write_model(const Settings &settings = {}) { return detail::Writer(settings).write(); }

}  // namespace chatllm::tiny

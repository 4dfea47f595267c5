#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/memory_map.h"
#include "model/tensor.h"
#include "model/tokenizer.h"

namespace chatllm {

// Sizes of the audio encoder, from the metadata's config.json.
struct AudioConfig {
    int width;  // d_model
    int n_layers;
    int n_heads;
    int ffn_width;
    int n_mel_bands;
    int conv_channels;
    int chunk_frames;   // 2 * n_window: frames that go through the convolutions together
    int window_frames;  // n_window_infer: frames whose tokens attend to each other
};

// Sizes of the text decoder, from the binary config.
struct TextConfig {
    int vocab_size;
    int width;  // hidden_size
    int n_layers;
    int n_heads;
    int n_kv_heads;
    int head_width;  // head_dim
    int ffn_width;   // intermediate_size
    int max_length;  // longest context in tokens
    float rope_theta;
    float norm_epsilon;
};

// An opened model file: everything in it checked, the tensors left where they lie.
class ModelFile {
public:
    // Throws Error naming the file, the field and the offset of whatever is wrong.
    explicit ModelFile(const std::string &path);
    ModelFile(const ModelFile &) = delete;
    ModelFile &operator=(const ModelFile &) = delete;

    const std::string &path() const { return path_; }
    const std::string &model_name() const { return model_name_; }
    const AudioConfig &audio() const { return audio_; }
    const TextConfig &text() const { return text_; }
    const Tokenizer &tokenizer() const { return *tokenizer_; }
    const std::vector<std::string> &languages() const { return languages_; }
    const std::vector<Tensor> &tensors() const { return tensors_; }
    std::size_t size_bytes() const { return map_.bytes().size(); }
    std::int64_t n_parameters() const;

    // Reads the weights from the disk and maps them: none is waited for afterwards. Throws Error.
    void preload() const { map_.populate(path_); }
    // Keeps the file in memory until it is closed. Throws Error when the system refuses.
    void lock() const { map_.lock(path_); }
    // See FileMap.
    void drop(int part, int n_parts) const noexcept { map_.drop(part, n_parts); }

    // The tensor of that name and exactly that shape. Throws Error when it is missing or shaped otherwise.
    const Tensor &tensor(const std::string &name, std::initializer_list<int> dims) const;
    // The same for the values of a one-dimensional f32 tensor.
    const float *vector(const std::string &name, int n) const;
    // Throws an Error that names the file, the tensor and where it is.
    [[noreturn]] void fail(const Tensor &tensor, const std::string &problem) const;

private:
    const Tensor *find(std::string_view name) const;
    // Returns the tokenizer's part, if there is one.
    std::optional<JsonView> read_metadata(std::string_view json);
    void read_config(ByteReader &reader);
    void read_tensors(ByteReader &reader);

    std::string path_;
    FileMap map_;
    std::string model_name_;
    AudioConfig audio_{};
    TextConfig text_{};
    std::vector<std::string> languages_;
    std::optional<Tokenizer> tokenizer_;
    std::vector<Tensor> tensors_;  // sorted by name
};

}  // namespace chatllm

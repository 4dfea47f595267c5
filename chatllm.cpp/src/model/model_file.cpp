#include "model/model_file.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/byte_reader.h"

namespace chatllm {
namespace {

constexpr std::int32_t qwen3_asr_type = 0x1000010F;
constexpr std::size_t config_bytes = 616;
constexpr std::size_t max_name_bytes = 256;
constexpr std::size_t max_tensors = 65536;
constexpr std::size_t max_metadata_bytes = std::size_t{16} << 20;
constexpr std::size_t max_languages = 256;
constexpr std::size_t max_label_bytes =
    512;  // of a model's or a language's name, as it stands in the metadata

int checked(const ByteReader &reader, std::string_view field, std::size_t offset, std::int64_t value,
            int least, int most) {
    if (value < least || value > most) {
        reader.fail(field, offset,
                    "is " + std::to_string(value) + ", must be " + std::to_string(least) + " to " +
                        std::to_string(most));
    }
    return static_cast<int>(value);
}

std::string dims_text(std::initializer_list<int> dims) {
    std::string text = "[";
    for (const int dim : dims) text += (text.size() > 1 ? ", " : "") + std::to_string(dim);
    return text + "]";
}

// Walks down nested objects of the metadata and reads bounded integers there.
class MetadataSection {
public:
    MetadataSection(const std::string &path, std::string name, std::optional<JsonView> view)
        : path_(path), name_(std::move(name)), view_(view) {}

    MetadataSection section(const std::string &key) const {
        auto child = view_ ? view_->find(key) : std::nullopt;
        if (!child || child->kind() != JsonKind::object) fail(key, "is missing or no object");
        return {path_, name_ + "." + key, child};
    }

    int integer(const std::string &key, int least, int most) const {
        const auto value = view_->find(key);
        if (!value || value->kind() != JsonKind::number) fail(key, "is missing or no number");
        const auto number = value->as_int64();
        if (number < least || number > most) {
            fail(key, "is " + std::to_string(number) + ", must be " + std::to_string(least) + " to " +
                          std::to_string(most));
        }
        return static_cast<int>(number);
    }

    double real(const std::string &key, double least, double most) const {
        const auto value = view_->find(key);
        if (!value || value->kind() != JsonKind::number) fail(key, "is missing or no number");
        const double number = value->as_double();
        if (!(number >= least && number <= most)) fail(key, "is out of range");
        return number;
    }

    bool has(const std::string &key) const { return view_->find(key).has_value(); }
    std::optional<JsonView> view() const { return view_; }

    [[noreturn]] void fail(const std::string &key, const std::string &what) const {
        throw Error(path_ + ": metadata at offset 20: " + name_ + "." + key + " " + what);
    }

private:
    const std::string &path_;
    std::string name_;
    std::optional<JsonView> view_;
};

Tensor read_tensor(ByteReader &reader) {
    Tensor tensor;
    const std::size_t start = reader.position();
    const auto name_bytes = checked(reader, "tensor name length", start, reader.i32("tensor name length"), 1,
                                    static_cast<int>(max_name_bytes));
    tensor.name = reader.text(static_cast<std::size_t>(name_bytes), "tensor name");
    const std::string field = "tensor " + printable(tensor.name);

    const std::size_t n_dims_at = reader.position();
    tensor.n_dims =
        checked(reader, field + " number of dimensions", n_dims_at, reader.i32(field), 1, max_dims);
    // No type stores more than two elements a byte, so more cannot be behind the shape.
    const std::uint64_t most_elements = std::uint64_t{reader.size()} * 2;
    std::uint64_t n_elements = 1;
    for (int d = 0; d < tensor.n_dims; ++d) {
        const std::size_t at = reader.position();
        const std::int32_t dim = reader.i32(field + " shape");
        if (dim < 1) reader.fail(field + " shape", at, "has the dimension " + std::to_string(dim));
        if (n_elements > most_elements / static_cast<std::uint64_t>(dim)) {
            reader.fail(field + " shape", at, "has more elements than the file could hold");
        }
        n_elements *= static_cast<std::uint64_t>(dim);
        tensor.dims[static_cast<std::size_t>(d)] = dim;
    }

    const std::size_t type_at = reader.position();
    const std::int32_t type = reader.i32(field + " type");
    const TypeTraits *type_traits = find_type(type);
    if (type_traits == nullptr) reader.fail(field + " type", type_at, "is unknown: " + std::to_string(type));
    tensor.type = static_cast<TensorType>(type);
    const auto row_length = tensor.dims[static_cast<std::size_t>(tensor.n_dims - 1)];
    if (row_length % type_traits->block != 0) {
        reader.fail(field + " type", type_at,
                    "is " + std::string(type_traits->name) + " with blocks of " +
                        std::to_string(type_traits->block) + ", but rows have " + std::to_string(row_length) +
                        " elements");
    }
    if (const int together = type_traits->rows_together; together > 1) {
        if (tensor.n_dims != 2 || tensor.dims[0] % together != 0) {
            reader.fail(field + " type", type_at,
                        "is " + std::string(type_traits->name) + " with " + std::to_string(together) +
                            " rows stored together, but the shape is " + tensor.shape());
        }
    }

    const std::size_t padding_at = reader.position();
    reader.align(16, field + " padding");
    const std::size_t n_padding = reader.position() - padding_at;
    ByteReader padding = reader;
    padding.seek(padding_at, field);
    for (const std::byte b : padding.take(n_padding, field)) {
        if (b != std::byte{0}) {
            reader.fail(field + " padding", padding_at,
                        "is not zero: the tensor is misaligned or the file corrupt");
        }
    }

    const std::uint64_t n_bytes = n_elements / static_cast<std::uint64_t>(type_traits->block) *
                                  static_cast<std::uint64_t>(type_traits->block_bytes);
    tensor.n_bytes = static_cast<std::size_t>(n_bytes);
    tensor.data = reader.take(tensor.n_bytes, field + " data").data();
    return tensor;
}

}  // namespace

ModelFile::ModelFile(const std::string &path) : path_(path), map_(path) {
    ByteReader reader(map_.bytes(), path_);
    const auto magic = reader.text(std::min<std::size_t>(4, reader.size()), "magic");
    if (magic != "ggmm") {
        reader.fail("magic", 0,
                    "is '" + printable(magic) +
                        "', not 'ggmm': not a chatllm.cpp model file (make one "
                        "from a checkpoint with: python -m asrswitch models convert)");
    }
    const std::uint32_t version = reader.u32("container version");
    if (version != 1)
        reader.fail("container version", 4, "is " + std::to_string(version) + ", only 1 is known");
    const std::size_t type_at = reader.u32("offset of the model type");
    const std::size_t vocabulary_at = reader.u32("offset of the vocabulary");
    const std::size_t tensors_at = reader.u32("offset of the tensors");
    const std::size_t metadata_at = reader.position();
    if (type_at < metadata_at) reader.fail("offset of the model type", 8, "points back into the header");
    if (type_at - metadata_at > max_metadata_bytes)
        reader.fail("offset of the model type", 8, "leaves over 16 MiB of metadata");
    if (vocabulary_at < type_at || vocabulary_at - type_at != 8 + config_bytes) {
        reader.fail("offset of the vocabulary", 12,
                    "does not lie " + std::to_string(8 + config_bytes) + " bytes behind the model type");
    }
    if (tensors_at < vocabulary_at)
        reader.fail("offset of the tensors", 16, "points back before the vocabulary");

    std::string_view metadata = reader.text(type_at - metadata_at, "metadata");
    while (!metadata.empty() && metadata.back() == '\0') metadata.remove_suffix(1);

    const std::int32_t type = reader.i32("model type");
    if (type != qwen3_asr_type) {
        reader.fail("model type", type_at,
                    "is " + std::to_string(type) + ", not Qwen3-ASR (" + std::to_string(qwen3_asr_type) +
                        "): this engine runs no other model");
    }
    const std::int32_t file_version = reader.i32("model-file version");
    if (file_version != 1)
        reader.fail("model-file version", type_at + 4,
                    "is " + std::to_string(file_version) + ", only 1 is known");
    read_config(reader);
    const auto tokenizer_config = read_metadata(metadata);

    reader.seek(vocabulary_at, "offset of the vocabulary");
    tokenizer_ = Tokenizer::read(reader, tokenizer_config, text_.vocab_size);
    if (reader.position() != tensors_at) {
        reader.fail("offset of the tensors", 16,
                    "is " + std::to_string(tensors_at) + ", but the merges end at " +
                        std::to_string(reader.position()));
    }
    read_tensors(reader);
}

void ModelFile::read_config(ByteReader &reader) {
    const auto integer = [&](std::string_view field, int least, int most) {
        const std::size_t at = reader.position();
        return checked(reader, field, at, reader.i32(field), least, most);
    };
    const auto skip = [&](std::string_view field, std::size_t n) { reader.take(n * 4, field); };

    skip("config dtype", 1);
    text_.vocab_size = integer("config vocab_size", 1, 1 << 24);
    text_.width = integer("config hidden_size", 1, 1 << 16);
    text_.n_heads = integer("config num_attention_heads", 1, 1024);
    text_.n_layers = integer("config num_hidden_layers", 1, 1024);
    text_.ffn_width = integer("config intermediate_size", 1, 1 << 20);
    text_.max_length = integer("config max_length", 1, 1 << 24);
    skip("config special ids", 4);
    const std::size_t kv_heads_at = reader.position();
    text_.n_kv_heads = integer("config num_key_value_heads", 1, 1024);
    if (text_.n_heads % text_.n_kv_heads != 0) {
        reader.fail("config num_key_value_heads", kv_heads_at,
                    "does not divide the number of attention heads");
    }
    const std::size_t head_dim_at = reader.position();
    text_.head_width = integer("config head_dim", 2, 1024);
    if (text_.head_width % 2 != 0) reader.fail("config head_dim", head_dim_at, "is odd");
    const std::size_t theta_at = reader.position();
    text_.rope_theta = reader.f32("config rope_theta");
    if (!(text_.rope_theta >= 1.0f && std::isfinite(text_.rope_theta))) {
        reader.fail("config rope_theta", theta_at, "is not a finite number of at least 1");
    }
    const std::size_t yarn_at = reader.position();
    if (reader.f32("config yarn factor") > 0) {
        reader.fail("config yarn factor", yarn_at,
                    "asks for YaRN, which no Qwen3-ASR model uses and this engine lacks");
    }
    skip("config yarn original length", 1);
    skip("config of experts", 6);
    skip("config layer_is_sparse", 128);
    skip("config mrope section", 4);
}

std::optional<JsonView> ModelFile::read_metadata(std::string_view json) {
    if (json.empty()) throw Error(path_ + ": metadata at offset 20: is empty");
    const MetadataSection root(path_, "metadata", JsonView::parse(json, path_, 20));
    if (root.view()->kind() != JsonKind::object) throw Error(path_ + ": metadata at offset 20: is no object");
    const auto config = root.section("config.json");
    const auto thinker = config.section("thinker_config");

    const auto encoder = thinker.section("audio_config");
    audio_.width = encoder.integer("d_model", 4, 1 << 16);
    audio_.n_layers = encoder.integer("encoder_layers", 1, 1024);
    audio_.n_heads = encoder.integer("encoder_attention_heads", 1, 1024);
    audio_.ffn_width = encoder.integer("encoder_ffn_dim", 1, 1 << 20);
    audio_.n_mel_bands = encoder.integer("num_mel_bins", 1, 256);
    audio_.conv_channels = encoder.integer("downsample_hidden_size", 1, 1 << 14);
    audio_.chunk_frames = 2 * encoder.integer("n_window", 4, 200);
    audio_.window_frames = encoder.integer("n_window_infer", audio_.chunk_frames, 12000);
    if (audio_.width % audio_.n_heads != 0)
        encoder.fail("encoder_attention_heads", "does not divide d_model");
    if (audio_.width % 2 != 0) encoder.fail("d_model", "is odd");
    if (audio_.window_frames % audio_.chunk_frames != 0)
        encoder.fail("n_window_infer", "is no multiple of 2 * n_window");

    const auto decoder = thinker.section("text_config");
    text_.norm_epsilon =
        decoder.has("rms_norm_eps") ? static_cast<float>(decoder.real("rms_norm_eps", 0, 1)) : 1e-6f;

    if (root.has("preprocessor_config.json")) {
        const auto features = root.section("preprocessor_config.json");
        const auto demand = [&](const char *key, int value) {
            if (features.has(key)) features.integer(key, value, value);
        };
        demand("n_fft", 400);
        demand("hop_length", 160);
        demand("sampling_rate", 16000);
        demand("feature_size", audio_.n_mel_bands);
    }
    if (const auto languages = config.view()->find("support_languages")) {
        if (languages->kind() != JsonKind::array) config.fail("support_languages", "is no list");
        languages->for_each_element([&](const JsonView &language) {
            if (language.kind() != JsonKind::string || language.raw_size() > max_label_bytes ||
                languages_.size() == max_languages) {
                config.fail("support_languages", "is no list of at most 256 short names");
            }
            languages_.push_back(language.as_string());
        });
    }
    if (const auto name = root.view()->find("model_name"); name && name->kind() == JsonKind::string) {
        if (name->raw_size() > max_label_bytes) root.fail("model_name", "is longer than 512 bytes");
        model_name_ = name->as_string();
    }
    return root.view()->find("tokenizer_config.json");
}

void ModelFile::read_tensors(ByteReader &reader) {
    while (!reader.at_end()) {
        if (tensors_.size() == max_tensors)
            reader.fail("tensors", "are more than " + std::to_string(max_tensors));
        tensors_.push_back(read_tensor(reader));
    }
    tensors_.shrink_to_fit();
    const auto by_name = [](const Tensor &a, const Tensor &b) { return a.name < b.name; };
    std::sort(tensors_.begin(), tensors_.end(), by_name);
    const auto same_name = [](const Tensor &a, const Tensor &b) { return a.name == b.name; };
    const auto twin = std::adjacent_find(tensors_.begin(), tensors_.end(), same_name);
    if (twin != tensors_.end()) {
        const auto offset =
            static_cast<std::size_t>(std::max(twin->data, std::next(twin)->data) - map_.bytes().data());
        reader.fail("tensor " + printable(twin->name), offset, "is there twice");
    }
}

const Tensor *ModelFile::find(std::string_view name) const {
    const auto at =
        std::lower_bound(tensors_.begin(), tensors_.end(), name,
                         [](const Tensor &tensor, std::string_view wanted) { return tensor.name < wanted; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
}

const Tensor &ModelFile::tensor(const std::string &name, std::initializer_list<int> dims) const {
    const Tensor *tensor = find(name);
    if (tensor == nullptr) throw Error(path_ + ": tensor " + name + " is missing");
    const bool same = static_cast<std::size_t>(tensor->n_dims) == dims.size() &&
                      std::equal(dims.begin(), dims.end(), tensor->dims.begin());
    if (!same) fail(*tensor, "has the shape " + tensor->shape() + ", the config asks for " + dims_text(dims));
    return *tensor;
}

const float *ModelFile::vector(const std::string &name, int n) const {
    const Tensor &values = tensor(name, {n});
    if (values.type != TensorType::f32) {
        fail(values, "is " + std::string(traits(values.type).name) + ", one-dimensional tensors must be f32");
    }
    return values.floats();
}

void ModelFile::fail(const Tensor &tensor, const std::string &problem) const {
    const auto offset = static_cast<std::size_t>(tensor.data - map_.bytes().data());
    throw Error(path_ + ": tensor " + std::string(tensor.name) + " at offset " + std::to_string(offset) +
                ": " + problem);
}

std::int64_t ModelFile::n_parameters() const {
    std::int64_t total = 0;
    for (const Tensor &tensor : tensors_) total += tensor.n_elements();
    return total;
}

}  // namespace chatllm

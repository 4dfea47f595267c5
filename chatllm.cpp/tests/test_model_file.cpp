#include "model/model_file.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "page_cache.h"
#include "random.h"
#include "temporary.h"
#include "tiny_model.h"

using chatllm::Decoder;
using chatllm::Encoder;
using chatllm::ModelFile;
using chatllm::TensorType;
using chatllm::check::is_resident;
using chatllm::check::make_cold;
using chatllm::check::Random;
using chatllm::check::TemporaryFolder;
using chatllm::tiny::Model;
using chatllm::tiny::write_model;

namespace {

const std::string conv = "audio.conv2d1.weight";
const std::string query = "model.layers.0.self_attn.q_proj.weight";
const std::string norm = "model.norm.weight";

// Reads a file as a session does, up to the shapes of the weights.
void load(const std::string &path) {
    const ModelFile file(path);
    const Encoder encoder(file);
    const Decoder decoder(file);
}

class Damaged {
public:
    explicit Damaged(const chatllm::tiny::Settings &settings = {}) : model(write_model(settings)) {}

    void expect(std::string_view message) { check_fails(model.bytes, message); }
    // Replaces a piece of the metadata by one of the same length.
    Damaged &replace(std::string_view old, std::string_view changed) {
        const std::size_t at = model.bytes.find(old);
        if (at == std::string::npos || old.size() != changed.size())
            throw std::runtime_error("no such piece");
        model.bytes.replace(at, old.size(), changed);
        return *this;
    }
    static void check_fails(const std::string &bytes, std::string_view message) {
        const TemporaryFolder folder;
        const std::string path = folder.write("m.bin", bytes);
        CHECK_THROWS(load(path), path + ": ");
        CHECK_THROWS(load(path), message);
    }

    Model model;
};

std::string offset(std::size_t n) { return " at offset " + std::to_string(n); }

}  // namespace

TEST(a_sound_file_is_read) {
    const Model model = write_model();
    const TemporaryFolder folder;
    const ModelFile file(folder.write("m.bin", model.bytes));
    CHECK_EQ(file.model_name(), "tiny");
    CHECK_EQ(file.size_bytes(), model.bytes.size());
    CHECK_EQ(file.languages(), (std::vector<std::string>{"Chinese", "English"}));
    CHECK_EQ(file.audio().width, 64);
    CHECK_EQ(file.audio().n_layers, 1);
    CHECK_EQ(file.audio().chunk_frames, 100);
    CHECK_EQ(file.audio().window_frames, 800);
    CHECK_EQ(file.text().vocab_size,
             file.tensor("model.embed_tokens.weight", {file.text().vocab_size, 64}).rows());
    CHECK_EQ(file.text().n_heads, 2);
    CHECK_EQ(file.text().n_kv_heads, 1);
    CHECK_EQ(file.text().head_width, 32);
    CHECK_EQ(file.text().max_length, 512);
    CHECK_EQ(file.text().rope_theta, 1e6f);
    CHECK_EQ(file.text().norm_epsilon, 1e-6f);
    CHECK_EQ(file.tokenizer().encode("user").size(), 1u);
    CHECK(file.tokenizer().added_id("<|im_end|>").has_value());
    // Weights are used where they lie.
    const float *values = file.vector(norm, 64);
    CHECK_EQ(values[3], model.get<float>(model.at(norm + " data") + 12));
    std::int64_t n_parameters = 0;
    for (const auto &tensor : file.tensors()) n_parameters += tensor.n_elements();
    CHECK_EQ(file.n_parameters(), n_parameters);
}

TEST(weights_are_preloaded) {
    const TemporaryFolder folder;
    const std::string path = folder.write("m.bin", write_model().bytes);
    const auto bytes_behind = [](const ModelFile &file) {
        const chatllm::Tensor &first = file.tensors().front();
        const std::byte *begin = first.data, *end = first.data + first.n_bytes;
        for (const chatllm::Tensor &tensor : file.tensors()) {
            begin = std::min(begin, tensor.data);
            end = std::max(end, tensor.data + tensor.n_bytes);
        }
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        begin -= reinterpret_cast<std::uintptr_t>(begin) % page;
        return std::span(begin, end);
    };
    {
        const ModelFile cached(path);
        cached.preload();
        cached.lock();
        CHECK(is_resident(bytes_behind(cached)));
    }
    if (!make_cold(path)) {
        std::cout << "not tried: the file system of " << path << " keeps files in memory alone\n";
        return;
    }
    const ModelFile cold(path);
    cold.preload();
    CHECK(is_resident(bytes_behind(cold)));
}

TEST(every_type_is_read) {
    for (const TensorType type : {TensorType::f32, TensorType::f16, TensorType::q4_0, TensorType::q4_1,
                                  TensorType::q8_0, TensorType::q4_k, TensorType::q4_0_16x4}) {
        chatllm::tiny::Settings settings;
        settings.matrices = type;
        settings.ffn_width = 256;
        const TemporaryFolder folder;
        const std::string path = folder.write("m.bin", write_model(settings).bytes);
        load(path);
        const ModelFile file(path);
        CHECK_EQ(file.tensor("model.layers.0.mlp.down_proj.weight", {64, 256}).type, type);
    }
}

TEST(the_header) {
    const auto with = [](std::string_view field, std::uint32_t value, const std::string &message) {
        Damaged file;
        file.model.put(field, value);
        file.expect(message);
    };
    const Model model = write_model();
    const auto type_at = static_cast<std::uint32_t>(model.at("model type"));
    const auto vocabulary_at = static_cast<std::uint32_t>(model.at("vocabulary"));
    const auto tensors_at = static_cast<std::uint32_t>(model.at("tensors"));
    with("magic", 0x46554747, "magic at offset 0: is 'GGUF', not 'ggmm'");
    with("magic", 0x04034b50, "magic at offset 0: is 'PK\\x03\\x04'");
    with("version", 2, "container version at offset 4: is 2, only 1 is known");
    with("offset of the model type", 0, "offset of the model type at offset 8: points back");
    with("offset of the model type", 19, "offset of the model type at offset 8: points back");
    with("offset of the model type", 20, "offset of the vocabulary at offset 12");
    with("offset of the model type", 0xFFFFFFFF, "offset of the model type at offset 8: leaves over 16 MiB");
    with("offset of the vocabulary", type_at,
         "offset of the vocabulary at offset 12: does not lie 624 bytes");
    with("offset of the vocabulary", vocabulary_at + 4,
         "offset of the vocabulary at offset 12: does not lie 624 bytes");
    with("offset of the vocabulary", 0xFFFFFFFF, "offset of the vocabulary at offset 12");
    with("offset of the tensors", vocabulary_at - 1, "offset of the tensors at offset 16: points back");
    with("offset of the tensors", tensors_at + 16,
         "offset of the tensors at offset 16: is " + std::to_string(tensors_at + 16) +
             ", but the merges end at " + std::to_string(tensors_at));
    with("offset of the tensors", 0xFFFFFFFF, "offset of the tensors at offset 16");
    with("model type", 0x1000010E, "model type" + offset(type_at) + ": is 268435726, not Qwen3-ASR");
    with("model-file version", 2, "model-file version" + offset(type_at + 4) + ": is 2, only 1 is known");
}

TEST(all_offsets_beyond_the_file) {
    Damaged file;
    file.model.put("offset of the model type", std::uint32_t{0x00FFFFF0});
    file.model.put("offset of the vocabulary", std::uint32_t{0x00FFFFF0 + 624});
    file.model.put("offset of the tensors", std::uint32_t{0x01FFFFF0});
    file.expect(" at offset ");  // there, or where the metadata ends
}

TEST(the_config) {
    const auto with = [](const std::string &field, auto value, const std::string &message) {
        Damaged file;
        file.model.put("config " + field, value);
        file.expect("config " + field + offset(file.model.at("config " + field)) + message);
    };
    with("vocab_size", std::int32_t{0}, ": is 0, must be 1 to");
    with("vocab_size", std::int32_t{-1}, ": is -1");
    with("vocab_size", INT32_MAX, ": is 2147483647");
    with("hidden_size", std::int32_t{0}, ": is 0");
    with("hidden_size", std::int32_t{1 << 20}, ": is 1048576");
    with("num_attention_heads", std::int32_t{0}, ": is 0");
    with("num_hidden_layers", INT32_MAX, ": is 2147483647");
    with("intermediate_size", INT32_MIN, ": is -2147483648");
    with("max_length", std::int32_t{0}, ": is 0");
    with("num_key_value_heads", std::int32_t{0}, ": is 0");
    with("num_key_value_heads", std::int32_t{3}, ": does not divide the number of attention heads");
    with("head_dim", std::int32_t{33}, ": is odd");
    with("head_dim", std::int32_t{0}, ": is 0");
    with("rope_theta", std::numeric_limits<float>::quiet_NaN(), ": is not a finite number");
    with("rope_theta", std::numeric_limits<float>::infinity(), ": is not a finite number");
    with("rope_theta", 0.0f, ": is not a finite number");
    with("yarn factor", 4.0f, ": asks for YaRN");
}

TEST(sizes_that_the_tensors_deny) {
    const auto with = [](std::string_view field, std::int32_t value, std::string_view message) {
        Damaged file;
        file.model.put(field, value);
        file.expect(message);
    };
    const std::int32_t vocab_size = write_model().get<std::int32_t>(write_model().at("config vocab_size"));
    with("config vocab_size", vocab_size + 1, "tensor model.embed_tokens.weight");
    with("config vocab_size", vocab_size - 6, "added token id");
    with("config vocab_size", 5, "vocabulary");
    with("config hidden_size", 65536, "has the shape");
    with("config num_attention_heads", 4, "tensor model.layers.0.self_attn.q_proj.weight");
    with("config num_hidden_layers", 2, "tensor model.layers.1.input_layernorm.weight is missing");
    with("config intermediate_size", 128, "tensor model.layers.0.mlp.gate_proj.weight");
    with("config head_dim", 64, "has the shape");
}

TEST(the_metadata) {
    Damaged()
        .replace(R"({"config.json")", R"(<"config.json")")
        .expect("metadata at offset 20: expected a JSON value");
    Damaged().replace(R"("model_name")", R"("model_name )").expect("metadata");
    Damaged()
        .replace("audio_config", "odio__config")
        .expect("metadata at offset 20: metadata.config.json.thinker_config.audio_config is missing");
    Damaged()
        .replace("thinker_config", "tinker__config")
        .expect("metadata.config.json.thinker_config is missing");
    Damaged()
        .replace(R"("d_model": 64)", R"("d_model": -4)")
        .expect("audio_config.d_model is -4, must be 4 to 65536");
    Damaged().replace(R"("d_model": 64)", R"("d_model": 62)").expect("has the shape");
    Damaged().replace(R"("d_model": 64)", R"("d_model":"6")").expect("d_model is missing or no number");
    Damaged().replace(R"("d_model": 64)", R"("d_model":6.5)").expect("whole number");
    Damaged()
        .replace(R"("encoder_attention_heads": 1)", R"("encoder_attention_heads": 0)")
        .expect("encoder_attention_heads is 0");
    Damaged()
        .replace(R"("encoder_attention_heads": 1)", R"("encoder_attention_heads": 3)")
        .expect("does not divide d_model");
    Damaged().replace(R"("encoder_layers": 1)", R"("encoder_layers": 2)").expect("tensor audio.layers.1.");
    Damaged().replace(R"("num_mel_bins": 128)", R"("num_mel_bins": 999)").expect("num_mel_bins is 999");
    Damaged()
        .replace(R"("num_mel_bins": 128)", R"("num_mel_bins":  80)")
        .expect("feature_size is 128, must be 80 to 80");
    Damaged().replace(R"("n_window": 50)", R"("n_window": 00)").expect("metadata");
    Damaged().replace(R"("n_window": 50)", R"("n_window":  1)").expect("n_window is 1, must be 4");
    Damaged()
        .replace(R"("n_window_infer": 800)", R"("n_window_infer": 801)")
        .expect("n_window_infer is no multiple of 2 * n_window");
    Damaged()
        .replace(R"("rms_norm_eps": 1e-06)", R"("rms_norm_eps":-1e-06)")
        .expect("rms_norm_eps is out of range");
    Damaged().replace(R"("rms_norm_eps": 1e-06)", R"("rms_norm_eps": 1e999)").expect("out of range");
    Damaged()
        .replace(R"("hop_length": 160)", R"("hop_length": 161)")
        .expect("hop_length is 161, must be 160 to 160");
    Damaged()
        .replace(R"(["Chinese", "English"])", R"( "Chinese, English"   )")
        .expect("support_languages is no list");
    Damaged()
        .replace(R"(["Chinese", "English"])", R"(["Chinese", 123456789])")
        .expect("support_languages is no list of");
    Damaged().replace("<asr_text>", "<asr_text\xFF").expect("a string is not UTF-8");
    Damaged().replace("<|audio_pad|>", "<|audio_end|>").expect("\"<|audio_end|>\" has the ids 267 and 268");
    Damaged().replace("model_name", "model\nname").expect("a control character in a string");
}

TEST(the_vocabulary_and_the_merges) {
    const auto with = [](std::string_view field, std::int32_t value, const std::string &message) {
        Damaged file;
        file.model.put(field, value);
        file.expect(message);
    };
    for (const std::int32_t length : {0, 1025, 1 << 30, INT32_MAX}) {
        with("vocabulary", length, "vocabulary entry's length" + offset(write_model().at("vocabulary")));
    }
    with("vocabulary", -1, "vocabulary");
    with("end of the vocabulary", 3, "vocabulary entry's");
    with("merges", INT32_MAX, "merge's length" + offset(write_model().at("merges")));
    with("merges", 1, "merge's text");
    with("end of the merges", 3, "merge's");
    Damaged file;
    file.model.bytes[file.model.at("vocabulary") + 6] = 2;  // after the two bytes of the first token
    file.expect("vocabulary entry's type");
}

TEST(the_tensors) {
    const auto with = [](const std::string &tensor, std::string_view part, std::int32_t value,
                         const std::string &message) {
        Damaged file;
        file.model.put(tensor + std::string(part), value);
        file.expect(message);
    };
    const Model model = write_model();
    for (const std::int32_t length : {-1, 0, 257, INT32_MIN, INT32_MAX}) {
        with(conv, " length", length, "tensor name length" + offset(model.at("tensors")));
    }
    with(conv, " dims", 0,
         "tensor audio.conv2d1.weight shape" + offset(model.at(conv + " dims")) + ": has the dimension 0");
    with(conv, " dims", -8, "has the dimension -8");
    with(conv, " dims", INT32_MAX, "shape");
    with(conv, " dims", 7, "tensor name length");
    with(conv, " type", 14,
         "tensor audio.conv2d1.weight type" + offset(model.at(conv + " type")) + ": is unknown: 14");
    with(conv, " type", -1, "is unknown: -1");
    with(conv, " type", 2, "is q4_0 with blocks of 32, but rows have 3 elements");
    with(query, " type", 12, "is q4_K with blocks of 256, but rows have 64 elements");
    with(query, " type", 0, "tensor ");
    with(norm, " type", 1, "tensor ");
    with(query, " dims", 32, "tensor ");

    Damaged dims;
    dims.model.put(dims.model.at(conv + " dims") - 4, std::int32_t{5});
    dims.expect("tensor audio.conv2d1.weight number of dimensions" + offset(model.at(conv + " dims") - 4) +
                ": is 5, must be 1 to 4");

    Damaged wrapping;  // 65536 * 65536 * 65536 * 65536 is 0 in 64 bits
    for (std::size_t d = 0; d < 4; ++d)
        wrapping.model.put(model.at(conv + " dims") + 4 * d, std::int32_t{65536});
    wrapping.expect("tensor audio.conv2d1.weight shape" + offset(model.at(conv + " dims") + 4) +
                    ": has more elements than the file could hold");
}

TEST(rows_that_are_stored_together) {
    const std::string head = "lm_head.weight", embedding = "model.embed_tokens.weight";
    constexpr std::string_view together = "is q4_0_16x4 with 16 rows stored together, but the shape is ";
    const auto check_fails = [&](Damaged &file, const std::string &tensor, std::size_t type_at,
                                 const std::string &shape) {
        file.expect("tensor " + tensor + " type" + offset(type_at) + ": " + std::string(together) + shape);
    };
    const auto q4_0 = [] { return Damaged({.matrices = TensorType::q4_0}); };
    constexpr auto interleaved = static_cast<std::int32_t>(TensorType::q4_0_16x4);
    CHECK_EQ(interleaved, 258);
    {
        Damaged sound = q4_0();
        sound.model.put(query + " type", interleaved);
        const TemporaryFolder folder;
        const std::string path = folder.write("m.bin", sound.model.bytes);
        load(path);
        CHECK_EQ(ModelFile(path).tensor(query, {64, 64}).n_bytes, 64 * 64 / 32 * 18u);
    }
    Damaged odd_rows = q4_0();
    odd_rows.model.put(head + " type", interleaved);
    const auto vocab_size = odd_rows.model.get<std::int32_t>(odd_rows.model.at("config vocab_size"));
    check_fails(odd_rows, head, odd_rows.model.at(head + " type"),
                "[" + std::to_string(vocab_size) + ", 64]");

    Damaged vector;
    vector.model.put(norm + " type", interleaved);
    check_fails(vector, norm, vector.model.at(norm + " type"), "[64]");

    // One more dimension, of 1.
    Damaged cube = q4_0();
    const std::size_t dims_at = cube.model.at(query + " dims"), type_at = cube.model.at(query + " type");
    cube.model.put(dims_at - 4, std::int32_t{3});
    cube.model.put(type_at, interleaved);
    cube.model.bytes.insert(dims_at + 4, {1, 0, 0, 0});
    check_fails(cube, query, type_at + 4, "[64, 1, 64]");

    Damaged one_by_one(
        {.matrices = TensorType::q4_0_16x4, .types = {{embedding, TensorType::q4_0_16x4}}, .unnamed_ids = 2});
    one_by_one.expect("tensor " + embedding + offset(one_by_one.model.at(embedding + " data")) +
                      ": is q4_0_16x4, whose rows cannot be read one by one");
}

TEST(names_of_tensors) {
    const std::string twin = "model.layers.0.mlp.gate_proj.weight",
                      other = "model.layers.0.mlp.down_proj.weight";
    Damaged file;
    const std::size_t at = file.model.at(other + " length") + 4;
    file.model.bytes.replace(at, other.size(), twin);
    file.expect("tensor " + twin + offset(file.model.at(other + " data")) + ": is there twice");

    Damaged renamed;
    renamed.model.bytes[renamed.model.at(norm + " length") + 4] = '\n';
    renamed.expect("tensor model.norm.weight is missing");

    Damaged hostile;
    hostile.model.bytes.replace(hostile.model.at(conv + " length") + 4, 6, "\x1b[2J\n\xFF");
    hostile.model.put(conv + " type", std::int32_t{99});
    hostile.expect("tensor \\x1b[2J\\x0a\\xffconv2d1.weight type");
}

TEST(padding_must_be_zero) {
    Model model = write_model();
    for (const auto &[field, at] : model.offsets) {
        if (!field.ends_with(" padding") || at % 16 == 0) continue;
        model.bytes[at] = 1;
        Damaged::check_fails(model.bytes, "padding" + offset(at) + ": is not zero");
        return;
    }
    CHECK(false);  // no tensor is padded
}

TEST(a_vector_must_be_f32) {
    Damaged file;  // the last tensor, so that half the bytes remain sound
    file.model.put(norm + " type", std::int32_t{1});
    file.model.bytes.resize(file.model.at(norm + " data") + 64 * 2);
    file.expect("tensor model.norm.weight" + offset(file.model.at(norm + " data")) +
                ": is f16, one-dimensional tensors must be f32");
}

TEST(every_truncation_is_an_error) {
    const Model model = write_model();
    std::set<std::size_t> lengths;
    for (const auto &[field, at] : model.offsets) {
        for (const std::size_t length : {at - 1, at, at + 1, at + 4})
            lengths.insert(std::min(length, model.bytes.size() - 1));
    }
    for (std::size_t length = 0; length < model.bytes.size(); length += 509) lengths.insert(length);
    lengths.erase(std::size_t(-1));
    const TemporaryFolder folder;
    const std::string path = folder.write("m.bin", model.bytes);
    // A truncation between records leaves a sound list of fewer tensors, of which one is missed.
    for (auto length = lengths.rbegin(); length != lengths.rend(); ++length) {
        std::filesystem::resize_file(path, *length);
        CHECK_THROWS(load(path), path + ": ");
    }
}

TEST(random_damage_is_an_error_or_harmless) {
    const Model model = write_model();
    const TemporaryFolder folder;
    const std::string path = folder.write("m.bin", model.bytes);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    const auto put = [&](std::size_t at, char value) {
        file.seekp(static_cast<std::streamoff>(at)).put(value);
    };
    Random random(5);
    // Up to the weights, whose values are free: there every byte counts.
    const std::size_t n_bytes = model.at("audio.conv2d2.weight data");
    int n_errors = 0;
    for (int round = 0; round < 2000; ++round) {
        std::vector<std::size_t> places(1 + random.below(3));
        for (std::size_t &at : places) put(at = random.below(n_bytes), static_cast<char>(random.bits()));
        file.flush();
        try {
            load(path);
        } catch (const chatllm::Error &error) {
            ++n_errors;
            const std::string_view message = error.what();
            const bool one_line = message.starts_with(path + ": ") && message.find('\n') == message.npos;
            if (!one_line)
                chatllm::check::report(__FILE__, __LINE__,
                                       "no line that names the file: " + std::string(message));
        }
        for (const std::size_t at : places) put(at, model.bytes[at]);
    }
    CHECK(n_errors > 500);
}

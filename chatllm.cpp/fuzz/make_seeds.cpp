// make-seeds FOLDER: first inputs for the fuzzers, in a folder a subject.

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "patched_model.h"
#include "wav_writer.h"

namespace {

using chatllm::check::append;

class Seeds {
public:
    Seeds(const std::filesystem::path &root, const char *subject) : folder_(root / subject) {
        std::filesystem::create_directories(folder_);
    }
    void add(std::string_view bytes) {
        std::ofstream(folder_ / ("seed-" + std::to_string(n_++)), std::ios::binary) << bytes;
    }

private:
    std::filesystem::path folder_;
    int n_ = 0;
};

}  // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: make-seeds FOLDER\n");
        return 2;
    }
    const std::filesystem::path root = argv[1];
    Seeds model_file(root, "model_file"), transcribe(root, "transcribe"), wav(root, "wav"),
        json(root, "json");
    Seeds tokenizer(root, "tokenizer"), options(root, "options");

    // The fields as they are: see patched_model.h.
    const auto model = chatllm::fuzz::sound_model();
    for (const auto &[field, at] : model.offsets) {
        std::string seed;
        append(seed, static_cast<std::uint32_t>(at));
        seed += std::string_view(model.bytes).substr(at, 64);
        model_file.add(seed);
        transcribe.add(seed);
    }
    const std::size_t metadata_end = model.at("model type");
    json.add(std::string_view(model.bytes).substr(20, metadata_end - 20));
    for (const char *text :
         {"[1, -2.5e3, true, null]", R"({"a": {"b": ["\u00e9\ud83d\ude00\n"]}})", R"("text")", "[[[[]]]]"}) {
        json.add(text);
    }

    using chatllm::check::WavHeader;
    const std::string data(64, '\x11');
    wav.add(chatllm::check::wav({}, data));
    wav.add(chatllm::check::wav({.n_channels = 2, .bits = 24}, data));
    wav.add(chatllm::check::wav({.bits = 32}, data));
    wav.add(chatllm::check::wav({.encoding = 3, .bits = 32}, data));
    wav.add(chatllm::check::wav({.encoding = 0xFFFE}, data));

    for (const char *text : {"language English<asr_text>It's 42, isn't it?", "system\n名前は、",
                             "  \n\n\t x\r\n", "\xF0\x9F\x98\x80\xFF\xC3", "<|im_start|>user<|im_end|>"}) {
        tokenizer.add(text);
    }
    for (const char *text :
         {"-m\nmodel.bin\n-n\n2\n-l\n100\n--temp\n0.5\n--seed\n7", "-m\na\n--set\nlanguage\nzh",
          "say {{audio:/a.wav}} now", "UklGRiQAAABXQVZF", "--multimedia_file_tags\n<\n>\n-m\nb", "yue"}) {
        options.add(text);
    }
    return 0;
}

// make-tiny FOLDER: writes two tiny models, a.bin and b.bin, and clip.wav for programs that take files.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "tiny_model.h"
#include "wav_writer.h"

namespace {

bool write(const std::filesystem::path &path, std::string_view bytes) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (file.flush()) return true;
    std::fprintf(stderr, "%s: cannot write\n", path.c_str());
    return false;
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: make-tiny FOLDER\n");
        return 2;
    }
    using chatllm::tiny::write_model;
    const std::filesystem::path folder = argv[1];
    std::filesystem::create_directories(folder);
    const chatllm::tiny::Settings b{.seed = 2, .matrices = chatllm::TensorType::q8_0, .ffn_width = 128};
    const bool done = write(folder / "a.bin", write_model().bytes) &&
                      write(folder / "b.bin", write_model(b).bytes) &&
                      write(folder / "clip.wav", chatllm::check::clip_wav(0.5));
    return done ? 0 : 1;
}

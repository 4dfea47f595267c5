// Any model file that loads can also be run: hostile sizes and weights give some text or a message.

#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "patched_model.h"
#include "session.h"
#include "wav_writer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t n) {
    static const std::string clip = chatllm::check::clip_wav(0.5);
    const chatllm::fuzz::MemoryFile file(chatllm::fuzz::patched_model({data, n}));
    try {
        chatllm::Options options;
        options.model_path = file.path();
        options.n_threads = 1;
        options.max_new_tokens = 2;
        chatllm::Session session(options, "");
        session.run({{chatllm::Piece::Kind::audio_bytes, clip}}, [](const std::string &) {}, {});
    } catch (const chatllm::Error &) {
        return 0;
    }
    return 0;
}

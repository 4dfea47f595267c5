// Any bytes as a model file: it is read, or refused with a message that names it.

#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "model/decoder.h"
#include "model/encoder.h"
#include "model/model_file.h"
#include "patched_model.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t n) {
    const chatllm::fuzz::MemoryFile file(chatllm::fuzz::patched_model({data, n}));
    const std::string path = file.path();
    try {
        const chatllm::ModelFile model(path);
        const chatllm::Encoder encoder(model);
        const chatllm::Decoder decoder(model);
    } catch (const chatllm::Error &error) {
        const std::string_view message = error.what();
        if (!message.starts_with(path + ": ") || message.find('\n') != message.npos) std::abort();
    }
    return 0;
}

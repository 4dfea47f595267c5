// Any text to ids and back: ids name tokens, and UTF-8 comes back as it was.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/utf8.h"
#include "model/model_file.h"
#include "patched_model.h"

namespace {

bool is_utf8(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
        const chatllm::Utf8Char next = chatllm::decode_utf8(text, at);
        if (next.status != chatllm::Utf8Status::valid) return false;
        at += next.length;
    }
    return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t n) {
    static const chatllm::fuzz::MemoryFile file(chatllm::tiny::write_model().bytes);
    static const chatllm::ModelFile model(file.path());
    const chatllm::Tokenizer &tokenizer = model.tokenizer();
    const std::string_view text(reinterpret_cast<const char *>(data), n);
    for (const auto &ids : {tokenizer.encode(text), tokenizer.encode_with_added(text)}) {
        std::string back;
        for (const std::int32_t id : ids) {
            if (id < 0 || id >= tokenizer.size()) std::abort();
            tokenizer.append_bytes(id, back);
        }
        if (is_utf8(text) && back != text) std::abort();
    }
    return 0;
}

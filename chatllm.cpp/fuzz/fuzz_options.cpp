// Whatever a host hands over as text: option words (one a line), an input with tags, base64, the name of a
// language.

#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "base/base64.h"
#include "base/error.h"
#include "options.h"

namespace {

template <typename Work> void may_fail(Work &&work) {
    try {
        work();
    } catch (const chatllm::Error &) {
        return;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t n) {
    const std::string text(reinterpret_cast<const char *>(data), n);
    std::vector<std::string> words;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) words.push_back(line);
    chatllm::Options options;
    may_fail([&] { options = chatllm::Options::parse(words); });
    may_fail([&] { chatllm::split_input(text, options); });
    may_fail([&] { chatllm::decode_base64(text); });
    may_fail([&] { chatllm::language_name(text, {}); });
    return 0;
}

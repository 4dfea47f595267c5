#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace chatllm {

// Decodes standard base64 (RFC 4648, section 4): padding is required and its spare bits must be zero, and
// nothing but ASCII white space may stand after it. Throws Error naming the offset of the first wrong
// character.
std::vector<std::byte> decode_base64(std::string_view text);

}  // namespace chatllm

// Any text as JSON: it is refused, or every value in it can be visited and read.

#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"

namespace {

using chatllm::JsonKind;
using chatllm::JsonView;

void visit(const JsonView &value, int depth) {
    if (depth > 64) std::abort();
    switch (value.kind()) {
    case JsonKind::object:
        value.for_each_member([&](const JsonView &key, const JsonView &member) {
            const std::string name = key.as_string();
            if (!key.is_string(name) || !value.find(name)) std::abort();
            visit(member, depth + 1);
        });
        return;
    case JsonKind::array:
        value.for_each_element([&](const JsonView &element) { visit(element, depth + 1); });
        return;
    case JsonKind::string:
        if (!value.is_string(value.as_string())) std::abort();
        return;
    case JsonKind::boolean:
        value.as_bool();
        return;
    case JsonKind::null:
        return;
    case JsonKind::number:
        try {
            value.as_double();
            value.as_int64();
        } catch (const chatllm::Error &) {
            return;
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t n) {
    const std::string_view text(reinterpret_cast<const char *>(data), n);
    try {
        visit(JsonView::parse(text, "m.bin"), 0);
    } catch (const chatllm::Error &) {
        return 0;
    }
    return 0;
}

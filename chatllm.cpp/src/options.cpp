#include "options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

#include "base/byte_reader.h"
#include "base/error.h"

namespace chatllm {
namespace {

struct Language {
    std::string_view code;
    std::string_view name;
};

constexpr std::array<Language, 30> languages{{
    {"zh", "Chinese"}, {"en", "English"}, {"yue", "Cantonese"}, {"ar", "Arabic"},     {"de", "German"},
    {"fr", "French"},  {"es", "Spanish"}, {"pt", "Portuguese"}, {"id", "Indonesian"}, {"it", "Italian"},
    {"ko", "Korean"},  {"ru", "Russian"}, {"th", "Thai"},       {"vi", "Vietnamese"}, {"ja", "Japanese"},
    {"tr", "Turkish"}, {"hi", "Hindi"},   {"ms", "Malay"},      {"nl", "Dutch"},      {"sv", "Swedish"},
    {"da", "Danish"},  {"fi", "Finnish"}, {"pl", "Polish"},     {"cs", "Czech"},      {"fil", "Filipino"},
    {"fa", "Persian"}, {"el", "Greek"},   {"ro", "Romanian"},   {"hu", "Hungarian"},  {"mk", "Macedonian"},
}};

bool same_ignoring_case(std::string_view a, std::string_view b) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; };
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [&](char x, char y) { return lower(x) == lower(y); });
}

template <typename Integer>
Integer integer(const std::string &option, const std::string &text, Integer least, Integer most) {
    Integer value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
        throw Error("option " + option + ": '" + printable(text) + "' is not a whole number from " +
                    std::to_string(least) + " to " + std::to_string(most));
    }
    return value;
}

double parse_temperature(const std::string &option, const std::string &text) {
    double value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !(value >= 0 && value <= 100)) {
        throw Error("option " + option + ": '" + printable(text) + "' is not a number from 0 to 100");
    }
    return value;
}

void set_value(Options &options, const std::string &key, const std::string &value) {
    if (key == "language") {
        options.language = value;
    } else if (key == "encoder-window") {
        if (value != "windowed" && value != "full") {
            throw Error("option --set encoder_window: '" + printable(value) +
                        "' is neither windowed nor full");
        }
        options.whole_clip_attention = value == "full";
    } else {
        throw Error("option --set: unknown key '" + printable(key) + "' (known: language, encoder_window)");
    }
}

// '-' and '_' mean the same within names.
std::string dashed(std::string name) {
    std::replace(name.begin(), name.end(), '_', '-');
    return name;
}

}  // namespace

Options Options::parse(const std::vector<std::string> &words) {
    Options options;
    constexpr int most_tokens = 1 << 24;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string &word = words[i];
        const std::string name = dashed(word);
        const auto next = [&]() -> const std::string & {
            if (++i == words.size()) throw Error("option " + printable(word) + ": a value is missing");
            return words[i];
        };
        if (name == "-m" || name == "--model") {
            options.model_path = next();
        } else if (name == "-n" || name == "--threads") {
            options.n_threads = integer(word, next(), 1, 1024);
        } else if (name == "-l" || name == "--max-length" || name == "-c" || name == "--max-context-length") {
            const int limit = integer(word, next(), 1, most_tokens);
            options.max_length = options.max_length == 0 ? limit : std::min(options.max_length, limit);
        } else if (name == "-s" || name == "--system") {
            options.system_prompt = next();
        } else if (name == "-t" || name == "--temp") {
            options.temperature = parse_temperature(word, next());
        } else if (name == "--seed") {
            options.seed = integer<std::uint64_t>(word, next(), 0, UINT64_MAX);
        } else if (name == "--max-new-tokens") {
            options.max_new_tokens = integer(word, next(), -1, most_tokens);
        } else if (name == "--preload") {
            options.preload = true;
        } else if (name == "--lock") {
            options.lock = true;
        } else if (name == "--format") {
            const std::string &format = next();
            if (format != "chat")
                throw Error("option --format: '" + printable(format) +
                            "' is not chat, the only format of this engine");
        } else if (name == "--set") {
            const std::string key = dashed(next());
            set_value(options, key, next());
        } else if (name == "--multimedia-file-tags") {
            options.tag_open = next();
            options.tag_close = next();
            if (options.tag_open.empty() || options.tag_close.empty())
                throw Error("option " + word + ": a tag is empty");
        } else if (name == "--log-level") {
            integer(word, next(), 0, 5);  // accepted for other harnesses: this engine logs nothing
        } else if (name == "--hide-banner" || name == "-i" || name == "--interactive") {
            continue;  // there is no banner and no prompt
        } else {
            throw Error("option " + printable(word) + " is unknown");
        }
    }
    if (options.model_path.empty()) throw Error("option -m: no model file is named");
    return options;
}

std::vector<Piece> split_input(const std::string &input, const Options &options) {
    std::vector<Piece> pieces;
    std::size_t at = 0;
    const auto add_text = [&](std::size_t end) {
        const std::string text = input.substr(at, end - at);
        if (text.find_first_not_of(" \t\r\n") != std::string::npos)
            pieces.push_back({Piece::Kind::text, text});
    };
    while (true) {
        const std::size_t open = input.find(options.tag_open, at);
        if (open == std::string::npos) break;
        const std::size_t begin = open + options.tag_open.size();
        const std::size_t close = input.find(options.tag_close, begin);
        if (close == std::string::npos)
            throw Error("input: '" + options.tag_open + "' is not closed by '" + options.tag_close + "'");
        const std::string tag = input.substr(begin, close - begin);
        static constexpr std::string_view audio = "audio:";
        if (tag.compare(0, audio.size(), audio) != 0) {
            throw Error("input: '" + printable(tag) + "' is not audio:PATH, the only medium of this engine");
        }
        add_text(open);
        pieces.push_back({Piece::Kind::audio_path, tag.substr(audio.size())});
        at = close + options.tag_close.size();
    }
    add_text(input.size());
    return pieces;
}

std::string language_name(const std::string &given, const std::vector<std::string> &known) {
    if (given.empty() || same_ignoring_case(given, "auto")) return {};
    std::string_view wanted = given;
    for (const Language &language : languages) {
        if (same_ignoring_case(given, language.code)) wanted = language.name;
    }
    std::string names;
    const auto matches = [&](std::string_view name) {
        names += (names.empty() ? "" : ", ") + printable(name);
        return same_ignoring_case(wanted, name);
    };
    if (known.empty()) {
        for (const Language &language : languages) {
            if (matches(language.name)) return std::string(language.name);
        }
    }
    for (const std::string &name : known) {
        if (matches(name)) return name;
    }
    throw Error("language '" + printable(given) + "' is unknown to the model (known: " + names + ")");
}

}  // namespace chatllm

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace chatllm {

// What the words of chatllm_append_param ask for.
struct Options {
    std::string model_path;
    int n_threads = 0;         // 0: the processors that this process may use
    int max_length = 0;        // tokens of context at most; 0: what the file says
    int max_new_tokens = 512;  // -1: as many as fit
    double temperature = 0;    // 0: greedy
    std::uint64_t seed = 1;
    std::string system_prompt;
    std::string language;  // as given: a name, a two-letter code, or empty for the model to find out
    bool whole_clip_attention = false;
    bool preload = false;  // the load reads all weights
    bool lock = false;     // the weights stay in memory
    std::string tag_open = "{{";
    std::string tag_close = "}}";

    // Throws Error naming the word that is wrong.
    static Options parse(const std::vector<std::string> &words);
};

// One piece of an input.
struct Piece {
    enum class Kind { text, audio_path, audio_bytes };
    Kind kind;
    std::string content;  // UTF-8 text, a path, or the bytes of an audio file
};

// Splits an input into text and `OPENaudio:PATHCLOSE` pieces. Throws Error on a tag that is not closed or is
// of another medium.
std::vector<Piece> split_input(const std::string &input, const Options &options);

// The name of a language as the model knows it, from a name or a two-letter code in any case; empty for
// "auto". `known` are the names that the file lists, or none. Throws Error naming the known ones.
std::string language_name(const std::string &given, const std::vector<std::string> &known);

}  // namespace chatllm

#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "audio/log_mel.h"
#include "audio/wav.h"
#include "model/compute.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "model/kv_cache.h"
#include "model/model_file.h"
#include "model/trace.h"
#include "options.h"

namespace chatllm {

// What the last input was.
struct Statistics {
    double audio_s = 0;
    int n_audio_tokens = 0;
    int n_prompt_tokens = 0;
    int n_generated_tokens = 0;
};

// Anonymous memory of a session in bytes: what is there from load to unload, and what an input adds.
struct MemoryNeeds {
    std::size_t loaded = 0;    // tokenizer's tables, scratch and stacks of the threads
    std::size_t clip = 0;      // samples, log-mel and encoded audio
    std::size_t encoder = 0;   // workspace, until the clip is encoded
    std::size_t decoder = 0;   // workspace, from then on
    std::size_t kv_cache = 0;  // likewise
    std::size_t peak() const { return loaded + clip + std::max(encoder, decoder + kv_cache); }
};

// One loaded model. Each input stands alone: it starts from an empty context, so that the same input gives
// the same text whatever came before it.
class Session {
public:
    // Maps the model and starts the threads. Throws Error. `isa` names the kernels, empty for the fastest.
    Session(const Options &options, std::string_view isa);
    ~Session();
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    // Transcribes the one clip among the pieces and hands out the text in whole characters as it is
    // generated. Throws Error, or Aborted after abort().
    void run(const std::vector<Piece> &pieces, const std::function<void(const std::string &)> &emit,
             const Trace &trace);

    // From any thread: run() ends early. Forgotten when the next run() begins.
    void abort() { compute_.pool().abort(); }
    // Forgets the context and gives its memory back.
    void restart();
    void set_system_prompt(std::string_view text) { options_.system_prompt = text; }
    void set_max_new_tokens(int n) { options_.max_new_tokens = n; }

    // What an input of `seconds` of audio and so many new tokens needs at most; a context too short for them
    // counts as it is. seconds >= 0.
    MemoryNeeds memory_needs(double seconds, int n_new_tokens) const;

    const Options &options() const { return options_; }
    const ModelFile &file() const { return file_; }
    const Statistics &statistics() const { return statistics_; }
    const Stages &stages() { return compute_.stages(); }
    const char *isa() const { return compute_.kernels().name; }
    int n_threads() { return compute_.pool().size(); }
    int max_length() const { return max_length_; }
    int cursor() const { return cursor_; }  // tokens in the KV cache

private:
    struct SpecialIds {
        std::int32_t turn_start, turn_end, audio_start, audio_end, audio_pad;
        std::optional<std::int32_t> text_end;  // <|endoftext|>
        std::optional<std::int32_t> asr_text;
    };

    // The prompt's ids with one placeholder a row of audio, and where those begin.
    struct Prompt {
        std::vector<std::int32_t> ids;
        std::size_t audio_at = 0;
    };
    Prompt build_prompt(const std::vector<Piece> &pieces, int n_audio_tokens) const;
    void prefill(const Prompt &prompt, const float *audio, Decoder::Workspace &work);
    void generate(int limit, Decoder::Workspace &work, const std::function<void(const std::string &)> &emit,
                  const Trace &trace);
    std::int32_t choose(std::span<const float> logits);

    Options options_;
    ModelFile file_;
    SpecialIds special_;
    std::string language_;
    Encoder encoder_;
    Decoder decoder_;
    LogMel log_mel_;
    int max_length_;
    Compute compute_;
    KvCache cache_;
    int cursor_ = 0;
    std::uint64_t random_state_ = 0;
    Statistics statistics_;
};

// Facts about a model file as one line of JSON. Throws Error.
std::string describe_model(const ModelFile &file, int context_length);
// The inside of a JSON string.
std::string json_escaped(std::string_view text);

}  // namespace chatllm

#pragma once

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

// Where the time of the last input went, and what it was spent on.
struct Statistics {
    double audio_s = 0;
    double read_ms = 0;  // the clip from disk
    double mel_ms = 0;
    double encode_ms = 0;
    double prefill_ms = 0;  // to the first token's logits
    double decode_ms = 0;   // all later tokens
    int n_audio_tokens = 0;
    int n_prompt_tokens = 0;
    int n_generated_tokens = 0;
};

// One loaded model. Each input stands alone: it starts from an empty context, so that the same input gives
// the same text whatever came before it.
class Session {
public:
    // Maps the model and starts the threads. Throws Error. `isa` names the kernels, empty for the fastest.
    Session(const Options &options, std::string_view isa);

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

    const Options &options() const { return options_; }
    const ModelFile &file() const { return file_; }
    const Statistics &statistics() const { return statistics_; }
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
    std::span<const float> prefill(const Prompt &prompt, const float *audio, Decoder::Workspace &work);
    void generate(std::span<const float> logits, int limit, Decoder::Workspace &work,
                  const std::function<void(const std::string &)> &emit, const Trace &trace);
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

#include "session.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/unicode.h"

namespace chatllm {
namespace {

// Of the prompt's end, computed to the precision of single positions: logits come from the last one, and
// twice as exact for it.
constexpr int n_precise_positions = 6;

int usable_processors() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
    return 1;
}

std::int32_t required_id(const ModelFile &file, std::string_view content) {
    const auto id = file.tokenizer().added_id(content);
    if (!id) throw Error(file.path() + ": vocabulary: the token " + std::string(content) + " is missing");
    return *id;
}

}  // namespace

Session::Session(const Options &options, std::string_view isa)
    : options_(options),
      file_(options.model_path),
      special_{required_id(file_, "<|im_start|>"),      required_id(file_, "<|im_end|>"),
               required_id(file_, "<|audio_start|>"),   required_id(file_, "<|audio_end|>"),
               required_id(file_, "<|audio_pad|>"),     file_.tokenizer().added_id("<|endoftext|>"),
               file_.tokenizer().added_id("<asr_text>")},
      language_(language_name(options.language, file_.languages())),
      encoder_(file_),
      decoder_(file_),
      log_mel_(file_.audio().n_mel_bands),
      max_length_(options.max_length > 0 ? std::min(options.max_length, file_.text().max_length)
                                         : file_.text().max_length),
      compute_(choose_kernels(isa), options.n_threads > 0 ? options.n_threads : usable_processors(),
               std::max(encoder_.widest_row(), decoder_.widest_row()),
               encoder_.is_quantised() || decoder_.is_quantised()),
      cache_(file_.text()) {
    if (!language_.empty() && !special_.asr_text) required_id(file_, "<asr_text>");
    if (options.preload || options.lock) file_.preload();
    if (options.lock) file_.lock();
}

Session::~Session() {
    // What takes the time of unloading is to unmap the weights, page by page: the threads share it.
    constexpr int n_parts = 16;
    compute_.pool().clear_abort();
    try {
        compute_.pool().run(n_parts, [&](int part, int) { file_.drop(part, n_parts); });
    } catch (const Aborted &) {  // then they are unmapped with the file
    }
}

void Session::restart() {
    cache_.clear();
    cursor_ = 0;
}

MemoryNeeds Session::memory_needs(double seconds, int n_new_tokens) const {
    // More than that fits into no context. No more than eight frames go into a token.
    const double most_seconds = max_length_ * 8.0 * LogMel::hop / LogMel::sample_rate;
    const auto n_samples = std::max(
        Clip::min_samples, static_cast<std::size_t>(std::min(seconds, most_seconds) * LogMel::sample_rate));
    const int n_frames = LogMel::n_frames(n_samples);
    const int n_audio = encoder_.n_tokens(n_frames);
    const Piece audio{Piece::Kind::audio_path, {}};
    const auto n_words = static_cast<std::int64_t>(build_prompt({audio}, 0).ids.size());
    const auto n_prompt = static_cast<int>(std::min<std::int64_t>(n_audio + n_words, max_length_));
    const int n_positions =
        n_new_tokens < 0
            ? max_length_
            : static_cast<int>(std::min<std::int64_t>(std::int64_t{n_prompt} + n_new_tokens, max_length_));
    const auto floats = [](std::size_t rows, int cols) {
        return AnonymousMap::resident_bytes(rows * static_cast<std::size_t>(cols) * sizeof(float));
    };
    constexpr std::size_t heap_bytes = std::size_t{1} << 20;    // names, small vectors
    constexpr std::size_t stack_bytes = std::size_t{64} << 10;  // what is used of each
    const auto n_threads = static_cast<std::size_t>(compute_.n_threads());
    MemoryNeeds needs;
    needs.loaded = file_.tokenizer().table_bytes() + AnonymousMap::resident_bytes(compute_.scratch_bytes()) +
                   n_threads * stack_bytes + heap_bytes;
    needs.clip = floats(n_samples, 1) + floats(static_cast<std::size_t>(n_frames), log_mel_.n_bands()) +
                 floats(static_cast<std::size_t>(n_audio), file_.text().width);
    needs.encoder = AnonymousMap::resident_bytes(
        encoder_.workspace_bytes(compute_, n_frames, options_.whole_clip_attention));
    needs.decoder = AnonymousMap::resident_bytes(
        Decoder::Workspace::bytes(decoder_, std::min(n_prompt, Decoder::max_batch), compute_));
    needs.kv_cache = cache_.resident_bytes(n_positions);
    return needs;
}

Session::Prompt Session::build_prompt(const std::vector<Piece> &pieces, int n_audio_tokens) const {
    const Tokenizer &tokenizer = file_.tokenizer();
    Prompt prompt;
    // Text between two special tokens is tokenised as one.
    std::string pending;
    const auto text = [&](std::string_view words) { pending += words; };
    const auto flush = [&] {
        const auto ids = tokenizer.encode(pending);
        prompt.ids.insert(prompt.ids.end(), ids.begin(), ids.end());
        pending.clear();
    };
    const auto token = [&](std::int32_t id) {
        flush();
        prompt.ids.push_back(id);
    };

    token(special_.turn_start);
    text("system\n" + options_.system_prompt);
    token(special_.turn_end);
    text("\n");
    token(special_.turn_start);
    text("user\n");
    for (const Piece &piece : pieces) {
        if (piece.kind == Piece::Kind::text) {
            text(piece.content);
            continue;
        }
        token(special_.audio_start);
        prompt.audio_at = prompt.ids.size();
        prompt.ids.insert(prompt.ids.end(), static_cast<std::size_t>(n_audio_tokens), special_.audio_pad);
        token(special_.audio_end);
    }
    token(special_.turn_end);
    text("\n");
    token(special_.turn_start);
    text("assistant\n");
    if (!language_.empty()) {
        text("language " + language_);
        token(*special_.asr_text);
    }
    flush();
    return prompt;
}

void Session::run(const std::vector<Piece> &pieces, const std::function<void(const std::string &)> &emit,
                  const Trace &trace) {
    compute_.pool().clear_abort();
    statistics_ = {};
    compute_.stages().clear();
    restart();  // what the last context took is not kept beside the encoder's workspace
    random_state_ = options_.seed;

    const auto is_audio = [](const Piece &piece) { return piece.kind != Piece::Kind::text; };
    const auto n_clips = std::count_if(pieces.begin(), pieces.end(), is_audio);
    if (n_clips != 1) {
        throw Error("input: has " + std::to_string(n_clips) + " clips, must have one: " + options_.tag_open +
                    "audio:PATH" + options_.tag_close);
    }
    // No more than eight frames go into a token.
    const std::size_t max_samples = static_cast<std::size_t>(max_length_) * 8 * LogMel::hop;
    const Piece &source = *std::find_if(pieces.begin(), pieces.end(), is_audio);

    Prompt prompt;
    AnonymousMap audio;  // the encoder's output, [n_audio_tokens, width]
    {
        std::optional<Clip> clip;
        {
            const Stages::Timer timer(compute_.stages(), Stage::read);
            if (source.kind == Piece::Kind::audio_path) {
                clip = Clip::read_wav(source.content, max_samples);
            } else {
                clip = Clip::parse_wav(std::as_bytes(std::span(source.content)), "audio of the input",
                                       max_samples);
            }
        }
        statistics_.audio_s = clip->seconds();
        const auto samples = clip->samples();
        const int n_frames = LogMel::n_frames(samples.size());
        const int n_audio = encoder_.n_tokens(n_frames);
        statistics_.n_audio_tokens = n_audio;
        prompt = build_prompt(pieces, n_audio);
        statistics_.n_prompt_tokens = static_cast<int>(prompt.ids.size());
        if (statistics_.n_prompt_tokens >= max_length_) {
            throw Error("input: its " + std::to_string(statistics_.n_prompt_tokens) +
                        " tokens leave no room in a context of " + std::to_string(max_length_) +
                        ": use a shorter clip or raise the context (-c)");
        }

        const int n_bands = log_mel_.n_bands();
        const AnonymousMap mel(static_cast<std::size_t>(n_bands) * static_cast<std::size_t>(n_frames) *
                                   sizeof(float),
                               "log-mel");
        auto *mel_values = reinterpret_cast<float *>(mel.data());
        {
            const Stages::Timer timer(compute_.stages(), Stage::mel);
            log_mel_.run(compute_.pool(), samples, mel_values);
        }
        trace.show("mel", mel_values, {n_bands, n_frames});

        const int width = file_.text().width;
        audio =
            AnonymousMap(static_cast<std::size_t>(n_audio) * static_cast<std::size_t>(width) * sizeof(float),
                         "encoded audio");
        auto *rows = reinterpret_cast<float *>(audio.data());
        encoder_.run(compute_, mel_values, n_frames, options_.whole_clip_attention, rows, trace);
        trace.show("enc_out", rows, {n_audio, width});
    }

    const int n_prompt = statistics_.n_prompt_tokens;
    if (trace) {
        const std::vector<float> ids(prompt.ids.begin(), prompt.ids.end());
        trace.show("prompt_ids", ids.data(), {n_prompt});
    }
    Decoder::Workspace work(decoder_, std::min(n_prompt, Decoder::max_batch), compute_);
    {
        const Stages::Timer timer(compute_.stages(), Stage::prefill);
        prefill(prompt, reinterpret_cast<const float *>(audio.data()), work);
    }
    audio = {};
    const int room = max_length_ - n_prompt;
    const int limit = options_.max_new_tokens < 0 ? room : std::min(options_.max_new_tokens, room);
    generate(limit, work, emit, trace);
}

void Session::prefill(const Prompt &prompt, const float *audio, Decoder::Workspace &work) {
    const int n_prompt = static_cast<int>(prompt.ids.size());
    const int width = file_.text().width;
    const int audio_begin = static_cast<int>(prompt.audio_at);
    const int audio_end = audio_begin + statistics_.n_audio_tokens;
    for (int first = 0; first < n_prompt; first += Decoder::max_batch) {
        const int n = std::min(Decoder::max_batch, n_prompt - first);
        cache_.reserve(first + n);
        for (int i = 0; i < n; ++i) {
            const int position = first + i;
            float *row = work.embeddings() + static_cast<std::ptrdiff_t>(i) * width;
            if (position >= audio_begin && position < audio_end) {
                std::copy_n(audio + static_cast<std::ptrdiff_t>(position - audio_begin) * width, width, row);
            } else {
                decoder_.embed(prompt.ids[static_cast<std::size_t>(position)], row);
            }
        }
        // The answer's beginning, which the first tokens hang on.
        const int n_precise = std::clamp(first + n - (n_prompt - n_precise_positions), 0, n);
        decoder_.run(compute_, cache_, work, first, n, n_precise);
        cursor_ = first + n;
    }
}

void Session::generate(int limit, Decoder::Workspace &work,
                       const std::function<void(const std::string &)> &emit, const Trace &trace) {
    const Tokenizer &tokenizer = file_.tokenizer();
    Utf8Stream characters;
    const auto say = [&](const std::string &text) {
        if (!text.empty()) emit(text);
    };
    std::int32_t id = 0;
    int n_batch = (statistics_.n_prompt_tokens - 1) % Decoder::max_batch + 1;
    for (int step = 0; step < limit; ++step) {
        compute_.pool().check_abort();
        std::span<const float> logits;
        {
            // The first token is what its reader waits for: it has a stage of its own.
            const Stages::Timer timer(compute_.stages(), step == 0 ? Stage::first_token : Stage::decode);
            if (step > 0) {
                decoder_.embed(id, work.embeddings());
                cache_.reserve(cursor_ + 1);
                decoder_.run(compute_, cache_, work, cursor_, 1, 1);
                n_batch = 1;
                ++cursor_;
            }
            logits = decoder_.logits(compute_, work, n_batch);
            id = choose(logits);
        }
        trace.show("logits", logits.data(), {static_cast<std::int64_t>(logits.size())});
        ++statistics_.n_generated_tokens;
        const auto shown = static_cast<float>(id);
        trace.show("token", &shown, {1});
        if (id == special_.turn_end || (special_.text_end && id == *special_.text_end)) break;
        if (!tokenizer.is_special(id) || id == special_.asr_text) {
            std::string bytes;
            tokenizer.append_bytes(id, bytes);
            say(characters.feed(bytes));
        }
    }
    say(characters.flush());
}

namespace {

// The first of the largest values.
std::span<const float>::iterator largest(const Kernels &kernels, std::span<const float> values) {
    constexpr std::size_t block = 1024;
    float most = -std::numeric_limits<float>::infinity();
    std::size_t first = 0;
    for (std::size_t i = 0; i < values.size(); i += block) {
        const auto part = values.subspan(i, std::min(block, values.size() - i));
        const float maximum = kernels.maximum(part.data(), static_cast<int>(part.size()));
        if (maximum > most) {
            most = maximum;
            first = i;
        }
    }
    const auto end = values.begin() + static_cast<std::ptrdiff_t>(std::min(first + block, values.size()));
    const auto found = std::find(values.begin() + static_cast<std::ptrdiff_t>(first), end, most);
    return found == end ? values.begin() : found;
}

}  // namespace

std::int32_t Session::choose(std::span<const float> logits) {
    const auto best = largest(compute_.kernels(), logits);
    if (options_.temperature == 0) return static_cast<std::int32_t>(best - logits.begin());
    // Inverse transform sampling from softmax(logits / temperature), with SplitMix64 (Steele, Lea and Flood,
    // 2014).
    const auto weight = [&](float logit) {
        return std::exp(static_cast<double>(logit - *best) / options_.temperature);
    };
    double total = 0;
    for (const float logit : logits) total += weight(logit);
    random_state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t bits = random_state_;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
    bits ^= bits >> 31;
    double left = static_cast<double>(bits >> 11) * 0x1p-53 * total;
    for (std::size_t i = 0; i < logits.size(); ++i) {
        left -= weight(logits[i]);
        if (left < 0) return static_cast<std::int32_t>(i);
    }
    return static_cast<std::int32_t>(best - logits.begin());
}

std::string json_escaped(std::string_view text) {
    static constexpr char hex[] = "0123456789abcdef";
    std::string escaped;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            escaped += '\\';
            escaped += c;
        } else if (byte < 0x20) {
            escaped += "\\u00";
            escaped += hex[byte >> 4];
            escaped += hex[byte & 15];
        } else {
            escaped += c;
        }
    }
    return escaped;
}

std::string describe_model(const ModelFile &file, int context_length) {
    const TextConfig &text = file.text();
    std::string languages;
    for (const std::string &name : file.languages()) {
        languages += (languages.empty() ? "\"" : ", \"") + json_escaped(name) + "\"";
    }
    return "{\"name\": \"" + json_escaped(file.model_name()) +
           "\", \"purpose\": \"ASR\", \"param_num\": " + std::to_string(file.n_parameters()) +
           ", \"context_length\": " + std::to_string(context_length) +
           ", \"hidden_size\": " + std::to_string(text.width) +
           ", \"layers\": " + std::to_string(text.n_layers) +
           ", \"encoder_layers\": " + std::to_string(file.audio().n_layers) +
           ", \"vocab_size\": " + std::to_string(text.vocab_size) +
           ", \"file_bytes\": " + std::to_string(file.size_bytes()) + ", \"languages\": [" + languages + "]}";
}

}  // namespace chatllm

// Sessions through the C interface, as a host program sees them.

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "check.h"
#include "host.h"
#include "kernels/kernels.h"
#include "temporary.h"
#include "tiny_model.h"
#include "wav_writer.h"

using chatllm::TensorType;
using chatllm::check::clip_wav;
using chatllm::check::Host;
using chatllm::check::TemporaryFolder;
using chatllm::tiny::Settings;
using chatllm::tiny::write_model;

namespace {

using Words = std::vector<std::string>;

// A model and a clip of 1.3 s: 17 audio tokens.
struct Files {
    explicit Files(const Settings &settings = {})
        : model(folder.write("m.bin", write_model(settings).bytes)),
          clip(folder.write("c.wav", clip_wav(1.3))) {}

    Words words(Words more = {}) const {
        Words all{"-m", model, "-n", "2", "--max_new_tokens", "8"};
        all.insert(all.end(), more.begin(), more.end());
        return all;
    }

    TemporaryFolder folder;
    std::string model;
    std::string clip;
};

std::string base64(std::string_view bytes) {
    static constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        unsigned group = 0;
        for (std::size_t j = 0; j < 3; ++j) {
            group = group << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u);
        }
        for (std::size_t j = 0; j < 4; ++j) {
            text += i + j <= bytes.size() ? digits[group >> (18 - 6 * j) & 63] : '=';
        }
    }
    return text;
}

// The one error line so far, whose text must contain `part`.
void check_error(const Host &host, std::string_view part) {
    CHECK_EQ(host.errors.size(), 1u);
    if (host.errors.size() != 1) return;
    if (host.errors[0].find(part) == std::string::npos || host.errors[0].find('\n') != std::string::npos) {
        chatllm::check::report(__FILE__, __LINE__,
                               '"' + host.errors[0] + "\" is no line with \"" + std::string(part) + '"');
    }
}

void check_start_fails(const Words &words, std::string_view part) {
    Host host;
    CHECK_EQ(host.start(words), -1);
    check_error(host, part);
    CHECK_EQ(host.transcribe("/any.wav"), -1);
    CHECK_EQ(host.close(), 0);
}

// In units of the first's norm.
double distance(const std::vector<float> &a, const std::vector<float> &b) {
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
        difference += d * d;
        norm += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    }
    return std::sqrt(difference / norm);
}

class Environment {
public:
    Environment(const char *name, const char *value) : name_(name) { setenv(name, value, 1); }
    ~Environment() { unsetenv(name_); }
    Environment(const Environment &) = delete;
    Environment &operator=(const Environment &) = delete;

private:
    const char *name_;
};

}  // namespace

TEST(load_transcribe_unload_again_and_again) {
    const Files files;
    std::string first;
    for (int cycle = 0; cycle < 4; ++cycle) {
        Host host;
        CHECK_EQ(host.start(files.words()), 0);
        CHECK(host.model_info.find("\"purpose\": \"ASR\"") != std::string::npos);
        CHECK_EQ(host.transcribe(files.clip), 0);
        CHECK_EQ(host.n_ends, 1);
        CHECK(!host.text.empty());
        if (cycle == 0) first = host.text;
        CHECK_EQ(host.text, first);
        CHECK_EQ(host.transcribe(files.clip), 0);
        CHECK_EQ(host.text, first);
        CHECK_EQ(host.errors.size(), 0u);
        CHECK_EQ(host.close(), 0);
    }
}

TEST(two_objects_speak_to_their_own_hosts) {
    const Files one, other({.seed = 2});
    Host a, b;
    CHECK_EQ(a.start(one.words()), 0);
    CHECK_EQ(b.start(other.words()), 0);
    CHECK_EQ(a.transcribe(one.clip), 0);
    const std::string text = a.text;
    CHECK_EQ(b.text, "");
    CHECK_EQ(b.transcribe(other.clip), 0);
    CHECK_EQ(a.text, text);
    CHECK(b.text != text);
    const std::string other_text = b.text;
    // At the same time, too.
    std::thread thread([&] {
        for (int i = 0; i < 3; ++i) b.transcribe(other.clip);
    });
    for (int i = 0; i < 3; ++i) a.transcribe(one.clip);
    thread.join();
    CHECK_EQ(a.text, text);
    CHECK_EQ(b.text, other_text);
    CHECK_EQ(a.n_ends, 4);
    CHECK_EQ(b.n_ends, 4);
    CHECK_EQ(a.close(), 0);
    CHECK_EQ(b.transcribe(other.clip), 0);
    CHECK_EQ(b.text, other_text);
}

TEST(the_number_of_threads_changes_no_bit) {
    for (const TensorType type : {TensorType::f32, TensorType::f16, TensorType::q8_0, TensorType::q4_0,
                                  TensorType::q4_1, TensorType::q4_k, TensorType::q4_0_16x4}) {
        const Files files({.matrices = type, .ffn_width = 256});
        std::string text;
        std::vector<std::vector<float>> logits;
        for (const char *n_threads : {"1", "2", "3", "7"}) {
            Host host;
            CHECK_EQ(host.start(files.words({"-n", n_threads})), 0);
            host.trace();
            CHECK_EQ(host.transcribe(files.clip), 0);
            if (logits.empty()) {
                text = host.text;
                logits = host.logits;
                CHECK(!logits.empty());
            }
            CHECK_EQ(host.text, text);
            CHECK(host.logits == logits);
        }
    }
}

TEST(instruction_sets_agree_on_few_channels) {
    // Pixels of maps that are rounded to two bytes are padded to whole words.
    for (const int channels : {1, 2, 3}) {
        const Files files({.matrices = TensorType::q8_0, .channels = channels});
        std::vector<float> reference;
        for (const chatllm::Kernels *kernels : chatllm::available_kernels()) {
            const Environment isa("CHATLLM_ISA", kernels->name);
            Host host;
            CHECK_EQ(host.start(files.words()), 0);
            host.trace();
            CHECK_EQ(host.transcribe(files.clip), 0);
            if (reference.empty()) reference = host.logits[0];
            CHECK(distance(reference, host.logits[0]) < 3e-2);
        }
    }
}

TEST(instruction_sets_agree) {
    for (const TensorType type : {TensorType::f32, TensorType::f16, TensorType::q8_0, TensorType::q4_0,
                                  TensorType::q4_1, TensorType::q4_k, TensorType::q4_0_16x4}) {
        const Files files({.matrices = type, .ffn_width = 256});
        std::vector<float> reference;
        for (const chatllm::Kernels *kernels : chatllm::available_kernels()) {
            const Environment isa("CHATLLM_ISA", kernels->name);
            Host host;
            CHECK_EQ(host.start(files.words()), 0);
            host.trace();
            CHECK_EQ(host.transcribe(files.clip), 0);
            chatllm_show_statistics(host.get());
            CHECK(host.lines.back().find(kernels->name) != std::string::npos);
            if (reference.empty()) reference = host.logits[0];
            // Quantised activations jump by a step where a rounding falls the other way.
            CHECK(distance(reference, host.logits[0]) < (traits(type).quantised ? 1e-2 : 2e-5));
        }
    }
    const Environment isa("CHATLLM_ISA", "abacus");
    check_start_fails(Files().words(), "CHATLLM_ISA=abacus: this processor offers scalar");
}

TEST(interleaved_rows_say_what_q4_0_says) {
    // The same numbers in both.
    const Files rows({.matrices = TensorType::q4_0, .ffn_width = 256, .unnamed_ids = 2});
    const Files groups({.matrices = TensorType::q4_0_16x4, .ffn_width = 256, .unnamed_ids = 2});
    for (const chatllm::Kernels *kernels : chatllm::available_kernels()) {
        const Environment isa("CHATLLM_ISA", kernels->name);
        Host q4_0, q4_0_16x4;
        CHECK_EQ(q4_0.start(rows.words()), 0);
        CHECK_EQ(q4_0_16x4.start(groups.words()), 0);
        for (Host *host : {&q4_0, &q4_0_16x4}) {
            host->trace();
            CHECK_EQ(host->transcribe(rows.clip), 0);
        }
        CHECK(!q4_0.logits.empty());
        // One token at a time may meet activations of fewer bits.
        CHECK(distance(q4_0.logits[0], q4_0_16x4.logits[0]) < 1e-2);
        if (kernels == &chatllm::scalar_kernels()) {
            CHECK_EQ(q4_0_16x4.text, q4_0.text);
            CHECK(q4_0_16x4.logits == q4_0.logits);
        }
    }
}

TEST(the_encoders_windows_are_an_option) {
    const Files files;
    const std::string clip = files.folder.write("long.wav", clip_wav(9));  // 117 tokens; windows of 104
    std::vector<float> logits[2];
    for (const int full : {0, 1}) {
        Host host;
        CHECK_EQ(host.start(files.words({"--set", "encoder_window", full ? "full" : "windowed"})), 0);
        host.trace();
        CHECK_EQ(host.transcribe(clip), 0);
        logits[full] = host.logits[0];
    }
    CHECK(logits[0] != logits[1]);
}

TEST(base64_and_files_give_the_same) {
    const Files files;
    Host host;
    CHECK_EQ(host.start(files.words()), 0);
    CHECK_EQ(host.transcribe(files.clip), 0);
    const std::string text = host.text;
    for (const bool with_text : {false, true}) {
        host.text.clear();
        chatllm_multimedia_msg_prepare(host.get());
        if (with_text) CHECK_EQ(chatllm_multimedia_msg_append(host.get(), "text", "la la"), 0);
        CHECK_EQ(chatllm_multimedia_msg_append(host.get(), "audio", base64(clip_wav(1.3)).c_str()), 0);
        CHECK_EQ(chatllm_user_input_multimedia_msg(host.get()), 0);
        if (!with_text) CHECK_EQ(host.text, text);
    }
    CHECK_EQ(host.n_ends, 3);
    CHECK_EQ(host.errors.size(), 0u);
}

TEST(pieces_that_are_wrong) {
    const Files files;
    Host host;
    CHECK_EQ(host.start(files.words()), 0);
    CHECK_EQ(chatllm_multimedia_msg_append(host.get(), "video", "x"), -1);
    check_error(host, "type 'video' is neither text nor audio");
    host.errors.clear();
    CHECK_EQ(chatllm_multimedia_msg_append(host.get(), "audio", "not base64!"), -1);
    check_error(host, "base64");
    host.errors.clear();
    chatllm_multimedia_msg_prepare(host.get());
    CHECK_EQ(chatllm_user_input_multimedia_msg(host.get()), -1);
    check_error(host, "has 0 clips, must have one");
    host.errors.clear();
    CHECK_EQ(chatllm_multimedia_msg_append(host.get(), "audio", base64("not a clip").c_str()), 0);
    CHECK_EQ(chatllm_user_input_multimedia_msg(host.get()), -1);
    check_error(host, "audio of the input: header at offset 0");
    CHECK_EQ(chatllm_multimedia_msg_append(host.get(), nullptr, "x"), -1);
    CHECK_EQ(chatllm_multimedia_msg_append(host.get(), "audio", nullptr), -1);
}

TEST(wrong_inputs_leave_the_object_usable) {
    const Files files;
    Host host;
    CHECK_EQ(host.start(files.words()), 0);
    const auto fails = [&](const std::string &input, std::string_view part) {
        host.errors.clear();
        host.n_ends = 0;
        CHECK_EQ(chatllm_user_input(host.get(), input.c_str()), -1);
        check_error(host, part);
        CHECK_EQ(host.n_ends, 1);
    };
    fails("", "has 0 clips");
    fails("just words", "has 0 clips");
    fails("{{audio:" + files.clip, "is not closed");
    fails("{{image:" + files.clip + "}}", "is not audio:PATH");
    fails("{{audio:" + files.clip + "}}{{audio:" + files.clip + "}}", "has 2 clips");
    fails("{{audio:" + files.folder.path("none.wav") + "}}", "none.wav: cannot open");
    fails("{{audio:" + files.folder.path("") + "}}", "is not a regular file");
    fails("{{audio:" + files.model + "}}", "m.bin: header at offset 0: is not that of a RIFF WAVE file");
    fails("{{audio:}}", "cannot open");
    host.errors.clear();
    CHECK_EQ(host.transcribe(files.clip), 0);
    CHECK(!host.text.empty());
}

TEST(models_that_cannot_be_loaded) {
    const Files files;
    check_start_fails({"-m", files.folder.path("none.bin")},
                      "none.bin: cannot open: No such file or directory");
    check_start_fails({"-m", files.clip}, "c.wav: magic at offset 0: is 'RIFF'");
    check_start_fails({}, "option -m: no model file is named");
    check_start_fails({"-m", files.model, "--warp"}, "option --warp is unknown");
    check_start_fails(files.words({"--set", "language", "xx"}),
                      "language 'xx' is unknown to the model (known: Chinese, English)");

    const std::string embedding = "model.embed_tokens.weight";
    const auto interleaved = write_model({.types = {{embedding, TensorType::q4_0_16x4}}, .unnamed_ids = 2});
    check_start_fails({"-m", files.folder.write("rows.bin", interleaved.bytes)},
                      "rows.bin: tensor " + embedding + " at offset " +
                          std::to_string(interleaved.at(embedding + " data")) +
                          ": is q4_0_16x4, whose rows cannot be read one by one");

    auto model = write_model();
    const std::size_t at = model.bytes.find("<|audio_pad|>");
    model.bytes.replace(at, 13, "<|radio_pad|>");
    check_start_fails({"-m", files.folder.write("no-pad.bin", model.bytes)},
                      "vocabulary: the token <|audio_pad|> is missing");
}

TEST(the_context_may_be_too_short) {
    const Files files;
    Host host;
    CHECK_EQ(host.start(files.words({"-l", "40"})), 0);
    CHECK_EQ(host.transcribe(files.clip), -1);
    check_error(host, "leave no room in a context of 40");
    CHECK_EQ(host.n_ends, 1);
    host.errors.clear();
    CHECK_EQ(host.transcribe(files.folder.write("long.wav", clip_wav(20))), -1);
    check_error(host, "holds 20 s, more than the 3 s that fit into the context");
}

TEST(generation_stops_at_the_limit) {
    const Files files;
    for (const int limit : {0, 1, 5, -1}) {
        Host host;
        CHECK_EQ(host.start(files.words({"-l", "100", "--max_new_tokens", "3"})), 0);
        chatllm_set_gen_max_tokens(host.get(), limit);
        host.trace();
        CHECK_EQ(host.transcribe(files.clip), 0);
        const auto n = static_cast<int>(host.logits.size());
        // A model of random weights may end by itself; it does not here.
        if (limit >= 0) CHECK_EQ(n, limit);
        if (limit < 0) CHECK_EQ(chatllm_get_cursor(host.get()), 99);
    }
}

TEST(restart_clears_the_context) {
    const Files files;
    Host host;
    CHECK_EQ(host.start(files.words()), 0);
    CHECK_EQ(chatllm_get_cursor(host.get()), 0);
    CHECK_EQ(host.transcribe(files.clip), 0);
    const std::string text = host.text;
    CHECK(chatllm_get_cursor(host.get()) > 17);
    chatllm_restart(host.get(), nullptr);
    CHECK_EQ(chatllm_get_cursor(host.get()), 0);
    CHECK_EQ(host.transcribe(files.clip), 0);
    CHECK_EQ(host.text, text);
    const int cursor = chatllm_get_cursor(host.get());
    chatllm_restart(host.get(), "names: Ada, Grace");
    CHECK_EQ(host.transcribe(files.clip), 0);
    CHECK(chatllm_get_cursor(host.get()) > cursor);
    chatllm_restart(host.get(), "");
    CHECK_EQ(host.transcribe(files.clip), 0);
    CHECK_EQ(host.text, text);
}

TEST(a_language_goes_into_the_prompt) {
    const Files files;
    int cursors[2];
    for (const int forced : {0, 1}) {
        Host host;
        CHECK_EQ(host.start(files.words({"--set", "language", forced ? "en" : "auto"})), 0);
        CHECK_EQ(host.transcribe(files.clip), 0);
        cursors[forced] = chatllm_get_cursor(host.get());
    }
    CHECK(cursors[1] > cursors[0]);
}

TEST(sampling_follows_its_seed) {
    const Files files;
    std::string texts[3];
    for (int i = 0; i < 3; ++i) {
        Host host;
        CHECK_EQ(
            host.start(files.words({"--temp", "5", "--max_new_tokens", "20", "--seed", i < 2 ? "1" : "2"})),
            0);
        CHECK_EQ(host.transcribe(files.clip), 0);
        texts[i] = host.text;
    }
    CHECK_EQ(texts[0], texts[1]);
    CHECK(texts[0] != texts[2]);
}

TEST(tokenising) {
    const Files files;
    Host host;
    CHECK_EQ(host.start(files.words()), 0);
    CHECK_EQ(chatllm_text_tokenize(host.get(), "user<|im_end|>!"), 3);
    CHECK_EQ(host.token_ids, "260,265,33");
    CHECK_EQ(chatllm_text_tokenize(host.get(), ""), 0);
    CHECK_EQ(host.token_ids, "");
}

TEST(abort_answers_soon) {
    const Files files;
    const std::string clip = files.folder.write("long.wav", clip_wav(60));
    Host host;
    CHECK_EQ(host.start(files.words({"--max_new_tokens", "-1", "-l", "512"})), 0);
    CHECK_EQ(host.transcribe(clip), -1);  // 780 audio tokens: a clip too long is no abort
    host.errors.clear();

    // In every phase: the later the abort, the further the work has come.
    const std::string fitting = files.folder.write("fits.wav", clip_wav(30));
    for (const int delay_ms : {0, 2, 5, 10, 20, 50}) {
        std::atomic<bool> returned = false;
        std::chrono::steady_clock::time_point aborted_at;
        std::thread stopper([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
            aborted_at = std::chrono::steady_clock::now();
            while (!returned) {
                chatllm_abort_generation(host.get());
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
        });
        const int status = host.transcribe(fitting);
        const auto returned_at = std::chrono::steady_clock::now();
        returned = true;
        stopper.join();
        if (status == 0) continue;  // done before the abort came
        CHECK_EQ(status, -1);
        check_error(host, "aborted");
        CHECK(returned_at - aborted_at < std::chrono::milliseconds(250));
        host.errors.clear();
    }
    // The next input is not held to it.
    CHECK_EQ(host.transcribe(files.clip), 0);
    CHECK_EQ(host.errors.size(), 0u);
}

TEST(abort_from_a_callback) {
    const Files files;
    Host host;
    CHECK_EQ(host.start(files.words({"--max_new_tokens", "-1"})), 0);
    host.on_print = [&](int type) {
        if (type == PRINT_CHAT_CHUNK) chatllm_abort_generation(host.get());
    };
    CHECK_EQ(host.transcribe(files.clip), -1);
    check_error(host, "aborted");
    CHECK_EQ(host.n_ends, 1);
}

TEST(abort_while_loading_or_idle_is_harmless) {
    const Files files;
    Host host;
    chatllm_abort_generation(host.get());
    std::atomic<bool> loaded = false;
    std::thread stopper([&] {
        while (!loaded) chatllm_abort_generation(host.get());
    });
    CHECK_EQ(host.start(files.words()), 0);
    loaded = true;
    stopper.join();
    CHECK_EQ(host.transcribe(files.clip), 0);
}

TEST(destroy_from_within_a_callback_is_refused) {
    const Files files;
    for (const int wanted : {static_cast<int>(PRINT_CHAT_CHUNK), static_cast<int>(PRINTLN_META),
                             static_cast<int>(PRINTLN_TOKEN_IDS), static_cast<int>(PRINTLN_MODEL_INFO),
                             static_cast<int>(PRINTLN_ERROR)}) {
        Host host;
        int n_refused = 0, n_called = 0;
        host.on_print = [&](int type) {
            if (type != wanted) return;
            ++n_called;
            n_refused += chatllm_destroy(host.get()) == -1;
        };
        CHECK_EQ(host.start(files.words()), 0);
        CHECK_EQ(host.transcribe(files.clip), 0);
        CHECK_EQ(host.transcribe("/none.wav"), -1);
        chatllm_show_statistics(host.get());
        CHECK_EQ(chatllm_text_tokenize(host.get(), "la"), 1);
        CHECK(n_called > 0);
        CHECK_EQ(n_refused, n_called);
        host.on_print = nullptr;
        CHECK_EQ(host.transcribe(files.clip), 0);
    }
}

TEST(another_input_from_within_a_callback_is_refused) {
    const Files files;
    Host host;
    int n_refused = 0;
    CHECK_EQ(host.start(files.words()), 0);
    host.on_print = [&](int type) {
        if (type == PRINT_CHAT_CHUNK && n_refused == 0) {
            n_refused += chatllm_user_input(host.get(), ("{{audio:" + files.clip + "}}").c_str()) == -1;
        }
    };
    CHECK_EQ(host.transcribe(files.clip), 0);
    CHECK_EQ(n_refused, 1);
    check_error(host, "this call is not allowed from a callback of the same object");
}

TEST(destroy_while_another_thread_runs_an_input) {
    const Files files;
    const std::string clip = files.folder.write("long.wav", clip_wav(30));
    for (const int delay_us : {0, 30, 100, 1000}) {
        Host host;
        CHECK_EQ(host.start(files.words({"--max_new_tokens", "-1"})), 0);
        std::atomic<bool> running = false;
        host.trace();
        host.on_trace = [&](std::string_view) {
            running = true;
            running.notify_all();
        };
        int status = 0;
        std::thread runner([&] { status = host.transcribe(clip); });
        running.wait(false);
        std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
        const auto start = std::chrono::steady_clock::now();
        CHECK_EQ(host.close(), 0);
        CHECK(std::chrono::steady_clock::now() - start < std::chrono::milliseconds(250));
        runner.join();
        CHECK_EQ(status, -1);
        check_error(host, "aborted");
    }
}

TEST(calls_in_the_wrong_order) {
    const Files files;
    Host host;
    CHECK_EQ(chatllm_get_cursor(host.get()), -1);
    CHECK_EQ(chatllm_user_input(host.get(), "{{audio:x}}"), -1);  // nobody listens yet
    CHECK_EQ(chatllm_user_input_multimedia_msg(host.get()), -1);
    CHECK_EQ(chatllm_text_tokenize(host.get(), "x"), -1);
    chatllm_show_statistics(host.get());
    chatllm_restart(host.get(), "x");
    chatllm_set_gen_max_tokens(host.get(), 3);
    chatllm_abort_generation(host.get());
    chatllm_multimedia_msg_prepare(host.get());

    CHECK_EQ(host.start(files.words()), 0);
    CHECK_EQ(chatllm_start(host.get(), nullptr, nullptr, nullptr), -1);  // a second time
    check_error(host, "the object was started before: destroy it and create another");
    CHECK_EQ(host.transcribe(files.clip), 0);
    CHECK(!host.text.empty());

    const Host never_started;  // destroyed all the same
}

TEST(a_start_that_failed_is_final) {
    const Files files;
    Host host;
    CHECK_EQ(host.start({"-m", files.folder.path("none.bin")}), -1);
    host.errors.clear();
    CHECK_EQ(host.start({"-m", files.model}), -1);
    check_error(host, "the object was started before");
    CHECK_EQ(chatllm_get_cursor(host.get()), -1);
    host.errors.clear();
    CHECK_EQ(host.transcribe(files.clip), -1);
    check_error(host, "no model is loaded: call chatllm_start first");
    CHECK_EQ(host.close(), 0);
}

TEST(null_arguments) {
    const Files files;
    CHECK_EQ(chatllm_init(), 0);
    chatllm_append_init_param(nullptr);
    chatllm_append_param(nullptr, "x");
    CHECK_EQ(chatllm_start(nullptr, nullptr, nullptr, nullptr), -1);
    CHECK_EQ(chatllm_user_input(nullptr, "x"), -1);
    chatllm_multimedia_msg_prepare(nullptr);
    CHECK_EQ(chatllm_multimedia_msg_append(nullptr, "text", "x"), -1);
    CHECK_EQ(chatllm_user_input_multimedia_msg(nullptr), -1);
    chatllm_set_gen_max_tokens(nullptr, 1);
    chatllm_restart(nullptr, nullptr);
    chatllm_abort_generation(nullptr);
    CHECK_EQ(chatllm_destroy(nullptr), 0);
    CHECK_EQ(chatllm_get_cursor(nullptr), -1);
    chatllm_show_statistics(nullptr);
    CHECK_EQ(chatllm_text_tokenize(nullptr, "x"), -1);
    CHECK_EQ(chatllm_ext_set_trace(nullptr, nullptr, nullptr), -1);
    CHECK(std::string_view(chatllm_inspect_model(nullptr)).find("\"error\"") != std::string_view::npos);

    Host host;
    chatllm_append_param(host.get(), nullptr);
    CHECK_EQ(host.start(files.words()), 0);
    CHECK_EQ(chatllm_user_input(host.get(), nullptr), -1);
    CHECK_EQ(chatllm_text_tokenize(host.get(), nullptr), -1);
    CHECK_EQ(chatllm_ext_set_trace(host.get(), nullptr, nullptr), 0);
}

TEST(a_host_need_not_listen) {
    const Files files;
    chatllm_obj *obj = chatllm_create();
    for (const std::string &word : files.words()) chatllm_append_param(obj, word.c_str());
    CHECK_EQ(chatllm_start(obj, nullptr, nullptr, nullptr), 0);
    CHECK_EQ(chatllm_user_input(obj, ("{{audio:" + files.clip + "}}").c_str()), 0);
    CHECK_EQ(chatllm_user_input(obj, "{{audio:/none.wav}}"), -1);
    CHECK_EQ(chatllm_destroy(obj), 0);
}

TEST(a_file_is_inspected_without_an_object) {
    const Files files;
    const std::string facts = chatllm_inspect_model(files.model.c_str());
    CHECK(facts.find("\"name\": \"tiny\"") != std::string::npos);
    CHECK(facts.find("\"languages\": [\"Chinese\", \"English\"]") != std::string::npos);
    const std::string error = chatllm_inspect_model(files.clip.c_str());
    CHECK(error.starts_with("{\"error\": \""));
    CHECK(error.find("c.wav: magic") != std::string::npos);
}

TEST(text_reaches_the_host_in_whole_characters) {
    // Random weights say random bytes: none of what is no UTF-8 may get through.
    for (const std::uint64_t seed : {3u, 4u, 5u}) {
        const Files files({.seed = seed});
        Host host;
        CHECK_EQ(host.start(files.words({"--max_new_tokens", "60", "--temp", "3"})), 0);
        std::size_t seen = 0;
        host.on_print = [&](int) {
            for (std::size_t at = seen; at < host.text.size();) {
                const auto lead = static_cast<unsigned char>(host.text[at]);
                const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
                CHECK((lead & 0xC0) != 0x80 && at + length <= host.text.size());
                at += length;
            }
            seen = host.text.size();
        };
        CHECK_EQ(host.transcribe(files.clip), 0);
        CHECK(seen > 0);
    }
}

// The callbacks and the user data of one start belong together.
TEST(a_second_start_changes_no_callback) {
    const Files files;
    Host host;
    for (const auto &word : files.words()) chatllm_append_param(host.get(), word.c_str());
    CHECK_EQ(chatllm_start(host.get(), nullptr, nullptr, nullptr), 0);
    int data = 0;
    const auto listen = [](void *, int, const char *) {
        CHECK(!"called with what belongs to another start");
    };
    CHECK_EQ(chatllm_start(host.get(), listen, nullptr, &data), -1);
}

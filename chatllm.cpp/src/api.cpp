// The C interface: nothing is thrown across it, and every failure is a status and a line for the host.

#include "libchatllm.h"

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "base/base64.h"
#include "ceilings/ceilings.h"
#include "session.h"

using chatllm::Piece;

struct chatllm_obj {
    std::vector<std::string> words;
    bool lost_word = false;  // for want of memory
    bool started = false;
    std::unique_ptr<chatllm::Session> session;
    std::atomic<chatllm::Session *> abortable{nullptr};  // the session once it is loaded, for other threads
    std::vector<Piece> message;
    f_chatllm_print print = nullptr;
    f_chatllm_end end = nullptr;
    void *user_data = nullptr;
    chatllm::Trace trace;
    std::atomic<bool> busy{false};          // a call is in progress
    std::atomic<std::thread::id> caller{};  // and this is its thread

    void say(int type, const char *text) const {
        if (print != nullptr) print(user_data, type, text);
    }
};

namespace {

// Runs `work` and turns whatever it throws into an error line. Returns what `work` returns, or -1.
template <typename Work> int fenced(const chatllm_obj *obj, Work &&work) noexcept {
    try {
        return work();
    } catch (const std::bad_alloc &) {
        obj->say(PRINTLN_ERROR,
                 "out of memory: free memory, raise the limit or use a smaller model or a shorter clip");
    } catch (const std::exception &error) {
        obj->say(PRINTLN_ERROR, error.what());
    } catch (...) {
        obj->say(PRINTLN_ERROR, "unknown failure");
    }
    return -1;
}

// One call on an object, from which callbacks may come. Throws Error while another thread's call runs and, if
// `exclusive`, from within a callback of the same object; other calls may nest there.
class Call {
public:
    enum Nesting { exclusive, nestable };

    Call(chatllm_obj *obj, Nesting nesting) : obj_(obj) {
        if (obj->caller.load() == std::this_thread::get_id()) {
            if (nesting == exclusive)
                throw chatllm::Error("this call is not allowed from a callback of the same object");
            return;
        }
        if (obj->busy.exchange(true))
            throw chatllm::Error("the object is busy with a call of another thread");
        outermost_ = true;
        obj->caller.store(std::this_thread::get_id());
    }
    ~Call() {
        if (!outermost_) return;
        obj_->caller.store(std::thread::id());
        obj_->busy.store(false);
    }
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;

private:
    chatllm_obj *obj_;
    bool outermost_ = false;
};

chatllm::Session &loaded(const chatllm_obj *obj) {
    if (!obj->session) throw chatllm::Error("no model is loaded: call chatllm_start first");
    return *obj->session;
}

// Runs the input that `read` returns the pieces of. Once it has begun `end` comes last, whatever happened.
template <typename Read> int run_input(chatllm_obj *obj, Read &&read) {
    if (obj == nullptr) return -1;
    return fenced(obj, [&] {
        const Call call(obj, Call::exclusive);
        const int status = fenced(obj, [&] {
            chatllm::Session &session = loaded(obj);
            const auto emit = [&](const std::string &text) { obj->say(PRINT_CHAT_CHUNK, text.c_str()); };
            session.run(read(session), emit, obj->trace);
            return 0;
        });
        if (obj->end != nullptr) obj->end(obj->user_data);
        return status;
    });
}

// As in "stage encoder: 45.123 ms, 50123456789 operations int8, 712345678 operations f32, 61000000 bytes".
std::string stage_line(const char *name, const chatllm::Stages::Entry &stage) {
    char ms[32];
    std::snprintf(ms, sizeof(ms), "%.3f", stage.ms);
    std::string line = std::string("stage ") + name + ": " + ms + " ms";
    const auto add = [&](std::int64_t count, const char *unit) {
        if (count > 0) line += ", " + std::to_string(count) + " " + unit;
    };
    add(stage.work.int8_operations, "operations int8");
    add(stage.work.bf16_operations, "operations bf16");
    add(stage.work.f32_operations, "operations f32");
    add(stage.work.bytes, "bytes");
    return line;
}

}  // namespace

void chatllm_append_init_param(const char *) {}
int chatllm_init(void) { return 0; }

struct chatllm_obj *chatllm_create(void) {
    return new (std::nothrow) chatllm_obj;
}

void chatllm_append_param(struct chatllm_obj *obj, const char *utf8_str) {
    if (obj == nullptr || utf8_str == nullptr) return;
    const int status = fenced(obj, [&] {
        obj->words.emplace_back(utf8_str);
        return 0;
    });
    if (status != 0) obj->lost_word = true;
}

int chatllm_start(struct chatllm_obj *obj, f_chatllm_print f_print, f_chatllm_end f_end, void *user_data) {
    if (obj == nullptr) return -1;
    return fenced(obj, [&] {
        const Call call(obj, Call::exclusive);
        if (obj->started)
            throw chatllm::Error("the object was started before: destroy it and create another");
        obj->started = true;
        obj->print = f_print;
        obj->end = f_end;
        obj->user_data = user_data;
        if (obj->lost_word) throw std::bad_alloc();
        const char *isa = std::getenv("CHATLLM_ISA");
        auto session = std::make_unique<chatllm::Session>(chatllm::Options::parse(obj->words),
                                                          isa == nullptr ? "" : isa);
        const std::string facts = chatllm::describe_model(session->file(), session->max_length());
        obj->session = std::move(session);
        obj->abortable.store(obj->session.get());
        obj->say(PRINTLN_MODEL_INFO, facts.c_str());
        return 0;
    });
}

int chatllm_user_input(struct chatllm_obj *obj, const char *utf8_str) {
    return run_input(obj, [&](const chatllm::Session &session) {
        return chatllm::split_input(utf8_str == nullptr ? "" : utf8_str, session.options());
    });
}

void chatllm_multimedia_msg_prepare(struct chatllm_obj *obj) {
    if (obj == nullptr) return;
    fenced(obj, [&] {
        const Call call(obj, Call::exclusive);
        obj->message.clear();
        return 0;
    });
}

int chatllm_multimedia_msg_append(struct chatllm_obj *obj, const char *type, const char *utf8_str) {
    if (obj == nullptr || type == nullptr || utf8_str == nullptr) return -1;
    return fenced(obj, [&] {
        const Call call(obj, Call::exclusive);
        const std::string kind = type;
        if (kind == "text") {
            obj->message.push_back({Piece::Kind::text, utf8_str});
        } else if (kind == "audio") {
            const auto bytes = chatllm::decode_base64(utf8_str);
            obj->message.push_back(
                {Piece::Kind::audio_bytes, {reinterpret_cast<const char *>(bytes.data()), bytes.size()}});
        } else {
            throw chatllm::Error("message: type '" + chatllm::printable(kind) +
                                 "' is neither text nor audio");
        }
        return 0;
    });
}

int chatllm_user_input_multimedia_msg(struct chatllm_obj *obj) {
    return run_input(obj,
                     [&](const chatllm::Session &) -> const std::vector<Piece> & { return obj->message; });
}

void chatllm_set_gen_max_tokens(struct chatllm_obj *obj, int gen_max_tokens) {
    if (obj != nullptr && obj->session) obj->session->set_max_new_tokens(gen_max_tokens);
}

void chatllm_restart(struct chatllm_obj *obj, const char *utf8_sys_prompt) {
    if (obj == nullptr) return;
    fenced(obj, [&] {
        const Call call(obj, Call::exclusive);
        chatllm::Session &session = loaded(obj);
        if (utf8_sys_prompt != nullptr) session.set_system_prompt(utf8_sys_prompt);
        session.restart();
        return 0;
    });
}

void chatllm_abort_generation(struct chatllm_obj *obj) {
    if (obj == nullptr) return;
    if (chatllm::Session *session = obj->abortable.load()) session->abort();
}

int chatllm_destroy(struct chatllm_obj *obj) {
    if (obj == nullptr) return 0;
    if (obj->caller.load() == std::this_thread::get_id()) return -1;
    // Again and again, because an input that is just beginning forgets an abort from before it.
    while (obj->busy.exchange(true)) {
        chatllm_abort_generation(obj);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    const std::unique_ptr<chatllm_obj> owned(obj);
    return 0;
}

int chatllm_get_cursor(struct chatllm_obj *obj) {
    return obj != nullptr && obj->session ? obj->session->cursor() : -1;
}

void chatllm_show_statistics(struct chatllm_obj *obj) {
    if (obj == nullptr) return;
    fenced(obj, [&] {
        const Call call(obj, Call::nestable);
        chatllm::Session &session = loaded(obj);
        const chatllm::Statistics &s = session.statistics();
        obj->say(PRINTLN_META, ("audio: " + std::to_string(s.audio_s) + " s").c_str());
        obj->say(PRINTLN_META,
                 ("tokens: generated " + std::to_string(s.n_generated_tokens) + ", prompt " +
                  std::to_string(s.n_prompt_tokens) + ", audio " + std::to_string(s.n_audio_tokens))
                     .c_str());
        for (std::size_t i = 0; i < chatllm::stage_names.size(); ++i)
            obj->say(PRINTLN_META,
                     stage_line(chatllm::stage_names[i], session.stages().entries()[i]).c_str());
        obj->say(PRINTLN_META, (std::string("kernels: ") + session.isa() +
                                ", threads: " + std::to_string(session.n_threads()))
                                   .c_str());
        return 0;
    });
}

int chatllm_text_tokenize(struct chatllm_obj *obj, const char *utf8_str) {
    if (obj == nullptr || utf8_str == nullptr) return -1;
    return fenced(obj, [&] {
        const Call call(obj, Call::nestable);
        const auto ids = loaded(obj).file().tokenizer().encode_with_added(utf8_str);
        std::string line;
        for (const std::int32_t id : ids) {
            if (!line.empty()) line += ',';
            line += std::to_string(id);
        }
        obj->say(PRINTLN_TOKEN_IDS, line.c_str());
        return static_cast<int>(ids.size());
    });
}

const char *chatllm_inspect_model(const char *utf8_path) {
    // The interface has no object to hang the answer on.
    static thread_local std::string answer;
    try {
        try {
            const chatllm::ModelFile file(utf8_path == nullptr ? "" : utf8_path);
            answer = chatllm::describe_model(file, file.text().max_length);
        } catch (const chatllm::Error &error) {
            answer = "{\"error\": \"" + chatllm::json_escaped(error.what()) + "\"}";
        }
        return answer.c_str();
    } catch (...) {
        return "{\"error\": \"out of memory\"}";
    }
}

int chatllm_ext_memory_needs(struct chatllm_obj *obj, double seconds, int new_tokens,
                             struct chatllm_ext_memory *needs) {
    if (obj == nullptr || needs == nullptr || !(seconds >= 0)) return -1;
    return fenced(obj, [&] {
        const Call call(obj, Call::nestable);
        const chatllm::MemoryNeeds n = loaded(obj).memory_needs(seconds, new_tokens);
        const auto bytes = [](std::size_t size) { return static_cast<std::int64_t>(size); };
        *needs = {bytes(n.loaded),  bytes(n.clip),     bytes(n.encoder),
                  bytes(n.decoder), bytes(n.kv_cache), bytes(n.peak())};
        return 0;
    });
}

int chatllm_ext_set_trace(struct chatllm_obj *obj, f_chatllm_ext_trace f_trace, void *user_data) {
    if (obj == nullptr) return -1;
    return fenced(obj, [&] {
        const Call call(obj, Call::exclusive);
        if (f_trace == nullptr) {
            obj->trace = {};
        } else {
            obj->trace = chatllm::Trace([=](const char *name, const float *data, const std::int64_t *shape,
                                            int n_dims) { f_trace(user_data, name, data, shape, n_dims); });
        }
        return 0;
    });
}

int chatllm_ext_detokenize(struct chatllm_obj *obj, const int32_t *ids, int n_ids,
                           f_chatllm_ext_bytes f_bytes, void *user_data) {
    if (obj == nullptr || ids == nullptr || n_ids < 0 || f_bytes == nullptr) return -1;
    return fenced(obj, [&] {
        const Call call(obj, Call::nestable);
        const chatllm::Tokenizer &tokenizer = loaded(obj).file().tokenizer();
        std::string bytes;
        for (int i = 0; i < n_ids; ++i) tokenizer.append_bytes(ids[i], bytes);
        if (bytes.size() > INT_MAX) throw chatllm::Error("detokenize: more than 2 GiB of text");
        const auto n_bytes = static_cast<int>(bytes.size());
        f_bytes(user_data, bytes.data(), n_bytes);
        return n_bytes;
    });
}

const char *chatllm_ext_ceiling_isa(const char *kind) {
    return kind == nullptr ? nullptr : chatllm::ceiling_isa(kind);
}

int chatllm_ext_measure_ceiling(const char *kind, int n_threads, int n_slices, double slice_ms,
                                double *rates) {
    if (kind == nullptr || rates == nullptr || n_slices < 1) return -1;
    try {
        chatllm::measure_ceiling(kind, n_threads, slice_ms, {rates, static_cast<std::size_t>(n_slices)});
        return 0;
    } catch (...) {
        return -1;
    }
}

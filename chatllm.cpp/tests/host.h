#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "libchatllm.h"

namespace chatllm::check {

// A host program's view of one object: the C interface, and what came through its callbacks.
class Host {
public:
    Host() : obj_(chatllm_create()) {}
    ~Host() { close(); }
    Host(const Host &) = delete;
    Host &operator=(const Host &) = delete;

    chatllm_obj *get() const { return obj_; }
    int close() {
        const int status = chatllm_destroy(obj_);
        if (status == 0) obj_ = nullptr;
        return status;
    }
    int start(const std::vector<std::string> &words) {
        for (const std::string &word : words) chatllm_append_param(obj_, word.c_str());
        return chatllm_start(obj_, print, end, this);
    }
    int transcribe(std::string_view path) {
        text.clear();
        logits.clear();
        return chatllm_user_input(obj_, ("{{audio:" + std::string(path) + "}}").c_str());
    }
    // Keeps the logits of later inputs.
    void trace() { chatllm_ext_set_trace(obj_, show, this); }

    // What happened, in the order of the calls.
    std::string text;
    std::string model_info;
    std::string token_ids;
    std::vector<std::string> lines;
    std::vector<std::string> errors;
    std::vector<std::vector<float>> logits;
    int n_ends = 0;
    std::function<void(int type)> on_print;
    std::function<void(std::string_view name)> on_trace;

private:
    static void print(void *user, int type, const char *utf8) {
        auto &host = *static_cast<Host *>(user);
        switch (type) {
        case PRINT_CHAT_CHUNK:
            host.text += utf8;
            break;
        case PRINTLN_META:
            host.lines.emplace_back(utf8);
            break;
        case PRINTLN_ERROR:
            host.errors.emplace_back(utf8);
            break;
        case PRINTLN_TOKEN_IDS:
            host.token_ids = utf8;
            break;
        case PRINTLN_MODEL_INFO:
            host.model_info = utf8;
            break;
        default:
            host.errors.emplace_back("print type " + std::to_string(type));
        }
        if (host.on_print) host.on_print(type);
    }
    static void end(void *user) { ++static_cast<Host *>(user)->n_ends; }
    static void show(void *user, const char *name, const float *data, const std::int64_t *shape, int) {
        auto &host = *static_cast<Host *>(user);
        if (std::string_view(name) == "logits") host.logits.emplace_back(data, data + shape[0]);
        if (host.on_trace) host.on_trace(name);
    }

    chatllm_obj *obj_;
};

}  // namespace chatllm::check

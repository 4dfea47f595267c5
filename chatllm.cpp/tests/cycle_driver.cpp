// cycle-driver [--check] N MODEL_A MODEL_B CLIP: N times load, transcribe, unload, the models in turn, in one
// process through the C interface. After each cycle one line: bytes that malloc's callers hold, anonymous
// memory, mappings, threads, open files. With --check, exit status 1 unless every cycle after the third ends
// as the third did: exactly in the counts, within 64 KiB in the bytes.

#include <malloc.h>
#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "libchatllm.h"

namespace {

constexpr std::int64_t tolerance_bytes = 64 << 10;
constexpr int settled_after = 3;  // cycles

struct Footprint {
    std::int64_t held_bytes;
    std::int64_t anonymous_bytes;
    std::int64_t n_mappings;
    std::int64_t n_threads;
    std::int64_t n_descriptors;
};

std::int64_t n_entries(const char *folder) {
    const std::filesystem::directory_iterator entries(folder);
    return std::distance(begin(entries), end(entries));
}

std::int64_t anonymous_bytes() {
    std::ifstream rollup("/proc/self/smaps_rollup");
    for (std::string line; std::getline(rollup, line);) {
        if (line.starts_with("Anonymous:")) return std::strtoll(line.c_str() + 10, nullptr, 10) * 1024;
    }
    return 0;
}

std::int64_t n_lines(const char *path) {
    std::ifstream file(path);
    std::int64_t n = 0;
    for (std::string line; std::getline(file, line);) ++n;
    return n;
}

std::int64_t n_threads() { return n_entries("/proc/self/task"); }

// The system may list a thread for a moment after it was joined.
void wait_for_threads(std::int64_t n_expected) {
    for (int wait = 0; wait < 1000 && n_threads() > n_expected; ++wait) usleep(1000);
}

Footprint measure() {
    Footprint now{};
    now.n_threads = n_threads();
    now.anonymous_bytes = anonymous_bytes();
    now.n_mappings = n_lines("/proc/self/maps");
    now.n_descriptors = n_entries("/proc/self/fd");
    const struct mallinfo2 heap = mallinfo2();
    now.held_bytes = static_cast<std::int64_t>(heap.uordblks + heap.hblkhd);
    return now;
}

bool settled(const Footprint &now, const Footprint &then) {
    return std::abs(now.held_bytes - then.held_bytes) <= tolerance_bytes &&
           std::abs(now.anonymous_bytes - then.anonymous_bytes) <= tolerance_bytes &&
           now.n_mappings == then.n_mappings && now.n_threads == then.n_threads &&
           now.n_descriptors == then.n_descriptors;
}

void print_error(void *, int type, const char *text) {
    if (type == PRINTLN_ERROR) std::fprintf(stderr, "%s\n", text);
}

bool run_cycle(const char *model, const std::string &input) {
    chatllm_obj *obj = chatllm_create();
    for (const char *word : {"-m", model, "-n", "2", "--max_new_tokens", "4"})
        chatllm_append_param(obj, word);
    const bool done =
        chatllm_start(obj, print_error, nullptr, nullptr) == 0 && chatllm_user_input(obj, input.c_str()) == 0;
    return chatllm_destroy(obj) == 0 && done;
}

}  // namespace

int main(int argc, char **argv) {
    std::vector<const char *> words(argv + 1, argv + argc);
    const bool check = !words.empty() && std::string_view(words[0]) == "--check";
    if (check) words.erase(words.begin());
    int n_cycles = 0;
    if (words.size() == 4) {
        const std::string_view number = words[0];
        std::from_chars(number.data(), number.data() + number.size(), n_cycles);
    }
    if (n_cycles < 1) {
        std::fprintf(stderr, "usage: cycle-driver [--check] N MODEL_A MODEL_B CLIP\n");
        return 2;
    }
    const std::string input = std::string("{{audio:") + words[3] + "}}";
    const std::int64_t n_own_threads = n_threads();
    Footprint third{};
    int n_unsettled = 0;
    for (int cycle = 1; cycle <= n_cycles; ++cycle) {
        if (!run_cycle(words[cycle % 2 == 1 ? 1 : 2], input)) return 1;
        if (check) wait_for_threads(n_own_threads);
        const Footprint now = measure();
        if (cycle == settled_after) third = now;
        const bool other = check && cycle > settled_after && !settled(now, third);
        n_unsettled += other;
        std::printf("%d: held %lld, anonymous %lld, mappings %lld, threads %lld, open files %lld%s\n", cycle,
                    static_cast<long long>(now.held_bytes), static_cast<long long>(now.anonymous_bytes),
                    static_cast<long long>(now.n_mappings), static_cast<long long>(now.n_threads),
                    static_cast<long long>(now.n_descriptors), other ? "  <- not as after the third" : "");
    }
    if (!check) return 0;
    std::printf("%d of %d cycles ended otherwise than the third\n", n_unsettled, n_cycles);
    return n_unsettled == 0 ? 0 : 1;
}

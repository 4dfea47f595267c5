// Memory that runs out, at every allocation of load, transcription and unload: each time a message and a
// status, an object that can still be destroyed, and nothing left behind.

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "check.h"
#include "libchatllm.h"
#include "temporary.h"
#include "tiny_model.h"
#include "wav_writer.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CHATLLM_SANITIZED
#endif

using chatllm::check::clip_wav;
using chatllm::check::TemporaryFolder;
using chatllm::tiny::write_model;

namespace {

// Counts the engine's requests for memory and threads while it is armed, and refuses one of them.
struct Faults {
    std::atomic<bool> armed{false};
    std::atomic<long> n_requests{0};
    std::atomic<long> refused{-1};  // which request, from 0
    std::atomic<long> n_blocks{0};  // in use, from malloc
    std::atomic<long> n_mapped_bytes{0};

    bool refuses() { return armed && n_requests++ == refused; }
};

Faults faults;

void *allocate(std::size_t n, std::size_t alignment) {
    if (faults.refuses()) return nullptr;
    void *block = alignment == 0 ? std::malloc(n == 0 ? 1 : n)
                                 : aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment);
    if (block != nullptr) ++faults.n_blocks;
    return block;
}

void *allocate_or_throw(std::size_t n, std::size_t alignment) {
    void *block = allocate(n, alignment);
    if (block == nullptr) throw std::bad_alloc();
    return block;
}

void release(void *block) {
    if (block != nullptr) --faults.n_blocks;
    std::free(block);
}

}  // namespace

// The engine is linked into this program, so these definitions are the ones it calls.
void *operator new(std::size_t n) { return allocate_or_throw(n, 0); }
void *operator new[](std::size_t n) { return allocate_or_throw(n, 0); }
void *operator new(std::size_t n, std::align_val_t alignment) {
    return allocate_or_throw(n, static_cast<std::size_t>(alignment));
}
void *operator new(std::size_t n, const std::nothrow_t &) noexcept { return allocate(n, 0); }
void operator delete(void *block) noexcept { release(block); }
void operator delete[](void *block) noexcept { release(block); }
void operator delete(void *block, std::size_t) noexcept { release(block); }
void operator delete[](void *block, std::size_t) noexcept { release(block); }
void operator delete(void *block, std::align_val_t) noexcept { release(block); }
void operator delete(void *block, std::size_t, std::align_val_t) noexcept { release(block); }
void operator delete(void *block, const std::nothrow_t &) noexcept { release(block); }

#if !defined(CHATLLM_SANITIZED)
// The sanitizers need these calls for themselves.
extern "C" void *mmap(void *place, std::size_t n, int protection, int flags, int fd, off_t offset) noexcept {
    if (faults.refuses()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    void *mapped = reinterpret_cast<void *>(syscall(SYS_mmap, place, n, protection, flags, fd, offset));
    if (mapped != MAP_FAILED) faults.n_mapped_bytes += static_cast<long>(n);
    return mapped;
}

extern "C" int munmap(void *place, std::size_t n) noexcept {
    const long status = syscall(SYS_munmap, place, n);
    if (status == 0) faults.n_mapped_bytes -= static_cast<long>(n);
    return static_cast<int>(status);
}

extern "C" int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                              void *context) noexcept {
    if (faults.refuses()) return EAGAIN;
    static const auto next = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
    return next(thread, attributes, run, context);
}
#endif

namespace {

struct Files {
    TemporaryFolder folder;
    std::string model =
        folder.write("m.bin", write_model({.matrices = chatllm::TensorType::q8_0, .ffn_width = 128}).bytes);
    std::string clip = folder.write("c.wav", clip_wav(0.6));
    std::string input = "{{audio:" + clip + "}}";
};

// What one run of an object's whole life came to. Takes no memory while it listens.
struct Outcome {
    bool created = false;
    int start_status = -1, input_status = -1, destroy_status = -1;
    int n_errors = 0;
    char text[256] = "";
    char error[512] = "";

    bool complete() const { return start_status == 0 && input_status == 0; }
};

void listen(void *user, int type, const char *utf8) {
    auto &outcome = *static_cast<Outcome *>(user);
    if (type == PRINT_CHAT_CHUNK)
        std::strncat(outcome.text, utf8, sizeof(outcome.text) - std::strlen(outcome.text) - 1);
    if (type == PRINTLN_ERROR) {
        ++outcome.n_errors;
        std::snprintf(outcome.error, sizeof(outcome.error), "%s", utf8);
    }
}

void live(const Files &files, Outcome &outcome) {
    chatllm_obj *obj = chatllm_create();
    outcome.created = obj != nullptr;
    if (obj == nullptr) return;
    for (const char *word :
         {"-m", files.model.c_str(), "-n", "3", "--max_new_tokens", "6", "--set", "language", "English"}) {
        chatllm_append_param(obj, word);
    }
    outcome.start_status = chatllm_start(obj, listen, nullptr, &outcome);
    if (outcome.start_status == 0) outcome.input_status = chatllm_user_input(obj, files.input.c_str());
    outcome.destroy_status = chatllm_destroy(obj);
}

Outcome live_refusing(const Files &files, long refused) {
    Outcome outcome;
    faults.n_requests = 0;
    faults.refused = refused;
    faults.armed = true;
    live(files, outcome);
    faults.armed = false;
    return outcome;
}

void expect(bool condition, long request, const Outcome &outcome, const char *what) {
    if (condition) return;
    chatllm::check::report(__FILE__, __LINE__,
                           "request " + std::to_string(request) + " refused: " + what + " (" + outcome.error +
                               ")");
}

}  // namespace

#if !defined(CHATLLM_SANITIZED)

namespace {

// Bytes of the process's address space.
rlim_t address_space() {
    rlim_t n_pages = 0;
    std::ifstream("/proc/self/statm") >> n_pages;
    return n_pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

#endif

// The real thing: a process that may grow by so many bytes and no more. Threads' stacks count too.
TEST(a_limited_address_space_is_a_message) {
#if defined(CHATLLM_SANITIZED)
    std::cout << "no limit is tried: the sanitizers need an address space without one\n";
#else
    const Files files;
    int n_failed = 0, n_complete = 0;
    for (rlim_t room = 0; room <= (rlim_t{192} << 20); room += room < (2 << 20) ? (64 << 10) : (4 << 20)) {
        const pid_t child = fork();
        if (child == 0) {
            malloc_trim(0);  // what the parent's heap keeps back would serve first
            const struct rlimit limit { address_space() + room, RLIM_INFINITY };
            setrlimit(RLIMIT_AS, &limit);
            Outcome outcome;
            live(files, outcome);
            const bool reported = !outcome.created || (outcome.n_errors == 1 && outcome.destroy_status == 0);
            _exit(outcome.complete() ? 0 : reported ? 1 : 2);
        }
        int status = 0;
        waitpid(child, &status, 0);
        const bool exited = WIFEXITED(status);
        const int code = exited ? WEXITSTATUS(status) : -1;
        n_complete += code == 0;
        n_failed += code == 1;
        if (code != 0 && code != 1) {
            chatllm::check::report(
                __FILE__, __LINE__,
                "with room for " + std::to_string(room) +
                    " bytes: " + (exited ? "no message" : "signal " + std::to_string(WTERMSIG(status))));
        }
    }
    std::cout << n_failed << " limits reported, " << n_complete << " wide enough\n";
    CHECK(n_failed > 10 && n_complete > 0);
#endif
}

TEST(every_request_for_memory_may_be_refused) {
    const Files files;
    live_refusing(files, -1);  // what the first run leaves behind belongs to the C++ library
    const Outcome sound = live_refusing(files, -1);
    CHECK(sound.complete());
    const long n_requests = faults.n_requests;
    CHECK(n_requests > 200);

    int n_failed = 0;
    for (long request = 0; request < n_requests; ++request) {
        const long n_blocks = faults.n_blocks;
        const long n_mapped_bytes = faults.n_mapped_bytes;
        const Outcome outcome = live_refusing(files, request);
        expect(faults.n_blocks == n_blocks, request, outcome, "left memory behind");
        expect(faults.n_mapped_bytes == n_mapped_bytes, request, outcome, "left mappings behind");
        if (!outcome.created) {
            ++n_failed;
            continue;
        }
        expect(outcome.destroy_status == 0, request, outcome, "cannot be destroyed");
        if (outcome.complete()) {
            // std::stable_sort, for one, does without the buffer that it asks for.
            expect(std::string_view(outcome.text) == sound.text && outcome.n_errors == 0, request, outcome,
                   "another text");
            continue;
        }
        ++n_failed;
        expect(outcome.n_errors == 1, request, outcome, "not one line");
        const std::string_view error = outcome.error;
        const bool why =
            error.find("memory") != error.npos || error.find("cannot start a thread") != error.npos;
        expect(why, request, outcome, "another reason");
    }
    std::cout << n_requests << " requests, " << n_failed << " of them reported\n";
    CHECK(n_failed > n_requests * 9 / 10);
    CHECK_EQ(std::string_view(live_refusing(files, -1).text), std::string_view(sound.text));
}

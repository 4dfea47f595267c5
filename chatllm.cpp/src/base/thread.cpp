#include "base/thread.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <system_error>

#include "base/error.h"

namespace chatllm {
namespace {

constexpr std::size_t stack_bytes = std::size_t{1} << 20;  // only the pages in use count

// The host's signal handlers belong on the host's threads, except those for faults of the thread itself.
class BlockedSignals {
public:
    BlockedSignals() {
        sigset_t blocked;
        sigfillset(&blocked);
        for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS})
            sigdelset(&blocked, fault);
        pthread_sigmask(SIG_SETMASK, &blocked, &before_);
    }
    ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    BlockedSignals(const BlockedSignals &) = delete;
    BlockedSignals &operator=(const BlockedSignals &) = delete;

private:
    sigset_t before_{};
};

}  // namespace

Thread::Thread(void (*call)(void *context, int index), void *context, int index)
    : call_(call), context_(context), index_(index), stack_(stack_bytes, "stack of a thread") {
    const BlockedSignals blocked;
    // The lowest page guards against running over the end.
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    mprotect(stack_.data(), page, PROT_NONE);
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error == 0) {
        error = pthread_attr_setstack(&attributes, stack_.data() + page, stack_.size() - page);
        if (error == 0) error = pthread_create(&thread_, &attributes, enter, this);
        pthread_attr_destroy(&attributes);
    }
    if (error != 0)
        throw Error("out of memory or of threads: cannot start one (" +
                    std::generic_category().message(error) + "): raise the limit or use fewer threads");
}

Thread::~Thread() { pthread_join(thread_, nullptr); }

void *Thread::enter(void *self) {
    const auto *thread = static_cast<const Thread *>(self);
    thread->call_(thread->context_, thread->index_);
    return nullptr;
}

}  // namespace chatllm

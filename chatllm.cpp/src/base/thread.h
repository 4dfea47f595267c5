#pragma once

#include <pthread.h>

#include "base/memory_map.h"

namespace chatllm {

// A joined thread on a stack of our own. std::thread's stack and state go back to caches of the C library,
// which keep them; this one's go back to the system.
class Thread {
public:
    // Runs call(context, index). Throws Error when the system refuses; neither may `call` throw.
    Thread(void (*call)(void *context, int index), void *context, int index);
    ~Thread();
    Thread(const Thread &) = delete;
    Thread &operator=(const Thread &) = delete;

private:
    static void *enter(void *self);

    void (*call_)(void *context, int index);
    void *context_;
    int index_;
    AnonymousMap stack_;
    pthread_t thread_{};
};

}  // namespace chatllm

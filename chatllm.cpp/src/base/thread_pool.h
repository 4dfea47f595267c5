#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "base/thread.h"

namespace chatllm {

// Threads owned by one session. The calling thread works too, so a pool of one starts no thread.
//
// A job is a number of chunks. Every thread has a stretch of neighbouring ones, so that it walks through
// memory in order, and claims them one by one; whoever is done with its own helps with those of others. Which
// thread computes a chunk never changes its result. The caller waits only for chunks that somebody has
// claimed, so a thread that a busy neighbour keeps off its core costs its share and does not hold up the job.
// Threads wait by spinning for some microseconds and then sleep: a core that is wanted elsewhere is given up.
class ThreadPool {
public:
    // Starts n_threads - 1 threads. Throws Error when the system refuses.
    explicit ThreadPool(int n_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    int size() const { return static_cast<int>(threads_.size()) + 1; }

    // Calls work(chunk, thread) for every chunk in [0, n_chunks), thread in [0, size()). `work` must not
    // throw. Throws Aborted, after the chunks in flight are done, once abort() has been called.
    template <typename Work> void run(int n_chunks, Work &&work) {
        using Callable = std::remove_reference_t<Work>;
        run_job(n_chunks, {[](void *context, int chunk, int thread) {
                               (*static_cast<Callable *>(context))(chunk, thread);
                           },
                           const_cast<void *>(static_cast<const void *>(std::addressof(work)))});
    }

    // From any thread: the job in progress and every later one end early with Aborted, until clear_abort().
    void abort() { aborted_.store(true, std::memory_order_relaxed); }
    void clear_abort() { aborted_.store(false, std::memory_order_relaxed); }
    // Throws Aborted if abort() has been called: for long stretches between jobs.
    void check_abort() const;

private:
    struct Job {
        void (*call)(void *context, int chunk, int thread) = nullptr;
        void *context = nullptr;
    };
    // Upper half: the end of a thread's stretch of chunks; lower half: the next one to be claimed. A
    // successful exchange claims a chunk of whatever job is current, and keeps that job alive until the chunk
    // is done.
    struct alignas(64) Stretch {
        std::atomic<std::uint64_t> claims{0};
    };

    void run_job(int n_chunks, Job job);
    void work_on_claimed_chunks(int thread);
    // Chunks claimed from one stretch until it is exhausted.
    void work_on_stretch(Stretch &stretch, int thread);
    void worker(int thread);
    void stop();

    std::vector<Stretch> stretches_;  // one a thread
    alignas(64) std::atomic<std::uint32_t> n_left_{0};
    alignas(64) std::atomic<std::uint32_t> epoch_{0};
    std::atomic<bool> aborted_{false};
    std::atomic<bool> stopping_{false};
    Job job_;
    std::vector<std::unique_ptr<Thread>> threads_;
};

}  // namespace chatllm

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "base/thread.h"

namespace chatllm {

// Threads owned by one session. The calling thread works too, so a pool of one starts no thread.
//
// A job is a number of chunks. Every thread has a stretch of neighbouring ones, so that it walks through
// memory in order, and claims them; whoever is done with its own helps with those of others. Which thread
// computes a chunk never changes its result. The caller waits only for chunks that somebody has claimed, so a
// thread that a busy neighbour keeps off its core costs its share and does not hold up the job.
// Threads wait by spinning for some microseconds and then sleep: a core that is wanted elsewhere is given up.
// While they spin they fetch what they have been told that they will read next, so that memory does not wait.
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
        const auto all = [&](int first, int last, int thread) {
            for (int chunk = first; chunk < last && !aborted(); ++chunk) work(chunk, thread);
        };
        run_job(n_chunks, false, make_job(all));
    }
    // For chunks of microseconds, where claiming each would cost too much: calls work(first, last, thread)
    // for ranges that cover [0, n_chunks), each of half the chunks that are left in a stretch.
    template <typename Work> void run_ranges(int n_chunks, Work &&work) {
        run_job(n_chunks, true, make_job(work));
    }

    // What a thread is to read first in a job that comes soon. A hint: readable memory, `bytes` of which fit
    // into a core's own cache.
    void expect(int thread, const std::byte *begin, std::size_t bytes);

    // From any thread: the job in progress and every later one end early with Aborted, until clear_abort().
    void abort() { aborted_.store(true, std::memory_order_relaxed); }
    void clear_abort() { aborted_.store(false, std::memory_order_relaxed); }
    // Throws Aborted if abort() has been called: for long stretches between jobs.
    void check_abort() const;

private:
    struct Job {
        void (*call)(void *context, int first, int last, int thread) = nullptr;
        void *context = nullptr;
    };
    template <typename Work> static Job make_job(Work &work) {
        return {[](void *context, int first, int last, int thread) {
                    (*static_cast<Work *>(context))(first, last, thread);
                },
                const_cast<void *>(static_cast<const void *>(std::addressof(work)))};
    }
    // From the highest: a bit, whether half of what is left is claimed at a time; the end of a thread's
    // stretch of chunks, 31 bits; the next one to be claimed, 32. A successful exchange claims chunks of
    // whatever job is current, and keeps that job alive until they are done.
    struct alignas(64) Stretch {
        std::atomic<std::uint64_t> claims{0};
        // What the thread expects to read. A begin and an end that do not belong together do no harm.
        std::atomic<const std::byte *> expected_begin{nullptr};
        std::atomic<const std::byte *> expected_end{nullptr};
    };

    bool aborted() const { return aborted_.load(std::memory_order_relaxed); }
    void run_job(int n_chunks, bool in_halves, Job job);
    void work_on_claimed_chunks(int thread);
    // Chunks claimed from one stretch until it is exhausted.
    void work_on_stretch(Stretch &stretch, int thread);
    void worker(int thread);
    // Waits until `value` is no longer `old`: spins briefly, fetching what the thread expects, then sleeps.
    std::uint32_t wait_for_change(const std::atomic<std::uint32_t> &value, std::uint32_t old, int thread);
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

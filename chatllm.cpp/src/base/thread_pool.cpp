#include "base/thread_pool.h"

#include "base/error.h"

namespace chatllm {
namespace {

// About 20 microseconds: longer than the gap between two jobs of a token, much shorter than a time slice.
constexpr int n_spins = 500;

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits until `value` is no longer `old`: spins briefly, then sleeps.
std::uint32_t wait_for_change(const std::atomic<std::uint32_t> &value, std::uint32_t old) {
    for (int spin = 0; spin < n_spins; ++spin) {
        const auto now = value.load(std::memory_order_acquire);
        if (now != old) return now;
        relax();
    }
    value.wait(old, std::memory_order_acquire);
    return value.load(std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) {
    const auto enter = [](void *pool, int thread) { static_cast<ThreadPool *>(pool)->worker(thread); };
    threads_.reserve(static_cast<std::size_t>(n_threads - 1));
    try {
        for (int thread = 1; thread < n_threads; ++thread) {
            threads_.push_back(std::make_unique<Thread>(enter, this, thread));
        }
    } catch (...) {
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    stopping_.store(true, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    threads_.clear();
}

void ThreadPool::check_abort() const {
    if (aborted_.load(std::memory_order_relaxed)) throw Aborted();
}

void ThreadPool::run_job(int n_chunks, Job job) {
    check_abort();
    if (n_chunks <= 0) return;
    if (threads_.empty() || n_chunks == 1) {
        for (int chunk = 0; chunk < n_chunks; ++chunk) {
            check_abort();
            job.call(job.context, chunk, 0);
        }
        return;
    }
    const auto n = static_cast<std::uint32_t>(n_chunks);
    job_ = job;
    n_done_.store(0, std::memory_order_relaxed);
    claims_.store(std::uint64_t{n} << 32, std::memory_order_release);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    work_on_claimed_chunks(0);
    for (auto done = n_done_.load(std::memory_order_acquire); done != n;)
        done = wait_for_change(n_done_, done);
    check_abort();
}

void ThreadPool::work_on_claimed_chunks(int thread) {
    auto claims = claims_.load(std::memory_order_acquire);
    while (true) {
        const auto n = static_cast<std::uint32_t>(claims >> 32);
        const auto next = static_cast<std::uint32_t>(claims);
        if (next >= n) return;
        if (!claims_.compare_exchange_weak(claims, claims + 1, std::memory_order_acq_rel,
                                           std::memory_order_acquire)) {
            continue;
        }
        // An aborted job still counts its chunks, so that its end is seen.
        if (!aborted_.load(std::memory_order_relaxed))
            job_.call(job_.context, static_cast<int>(next), thread);
        if (n_done_.fetch_add(1, std::memory_order_acq_rel) + 1 == n) n_done_.notify_one();
        claims = claims_.load(std::memory_order_acquire);
    }
}

void ThreadPool::worker(int thread) {
    std::uint32_t seen = 0;
    while (!stopping_.load(std::memory_order_relaxed)) {
        work_on_claimed_chunks(thread);
        seen = wait_for_change(epoch_, seen);
    }
}

}  // namespace chatllm

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

constexpr std::uint64_t halves_bit = std::uint64_t{1} << 63;

constexpr std::size_t line_bytes = 64;
constexpr std::size_t lines_a_spin = 2;  // take memory about as long as a spin without them

}  // namespace

ThreadPool::ThreadPool(int n_threads) : stretches_(static_cast<std::size_t>(n_threads)) {
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
    epoch_.fetch_add(1);
    epoch_.notify_all();
    threads_.clear();
}

void ThreadPool::expect(int thread, const std::byte *begin, std::size_t bytes) {
    Stretch &stretch = stretches_[static_cast<std::size_t>(thread)];
    stretch.expected_begin.store(begin, std::memory_order_relaxed);
    stretch.expected_end.store(begin + bytes, std::memory_order_relaxed);
}

std::uint32_t ThreadPool::wait_for_change(const std::atomic<std::uint32_t> &value, std::uint32_t old,
                                          int thread) {
    const Stretch &stretch = stretches_[static_cast<std::size_t>(thread)];
    const std::byte *line = stretch.expected_begin.load(std::memory_order_relaxed);
    const std::byte *const end = stretch.expected_end.load(std::memory_order_relaxed);
    for (int spin = 0; spin < n_spins; ++spin) {
        const auto now = value.load(std::memory_order_acquire);
        if (now != old) return now;
        for (std::size_t i = 0; i < lines_a_spin && line < end; ++i, line += line_bytes)
            __builtin_prefetch(line, 0, 2);
        relax();
    }
    value.wait(old, std::memory_order_acquire);
    return value.load(std::memory_order_acquire);
}

void ThreadPool::check_abort() const {
    if (aborted()) throw Aborted();
}

void ThreadPool::run_job(int n_chunks, bool in_halves, Job job) {
    check_abort();
    if (n_chunks <= 0) return;
    if (threads_.empty() || n_chunks == 1) {
        job.call(job.context, 0, n_chunks, 0);
        check_abort();
        return;
    }
    job_ = job;
    n_left_.store(static_cast<std::uint32_t>(n_chunks), std::memory_order_relaxed);
    const auto n = static_cast<std::uint64_t>(n_chunks);
    for (std::size_t i = 0; i < stretches_.size(); ++i) {
        const std::uint64_t begin = n * i / stretches_.size();
        const std::uint64_t end = n * (i + 1) / stretches_.size();
        stretches_[i].claims.store((in_halves ? halves_bit : 0) | end << 32 | begin,
                                   std::memory_order_release);
    }
    epoch_.fetch_add(1);
    epoch_.notify_all();
    work_on_claimed_chunks(0);
    for (auto left = n_left_.load(std::memory_order_acquire); left != 0;)
        left = wait_for_change(n_left_, left, 0);
    check_abort();
}

void ThreadPool::work_on_claimed_chunks(int thread) {
    const std::size_t n = stretches_.size();
    for (std::size_t i = 0; i < n; ++i)
        work_on_stretch(stretches_[(static_cast<std::size_t>(thread) + i) % n], thread);
}

void ThreadPool::work_on_stretch(Stretch &stretch, int thread) {
    auto claims = stretch.claims.load(std::memory_order_acquire);
    for (;;) {
        const auto first = static_cast<std::uint32_t>(claims);
        const auto end = static_cast<std::uint32_t>((claims & ~halves_bit) >> 32);
        if (first >= end) return;
        const std::uint32_t n = (claims & halves_bit) != 0 ? (end - first + 1) / 2 : 1;
        if (!stretch.claims.compare_exchange_weak(claims, claims + n, std::memory_order_acq_rel,
                                                  std::memory_order_acquire)) {
            continue;
        }
        // An aborted job still counts its chunks, so that its end is seen.
        if (!aborted()) job_.call(job_.context, static_cast<int>(first), static_cast<int>(first + n), thread);
        if (n_left_.fetch_sub(n) == n) n_left_.notify_one();
        claims = stretch.claims.load(std::memory_order_acquire);
    }
}

void ThreadPool::worker(int thread) {
    std::uint32_t seen = 0;
    while (!stopping_.load(std::memory_order_relaxed)) {
        work_on_claimed_chunks(thread);
        seen = wait_for_change(epoch_, seen, thread);
    }
}

}  // namespace chatllm

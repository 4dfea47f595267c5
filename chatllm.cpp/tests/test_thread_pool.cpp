#include "base/thread_pool.h"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/error.h"
#include "check.h"

using chatllm::Aborted;
using chatllm::ThreadPool;

namespace {

std::size_t n_process_threads() {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return static_cast<std::size_t>(std::distance(begin(tasks), end(tasks)));
}

}  // namespace

TEST(every_chunk_is_done_exactly_once) {
    for (const int n_threads : {1, 2, 3, 7}) {
        ThreadPool pool(n_threads);
        CHECK_EQ(pool.size(), n_threads);
        for (const int n_chunks : {0, 1, 2, 3, 7, 8, 100, 1000}) {
            std::vector<std::atomic<int>> counts(static_cast<std::size_t>(n_chunks) + 1);
            std::atomic<int> wrong_threads = 0;
            pool.run(n_chunks, [&](int chunk, int thread) {
                ++counts[static_cast<std::size_t>(chunk)];
                if (thread < 0 || thread >= n_threads) ++wrong_threads;
            });
            for (int chunk = 0; chunk < n_chunks; ++chunk)
                CHECK_EQ(counts[static_cast<std::size_t>(chunk)].load(), 1);
            CHECK_EQ(counts.back().load(), 0);
            CHECK_EQ(wrong_threads.load(), 0);
        }
    }
}

TEST(results_of_a_job_are_seen_when_it_returns) {
    for (const int n_threads : {1, 2, 3, 7}) {
        ThreadPool pool(n_threads);
        std::vector<int> values(64);  // not atomic: run() itself must order the writes
        for (int job = 0; job < 3000; ++job) {
            pool.run(64, [&](int chunk, int) { values[static_cast<std::size_t>(chunk)] += chunk; });
        }
        for (int chunk = 0; chunk < 64; ++chunk)
            CHECK_EQ(values[static_cast<std::size_t>(chunk)], 3000 * chunk);
    }
}

TEST(the_callers_thread_is_zero_and_two_threads_never_share_a_number) {
    ThreadPool pool(3);
    std::atomic<int> in_use[3] = {0, 0, 0};
    std::atomic<int> shared = 0;
    const auto caller = std::this_thread::get_id();
    std::atomic<int> wrong_zeros = 0;
    for (int job = 0; job < 200; ++job) {
        pool.run(12, [&](int, int thread) {
            if (++in_use[thread] != 1) ++shared;
            if ((thread == 0) != (std::this_thread::get_id() == caller)) ++wrong_zeros;
            --in_use[thread];
        });
    }
    CHECK_EQ(shared.load(), 0);
    CHECK_EQ(wrong_zeros.load(), 0);
}

TEST(a_pool_of_one_starts_no_thread_and_others_end_with_the_pool) {
    const std::size_t before = n_process_threads();
    {
        const ThreadPool pool(1);
        CHECK_EQ(n_process_threads(), before);
    }
    for (int i = 0; i < 20; ++i) {
        const ThreadPool pool(3);
        CHECK_EQ(n_process_threads(), before + 2);
    }
    // A joined thread may be listed for a moment.
    for (int wait = 0; wait < 100 && n_process_threads() != before; ++wait)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    CHECK_EQ(n_process_threads(), before);
}

TEST(abort_ends_a_job_early_and_is_remembered_until_cleared) {
    for (const int n_threads : {1, 2, 3, 7}) {
        ThreadPool pool(n_threads);
        std::atomic<int> n_done = 0;
        CHECK_THROWS(pool.run(100000,
                              [&](int, int) {
                                  if (++n_done == 50) pool.abort();
                              }),
                     "aborted");
        CHECK(n_done >= 50 && n_done < 100000);
        CHECK_THROWS(pool.check_abort(), "aborted");
        CHECK_THROWS(pool.run(1, [&](int, int) { n_done = -1; }), "aborted");
        CHECK(n_done != -1);
        pool.clear_abort();
        pool.check_abort();
        std::atomic<int> n_after = 0;
        pool.run(100, [&](int, int) { ++n_after; });
        CHECK_EQ(n_after.load(), 100);
    }
}

TEST(abort_from_another_thread) {
    ThreadPool pool(2);
    std::atomic<bool> started = false;
    std::thread stopper([&] {
        started.wait(false);
        pool.abort();
    });
    bool aborted = false;
    try {
        while (true) {
            pool.run(8, [&](int, int) {
                started = true;
                started.notify_all();
            });
        }
    } catch (const Aborted &) {
        aborted = true;
    }
    stopper.join();
    CHECK(aborted);
}

// Between jobs, the caller may throw: the pool must still end in order.
TEST(a_pool_is_left_by_an_exception) {
    for (const int n_threads : {1, 2, 7}) {
        CHECK_THROWS(
            [&] {
                ThreadPool pool(n_threads);
                pool.run(10, [](int, int) {});
                throw std::runtime_error("thrown by the caller");
            }(),
            "thrown by the caller");
    }
}

TEST(pools_work_side_by_side) {
    ThreadPool one(3);
    std::atomic<int> n_one = 0, n_other = 0;
    std::thread other([&] {
        ThreadPool pool(3);
        for (int job = 0; job < 500; ++job) pool.run(7, [&](int, int) { ++n_other; });
    });
    for (int job = 0; job < 500; ++job) one.run(7, [&](int, int) { ++n_one; });
    other.join();
    CHECK_EQ(n_one.load(), 3500);
    CHECK_EQ(n_other.load(), 3500);
}

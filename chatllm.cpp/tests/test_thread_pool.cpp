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
        for (int n_chunks = 0; n_chunks <= 1000; n_chunks += n_chunks < 40 ? 1 : 37) {
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

TEST(ranges_cover_every_chunk_exactly_once) {
    const std::vector<std::byte> soon(std::size_t{1} << 20);
    for (const int n_threads : {1, 2, 3, 7}) {
        ThreadPool pool(n_threads);
        for (int n_chunks = 0; n_chunks <= 1000; n_chunks += n_chunks < 40 ? 1 : 37) {
            std::vector<std::atomic<int>> counts(static_cast<std::size_t>(n_chunks) + 1);
            std::atomic<int> n_empty = 0;
            for (int thread = 0; thread < n_threads; ++thread) pool.expect(thread, soon.data(), soon.size());
            pool.run_ranges(n_chunks, [&](int first, int last, int) {
                if (first >= last) ++n_empty;
                for (int chunk = first; chunk < last; ++chunk) ++counts[static_cast<std::size_t>(chunk)];
            });
            // Chunks of the one kind of job must not be taken for the other's.
            pool.run(n_chunks, [&](int chunk, int) { ++counts[static_cast<std::size_t>(chunk)]; });
            for (int chunk = 0; chunk < n_chunks; ++chunk)
                CHECK_EQ(counts[static_cast<std::size_t>(chunk)].load(), 2);
            CHECK_EQ(counts.back().load(), 0);
            CHECK_EQ(n_empty.load(), 0);
        }
    }
}

// A thread that comes late to a job must find either nothing or a chunk of the next one, whole.
TEST(thousands_of_short_jobs_of_changing_size) {
    for (const int n_threads : {2, 3, 7}) {
        ThreadPool pool(n_threads);
        std::vector<long long> sums(9);  // not atomic: a chunk is one thread's, and run() orders the jobs
        std::vector<long long> expected(9);
        for (int job = 0; job < 20000; ++job) {
            const int n_chunks = 1 + job % 9;
            // A context of its own, whose place the next job's takes.
            const long long value = job;
            pool.run(n_chunks,
                     [&sums, value](int chunk, int) { sums[static_cast<std::size_t>(chunk)] += value; });
            for (int chunk = 0; chunk < n_chunks; ++chunk) expected[static_cast<std::size_t>(chunk)] += value;
        }
        CHECK_EQ(sums, expected);
    }
}

// Whoever is held up costs its own chunk and no other: the rest of its stretch is done by others.
TEST(a_thread_that_is_held_up_does_not_hold_up_the_job) {
    for (const int n_threads : {2, 3, 7}) {
        for (const bool caller_is_held_up : {false, true}) {
            ThreadPool pool(n_threads);
            constexpr int n_chunks = 100;
            std::atomic<int> n_done = 0;
            std::atomic<bool> is_held_up = false, gave_up = false;
            // By the clock, so that a pool that is wrong fails and does not hang.
            const auto wait_for = [&](const auto &condition) {
                const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
                while (!condition() && !gave_up) {
                    if (std::chrono::steady_clock::now() > end) gave_up = true;
                    std::this_thread::yield();
                }
            };
            pool.run(n_chunks, [&](int, int thread) {
                const bool may_be_held_up = caller_is_held_up ? thread == 0 : thread == 1;
                if (may_be_held_up && !is_held_up.exchange(true)) {
                    wait_for([&] { return n_done == n_chunks - 1; });
                } else {
                    wait_for([&] { return is_held_up.load(); });
                }
                ++n_done;
            });
            CHECK(is_held_up);
            CHECK(!gave_up);
            CHECK_EQ(n_done.load(), n_chunks);
        }
    }
}

TEST(jobs_beside_a_busy_thread) {
    std::atomic<bool> stop = false;
    std::vector<std::thread> busy;
    for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i)
        busy.emplace_back([&] {
            while (!stop) {
            }
        });
    {
        ThreadPool pool(2);
        std::vector<int> counts(8);
        for (int job = 0; job < 300; ++job)
            pool.run(8, [&](int chunk, int) { ++counts[static_cast<std::size_t>(chunk)]; });
        CHECK_EQ(counts, std::vector<int>(8, 300));
    }
    stop = true;
    for (std::thread &thread : busy) thread.join();
}

// Long enough for the threads to fall asleep between the jobs.
TEST(sleeping_threads_wake_for_the_next_job) {
    ThreadPool pool(3);
    std::atomic<int> n_done = 0;
    for (int job = 0; job < 20; ++job) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        std::atomic<int> n_inside = 0;
        // A chunk ends once all three threads are in this job, so all must have woken.
        pool.run(3, [&](int, int) {
            ++n_inside;
            const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
            while (n_inside < 3 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
            if (n_inside == 3) ++n_done;
        });
    }
    CHECK_EQ(n_done.load(), 60);
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

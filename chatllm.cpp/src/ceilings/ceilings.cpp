#include "ceilings/ceilings.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/error.h"
#include "base/memory_map.h"
#include "base/thread.h"
#include "ceilings/loops.h"

namespace chatllm {
namespace {

constexpr std::size_t page_bytes = 4096;  // or a multiple of it
constexpr int most_threads = 1024;
constexpr double most_ms = 60e3;
constexpr std::size_t block_bytes = std::size_t{4} << 20;  // read between two looks at the clock
constexpr std::size_t most_read_bytes = std::size_t{512} << 20;
constexpr int n_rounds = 2000;  // computed between two looks at the clock: about 10 microseconds

using Clock = std::chrono::steady_clock;
using Loop = std::variant<ReadLoop, ComputeLoop>;

#if defined(__x86_64__)
// Whether the processor has what __builtin_cpu_supports learned late: clang 14 refuses some of the names.
struct Features {
    bool avx2, avxvnni, avx512, avx512vnni, avx512bf16;
};

Features features() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool has_leaf = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0;
    constexpr unsigned avxvnni_bit = 1u << 4, avx512bf16_bit = 1u << 5;  // of leaf 7, sub-leaf 1, eax
    Features has{};
    // These two answer for the operating system's part as well: that it keeps ymm and zmm registers.
    has.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    has.avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    has.avxvnni = has.avx2 && has_leaf && (a & avxvnni_bit) != 0;
    has.avx512vnni = has.avx512 && __builtin_cpu_supports("avx512vnni");
    has.avx512bf16 = has.avx512 && has_leaf && (a & avx512bf16_bit) != 0;
    return has;
}
#endif

std::optional<Loop> choose_loop(std::string_view kind) {
#if defined(__x86_64__)
    const Features has = features();
    if (kind == "read") return has.avx512 ? avx512_read() : has.avx2 ? avx2_read() : portable_read();
    if (kind == "int8") {
        return has.avx512vnni ? avx512vnni_int8()
               : has.avxvnni  ? avxvnni_int8()
               : has.avx512   ? avx512_int8()
               : has.avx2     ? avx2_int8()
                              : portable_int8();
    }
    if (kind == "bf16" && has.avx512bf16) return avx512bf16_bf16();
    if (kind == "f32" || kind == "bf16")
        return has.avx512 ? avx512_f32() : has.avx2 ? avx2_f32() : portable_f32();
#else
    if (kind == "read") return portable_read();
    if (kind == "int8") return portable_int8();
    if (kind == "f32" || kind == "bf16") return portable_f32();
#endif
    return std::nullopt;
}

// A quarter of the memory that this process may still use, and no more than is needed to leave every cache
// behind.
std::size_t read_bytes() {
    std::size_t most = most_read_bytes;
    std::ifstream meminfo("/proc/meminfo");
    for (std::string name; meminfo >> name;) {
        std::size_t kib = 0;
        if (name == "MemAvailable:" && meminfo >> kib) most = std::min(most, kib * 1024 / 4);
    }
    std::size_t limit = 0;  // of the control group; "max" is no number and leaves none
    if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit) most = std::min(most, limit / 4);
    return most;
}

// What one thread does again and again.
class Work {
public:
    Work() = default;
    virtual ~Work() = default;
    Work(const Work &) = delete;
    Work &operator=(const Work &) = delete;

    virtual void prepare() noexcept {}
    virtual double run() noexcept = 0;  // returns the bytes read or operations done
};

class Computing : public Work {
public:
    // Any bytes are integers; as floating-point numbers, of 16 bits or of 32, these are between 1/2 and 2.
    Computing(const ComputeLoop &loop, bool integers) : loop_(loop) {
        std::uint32_t state = 1;
        for (auto *operand : {registers_.a, registers_.b}) {
            for (int i = 0; i < 64; ++i) {
                state = state * 1664525u + 1013904223u;  // Numerical Recipes' generator
                const std::uint32_t bits = state >> 24;
                operand[i] = static_cast<std::byte>(integers || i % 2 == 0 ? bits : 0x3fu | (bits & 0x80u));
            }
        }
    }
    double run() noexcept override {
        loop_.run(registers_, n_rounds);
        return loop_.operations_a_round * n_rounds;
    }

private:
    ComputeLoop loop_;
    Registers registers_;
};

class Reading : public Work {
public:
    Reading(const ReadLoop &loop, std::span<std::byte> part) : loop_(loop), part_(part) {}

    // Every page gets memory of its own: one that was never written to would be the kernel's page of zeros.
    void prepare() noexcept override {
        for (std::size_t i = 0; i < part_.size(); i += page_bytes) part_[i] = std::byte{1};
    }
    double run() noexcept override {
        sum_ += loop_.run(part_.data() + position_, block_bytes);
        position_ = (position_ + block_bytes) % part_.size();
        return block_bytes;
    }

private:
    ReadLoop loop_;
    std::span<std::byte> part_;  // a multiple of block_bytes
    std::size_t position_ = 0;
    std::uint64_t sum_ = 0;
};

// Where threads begin a slice together.
class StartLine {
public:
    explicit StartLine(int n_threads) : n_threads_(n_threads) {}

    // Waits until every thread has come here as often as this one; false once called off.
    bool wait(long n_times) {
        ++n_arrived_;
        while (n_arrived_.load() < n_threads_ * n_times) {
            if (called_off_.load()) return false;
            std::this_thread::yield();
        }
        return true;
    }
    void call_off() { called_off_.store(true); }

private:
    const long n_threads_;
    std::atomic<long> n_arrived_{0};
    std::atomic<bool> called_off_{false};
};

class Measurement {
public:
    Measurement(std::vector<std::unique_ptr<Work>> works, std::size_t n_slices, double slice_ms)
        : works_(std::move(works)),
          line_(static_cast<int>(works_.size())),
          slice_ms_(slice_ms),
          rates_(works_.size(), std::vector<double>(n_slices)) {}

    // Fills in the rate of each slice, summed over the threads.
    void run(std::span<double> rates) {
        {
            std::vector<std::unique_ptr<Thread>> threads;
            try {
                for (std::size_t i = 1; i < works_.size(); ++i)
                    threads.push_back(std::make_unique<Thread>(enter, this, static_cast<int>(i)));
            } catch (...) {
                line_.call_off();
                throw;
            }
            run_slices(0);
        }
        for (std::size_t slice = 0; slice < rates.size(); ++slice) {
            rates[slice] = 0;
            for (const auto &of_thread : rates_) rates[slice] += of_thread[slice];
        }
    }

private:
    static void enter(void *self, int thread) {
        static_cast<Measurement *>(self)->run_slices(static_cast<std::size_t>(thread));
    }

    void run_slices(std::size_t thread) noexcept {
        works_[thread]->prepare();
        long n_slices = 0;
        if (!run_slice(thread, ++n_slices)) return;  // wakes the clocks up, and does not count
        for (double &rate : rates_[thread]) {
            const auto measured = run_slice(thread, ++n_slices);
            if (!measured) return;
            rate = *measured;
        }
    }

    std::optional<double> run_slice(std::size_t thread, long nth) noexcept {
        if (!line_.wait(nth)) return std::nullopt;
        const auto start = Clock::now();
        double n_done = 0;
        std::chrono::duration<double, std::milli> elapsed{};
        while (elapsed.count() < slice_ms_) {
            n_done += works_[thread]->run();
            elapsed = Clock::now() - start;
        }
        return n_done / elapsed.count() * 1e3;
    }

    std::vector<std::unique_ptr<Work>> works_;  // one a thread
    StartLine line_;
    const double slice_ms_;
    std::vector<std::vector<double>> rates_;  // [threads, slices]
};

}  // namespace

const char *ceiling_isa(std::string_view kind) {
    const auto loop = choose_loop(kind);
    return loop ? std::visit([](const auto &chosen) { return chosen.isa; }, *loop) : nullptr;
}

void measure_ceiling(std::string_view kind, int n_threads, double slice_ms, std::span<double> rates) {
    const auto loop = choose_loop(kind);
    if (!loop) throw Error("ceiling: '" + std::string(kind) + "' is none of read, int8, bf16, f32");
    if (n_threads < 1 || n_threads > most_threads || rates.empty() || !(slice_ms > 0 && slice_ms <= most_ms))
        throw Error("ceiling: impossible number of threads or slices, or length of a slice");

    std::vector<std::unique_ptr<Work>> works;
    std::optional<AnonymousMap> memory;
    if (const auto *reading = std::get_if<ReadLoop>(&*loop)) {
        const std::size_t part_bytes =
            read_bytes() / static_cast<std::size_t>(n_threads) / block_bytes * block_bytes;
        if (part_bytes == 0) throw Error("out of memory: too little to measure how fast it is read");
        memory.emplace(part_bytes * static_cast<std::size_t>(n_threads), "measurement of read bandwidth");
        madvise(memory->data(), memory->size(), MADV_HUGEPAGE);
        for (std::size_t i = 0; i < static_cast<std::size_t>(n_threads); ++i) {
            const std::span part(memory->data() + i * part_bytes, part_bytes);
            works.push_back(std::make_unique<Reading>(*reading, part));
        }
    } else {
        for (int i = 0; i < n_threads; ++i)
            works.push_back(std::make_unique<Computing>(std::get<ComputeLoop>(*loop), kind == "int8"));
    }
    Measurement(std::move(works), rates.size(), slice_ms).run(rates);
}

}  // namespace chatllm

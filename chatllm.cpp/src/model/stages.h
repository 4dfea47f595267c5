#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace chatllm {

// What a stretch of work takes at least: operations (a multiplication and an addition are two) by the fastest
// arithmetic that the weights' storage allows, and bytes of weights and cache that must be read.
struct Work {
    std::int64_t int8_operations = 0;  // with quantised weights
    std::int64_t bf16_operations = 0;  // with f16 weights or keys and values
    std::int64_t f32_operations = 0;   // with those in f32
    std::int64_t bytes = 0;

    Work &operator+=(const Work &other) {
        int8_operations += other.int8_operations;
        bf16_operations += other.bf16_operations;
        f32_operations += other.f32_operations;
        bytes += other.bytes;
        return *this;
    }
};

// The stretches into which an input's time is divided, in order.
enum class Stage { read, mel, convolutions, encoder, projector, prefill, first_token, decode };
inline constexpr std::array<const char *, 8> stage_names{"read",      "mel",     "convolutions", "encoder",
                                                         "projector", "prefill", "first_token",  "decode"};

// Where the time of an input went, and what was done in it.
class Stages {
public:
    struct Entry {
        double ms = 0;
        Work work;
    };

    const std::array<Entry, stage_names.size()> &entries() const { return entries_; }
    void clear() { entries_ = {}; }
    // Work of the stage in progress, or of none.
    void add(const Work &work) {
        if (current_ != nullptr) current_->work += work;
    }

    // Adds the time until its end to a stage. One at a time.
    class Timer {
    public:
        Timer(Stages &stages, Stage stage) : stages_(stages), start_(std::chrono::steady_clock::now()) {
            stages_.current_ = &stages_.entries_[static_cast<std::size_t>(stage)];
        }
        ~Timer() {
            const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start_;
            stages_.current_->ms += spent.count();
            stages_.current_ = nullptr;
        }
        Timer(const Timer &) = delete;
        Timer &operator=(const Timer &) = delete;

    private:
        Stages &stages_;
        std::chrono::steady_clock::time_point start_;
    };

private:
    std::array<Entry, stage_names.size()> entries_{};
    Entry *current_ = nullptr;
};

}  // namespace chatllm

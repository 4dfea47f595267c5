#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace chatllm::check {

// Values that end directly before an unreadable page, or as near to it as their alignment allows, so that
// reading beyond them faults. All bytes begin as 0xff, in floats a NaN; those around the values must stay so.
template <typename T> class Fenced {
public:
    explicit Fenced(std::size_t n, std::size_t alignment = alignof(T)) : n_(n), alignment_(alignment) {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        constexpr std::size_t least_before = 256;
        const std::size_t bytes = (n * sizeof(T) + alignment - 1) / alignment * alignment;
        usable_ = (bytes + least_before + page - 1) / page * page;
        mapped_ = usable_ + 2 * page;
        void *pages = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED) throw std::runtime_error("cannot map fenced memory");
        pages_ = static_cast<std::byte *>(pages);
        begin_ = pages_ + page;
        if (mprotect(begin_, usable_, PROT_READ | PROT_WRITE) != 0) {
            munmap(pages_, mapped_);
            throw std::runtime_error("cannot open fenced memory");
        }
        std::memset(begin_, fill, usable_);
        data_ = reinterpret_cast<T *>(begin_ + usable_ - bytes);
    }
    explicit Fenced(const std::vector<T> &values) : Fenced(values.size()) {
        std::copy(values.begin(), values.end(), data_);
    }
    Fenced(const Fenced &other) : Fenced(other.n_, other.alignment_) {
        std::copy_n(other.data_, other.n_, data_);
    }
    Fenced &operator=(const Fenced &) = delete;
    ~Fenced() { munmap(pages_, mapped_); }

    std::size_t size() const { return n_; }
    T *data() { return data_; }
    const T *data() const { return data_; }
    T &operator[](std::size_t i) { return data_[i]; }
    const T &operator[](std::size_t i) const { return data_[i]; }

    // Nothing was written around the values.
    bool is_intact() const {
        const auto is_fill = [](std::byte b) { return std::to_integer<int>(b) == fill; };
        const auto *first = reinterpret_cast<const std::byte *>(data_);
        const std::byte *last = begin_ + usable_;
        return std::all_of<const std::byte *>(begin_, first, is_fill) &&
               std::all_of(first + n_ * sizeof(T), last, is_fill);
    }

private:
    static constexpr int fill = 0xff;

    std::size_t n_;
    std::size_t alignment_;
    std::size_t usable_ = 0;
    std::size_t mapped_ = 0;
    std::byte *pages_ = nullptr;
    std::byte *begin_ = nullptr;  // of what can be read and written
    T *data_ = nullptr;
};

}  // namespace chatllm::check

#include "base/memory_map.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <system_error>
#include <utility>

#include "base/descriptor.h"
#include "base/error.h"

namespace chatllm {

static_assert(sizeof(std::size_t) == 8, "sizes in model files need 64 bits");
static_assert(std::endian::native == std::endian::little, "model and WAV files are read as they lie");

namespace {

std::string reason(int error) { return std::generic_category().message(error); }

std::size_t page_size() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

#ifndef MADV_POPULATE_READ
constexpr int MADV_POPULATE_READ = 22;  // the C library's headers may be older than the kernel
#endif

constexpr std::size_t most_bytes = std::numeric_limits<std::size_t>::max() / 2;

// Smaller mappings, as the stacks of threads are, keep to small pages.
constexpr std::size_t huge_page = std::size_t{2} << 20;

// What a mapping of `n_bytes` takes: whole pages, and whole huge ones where that adds a quarter at most.
std::size_t mapped_bytes(std::size_t n_bytes) {
    const auto rounded_up = [&](std::size_t page) { return (n_bytes + page - 1) / page * page; };
    const std::size_t huge = rounded_up(huge_page);
    return n_bytes >= huge_page && huge - n_bytes <= n_bytes / 4 ? huge : rounded_up(page_size());
}

// Null, with the reason in errno, when the kernel refuses.
std::byte *map_pages(std::size_t n_bytes) {
    const std::size_t slack = n_bytes < huge_page ? 0 : huge_page - page_size();
    void *mapped = mmap(nullptr, n_bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    auto *begin = static_cast<std::byte *>(mapped);
    if (slack == 0) return begin;
    // Huge pages serve only what is aligned as they are. A kernel without them refuses the advice.
    const std::size_t ahead = -reinterpret_cast<std::uintptr_t>(begin) % huge_page;
    if (ahead > 0) munmap(begin, ahead);
    if (ahead < slack) munmap(begin + ahead + n_bytes, slack - ahead);
    madvise(begin + ahead, n_bytes, MADV_HUGEPAGE);
    return begin + ahead;
}

}  // namespace

AnonymousMap::AnonymousMap(std::size_t bytes, const char *purpose) : size_(bytes) {
    if (bytes == 0) return;
    errno = ENOMEM;
    data_ = bytes <= most_bytes ? map_pages(mapped_bytes(bytes)) : nullptr;
    if (data_ == nullptr) {
        const int error = errno;
        size_ = 0;
        throw Error("out of memory: " + std::to_string(bytes) + " bytes for the " + purpose + " (" +
                    reason(error) +
                    "): free memory, raise the limit or use a smaller model or a shorter clip");
    }
}

std::size_t AnonymousMap::resident_bytes(std::size_t n_bytes) { return mapped_bytes(n_bytes); }

AnonymousMap::~AnonymousMap() {
    if (data_ != nullptr) munmap(data_, mapped_bytes(size_));
}

AnonymousMap::AnonymousMap(AnonymousMap &&other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AnonymousMap &AnonymousMap::operator=(AnonymousMap &&other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

FileMap::FileMap(const std::string &path) {
    const Descriptor file(path);
    const int open_error = errno;
    if (file.get() < 0) throw Error(path + ": cannot open: " + reason(open_error));
    struct stat status {};
    if (fstat(file.get(), &status) != 0) throw Error(path + ": cannot read its size");
    if (!S_ISREG(status.st_mode)) throw Error(path + ": is not a regular file");
    if (status.st_size == 0) throw Error(path + ": is empty");
    const auto n_bytes = static_cast<std::size_t>(status.st_size);
    void *mapped = mmap(nullptr, n_bytes, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (mapped == MAP_FAILED) {
        const int error = errno;
        throw Error(path + ": cannot map " + std::to_string(n_bytes) + " bytes: " + reason(error));
    }
    data_ = static_cast<const std::byte *>(mapped);
    size_ = n_bytes;
    // A file that is not in the page cache yet then comes in pieces of 2 MiB, read ahead of their use, and is
    // mapped and unmapped in such pieces ever after. A kernel that cannot refuses the advice.
    madvise(mapped, n_bytes, MADV_HUGEPAGE);
}

void FileMap::populate(const std::string &path) const {
    if (madvise(const_cast<std::byte *>(data_), size_, MADV_POPULATE_READ) == 0) return;
    if (errno != EINVAL) throw Error(path + ": cannot read all of it: " + reason(errno));
    // Before Linux 5.14.
    for (std::size_t at = 0; at < size_; at += page_size()) {
        static_cast<void>(*static_cast<const volatile std::byte *>(data_ + at));
    }
}

void FileMap::drop(int part, int n_parts) const noexcept {
    const std::size_t n_pieces = (size_ + huge_page - 1) / huge_page;
    const auto bound = [&](int i) {
        return std::min(size_, n_pieces * static_cast<std::size_t>(i) / static_cast<std::size_t>(n_parts) *
                                   huge_page);
    };
    const std::size_t begin = bound(part), end = bound(part + 1);
    if (begin < end) madvise(const_cast<std::byte *>(data_) + begin, end - begin, MADV_DONTNEED);
}

void FileMap::lock(const std::string &path) const {
    if (mlock(data_, size_) == 0) return;
    const int error = errno;
    struct rlimit limit {};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    const std::string most =
        limit.rlim_cur == RLIM_INFINITY ? "unlimited" : std::to_string(limit.rlim_cur) + " bytes";
    throw Error(path + ": cannot lock its " + std::to_string(size_) + " bytes in memory: " + reason(error) +
                " (the limit RLIMIT_MEMLOCK is " + most +
                "): raise it (ulimit -l, or LimitMEMLOCK= of a service) or leave --lock out");
}

FileMap::~FileMap() {
    if (data_ != nullptr) munmap(const_cast<std::byte *>(data_), size_);
}

FileMap::FileMap(FileMap &&other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

FileMap &FileMap::operator=(FileMap &&other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

}  // namespace chatllm

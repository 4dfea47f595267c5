#include "base/memory_map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace chatllm {

static_assert(sizeof(std::size_t) == 8, "sizes in model files need 64 bits");
static_assert(std::endian::native == std::endian::little, "model and WAV files are read as they lie");

namespace {

std::string reason(int error) { return std::generic_category().message(error); }

class Descriptor {
public:
    explicit Descriptor(int fd) : fd_(fd) {}
    ~Descriptor() {
        if (fd_ >= 0) close(fd_);
    }
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;
    int get() const { return fd_; }

private:
    int fd_;
};

}  // namespace

AnonymousMap::AnonymousMap(std::size_t bytes, const char *purpose) : size_(bytes) {
    if (bytes == 0) return;
    void *mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
        const int error = errno;
        size_ = 0;
        throw Error("out of memory: " + std::to_string(bytes) + " bytes for the " + purpose + " (" +
                    reason(error) +
                    "): free memory, raise the limit or use a smaller model or a shorter clip");
    }
    data_ = static_cast<std::byte *>(mapped);
}

AnonymousMap::~AnonymousMap() {
    if (data_ != nullptr) munmap(data_, size_);
}

AnonymousMap::AnonymousMap(AnonymousMap &&other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AnonymousMap &AnonymousMap::operator=(AnonymousMap &&other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

FileMap::FileMap(const std::string &path) {
    // Not blocking: a path that names a FIFO would otherwise wait for a writer.
    const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
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

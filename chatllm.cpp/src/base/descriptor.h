#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <utility>

namespace chatllm {

// An open file, closed by the destructor.
class Descriptor {
public:
    // Opened for reading; negative, with the reason in errno, when that fails. It does not block: a path that
    // names a FIFO would otherwise wait for a writer.
    explicit Descriptor(const std::string &path)
        : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
    ~Descriptor() {
        if (fd_ >= 0) close(fd_);
    }
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;
    int get() const { return fd_; }

private:
    int fd_;
};

}  // namespace chatllm

#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace chatllm {

// Anonymous pages straight from the kernel, zeroed, given back whole by the destructor. The engine's large
// buffers come from here and never from malloc, which would keep what is freed.
class AnonymousMap {
public:
    AnonymousMap() = default;
    // Throws Error naming `purpose` and the size when the kernel refuses.
    AnonymousMap(std::size_t bytes, const char *purpose);
    ~AnonymousMap();
    AnonymousMap(AnonymousMap &&other) noexcept;
    AnonymousMap &operator=(AnonymousMap &&other) noexcept;
    AnonymousMap(const AnonymousMap &) = delete;
    AnonymousMap &operator=(const AnonymousMap &) = delete;

    std::byte *data() const { return data_; }
    std::size_t size() const { return size_; }

private:
    std::byte *data_ = nullptr;
    std::size_t size_ = 0;
};

// A whole regular file, mapped read-only. The descriptor is closed once the mapping stands. As with any
// mapped file, truncating it while it is mapped faults the readers: replace model files by renaming, never in
// place.
class FileMap {
public:
    // Throws Error naming the file when it is missing, unreadable, not a regular file or empty.
    explicit FileMap(const std::string &path);
    ~FileMap();
    FileMap(FileMap &&other) noexcept;
    FileMap &operator=(FileMap &&other) noexcept;
    FileMap(const FileMap &) = delete;
    FileMap &operator=(const FileMap &) = delete;

    std::span<const std::byte> bytes() const { return {data_, size_}; }

private:
    const std::byte *data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace chatllm

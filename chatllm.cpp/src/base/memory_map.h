#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace chatllm {

// Anonymous pages straight from the kernel, zeroed, given back whole by the destructor. The engine's large
// buffers come from here and never from malloc, which would keep what is freed. From 2 MiB on they are huge
// pages where the kernel has some: to touch them first and to give them back costs a tenth. Never are more
// bytes resident than 5/4 of the size, nor 2 MiB more than it.
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

    // The most that a mapping of `n_bytes` keeps resident.
    static std::size_t resident_bytes(std::size_t n_bytes);

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

    // Reads the whole file and maps its pages: none faults afterwards. Throws Error naming `path`.
    void populate(const std::string &path) const;
    // Unmaps the pages of the n-th part of the file; they come back when they are used. To unmap takes time
    // for each page in use: before a mapping ends, threads can share that out. A locked file stays as it is.
    void drop(int part, int n_parts) const noexcept;
    // Keeps all pages in memory until the mapping ends. Throws Error naming `path` when the system refuses.
    void lock(const std::string &path) const;

private:
    const std::byte *data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace chatllm

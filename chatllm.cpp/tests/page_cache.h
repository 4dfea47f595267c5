#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "base/memory_map.h"

namespace chatllm::check {

// Whether the page cache holds every page of a mapped file.
inline bool is_resident(std::span<const std::byte> bytes) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> resident((bytes.size() + page - 1) / page);
    if (mincore(const_cast<std::byte *>(bytes.data()), bytes.size(), resident.data()) != 0) return false;
    return std::ranges::all_of(resident, [](unsigned char flags) { return (flags & 1) != 0; });
}

// Drops a file's pages. False where its file system keeps files nowhere else.
inline bool make_cold(const std::string &path) {
    const Descriptor file(path);
    fsync(file.get());
    posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    return !is_resident(FileMap(path).bytes());
}

}  // namespace chatllm::check

#include "base/memory_map.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/arena.h"
#include "base/error.h"
#include "check.h"
#include "page_cache.h"
#include "temporary.h"

using chatllm::AnonymousMap;
using chatllm::ArenaCursor;
using chatllm::FileMap;
using chatllm::check::is_resident;
using chatllm::check::make_cold;
using chatllm::check::TemporaryFolder;

namespace {

std::string_view text(const FileMap &map) {
    return {reinterpret_cast<const char *>(map.bytes().data()), map.bytes().size()};
}

std::size_t n_descriptors() {
    const std::filesystem::directory_iterator open("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(open), end(open)));
}

// Bytes of the process's address space.
std::size_t address_space() {
    std::size_t n_pages = 0;
    std::ifstream("/proc/self/statm") >> n_pages;
    return n_pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

// A figure in bytes from a file of /proc, where it stands in KiB.
std::size_t figure(const char *path, std::string_view name) {
    std::ifstream lines(path);
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with(name)) return std::stoull(line.substr(name.size())) << 10;
    }
    throw std::runtime_error("no such figure");
}

std::size_t anonymous_bytes() { return figure("/proc/self/smaps_rollup", "Anonymous:"); }
[[maybe_unused]] std::size_t locked_bytes() { return figure("/proc/self/status", "VmLck:"); }

}  // namespace

TEST(a_file_is_mapped_whole_and_its_descriptor_closed) {
    const TemporaryFolder folder;
    const std::string path = folder.write("a.bin", "some bytes");
    const std::size_t before = n_descriptors();
    const FileMap map(path);
    CHECK_EQ(text(map), "some bytes");
    CHECK_EQ(n_descriptors(), before);
}

TEST(a_file_map_moves) {
    const TemporaryFolder folder;
    FileMap one(folder.write("a", "first"));
    FileMap other(folder.write("b", "second"));
    other = std::move(one);
    CHECK_EQ(text(other), "first");
    const FileMap third(std::move(other));
    CHECK_EQ(text(third), "first");
}

TEST(what_is_no_readable_file_is_an_error) {
    const TemporaryFolder folder;
    CHECK_THROWS(FileMap(folder.path("missing")), "missing: cannot open: No such file or directory");
    CHECK_THROWS(FileMap(folder.write("empty", "")), "empty: is empty");
    CHECK_THROWS(FileMap(folder.path("")), "is not a regular file");
    const std::string fifo = folder.path("fifo");
    CHECK_EQ(mkfifo(fifo.c_str(), 0600), 0);
    CHECK_THROWS(FileMap(fifo), "fifo: is not a regular file");
    CHECK_THROWS(FileMap("/dev/null"), "/dev/null: is not a regular file");
    CHECK_THROWS(FileMap(""), "cannot open");
    if (geteuid() != 0) {
        const std::string secret = folder.write("secret", "x");
        CHECK_EQ(chmod(secret.c_str(), 0), 0);
        CHECK_THROWS(FileMap(secret), "secret: cannot open: Permission denied");
    } else {
        std::cout << "an unreadable file is not tried: root may read everything\n";
    }
}

TEST(a_file_is_read_whole) {
    const TemporaryFolder folder;
    const std::string path = folder.write("a.bin", std::string(std::size_t{3} << 20, 'x'));
    if (!make_cold(path)) {
        std::cout << "not tried: the file system of " << path << " keeps files in memory alone\n";
        return;
    }
    const FileMap map(path);
    CHECK(!is_resident(map.bytes()));
    map.populate(path);
    CHECK(is_resident(map.bytes()));
}

TEST(dropped_parts_make_up_the_file_and_come_back) {
    const TemporaryFolder folder;
    constexpr std::size_t n_bytes = (std::size_t{9} << 20) + 5;
    const std::string path = folder.write("a.bin", std::string(n_bytes, 'x'));
    const FileMap map(path);
    const auto mapped_bytes = [] { return figure("/proc/self/smaps_rollup", "Rss:"); };
    for (const int n_parts : {1, 2, 3, 5, 16}) {
        map.populate(path);
        const std::size_t before = mapped_bytes();
        for (int part = 0; part < n_parts; ++part) map.drop(part, n_parts);
        CHECK(mapped_bytes() <= before - (n_bytes - (std::size_t{1} << 20)));
        for (std::size_t at = 0; at < n_bytes; at += 1000) CHECK_EQ(map.bytes()[at], std::byte{'x'});
    }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
TEST(locks_are_not_tried) { std::cout << "no lock is tried: the sanitizers turn it off\n"; }
#else
TEST(a_locked_file_stays_in_memory_until_its_end) {
    const TemporaryFolder folder;
    const std::string path = folder.write("a.bin", std::string(100'000, 'x'));
    const std::size_t before = locked_bytes();
    {
        const FileMap map(path);
        map.lock(path);
        CHECK(locked_bytes() >= before + map.bytes().size());
    }
    CHECK_EQ(locked_bytes(), before);
}

TEST(a_refused_lock_names_file_size_limit_and_remedy) {
    const TemporaryFolder folder;
    const std::string path = folder.write("a.bin", std::string(100'000, 'x'));
    const FileMap map(path);
    const pid_t child = fork();
    if (child == 0) {
        const struct rlimit limit { 8192, 8192 };
        setrlimit(RLIMIT_MEMLOCK, &limit);
        if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) _exit(3);  // root may lock all it likes
        try {
            map.lock(path);
            _exit(1);
        } catch (const chatllm::Error &error) {
            const std::string_view message = error.what();
            const bool complete = message.starts_with(path + ": cannot lock its 100000 bytes in memory: ") &&
                                  message.find("RLIMIT_MEMLOCK is 8192 bytes") != message.npos &&
                                  message.find("ulimit -l") != message.npos;
            _exit(complete ? 0 : 2);
        }
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}
#endif

TEST(anonymous_pages_are_zero_and_given_back) {
    constexpr std::size_t n_bytes = std::size_t{64} << 20;
    const std::size_t before = address_space();
    {
        const AnonymousMap map(n_bytes, "test");
        CHECK_EQ(map.size(), n_bytes);
        CHECK(address_space() >= before + n_bytes);
        CHECK_EQ(map.data()[0], std::byte{0});
        CHECK_EQ(map.data()[n_bytes - 1], std::byte{0});
        map.data()[n_bytes - 1] = std::byte{1};
    }
    CHECK(address_space() < before + n_bytes);
}

TEST(large_maps_are_aligned_to_huge_pages_and_rounded_up_by_a_quarter_at_most) {
    constexpr std::size_t mib = std::size_t{1} << 20;
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t before = address_space();
    for (const std::size_t n_bytes : {2 * mib, 2 * mib + 1, 3 * mib + mib / 2, 4 * mib - page, 9 * mib}) {
        const AnonymousMap map(n_bytes, "test");
        CHECK_EQ(reinterpret_cast<std::uintptr_t>(map.data()) % (2 * mib), 0u);
        CHECK_EQ(map.size(), n_bytes);
        const std::size_t mapped = address_space() - before;
        CHECK(mapped >= n_bytes && mapped <= n_bytes + std::max(n_bytes / 4, page) &&
              mapped < n_bytes + 2 * mib);
        for (std::size_t at = 0; at < n_bytes; at += page) map.data()[at] = std::byte{1};
    }
    CHECK_EQ(address_space(), before);
}

TEST(small_maps_take_the_pages_that_are_used) {
    constexpr std::size_t stack_bytes = std::size_t{1} << 20;
    const std::size_t before = anonymous_bytes();
    std::vector<AnonymousMap> maps;
    for (int i = 0; i < 32; ++i) {
        maps.emplace_back(stack_bytes, "stack of a thread");
        maps.back().data()[stack_bytes - 1] = std::byte{1};
    }
    // One page each, and what a sanitizer keeps of them.
    CHECK(anonymous_bytes() < before + maps.size() * stack_bytes / 4);
}

TEST(an_anonymous_map_moves) {
    AnonymousMap one(100, "test");
    one.data()[5] = std::byte{7};
    AnonymousMap other;
    CHECK(other.data() == nullptr);
    other = std::move(one);
    CHECK_EQ(other.data()[5], std::byte{7});
    const AnonymousMap third(std::move(other));
    CHECK_EQ(third.data()[5], std::byte{7});
    CHECK_EQ(third.size(), 100u);
    other = {};
    CHECK(other.data() == nullptr);
}

TEST(too_many_bytes_are_an_error_that_names_the_purpose) {
    CHECK_THROWS(AnonymousMap(std::size_t{1} << 62, "KV cache"),
                 "out of memory: 4611686018427387904 bytes for the KV cache");
    const AnonymousMap nothing(0, "test");
    CHECK(nothing.data() == nullptr);
}

TEST(an_arena_places_what_it_measured) {
    float *floats = nullptr;
    std::byte *bytes = nullptr;
    double *doubles = nullptr;
    const AnonymousMap block = chatllm::build_arena("test", [&](ArenaCursor &arena) {
        floats = arena.take<float>(3);
        bytes = arena.take<std::byte>(65);
        doubles = arena.take<double>(2);
    });
    CHECK_EQ(block.size(), std::size_t{64 + 128 + 64});
    CHECK(reinterpret_cast<std::byte *>(floats) == block.data());
    CHECK(bytes == block.data() + 64);
    CHECK(reinterpret_cast<std::byte *>(doubles) == block.data() + 192);
}

TEST(an_arena_beyond_the_address_space_is_an_error) {
    constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
    for (const std::size_t n : {most, most / 4, most / 8 + 1}) {
        CHECK_THROWS(chatllm::build_arena("test", [&](ArenaCursor &arena) { arena.take<double>(n); }),
                     "out of memory");
    }
    CHECK_THROWS(chatllm::build_arena("test",
                                      [&](ArenaCursor &arena) {
                                          for (int i = 0; i < 9; ++i) arena.take<std::byte>(most / 16);
                                      }),
                 "out of memory");
}

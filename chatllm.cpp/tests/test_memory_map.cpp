#include "base/memory_map.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "base/arena.h"
#include "check.h"
#include "temporary.h"

using chatllm::AnonymousMap;
using chatllm::ArenaCursor;
using chatllm::FileMap;
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

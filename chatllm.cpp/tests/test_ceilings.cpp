#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <numeric>
#include <string_view>
#include <vector>

#include "ceilings/loops.h"
#include "check.h"
#include "libchatllm.h"

// How fast this machine is cannot be asserted: only that every kind answers with rates that can be true, and
// that the loops do the work that is counted.

namespace {

using chatllm::ComputeLoop;
using chatllm::ReadLoop;
using chatllm::Registers;

struct Loops {
    std::vector<ReadLoop> read{chatllm::portable_read()};
    std::vector<ComputeLoop> int8{chatllm::portable_int8()};
    std::vector<ComputeLoop> bf16;
    std::vector<ComputeLoop> f32{chatllm::portable_f32()};
};

// Those that this processor can run.
Loops available_loops() {
    Loops loops;
#if defined(__x86_64__)
    const std::string_view int8 = chatllm_ext_ceiling_isa("int8"), bf16 = chatllm_ext_ceiling_isa("bf16");
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        loops.read.push_back(chatllm::avx2_read());
        loops.int8.push_back(chatllm::avx2_int8());
        loops.f32.push_back(chatllm::avx2_f32());
    }
    if (int8 == chatllm::avxvnni_int8().isa) loops.int8.push_back(chatllm::avxvnni_int8());
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
        loops.read.push_back(chatllm::avx512_read());
        loops.int8.push_back(chatllm::avx512_int8());
        loops.f32.push_back(chatllm::avx512_f32());
    }
    if (int8 == chatllm::avx512vnni_int8().isa) loops.int8.push_back(chatllm::avx512vnni_int8());
    if (bf16 == chatllm::avx512bf16_bf16().isa) loops.bf16.push_back(chatllm::avx512bf16_bf16());
#endif
    return loops;
}

// With operands that are all one, the sum of all sums is the number of products: half of the operations.
template <typename Operand, typename Sum> void check_count(const ComputeLoop &loop, Operand one) {
    constexpr int n_rounds = 7;
    Registers registers{};
    for (std::size_t at = 0; at < sizeof(registers.a); at += sizeof(one)) {
        std::memcpy(registers.a + at, &one, sizeof(one));
        std::memcpy(registers.b + at, &one, sizeof(one));
    }
    loop.run(registers, n_rounds);
    Sum sums[std::size(registers.sum) / sizeof(Sum)];
    std::memcpy(sums, registers.sum, sizeof(sums));
    CHECK_EQ(std::accumulate(std::begin(sums), std::end(sums), 0.0), loop.operations_a_round / 2 * n_rounds);
}

}  // namespace

TEST(as_many_products_are_summed_as_are_counted) {
    const Loops loops = available_loops();
    for (const ComputeLoop &loop : loops.int8) check_count<std::int8_t, std::int32_t>(loop, 1);
    for (const ComputeLoop &loop : loops.bf16) check_count<std::uint16_t, float>(loop, 0x3f80);
    for (const ComputeLoop &loop : loops.f32) check_count<float, float>(loop, 1.0f);
}

TEST(every_cache_line_is_read) {
    constexpr std::size_t n_bytes = 8192, line_bytes = 64;
    struct alignas(line_bytes) Line {
        std::uint64_t words[line_bytes / sizeof(std::uint64_t)];
    };
    for (const ReadLoop &loop : available_loops().read) {
        std::vector<Line> lines(n_bytes / line_bytes);
        const auto *data = reinterpret_cast<const std::byte *>(lines.data());
        CHECK_EQ(loop.run(data, n_bytes), 0);
        for (Line &line : lines) {
            line.words[5] = 1;
            CHECK(loop.run(data, n_bytes) != 0);
            line.words[5] = 0;
        }
    }
}

TEST(every_kind_has_rates_and_a_name) {
    for (const char *kind : {"read", "int8", "bf16", "f32"}) {
        const char *isa = chatllm_ext_ceiling_isa(kind);
        CHECK(isa != nullptr && !std::string_view(isa).empty());
        for (const int n_threads : {1, 2, 3}) {
            std::vector<double> rates(3, -1.0);
            CHECK_EQ(chatllm_ext_measure_ceiling(kind, n_threads, 3, 0.5, rates.data()), 0);
            for (const double rate : rates) CHECK(std::isfinite(rate) && rate > 0);
        }
    }
}

TEST(only_the_slices_asked_for_are_written) {
    std::vector<double> rates(3, -1.0);
    CHECK_EQ(chatllm_ext_measure_ceiling("int8", 2, 2, 0.1, rates.data()), 0);
    CHECK(rates[1] > 0);
    CHECK_EQ(rates[2], -1.0);
}

TEST(bf16_that_is_measured_as_f32_says_so) {
    const std::string_view bf16 = chatllm_ext_ceiling_isa("bf16"), f32 = chatllm_ext_ceiling_isa("f32");
    CHECK(bf16 == f32 || bf16.find("bf16") != bf16.npos);
}

TEST(what_cannot_be_measured_is_refused_and_nothing_is_written) {
    double rate = -1.0;
    for (const char *kind : {"", "int4", "READ", "read "}) {
        CHECK(chatllm_ext_ceiling_isa(kind) == nullptr);
        CHECK_EQ(chatllm_ext_measure_ceiling(kind, 1, 1, 1.0, &rate), -1);
    }
    CHECK(chatllm_ext_ceiling_isa(nullptr) == nullptr);
    CHECK_EQ(chatllm_ext_measure_ceiling(nullptr, 1, 1, 1.0, &rate), -1);
    CHECK_EQ(chatllm_ext_measure_ceiling("f32", 1, 1, 1.0, nullptr), -1);
    for (const int count : {0, -1, std::numeric_limits<int>::min()}) {
        CHECK_EQ(chatllm_ext_measure_ceiling("f32", count, 1, 1.0, &rate), -1);
        CHECK_EQ(chatllm_ext_measure_ceiling("f32", 1, count, 1.0, &rate), -1);
    }
    CHECK_EQ(chatllm_ext_measure_ceiling("f32", std::numeric_limits<int>::max(), 1, 1.0, &rate), -1);
    const double infinity = std::numeric_limits<double>::infinity();
    for (const double slice_ms : {0.0, -1.0, infinity, std::nan("")})
        CHECK_EQ(chatllm_ext_measure_ceiling("f32", 1, 1, slice_ms, &rate), -1);
    CHECK_EQ(rate, -1.0);
}

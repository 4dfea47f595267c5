// What any processor can run; the compiler uses its baseline's vectors where it has some.

#include "ceilings/loops.h"

namespace chatllm {
namespace {

constexpr int n_lanes = 16;  // in each of the chains
constexpr int n_chains = 4;

// What is in an array is unknown from here on: no product is carried over to the next round, and equal chains
// are not computed once for all.
#define CHATLLM_FORGET(values) __asm__("" : "+m"(values))

std::uint64_t read(const std::byte *data, std::size_t bytes) {
    const std::size_t part = bytes / 4 / sizeof(std::uint64_t);
    const auto *words = reinterpret_cast<const std::uint64_t *>(data);
    std::uint64_t sums[4] = {};
    for (std::size_t i = 0; i < part; i += 8) {
        for (std::size_t place = 0; place < 4; ++place) {
            for (std::size_t word = 0; word < 8; ++word) sums[place] += words[place * part + i + word];
        }
    }
    return sums[0] + sums[1] + sums[2] + sums[3];
}

void int8(Registers &registers, int n_rounds) {
    std::int8_t a[n_lanes], b[n_lanes];
    __builtin_memcpy(a, registers.a, sizeof(a));
    __builtin_memcpy(b, registers.b, sizeof(b));
    std::uint32_t sums[n_lanes] = {};
    for (int round = 0; round < n_rounds; ++round) {
        CHATLLM_FORGET(a);
        for (int lane = 0; lane < n_lanes; ++lane)
            sums[lane] += static_cast<std::uint32_t>(a[lane] * b[lane]);
    }
    __builtin_memcpy(registers.sum, sums, sizeof(sums));
}

void f32(Registers &registers, int n_rounds) {
    float a[n_lanes], b[n_lanes], sums[n_chains][n_lanes] = {};
    CHATLLM_FORGET(sums);
    __builtin_memcpy(a, registers.a, sizeof(a));
    __builtin_memcpy(b, registers.b, sizeof(b));
    for (int round = 0; round < n_rounds; ++round) {
        CHATLLM_FORGET(a);
        for (auto &chain : sums) {
            for (int lane = 0; lane < n_lanes; ++lane) chain[lane] += a[lane] * b[lane];
        }
    }
    for (int chain = 1; chain < n_chains; ++chain) {
        for (int lane = 0; lane < n_lanes; ++lane) sums[0][lane] += sums[chain][lane];
    }
    __builtin_memcpy(registers.sum, sums[0], sizeof(sums[0]));
}

}  // namespace

ReadLoop portable_read() { return {"portable", read}; }
ComputeLoop portable_int8() { return {"portable", 2.0 * n_lanes, int8}; }
ComputeLoop portable_f32() { return {"portable", 2.0 * n_lanes * n_chains, f32}; }

}  // namespace chatllm

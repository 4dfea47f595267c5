#include "ceilings/loops.h"

#if defined(__x86_64__)

#include <immintrin.h>

// What is in a register is unknown from here on, at no cost. So equal chains are not computed once for all,
// nor is a product of what does not change computed once for all rounds.
#define CHATLLM_FORGET(value) __asm__("" : "+x"(value))
#define CHATLLM_CHAINS(sums) _Pragma("GCC unroll 16") for (auto &sum : sums)

namespace chatllm {
namespace {

constexpr int n_chains = 12;  // and two operands, of 16 registers

__m256i load(const std::byte *bytes) { return _mm256_load_si256(reinterpret_cast<const __m256i *>(bytes)); }

void store(std::byte *bytes, __m256i value) { _mm256_store_si256(reinterpret_cast<__m256i *>(bytes), value); }

std::uint64_t read(const std::byte *data, std::size_t bytes) {
    const std::size_t part = bytes / 4;
    __m256i sums[4] = {};
    for (std::size_t i = 0; i < part; i += 64) {
        for (std::size_t place = 0; place < 4; ++place) {
            const std::byte *line = data + place * part + i;
            sums[place] = _mm256_xor_si256(sums[place], _mm256_xor_si256(load(line), load(line + 32)));
        }
    }
    const __m256i sum =
        _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3]));
    return static_cast<std::uint64_t>(_mm256_extract_epi64(sum, 0) ^ _mm256_extract_epi64(sum, 1) ^
                                      _mm256_extract_epi64(sum, 2) ^ _mm256_extract_epi64(sum, 3));
}

template <typename Vector> [[gnu::always_inline]] inline void begin(Vector (&sums)[n_chains]) {
    CHATLLM_CHAINS(sums) {
        sum = Vector{};
        CHATLLM_FORGET(sum);
    }
}

[[gnu::always_inline]] inline void sum_up(Registers &registers, const __m256i (&sums)[n_chains]) {
    __m256i total{};
    CHATLLM_CHAINS(sums) total = _mm256_add_epi32(total, sum);
    store(registers.sum, total);
}

void int8(Registers &registers, int n_rounds) {
    __m256i a = load(registers.a);
    const __m256i b = load(registers.b), ones = _mm256_set1_epi16(1);
    __m256i sums[n_chains];
    begin(sums);
    for (int round = 0; round < n_rounds; ++round) {
        CHATLLM_CHAINS(sums) {
            CHATLLM_FORGET(a);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
        }
    }
    sum_up(registers, sums);
}

#if defined(__clang__) || __GNUC__ >= 11
[[gnu::target("avxvnni")]] void int8_vnni(Registers &registers, int n_rounds) {
    const __m256i a = load(registers.a), b = load(registers.b);
    __m256i sums[n_chains];
    begin(sums);
    for (int round = 0; round < n_rounds; ++round) {
        CHATLLM_CHAINS(sums) sum = _mm256_dpbusd_avx_epi32(sum, a, b);
    }
    sum_up(registers, sums);
}
#endif

void f32(Registers &registers, int n_rounds) {
    const __m256 a = _mm256_castsi256_ps(load(registers.a)), b = _mm256_castsi256_ps(load(registers.b));
    __m256 sums[n_chains];
    begin(sums);
    for (int round = 0; round < n_rounds; ++round) {
        CHATLLM_CHAINS(sums) sum = _mm256_fmadd_ps(a, b, sum);
    }
    __m256 total{};
    CHATLLM_CHAINS(sums) total = _mm256_add_ps(total, sum);
    store(registers.sum, _mm256_castps_si256(total));
}

}  // namespace

ReadLoop avx2_read() { return {"avx2", read}; }
ComputeLoop avx2_int8() { return {"avx2 vpmaddubsw", 2.0 * 32 * n_chains, int8}; }
#if defined(__clang__) || __GNUC__ >= 11
ComputeLoop avxvnni_int8() { return {"avxvnni vpdpbusd", 2.0 * 32 * n_chains, int8_vnni}; }
#else  // the compiler is older than the instruction
ComputeLoop avxvnni_int8() { return avx2_int8(); }
#endif
ComputeLoop avx2_f32() { return {"avx2 vfmadd", 2.0 * 8 * n_chains, f32}; }

}  // namespace chatllm

#endif

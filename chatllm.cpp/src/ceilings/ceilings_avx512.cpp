#include "ceilings/loops.h"

#if defined(__x86_64__)

#include <immintrin.h>

// What is in a register is unknown from here on, at no cost. So equal chains are not computed once for all,
// nor is a product of what does not change computed once for all rounds.
#define CHATLLM_FORGET(value) __asm__("" : "+v"(value))
#define CHATLLM_CHAINS(sums) _Pragma("GCC unroll 16") for (auto &sum : sums)

namespace chatllm {
namespace {

constexpr int n_chains = 16;

std::uint64_t read(const std::byte *data, std::size_t bytes) {
    const std::size_t part = bytes / 4;
    __m512i sums[4] = {};
    for (std::size_t i = 0; i < part; i += 128) {
        for (std::size_t place = 0; place < 4; ++place) {
            const std::byte *line = data + place * part + i;
            sums[place] = _mm512_xor_si512(
                sums[place], _mm512_xor_si512(_mm512_load_si512(line), _mm512_load_si512(line + 64)));
        }
    }
    const __m512i sum =
        _mm512_xor_si512(_mm512_xor_si512(sums[0], sums[1]), _mm512_xor_si512(sums[2], sums[3]));
    alignas(64) std::uint64_t words[8];
    _mm512_store_si512(words, sum);
    return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
}

template <typename Vector> [[gnu::always_inline]] inline void begin(Vector (&sums)[n_chains]) {
    CHATLLM_CHAINS(sums) {
        sum = Vector{};
        CHATLLM_FORGET(sum);
    }
}

[[gnu::always_inline]] inline void sum_up(Registers &registers, const __m512i (&sums)[n_chains]) {
    __m512i total{};
    CHATLLM_CHAINS(sums) total = _mm512_add_epi32(total, sum);
    _mm512_store_si512(registers.sum, total);
}

[[gnu::always_inline]] inline void sum_up(Registers &registers, const __m512 (&sums)[n_chains]) {
    __m512 total{};
    CHATLLM_CHAINS(sums) total = _mm512_add_ps(total, sum);
    _mm512_store_si512(registers.sum, _mm512_castps_si512(total));
}

void int8(Registers &registers, int n_rounds) {
    __m512i a = _mm512_load_si512(registers.a);
    const __m512i b = _mm512_load_si512(registers.b), ones = _mm512_set1_epi16(1);
    __m512i sums[n_chains];
    begin(sums);
    for (int round = 0; round < n_rounds; ++round) {
        CHATLLM_CHAINS(sums) {
            CHATLLM_FORGET(a);
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), ones));
        }
    }
    sum_up(registers, sums);
}

[[gnu::target("avx512vnni")]] void int8_vnni(Registers &registers, int n_rounds) {
    const __m512i a = _mm512_load_si512(registers.a), b = _mm512_load_si512(registers.b);
    __m512i sums[n_chains];
    begin(sums);
    for (int round = 0; round < n_rounds; ++round) {
        CHATLLM_CHAINS(sums) sum = _mm512_dpbusd_epi32(sum, a, b);
    }
    sum_up(registers, sums);
}

[[gnu::target("avx512bf16")]] void bf16(Registers &registers, int n_rounds) {
    const auto a = reinterpret_cast<__m512bh>(_mm512_load_si512(registers.a));
    const auto b = reinterpret_cast<__m512bh>(_mm512_load_si512(registers.b));
    __m512 sums[n_chains];
    begin(sums);
    for (int round = 0; round < n_rounds; ++round) {
        CHATLLM_CHAINS(sums) sum = _mm512_dpbf16_ps(sum, a, b);
    }
    sum_up(registers, sums);
}

void f32(Registers &registers, int n_rounds) {
    const __m512 a = _mm512_load_ps(registers.a), b = _mm512_load_ps(registers.b);
    __m512 sums[n_chains];
    begin(sums);
    for (int round = 0; round < n_rounds; ++round) {
        CHATLLM_CHAINS(sums) sum = _mm512_fmadd_ps(a, b, sum);
    }
    sum_up(registers, sums);
}

}  // namespace

ReadLoop avx512_read() { return {"avx512", read}; }
ComputeLoop avx512_int8() { return {"avx512 vpmaddubsw", 2.0 * 64 * n_chains, int8}; }
ComputeLoop avx512vnni_int8() { return {"avx512vnni vpdpbusd", 2.0 * 64 * n_chains, int8_vnni}; }
ComputeLoop avx512bf16_bf16() { return {"avx512bf16 vdpbf16ps", 2.0 * 32 * n_chains, bf16}; }
ComputeLoop avx512_f32() { return {"avx512 vfmadd", 2.0 * 16 * n_chains, f32}; }

}  // namespace chatllm

#endif

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <string>

#include "base/error.h"
#include "kernels/kernels.h"

namespace chatllm {

#if defined(__x86_64__)
namespace {

// Not by __builtin_cpu_supports, which learned these names late: clang 14 refuses them.
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

bool has_avx_vnni() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & bit_AVXVNNI) != 0;
}

bool has_avx512_bf16() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & bit_AVX512BF16) != 0;
}

bool has_avx512() {
    // Each of these also says that the system saves the registers.
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

}  // namespace
#endif

std::vector<const Kernels *> available_kernels() {
    std::vector<const Kernels *> tables{&scalar_kernels()};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
        tables.push_back(&avx2_kernels());
        if (has_avx_vnni()) tables.push_back(&avx_vnni_kernels());
        if (has_avx512()) tables.push_back(&avx512_kernels(has_avx512_bf16()));
    }
#elif defined(__aarch64__)
    if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) tables.push_back(&neon_kernels());
#endif
    return tables;
}

const Kernels &choose_kernels(std::string_view name) {
    const auto tables = available_kernels();
    if (name.empty()) return *tables.back();
    std::string names;
    for (const auto *table : tables) {
        if (name == table->name) return *table;
        names += names.empty() ? "" : ", ";
        names += table->name;
    }
    throw Error("CHATLLM_ISA=" + std::string(name) + ": this processor offers " + names);
}

}  // namespace chatllm

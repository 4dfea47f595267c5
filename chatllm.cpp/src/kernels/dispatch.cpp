#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <string>

#include "base/error.h"
#include "kernels/kernels.h"

namespace chatllm {

#if defined(__x86_64__)
namespace {

// Not by __builtin_cpu_supports, which learned the name late: clang 14 refuses it.
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace
#endif

std::vector<const Kernels *> available_kernels() {
    std::vector<const Kernels *> tables{&scalar_kernels()};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
        tables.push_back(&avx2_kernels());
    }
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

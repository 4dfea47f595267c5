#include <string>

#include "base/error.h"
#include "kernels/kernels.h"

namespace chatllm {

std::vector<const Kernels *> available_kernels() {
    std::vector<const Kernels *> tables{&scalar_kernels()};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
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

#pragma once

#include <cstddef>
#include <cstdint>

// The loops that a ceiling is measured with, one file an instruction set. Like the kernels' files these are
// compiled with flags of their own: intrinsics and plain loops only, no inline function of the standard
// library.
namespace chatllm {

// What the loops multiply, and where they leave what they computed so that nothing of it may be left out.
struct alignas(64) Registers {
    std::byte a[64];
    std::byte b[64];
    std::byte sum[64];
};

// Products summed in registers alone, in as many independent chains as hide the latency of an addition.
struct ComputeLoop {
    const char *isa;
    double operations_a_round;  // a multiplication and an addition are two
    void (*run)(Registers &registers, int n_rounds);
};

// A pass over memory from four places at once, which keeps more of the hardware's prefetchers busy than one
// does; `bytes` is a multiple of 1024, `data` aligned to 64. Returns a sum of what was read.
struct ReadLoop {
    const char *isa;
    std::uint64_t (*run)(const std::byte *data, std::size_t bytes);
};

ReadLoop portable_read();
ComputeLoop portable_int8();
ComputeLoop portable_f32();

#if defined(__x86_64__)
ReadLoop avx2_read();
ComputeLoop avx2_int8();     // vpmaddubsw, vpmaddwd, vpaddd
ComputeLoop avxvnni_int8();  // vpdpbusd on ymm, with a VEX prefix
ComputeLoop avx2_f32();

ReadLoop avx512_read();
ComputeLoop avx512_int8();  // vpmaddubsw, vpmaddwd, vpaddd
ComputeLoop avx512vnni_int8();
ComputeLoop avx512bf16_bf16();
ComputeLoop avx512_f32();
#endif

}  // namespace chatllm

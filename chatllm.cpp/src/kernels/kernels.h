#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

// The few operations that cost time, behind one table: a file per instruction set fills one in, and the
// choice is made at run time. Kernels know arrays, never models. Every table must agree with `scalar` within
// the ceilings stated in tests/test_kernels.cpp.
namespace chatllm {

// The block of activations that shares one scale, and the block of weights after unpacking.
inline constexpr int quant_block = 32;

// Rows of weights, unpacked: value = quant * scale[block] + offset[block].
struct QuantRows {
    const std::int8_t *quants;  // [n_rows, n_cols]
    const float *scales;        // [n_rows, n_cols / 32]
    const float *offsets;       // [n_rows, n_cols / 32], or null when all are zero
};

// Rows of activations: value = quant * scale[block]; sum[block] = scale * (sum of its quants). Sixteen bits,
// because eight lose two orders of magnitude of precision and multiply no faster than these on AVX2.
struct QuantActivations {
    const std::int16_t *quants;  // [n_tokens, n_cols]
    const float *scales;         // [n_tokens, n_cols / 32]
    const float *sums;           // [n_tokens, n_cols / 32]
};

struct Kernels {
    const char *name;

    // out[t * out_stride + r] = sum over c of w[r * w_stride + c] * x[t * x_stride + c]
    void (*gemm_f32)(const float *w, std::size_t w_stride, int n_rows, const float *x, std::size_t x_stride,
                     int n_tokens, int n_cols, float *out, std::size_t out_stride);
    // The same for quantised weights and activations; n_cols is a multiple of 32.
    void (*gemm_quants)(const QuantRows &w, int n_rows, const QuantActivations &x, int n_tokens, int n_cols,
                        float *out, std::size_t out_stride);

    // Symmetric 16-bit quantisation by blocks of 32: scale = max |x| / 32767, round half to even.
    void (*quantise_row)(const float *x, int n, std::int16_t *quants, float *scales, float *sums);

    // Unpack one row of a type; n is a multiple of its block.
    void (*unpack_f16)(const std::byte *row, int n, float *out);
    void (*unpack_q4_0)(const std::byte *row, int n, std::int8_t *quants, float *scales);
    void (*unpack_q4_1)(const std::byte *row, int n, std::int8_t *quants, float *scales, float *offsets);
    void (*unpack_q8_0)(const std::byte *row, int n, std::int8_t *quants, float *scales);
    void (*unpack_q4_k)(const std::byte *row, int n, std::int8_t *quants, float *scales, float *offsets);
    void (*pack_f16)(const float *x, int n, std::uint16_t *out);  // round to nearest even

    void (*add)(float *y, const float *x, int n);                  // y += x
    void (*add_scaled)(float *y, const float *x, float a, int n);  // y += a * x
    void (*scale)(float *y, float a, int n);                       // y *= a
    void (*gelu)(float *y, int n);                                 // y = y * (1 + erf(y / sqrt 2)) / 2
    void (*silu_multiply)(float *y, const float *x, int n);        // y = y / (1 + exp(-y)) * x
    // y = exp(y - maximum); returns the sum.
    float (*exponentials)(float *y, float maximum, int n);
    float (*maximum)(const float *x, int n);  // n >= 1
    void (*rms_norm)(const float *x, const float *weight, float epsilon, int n, float *out);
    void (*layer_norm)(const float *x, const float *weight, const float *bias, float epsilon, int n,
                       float *out);
};

const Kernels &scalar_kernels();
#if defined(__x86_64__)
const Kernels &avx2_kernels();
#endif

// The tables that this processor can run, slowest first; `scalar` is always there.
std::vector<const Kernels *> available_kernels();
// The named table, or the fastest one when `name` is empty. Throws Error naming those available.
const Kernels &choose_kernels(std::string_view name);

// Conversions that every table shares: IEEE 754 half precision in its bits.
float f16_to_f32(std::uint16_t half);
std::uint16_t f32_to_f16(float value);

}  // namespace chatllm

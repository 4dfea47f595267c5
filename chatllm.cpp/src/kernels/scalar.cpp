// The reference that every other instruction set is held to: plain loops, one operation at a time.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/kernels.h"

namespace chatllm {

float f16_to_f32(std::uint16_t half) {
    const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16;
    const std::uint32_t magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
    // Subnormal: a whole number of 2^-24.
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
}

std::uint16_t f32_to_f16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        // Adding 0.5 puts the last bit of a subnormal half at the last bit of a single: the sum rounds to
        // even.
        const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
        return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(rounded) - 0x3f000000u));
    }
    const std::uint32_t even = magnitude >> 13 & 1u;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + even) >> 13));
}

namespace {

float read_f16(const std::byte *at) {
    std::uint16_t half;
    std::memcpy(&half, at, sizeof(half));
    return f16_to_f32(half);
}

int to_int(std::byte b) { return std::to_integer<int>(b); }

void gemm_f32(const float *w, std::size_t w_stride, int n_rows, const float *x, std::size_t x_stride,
              int n_tokens, int n_cols, float *out, std::size_t out_stride) {
    for (int t = 0; t < n_tokens; ++t) {
        const float *xt = x + static_cast<std::size_t>(t) * x_stride;
        for (int r = 0; r < n_rows; ++r) {
            const float *wr = w + static_cast<std::size_t>(r) * w_stride;
            float sum = 0;
            for (int c = 0; c < n_cols; ++c) sum += wr[c] * xt[c];
            out[static_cast<std::size_t>(t) * out_stride + static_cast<std::size_t>(r)] = sum;
        }
    }
}

void gemm_quants(const QuantRows &w, int n_rows, const QuantActivations &x, int n_tokens, int n_cols,
                 float *out, std::size_t out_stride) {
    const auto n = static_cast<std::size_t>(n_cols);
    const std::size_t n_blocks = n / quant_block;
    for (std::size_t t = 0; t < static_cast<std::size_t>(n_tokens); ++t) {
        for (std::size_t r = 0; r < static_cast<std::size_t>(n_rows); ++r) {
            float sum = 0;
            for (std::size_t b = 0; b < n_blocks; ++b) {
                const std::int8_t *wq = w.quants + r * n + b * quant_block;
                const std::int16_t *xq = x.quants + t * n + b * quant_block;
                int dot = 0;
                for (int i = 0; i < quant_block; ++i) dot += wq[i] * xq[i];
                const std::size_t w_block = r * n_blocks + b;
                const std::size_t x_block = t * n_blocks + b;
                sum += static_cast<float>(dot) * (w.scales[w_block] * x.scales[x_block]);
                if (w.offsets != nullptr) sum += w.offsets[w_block] * x.sums[x_block];
            }
            out[t * out_stride + r] = sum;
        }
    }
}

void quantise_row(const float *x, int n, std::int16_t *quants, float *scales, float *sums) {
    for (int b = 0; b < n / quant_block; ++b) {
        const float *block = x + b * quant_block;
        float largest = 0;
        for (int i = 0; i < quant_block; ++i) largest = std::max(largest, std::fabs(block[i]));
        const float scale = largest / 32767.0f;
        const float inverse = largest > 0 ? 32767.0f / largest : 0.0f;
        int sum = 0;
        for (int i = 0; i < quant_block; ++i) {
            // The clamp also gives a defined value to infinities and NaN from hostile weights.
            const float rounded = std::nearbyintf(block[i] * inverse);
            const int quant = rounded >= 32767.0f   ? 32767
                              : rounded > -32767.0f ? static_cast<int>(rounded)
                                                    : -32767;
            quants[b * quant_block + i] = static_cast<std::int16_t>(quant);
            sum += quant;
        }
        scales[b] = scale;
        sums[b] = scale * static_cast<float>(sum);
    }
}

void unpack_f16(const std::byte *row, int n, float *out) {
    for (int i = 0; i < n; ++i) out[i] = read_f16(row + 2 * i);
}

// 16 bytes of nibbles: byte j holds element j in its low half and element j + 16 in its high half.
void unpack_nibbles(const std::byte *packed, std::int8_t *quants) {
    for (int j = 0; j < quant_block / 2; ++j) {
        quants[j] = static_cast<std::int8_t>(to_int(packed[j]) & 15);
        quants[j + quant_block / 2] = static_cast<std::int8_t>(to_int(packed[j]) >> 4);
    }
}

void unpack_q4_0(const std::byte *row, int n, std::int8_t *quants, float *scales) {
    for (int b = 0; b < n / quant_block; ++b, row += 18, quants += quant_block) {
        scales[b] = read_f16(row);
        unpack_nibbles(row + 2, quants);
        for (int i = 0; i < quant_block; ++i) quants[i] = static_cast<std::int8_t>(quants[i] - 8);
    }
}

void unpack_q4_1(const std::byte *row, int n, std::int8_t *quants, float *scales, float *offsets) {
    for (int b = 0; b < n / quant_block; ++b, row += 20) {
        scales[b] = read_f16(row);
        offsets[b] = read_f16(row + 2);
        unpack_nibbles(row + 4, quants + b * quant_block);
    }
}

void unpack_q8_0(const std::byte *row, int n, std::int8_t *quants, float *scales) {
    for (int b = 0; b < n / quant_block; ++b, row += 34) {
        scales[b] = read_f16(row);
        std::memcpy(quants + b * quant_block, row + 2, quant_block);
    }
}

// A super-block of 256: eight blocks of 32, each with a 6-bit scale and a 6-bit minimum, both in units of an
// f16. Scales and minima 0 to 3 are the low six bits of bytes 0 to 3 and 4 to 7; those of 4 to 7 have their
// low four bits in bytes 8 to 11 (scale low half, minimum high half) and their upper two on top of bytes 0
// to 7.
void unpack_q4_k(const std::byte *row, int n, std::int8_t *quants, float *scales, float *offsets) {
    constexpr int super_block = 256;
    for (int s = 0; s < n / super_block; ++s, row += 144) {
        const float d = read_f16(row);
        const float d_min = read_f16(row + 2);
        const std::byte *packed = row + 4;
        for (int b = 0; b < 8; ++b) {
            int scale;
            int minimum;
            if (b < 4) {
                scale = to_int(packed[b]) & 63;
                minimum = to_int(packed[b + 4]) & 63;
            } else {
                scale = (to_int(packed[b + 4]) & 15) | (to_int(packed[b - 4]) >> 6) << 4;
                minimum = to_int(packed[b + 4]) >> 4 | (to_int(packed[b]) >> 6) << 4;
            }
            *scales++ = d * static_cast<float>(scale);
            *offsets++ = -d_min * static_cast<float>(minimum);
        }
        // Each 32 bytes hold two blocks: the first in the low halves, the second in the high halves.
        const std::byte *nibbles = row + 16;
        for (int pair = 0; pair < 4; ++pair, nibbles += 32, quants += 64) {
            for (int i = 0; i < 32; ++i) {
                quants[i] = static_cast<std::int8_t>(to_int(nibbles[i]) & 15);
                quants[i + 32] = static_cast<std::int8_t>(to_int(nibbles[i]) >> 4);
            }
        }
    }
}

void pack_f16(const float *x, int n, std::uint16_t *out) {
    for (int i = 0; i < n; ++i) out[i] = f32_to_f16(x[i]);
}

void add(float *y, const float *x, int n) {
    for (int i = 0; i < n; ++i) y[i] += x[i];
}

void add_scaled(float *y, const float *x, float a, int n) {
    for (int i = 0; i < n; ++i) y[i] += a * x[i];
}

void scale(float *y, float a, int n) {
    for (int i = 0; i < n; ++i) y[i] *= a;
}

void gelu(float *y, int n) {
    constexpr float inverse_sqrt_2 = 0.70710678118654752440f;
    for (int i = 0; i < n; ++i) y[i] = 0.5f * y[i] * (1.0f + std::erf(y[i] * inverse_sqrt_2));
}

void silu_multiply(float *y, const float *x, int n) {
    for (int i = 0; i < n; ++i) y[i] = y[i] / (1.0f + std::exp(-y[i])) * x[i];
}

float exponentials(float *y, float maximum, int n) {
    float sum = 0;
    for (int i = 0; i < n; ++i) {
        y[i] = std::exp(y[i] - maximum);
        sum += y[i];
    }
    return sum;
}

float maximum(const float *x, int n) {
    float largest = x[0];
    for (int i = 1; i < n; ++i) largest = std::max(largest, x[i]);
    return largest;
}

void rms_norm(const float *x, const float *weight, float epsilon, int n, float *out) {
    float squares = 0;
    for (int i = 0; i < n; ++i) squares += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
    for (int i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

void layer_norm(const float *x, const float *weight, const float *bias, float epsilon, int n, float *out) {
    float sum = 0;
    for (int i = 0; i < n; ++i) sum += x[i];
    const float mean = sum / static_cast<float>(n);
    float squares = 0;
    for (int i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
    for (int i = 0; i < n; ++i) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

}  // namespace

const Kernels &scalar_kernels() {
    static constexpr Kernels table{
        .name = "scalar",
        .gemm_f32 = gemm_f32,
        .gemm_quants = gemm_quants,
        .quantise_row = quantise_row,
        .unpack_f16 = unpack_f16,
        .unpack_q4_0 = unpack_q4_0,
        .unpack_q4_1 = unpack_q4_1,
        .unpack_q8_0 = unpack_q8_0,
        .unpack_q4_k = unpack_q4_k,
        .pack_f16 = pack_f16,
        .add = add,
        .add_scaled = add_scaled,
        .scale = scale,
        .gelu = gelu,
        .silu_multiply = silu_multiply,
        .exponentials = exponentials,
        .maximum = maximum,
        .rms_norm = rms_norm,
        .layer_norm = layer_norm,
    };
    return table;
}

}  // namespace chatllm

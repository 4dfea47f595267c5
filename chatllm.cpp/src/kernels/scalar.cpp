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

std::uint16_t f32_to_bf16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float bf16_to_f32(std::uint16_t half) { return std::bit_cast<float>(std::uint32_t{half} << 16); }

namespace {

float read_f16(const std::byte *at) {
    std::uint16_t half;
    std::memcpy(&half, at, sizeof(half));
    return f16_to_f32(half);
}

int to_int(std::byte b) { return std::to_integer<int>(b); }

using Size = std::size_t;

constexpr int n_tile_rows = 4;
constexpr int n_panel_rows = 4;

Size size(int n) { return static_cast<Size>(n); }

// --- Single precision.

Size single_tile_bytes(int n_cols) { return size(n_cols) * n_tile_rows * sizeof(float); }
Size single_row_bytes(int n_cols) { return size(n_cols) * sizeof(float); }

void unpack_single(Storage storage, const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                   std::byte *tile) {
    auto *values = reinterpret_cast<float *>(tile);
    for (Size r = 0; r < n_tile_rows; ++r) {
        for (Size c = 0; c < size(n_cols); ++c) {
            float &value = values[c * n_tile_rows + r];
            if (r >= size(n_rows)) {
                value = 0;
            } else if (storage == Storage::f16) {
                value = read_f16(rows + r * row_bytes + 2 * c);
            } else {
                std::memcpy(&value, rows + r * row_bytes + sizeof(float) * c, sizeof(value));
            }
        }
    }
}

void pack_single(const float *x, Size stride, int n_rows, int n_cols, std::byte *panel) {
    auto *values = reinterpret_cast<float *>(panel);
    for (Size c = 0; c < size(n_cols); ++c) {
        for (Size t = 0; t < size(n_rows); ++t) *values++ = x[t * stride + c];
    }
}

void put(float value, bool accumulate, float &out) { out = accumulate ? out + value : value; }

void multiply_single(const std::byte *tile, int n_rows, const std::byte *panel, int n_tokens, int n_cols,
                     bool accumulate, float *out, Size out_stride) {
    const auto *w = reinterpret_cast<const float *>(tile);
    const auto *x = reinterpret_cast<const float *>(panel);
    for (Size t = 0; t < size(n_tokens); ++t) {
        for (Size r = 0; r < size(n_rows); ++r) {
            float sum = 0;
            for (Size c = 0; c < size(n_cols); ++c) sum += w[c * n_tile_rows + r] * x[c * size(n_tokens) + t];
            put(sum, accumulate, out[t * out_stride + r]);
        }
    }
}

// --- Quantised. A tile is whole numbers [n_rows][n_cols], then scales and offsets [n_rows][n_blocks]:
// value = quant * scale + offset. A panel row is 16-bit numbers [n_cols], then a scale and a sum for each
// block: value = quant * scale, sum = scale * (sum of its quants).

constexpr int most_quant = 32767;

struct QuantTile {
    std::int8_t *quants;
    float *scales;
    float *offsets;
};

QuantTile quant_tile(std::byte *tile, int n_cols) {
    const Size n = n_tile_rows * size(n_cols);
    auto *scales = reinterpret_cast<float *>(tile + n);
    return {reinterpret_cast<std::int8_t *>(tile), scales, scales + n / quant_block};
}

Size quant_tile_bytes(int n_cols) {
    const Size n = n_tile_rows * size(n_cols);
    return n + 2 * sizeof(float) * (n / quant_block);
}

Size quant_row_bytes(int n_cols) {
    return size(n_cols) * sizeof(std::int16_t) + 2 * sizeof(float) * (size(n_cols) / quant_block);
}

void unpack_quant_tile(Storage storage, const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                       std::byte *tile) {
    const QuantTile made = quant_tile(tile, n_cols);
    std::memset(tile, 0, quant_tile_bytes(n_cols));
    const Size n_blocks = size(n_cols) / quant_block;
    for (Size r = 0; r < size(n_rows); ++r) {
        unpack_quants(storage, rows + r * row_bytes, n_cols, made.quants + r * size(n_cols),
                      made.scales + r * n_blocks, made.offsets + r * n_blocks);
    }
}

// Symmetric quantisation by blocks of 32, half to even.
void pack_quants(const float *x, Size stride, int n_rows, int n_cols, std::byte *panel) {
    for (int t = 0; t < n_rows; ++t, x += stride, panel += quant_row_bytes(n_cols)) {
        auto *quants = reinterpret_cast<std::int16_t *>(panel);
        auto *scales = reinterpret_cast<float *>(quants + n_cols);
        float *sums = scales + n_cols / quant_block;
        for (int b = 0; b < n_cols / quant_block; ++b) {
            const float *block = x + b * quant_block;
            float largest = 0;
            for (int i = 0; i < quant_block; ++i) largest = std::max(largest, std::fabs(block[i]));
            const float inverse = largest > 0 ? most_quant / largest : 0.0f;
            int sum = 0;
            for (int i = 0; i < quant_block; ++i) {
                // The clamp also gives a defined value to infinities and NaN from hostile weights.
                const float rounded = std::nearbyintf(block[i] * inverse);
                const int quant = rounded >= most_quant   ? most_quant
                                  : rounded > -most_quant ? static_cast<int>(rounded)
                                                          : -most_quant;
                quants[b * quant_block + i] = static_cast<std::int16_t>(quant);
                sum += quant;
            }
            scales[b] = largest / most_quant;
            sums[b] = scales[b] * static_cast<float>(sum);
        }
    }
}

void multiply_quants(const std::byte *tile, int n_rows, const std::byte *panel, int n_tokens, int n_cols,
                     bool accumulate, float *out, Size out_stride) {
    const QuantTile w = quant_tile(const_cast<std::byte *>(tile), n_cols);
    const Size n_blocks = size(n_cols) / quant_block;
    for (Size t = 0; t < size(n_tokens); ++t) {
        const std::byte *row = panel + t * quant_row_bytes(n_cols);
        const auto *quants = reinterpret_cast<const std::int16_t *>(row);
        const auto *scales = reinterpret_cast<const float *>(quants + n_cols);
        const float *sums = scales + n_blocks;
        for (Size r = 0; r < size(n_rows); ++r) {
            float sum = 0;
            for (Size b = 0; b < n_blocks; ++b) {
                int dot = 0;
                for (Size i = b * quant_block; i < (b + 1) * quant_block; ++i) {
                    dot += w.quants[r * size(n_cols) + i] * quants[i];
                }
                sum += static_cast<float>(dot) * (w.scales[r * n_blocks + b] * scales[b]) +
                       w.offsets[r * n_blocks + b] * sums[b];
            }
            put(sum, accumulate, out[t * out_stride + r]);
        }
    }
}

void interleave(const std::uint32_t *const *rows, int n_rows, int n_words, std::uint32_t *out) {
    for (int i = 0; i < n_words; ++i) {
        for (int r = 0; r < n_rows; ++r) *out++ = rows[r][i];
    }
}

void round_to_half(const float *x, int n, std::uint16_t *out) {
    for (int i = 0; i < n; ++i) out[i] = f32_to_bf16(x[i]);
}

void attention_scores(const float *q, int n_heads, int width, const std::uint16_t *keys, Size stride, int n,
                      float scale, float *scores, Size score_stride) {
    for (Size i = 0; i < size(n); ++i) {
        for (Size h = 0; h < size(n_heads); ++h) {
            float sum = 0;
            for (Size c = 0; c < size(width); ++c)
                sum += q[h * size(width) + c] * f16_to_f32(keys[i * stride + c]);
            scores[h * score_stride + i] = scale * sum;
        }
    }
}

void attention_values(const float *weights, Size weight_stride, int n_heads, int width,
                      const std::uint16_t *values, Size stride, int n, float *out) {
    for (Size i = 0; i < size(n); ++i) {
        for (Size h = 0; h < size(n_heads); ++h) {
            for (Size c = 0; c < size(width); ++c)
                out[h * size(width) + c] +=
                    weights[h * weight_stride + i] * f16_to_f32(values[i * stride + c]);
        }
    }
}

const VectorProduct *vector_product(Storage) { return nullptr; }

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

void unpack_quants(Storage storage, const std::byte *row, int n, std::int8_t *quants, float *scales,
                   float *offsets) {
    switch (storage) {
    case Storage::q4_0:
        return unpack_q4_0(row, n, quants, scales);
    case Storage::q4_1:
        return unpack_q4_1(row, n, quants, scales, offsets);
    case Storage::q4_k:
        return unpack_q4_k(row, n, quants, scales, offsets);
    case Storage::q8_0:
        return unpack_q8_0(row, n, quants, scales);
    case Storage::f32:
    case Storage::f16:
    case Storage::q4_0_16x4:
        return;
    }
}

void unpack_row(Storage storage, const std::byte *row, int n, float *out) {
    if (storage == Storage::f16) return unpack_f16(row, n, out);
    if (storage == Storage::f32) {
        std::memcpy(out, row, size(n) * sizeof(float));
        return;
    }
    constexpr int piece = 256;  // a multiple of every block
    const Size piece_bytes = storage == Storage::q4_0   ? piece / 32 * 18
                             : storage == Storage::q4_1 ? piece / 32 * 20
                             : storage == Storage::q8_0 ? piece / 32 * 34
                                                        : 144;
    for (int first = 0; first < n; first += piece, row += piece_bytes) {
        const int count = std::min(piece, n - first);
        std::int8_t quants[piece];
        float scales[piece / quant_block];
        float offsets[piece / quant_block] = {};
        unpack_quants(storage, row, count, quants, scales, offsets);
        for (int i = 0; i < count; ++i) {
            out[first + i] =
                static_cast<float>(quants[i]) * scales[i / quant_block] + offsets[i / quant_block];
        }
    }
}

bool unpacks(const Kernels &kernels, Storage storage) {
    return storage != Storage::q4_0_16x4 || kernels.tile_rows == interleaved_rows;
}

void separate_rows(const std::byte *group, int n_cols, std::byte *rows) {
    constexpr Size n_rows = interleaved_rows, block_bytes = interleaved_block_bytes / n_rows, n_words = 4;
    const Size n_blocks = size(n_cols / quant_block);
    for (Size b = 0; b < n_blocks; ++b, group += interleaved_block_bytes) {
        for (Size r = 0; r < n_rows; ++r) {
            std::byte *block = rows + (r * n_blocks + b) * block_bytes;
            std::memcpy(block, group + 2 * r, 2);
            const std::byte *words = group + interleaved_scales_bytes + 4 * r;
            for (Size w = 0; w < n_words; ++w) std::memcpy(block + 2 + 4 * w, words + 4 * n_rows * w, 4);
        }
    }
}

const Kernels &scalar_kernels() {
    static constexpr Arithmetic single{n_panel_rows,  single_tile_bytes, single_row_bytes,
                                       unpack_single, pack_single,       multiply_single};
    static constexpr Arithmetic precise{n_panel_rows,      quant_tile_bytes, quant_row_bytes,
                                        unpack_quant_tile, pack_quants,      multiply_quants};
    static constexpr Kernels table{
        .name = "scalar",
        .tile_rows = n_tile_rows,
        .single = single,
        .half = single,
        .half_bytes = 4,
        .precise = precise,
        .quick = precise,
        .vector_product = vector_product,
        .interleave = interleave,
        .round_to_half = round_to_half,
        .attention_scores = attention_scores,
        .attention_values = attention_values,
        .unpack_f16 = unpack_f16,
        .pack_f16 = pack_f16,
        .add = add,
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

// AVX2 with FMA and F16C. Compiled with flags of its own, so nothing here may use an inline function of the
// standard library: the linker could keep the copy that this file makes of it, for processors without AVX2
// too.

#include "kernels/kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

namespace chatllm {
namespace {

using Size = std::size_t;

float sum_lanes(__m256 v) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

float max_lanes(__m256 v) {
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

// Lanes [0, n) of the next eight; 0 < n < 8.
__m256i first_lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// exp(x) by 2^n * exp(r), |r| <= ln 2 / 2, with a polynomial of degree six; relative error below 3e-7.
// Arguments under -87 give 0, over 88 the value at 88.
__m256 exponential(__m256 x) {
    const __m256 too_small = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_LT_OQ);
    x = _mm256_min_ps(x, _mm256_set1_ps(88.0f));
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // ln 2 in two parts, the first exact in 15 bits, keeps r accurate.
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145751953125f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860682030941723e-6f), r);
    __m256 p = _mm256_set1_ps(1.0f / 720);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i power =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_andnot_ps(too_small, _mm256_mul_ps(p, _mm256_castsi256_ps(power)));
}

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
__m256 error_function(__m256 x) {
    const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(magnitude, _mm256_set1_ps(0.3275911f), one));
    __m256 p = _mm256_set1_ps(1.061405429f);
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-1.453152027f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(1.421413741f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-0.284496736f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(0.254829592f));
    p = _mm256_mul_ps(p, t);
    const __m256 decay = exponential(_mm256_sub_ps(_mm256_setzero_ps(), _mm256_mul_ps(x, x)));
    return _mm256_or_ps(_mm256_fnmadd_ps(p, decay, one), sign);
}

// Dot products of every one of R rows with every one of T tokens, eight columns at a time.
template <int R, int T> void dot_tile(const float *w, Size w_stride, const float *x, Size x_stride,
                                      int n_cols, float *out, Size out_stride) {
    __m256 sums[R][T];
    for (int r = 0; r < R; ++r) {
        for (int t = 0; t < T; ++t) sums[r][t] = _mm256_setzero_ps();
    }
    int c = 0;
    for (; c + 8 <= n_cols; c += 8) {
        __m256 xs[T];
        for (int t = 0; t < T; ++t) xs[t] = _mm256_loadu_ps(x + static_cast<Size>(t) * x_stride + c);
        for (int r = 0; r < R; ++r) {
            const __m256 ws = _mm256_loadu_ps(w + static_cast<Size>(r) * w_stride + c);
            for (int t = 0; t < T; ++t) sums[r][t] = _mm256_fmadd_ps(ws, xs[t], sums[r][t]);
        }
    }
    if (c < n_cols) {
        const __m256i mask = first_lanes(n_cols - c);
        for (int r = 0; r < R; ++r) {
            const __m256 ws = _mm256_maskload_ps(w + static_cast<Size>(r) * w_stride + c, mask);
            for (int t = 0; t < T; ++t) {
                const __m256 xs = _mm256_maskload_ps(x + static_cast<Size>(t) * x_stride + c, mask);
                sums[r][t] = _mm256_fmadd_ps(ws, xs, sums[r][t]);
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int t = 0; t < T; ++t)
            out[static_cast<Size>(t) * out_stride + static_cast<Size>(r)] = sum_lanes(sums[r][t]);
    }
}

template <int R> void dot_rows(const float *w, Size w_stride, const float *x, Size x_stride, int n_tokens,
                               int n_cols, float *out, Size out_stride) {
    int t = 0;
    for (; t + 3 <= n_tokens; t += 3) {
        const auto at = static_cast<Size>(t);
        dot_tile<R, 3>(w, w_stride, x + at * x_stride, x_stride, n_cols, out + at * out_stride, out_stride);
    }
    for (; t < n_tokens; ++t) {
        const auto at = static_cast<Size>(t);
        dot_tile<R, 1>(w, w_stride, x + at * x_stride, x_stride, n_cols, out + at * out_stride, out_stride);
    }
}

void gemm_f32(const float *w, Size w_stride, int n_rows, const float *x, Size x_stride, int n_tokens,
              int n_cols, float *out, Size out_stride) {
    int r = 0;
    for (; r + 4 <= n_rows; r += 4) {
        const auto at = static_cast<Size>(r);
        dot_rows<4>(w + at * w_stride, w_stride, x, x_stride, n_tokens, n_cols, out + at, out_stride);
    }
    for (; r < n_rows; ++r) {
        const auto at = static_cast<Size>(r);
        dot_rows<1>(w + at * w_stride, w_stride, x, x_stride, n_tokens, n_cols, out + at, out_stride);
    }
}

// One block of 32 products, summed into eight 32-bit lanes. They cannot overflow, and a single holds them
// exactly: 4 * 128 * 32767 < 2^24.
__m256i block_products(const __m256i w[2], const std::int16_t *x) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x + 16));
    return _mm256_add_epi32(_mm256_madd_epi16(w[0], low), _mm256_madd_epi16(w[1], high));
}

float dot(const float *a, const float *b, int n) {
    float result;
    dot_tile<1, 1>(a, 0, b, 0, n, &result, 0);
    return result;
}

template <bool Offsets, int R, int T> void quant_tile(const QuantRows &w, Size row, const QuantActivations &x,
                                                      Size token, int n_cols, float *out, Size out_stride) {
    const auto n = static_cast<Size>(n_cols);
    const Size n_blocks = n / quant_block;
    __m256 sums[R][T];
    for (int r = 0; r < R; ++r) {
        for (int t = 0; t < T; ++t) sums[r][t] = _mm256_setzero_ps();
    }
    for (Size b = 0; b < n_blocks; ++b) {
        __m256i ws[R][2];
        for (Size r = 0; r < R; ++r) {
            const auto *block = reinterpret_cast<const __m128i *>(w.quants + (row + r) * n + b * quant_block);
            ws[r][0] = _mm256_cvtepi8_epi16(_mm_loadu_si128(block));
            ws[r][1] = _mm256_cvtepi8_epi16(_mm_loadu_si128(block + 1));
        }
        for (Size t = 0; t < T; ++t) {
            const std::int16_t *xs = x.quants + (token + t) * n + b * quant_block;
            const float x_scale = x.scales[(token + t) * n_blocks + b];
            for (Size r = 0; r < R; ++r) {
                const __m256 scale = _mm256_set1_ps(w.scales[(row + r) * n_blocks + b] * x_scale);
                const __m256 products = _mm256_cvtepi32_ps(block_products(ws[r], xs));
                sums[r][t] = _mm256_fmadd_ps(products, scale, sums[r][t]);
            }
        }
    }
    for (Size t = 0; t < T; ++t) {
        for (Size r = 0; r < R; ++r) {
            float sum = sum_lanes(sums[r][t]);
            if (Offsets) {
                sum += dot(w.offsets + (row + r) * n_blocks, x.sums + (token + t) * n_blocks,
                           static_cast<int>(n_blocks));
            }
            out[(token + t) * out_stride + row + r] = sum;
        }
    }
}

template <bool Offsets, int R> void quant_rows(const QuantRows &w, Size row, const QuantActivations &x,
                                               int n_tokens, int n_cols, float *out, Size out_stride) {
    int t = 0;
    for (; t + 4 <= n_tokens; t += 4) {
        quant_tile<Offsets, R, 4>(w, row, x, static_cast<Size>(t), n_cols, out, out_stride);
    }
    for (; t < n_tokens; ++t)
        quant_tile<Offsets, R, 1>(w, row, x, static_cast<Size>(t), n_cols, out, out_stride);
}

template <bool Offsets> void quant_gemm(const QuantRows &w, int n_rows, const QuantActivations &x,
                                        int n_tokens, int n_cols, float *out, Size out_stride) {
    int r = 0;
    for (; r + 2 <= n_rows; r += 2) {
        quant_rows<Offsets, 2>(w, static_cast<Size>(r), x, n_tokens, n_cols, out, out_stride);
    }
    for (; r < n_rows; ++r)
        quant_rows<Offsets, 1>(w, static_cast<Size>(r), x, n_tokens, n_cols, out, out_stride);
}

void gemm_quants(const QuantRows &w, int n_rows, const QuantActivations &x, int n_tokens, int n_cols,
                 float *out, Size out_stride) {
    if (w.offsets != nullptr) {
        quant_gemm<true>(w, n_rows, x, n_tokens, n_cols, out, out_stride);
    } else {
        quant_gemm<false>(w, n_rows, x, n_tokens, n_cols, out, out_stride);
    }
}

void quantise_row(const float *x, int n, std::int16_t *quants, float *scales, float *sums) {
    const __m256 no_sign = _mm256_set1_ps(-0.0f);
    for (int b = 0; b < n / quant_block; ++b, x += quant_block, quants += quant_block) {
        __m256 v[4];
        for (int i = 0; i < 4; ++i) v[i] = _mm256_loadu_ps(x + 8 * i);
        __m256 largest = _mm256_andnot_ps(no_sign, v[0]);
        for (int i = 1; i < 4; ++i) largest = _mm256_max_ps(largest, _mm256_andnot_ps(no_sign, v[i]));
        const float most = max_lanes(largest);
        const __m256 inverse = _mm256_set1_ps(most > 0 ? 32767.0f / most : 0.0f);
        __m256i q[4];
        for (int i = 0; i < 4; ++i) {
            // NaN becomes -32767 by the order of the operands, as in the scalar table.
            __m256 scaled =
                _mm256_round_ps(_mm256_mul_ps(v[i], inverse), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            scaled = _mm256_max_ps(scaled, _mm256_set1_ps(-32767.0f));
            q[i] = _mm256_cvtps_epi32(_mm256_min_ps(scaled, _mm256_set1_ps(32767.0f)));
        }
        for (int i = 0; i < 2; ++i) {
            // Packing works within 128-bit halves; the permutation puts the groups of four back in order.
            const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[2 * i], q[2 * i + 1]), 0xD8);
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(quants + 16 * i), packed);
        }
        const __m256i total = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
        scales[b] = most / 32767.0f;
        sums[b] = scales[b] * sum_lanes(_mm256_cvtepi32_ps(total));
    }
}

float read_f16(const std::byte *at) {
    std::uint16_t half;
    __builtin_memcpy(&half, at, sizeof(half));
    return _cvtsh_ss(half);
}

void unpack_f16(const std::byte *row, int n, float *out) {
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i *>(row + 2 * i));
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(halves));
    }
    for (; i < n; ++i) out[i] = read_f16(row + 2 * i);
}

// 16 bytes of nibbles to 32 quants: the low halves, then the high halves.
void unpack_nibbles(const std::byte *packed, std::int8_t *quants) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(packed));
    const __m128i low = _mm_set1_epi8(15);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(quants), _mm_and_si128(bytes, low));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(quants + 16), _mm_and_si128(_mm_srli_epi16(bytes, 4), low));
}

void unpack_q4_0(const std::byte *row, int n, std::int8_t *quants, float *scales) {
    const __m256i eight = _mm256_set1_epi8(8);
    for (int b = 0; b < n / quant_block; ++b, row += 18, quants += quant_block) {
        scales[b] = read_f16(row);
        unpack_nibbles(row + 2, quants);
        auto *block = reinterpret_cast<__m256i *>(quants);
        _mm256_storeu_si256(block, _mm256_sub_epi8(_mm256_loadu_si256(block), eight));
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
        const __m256i block = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(row + 2));
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(quants + b * quant_block), block);
    }
}

void unpack_q4_k(const std::byte *row, int n, std::int8_t *quants, float *scales, float *offsets) {
    scalar_kernels().unpack_q4_k(row, n, quants, scales, offsets);
}

void pack_f16(const float *x, int n, std::uint16_t *out) {
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i halves =
            _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(out + i), halves);
    }
    for (; i < n; ++i) out[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Runs `vector` on eight floats at a time, the last ones through a padded copy, so that an element's result
// does not depend on its place.
template <typename Vector> void for_each_eight(float *y, int n, const Vector &vector) {
    int i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, vector(_mm256_loadu_ps(y + i), i));
    if (i < n) {
        const __m256i mask = first_lanes(n - i);
        _mm256_maskstore_ps(y + i, mask, vector(_mm256_maskload_ps(y + i, mask), i));
    }
}

__m256 load_upto(const float *x, int i, int n) {
    return i + 8 <= n ? _mm256_loadu_ps(x + i) : _mm256_maskload_ps(x + i, first_lanes(n - i));
}

void add(float *y, const float *x, int n) {
    for_each_eight(y, n, [=](__m256 v, int i) { return _mm256_add_ps(v, load_upto(x, i, n)); });
}

void add_scaled(float *y, const float *x, float a, int n) {
    const __m256 factor = _mm256_set1_ps(a);
    for_each_eight(y, n, [=](__m256 v, int i) { return _mm256_fmadd_ps(factor, load_upto(x, i, n), v); });
}

void scale(float *y, float a, int n) {
    const __m256 factor = _mm256_set1_ps(a);
    for_each_eight(y, n, [=](__m256 v, int) { return _mm256_mul_ps(v, factor); });
}

void gelu(float *y, int n) {
    const __m256 inverse_sqrt_2 = _mm256_set1_ps(0.70710678118654752440f);
    const __m256 half = _mm256_set1_ps(0.5f);
    for_each_eight(y, n, [=](__m256 v, int) {
        const __m256 half_v = _mm256_mul_ps(v, half);
        return _mm256_fmadd_ps(half_v, error_function(_mm256_mul_ps(v, inverse_sqrt_2)), half_v);
    });
}

void silu_multiply(float *y, const float *x, int n) {
    const __m256 one = _mm256_set1_ps(1.0f);
    for_each_eight(y, n, [=](__m256 v, int i) {
        const __m256 divisor = _mm256_add_ps(one, exponential(_mm256_sub_ps(_mm256_setzero_ps(), v)));
        return _mm256_mul_ps(_mm256_div_ps(v, divisor), load_upto(x, i, n));
    });
}

float exponentials(float *y, float maximum, int n) {
    const __m256 shift = _mm256_set1_ps(maximum);
    for_each_eight(y, n, [=](__m256 v, int) { return exponential(_mm256_sub_ps(v, shift)); });
    __m256 sums = _mm256_setzero_ps();
    for (int i = 0; i < n; i += 8) sums = _mm256_add_ps(sums, load_upto(y, i, n));
    return sum_lanes(sums);
}

float maximum(const float *x, int n) {
    __m256 most = _mm256_set1_ps(x[0]);
    int i = 0;
    for (; i + 8 <= n; i += 8) most = _mm256_max_ps(most, _mm256_loadu_ps(x + i));
    float largest = max_lanes(most);
    for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

float inverse_root(float x) { return 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

void rms_norm(const float *x, const float *weight, float epsilon, int n, float *out) {
    const __m256 factor = _mm256_set1_ps(inverse_root(dot(x, x, n) / static_cast<float>(n) + epsilon));
    for_each_eight(out, n, [=](__m256, int i) {
        return _mm256_mul_ps(_mm256_mul_ps(load_upto(x, i, n), factor), load_upto(weight, i, n));
    });
}

void layer_norm(const float *x, const float *weight, const float *bias, float epsilon, int n, float *out) {
    __m256 sums = _mm256_setzero_ps();
    for (int i = 0; i < n; i += 8) sums = _mm256_add_ps(sums, load_upto(x, i, n));
    const __m256 mean = _mm256_set1_ps(sum_lanes(sums) / static_cast<float>(n));
    for_each_eight(out, n, [=](__m256, int i) { return _mm256_sub_ps(load_upto(x, i, n), mean); });
    const __m256 factor = _mm256_set1_ps(inverse_root(dot(out, out, n) / static_cast<float>(n) + epsilon));
    for_each_eight(out, n, [=](__m256 v, int i) {
        return _mm256_fmadd_ps(_mm256_mul_ps(v, factor), load_upto(weight, i, n), load_upto(bias, i, n));
    });
}

}  // namespace

const Kernels &avx2_kernels() {
    static constexpr Kernels table{
        .name = "avx2",
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

#endif

// AVX2 with FMA and F16C. Compiled with flags of its own, so nothing here may use an inline function of the
// standard library: the linker could keep the copy that this file makes of it, for processors without AVX2
// too.

#if defined(__x86_64__)

#include "kernels/products256.h"

namespace chatllm {
namespace {

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

// The sum of squares, or of products of two rows.
float dot(const float *a, const float *b, int n) {
    __m256 sums = _mm256_setzero_ps();
    int c = 0;
    for (; c + 8 <= n; c += 8) sums = _mm256_fmadd_ps(_mm256_loadu_ps(a + c), _mm256_loadu_ps(b + c), sums);
    if (c < n) {
        const __m256i mask = first_lanes(n - c);
        sums = _mm256_fmadd_ps(_mm256_maskload_ps(a + c, mask), _mm256_maskload_ps(b + c, mask), sums);
    }
    return sum_lanes(sums);
}

float read_f16(const std::byte *at) {
    std::uint16_t half;
    __builtin_memcpy(&half, at, sizeof(half));
    return _cvtsh_ss(half);
}

void unpack_f16(const std::byte *row, int n, float *out) {
    int i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, load_halves(row + 2 * i));
    for (; i < n; ++i) out[i] = read_f16(row + 2 * i);
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

// --- Single precision.

Size single_tile_bytes(int n_cols) { return size(n_cols) * n_tile_rows * sizeof(float); }
Size single_row_bytes(int n_cols) { return size(n_cols) * sizeof(float); }

// Eight rows of eight words, transposed.
void transpose(__m256i rows[8]) {
    __m256i pairs[8], quads[8];
    UNROLL for (int i = 0; i < 4; ++i) {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // quads[4 i + j]: word 4 l + j of the rows 4 i to 4 i + 3 in 128-bit lane l.
    UNROLL for (int i = 0; i < 2; ++i) {
        quads[4 * i] = _mm256_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 1] = _mm256_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 2] = _mm256_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        quads[4 * i + 3] = _mm256_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    UNROLL for (int j = 0; j < 4; ++j) {
        rows[j] = _mm256_permute2x128_si256(quads[j], quads[4 + j], 0x20);
        rows[4 + j] = _mm256_permute2x128_si256(quads[j], quads[4 + j], 0x31);
    }
}

// Stores in the order of memory: each may write behind its end what the next one overwrites, but the last
// ones, from `end` on, may not.
void interleave(const std::uint32_t *const *rows, int n_rows, int n_words, std::uint32_t *out) {
    const std::uint32_t *end = out + size(n_words) * size(n_rows);
    for (int first = 0; first < n_words; first += 8) {
        const int count = n_words - first < 8 ? n_words - first : 8;
        __m256i words[8];
        UNROLL for (int r = 0; r < 8; ++r) {
            words[r] = r >= n_rows ? _mm256_setzero_si256()
                                   : _mm256_maskload_epi32(reinterpret_cast<const int *>(rows[r] + first),
                                                           first_lanes(count));
        }
        transpose(words);
        for (int i = 0; i < count; ++i, out += n_rows) {
            if (end - out >= 8) {
                _mm256_storeu_si256(reinterpret_cast<__m256i *>(out), words[i]);
            } else {
                _mm256_maskstore_epi32(reinterpret_cast<int *>(out), first_lanes(n_rows), words[i]);
            }
        }
    }
}
static_assert(n_panel_rows <= 8);

// The next eight halves as floats, or the first n of them and zeros.
__m256 load_halves(const void *at, int n) {
    if (n >= 8) return load_halves(static_cast<const std::byte *>(at));
    alignas(16) std::uint16_t halves[8] = {};
    __builtin_memcpy(halves, at, 2 * size(n));
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i *>(halves)));
}

// Up to eight values of a row from column `first` on; zeros behind the end.
template <Storage Stored> __m256 load_values(const std::byte *row, int first, int n_cols) {
    if (Stored == Storage::f16) return load_halves(row + 2 * size(first), n_cols - first);
    return load_upto(reinterpret_cast<const float *>(row), first, n_cols);
}

template <Storage Stored>
void unpack_values(const std::byte *rows, Size row_bytes, int n_rows, int n_cols, float *out) {
    for (int first = 0; first < n_cols; first += 8, out += 8 * n_tile_rows) {
        const int count = n_cols - first < 8 ? n_cols - first : 8;
        for (int v = 0; v < n_tile_registers; ++v) {
            __m256i words[8];
            UNROLL for (int r = 0; r < 8; ++r) {
                words[r] = 8 * v + r >= n_rows ? _mm256_setzero_si256()
                                               : _mm256_castps_si256(load_values<Stored>(
                                                     rows + size(8 * v + r) * row_bytes, first, n_cols));
            }
            transpose(words);
            for (int i = 0; i < count; ++i)
                _mm256_storeu_ps(out + i * n_tile_rows + 8 * v, _mm256_castsi256_ps(words[i]));
        }
    }
}

void unpack_single(Storage storage, const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                   std::byte *tile) {
    auto *out = reinterpret_cast<float *>(tile);
    if (storage == Storage::f16) return unpack_values<Storage::f16>(rows, row_bytes, n_rows, n_cols, out);
    unpack_values<Storage::f32>(rows, row_bytes, n_rows, n_cols, out);
}

void pack_single(const float *x, Size stride, int n_rows, int n_cols, std::byte *panel) {
    const std::uint32_t *rows[n_panel_rows];
    for (int r = 0; r < n_rows; ++r) rows[r] = reinterpret_cast<const std::uint32_t *>(x + size(r) * stride);
    interleave(rows, n_rows, n_cols, reinterpret_cast<std::uint32_t *>(panel));
}

template <int T> void single_products(const std::byte *tile, int n_rows, const std::byte *panel, int n_cols,
                                      bool accumulate, float *out, Size out_stride) {
    __m256 sums[T][n_tile_registers];
    UNROLL for (int t = 0; t < T; ++t) {
        UNROLL for (int v = 0; v < n_tile_registers; ++v) sums[t][v] = _mm256_setzero_ps();
    }
    for (int c = 0; c < n_cols; ++c, tile += tile_step, panel += 4 * T) {
        __m256 w[n_tile_registers];
        UNROLL for (int v = 0; v < n_tile_registers; ++v) w[v] = load_floats(tile + size(v) * lane_bytes);
        UNROLL for (int t = 0; t < T; ++t) {
            const __m256 x = broadcast_float(panel + 4 * t);
            UNROLL for (int v = 0; v < n_tile_registers; ++v) sums[t][v] =
                _mm256_fmadd_ps(w[v], x, sums[t][v]);
        }
    }
    UNROLL for (int t = 0; t < T; ++t) put(sums[t], n_rows, accumulate, out + size(t) * out_stride);
}

void multiply_single(const std::byte *tile, int n_rows, const std::byte *panel, int n_tokens, int n_cols,
                     bool accumulate, float *out, Size out_stride) {
    static constexpr Products products[n_panel_rows] = {single_products<1>, single_products<2>,
                                                        single_products<3>, single_products<4>,
                                                        single_products<5>, single_products<6>};
    products[n_tokens - 1](tile, n_rows, panel, n_cols, accumulate, out, out_stride);
}

// --- Quantised.

Size quant_tile_bytes(int n_cols) { return offsets_at(n_cols) + n_blocks(n_cols) * tile_step; }
// Eight 16-byte pieces, one a row, as four groups: group g holds word g of every row.
void group_words(const std::byte *const rows[8], Size at, __m256i groups[4]) {
    __m256i quads[4];
    UNROLL for (Size j = 0; j < 4; ++j) {
        const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[j] + at));
        const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[4 + j] + at));
        quads[j] = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
    }
    const __m256i a = _mm256_unpacklo_epi32(quads[0], quads[1]);
    const __m256i b = _mm256_unpackhi_epi32(quads[0], quads[1]);
    const __m256i c = _mm256_unpacklo_epi32(quads[2], quads[3]);
    const __m256i d = _mm256_unpackhi_epi32(quads[2], quads[3]);
    groups[0] = _mm256_unpacklo_epi64(a, c);
    groups[1] = _mm256_unpackhi_epi64(a, c);
    groups[2] = _mm256_unpacklo_epi64(b, d);
    groups[3] = _mm256_unpackhi_epi64(b, d);
}

// The f16 at an offset of every row, as floats; zeros for rows that are not present.
__m256 gather_halves(const std::byte *const rows[8], Size at, __m256i present) {
    alignas(16) std::uint16_t halves[8];
    UNROLL for (int r = 0; r < 8; ++r) __builtin_memcpy(halves + r, rows[r] + at, 2);
    const __m256 values = _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i *>(halves)));
    return _mm256_and_ps(values, _mm256_castsi256_ps(present));
}

// Eight rows into their lanes of a tile. q4_0 and q4_1: `head` bytes of scale and perhaps offset, then 32
// nibbles.
void unpack_nibbles(const std::byte *const rows[8], Size head, int n_cols, __m256i present, std::byte *tile) {
    const __m256i low = _mm256_set1_epi8(15);
    auto *scales = reinterpret_cast<float *>(tile + scales_at(n_cols));
    auto *offsets = reinterpret_cast<float *>(tile + offsets_at(n_cols));
    for (Size b = 0; b < n_blocks(n_cols); ++b, scales += n_tile_rows, offsets += n_tile_rows) {
        const Size at = b * (head + 16);
        __m256i groups[4];
        group_words(rows, at + head, groups);
        std::byte *out = tile + b * block_bytes;
        UNROLL for (Size g = 0; g < 4; ++g) {
            store_words(out + g * tile_step, _mm256_and_si256(groups[g], low));
            store_words(out + (g + 4) * tile_step, _mm256_and_si256(_mm256_srli_epi16(groups[g], 4), low));
        }
        const __m256 scale = gather_halves(rows, at, present);
        _mm256_storeu_ps(scales, scale);
        _mm256_storeu_ps(offsets, head == 2 ? _mm256_mul_ps(scale, _mm256_set1_ps(-8.0f))
                                            : gather_halves(rows, at + 2, present));
    }
}

void unpack_bytes(const std::byte *const rows[8], int n_cols, __m256i present, std::byte *tile) {
    const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x80));
    auto *scales = reinterpret_cast<float *>(tile + scales_at(n_cols));
    auto *offsets = reinterpret_cast<float *>(tile + offsets_at(n_cols));
    for (Size b = 0; b < n_blocks(n_cols); ++b, scales += n_tile_rows, offsets += n_tile_rows) {
        const Size at = b * 34;
        for (Size half = 0; half < 2; ++half) {
            __m256i groups[4];
            group_words(rows, at + 2 + 16 * half, groups);
            std::byte *out = tile + b * block_bytes + half * 4 * tile_step;
            UNROLL for (Size g = 0; g < 4; ++g)
                store_words(out + g * tile_step, _mm256_xor_si256(groups[g], flip));
        }
        const __m256 scale = gather_halves(rows, at, present);
        _mm256_storeu_ps(scales, scale);
        _mm256_storeu_ps(offsets, _mm256_mul_ps(scale, _mm256_set1_ps(-128.0f)));
    }
}

// A group of q4_0_16x4, whose pieces lie as in a tile.
void unpack_interleaved(const std::byte *group, int n_cols, std::byte *tile) {
    const __m256i low = _mm256_set1_epi8(15);
    std::byte *scales = tile + scales_at(n_cols);
    std::byte *offsets = tile + offsets_at(n_cols);
    for (Size b = n_blocks(n_cols); b > 0; --b) {
        UNROLL for (Size v = 0; v < n_tile_registers; ++v) {
            const __m256 scale = load_halves(group + 16 * v);
            store_words(scales + v * lane_bytes, _mm256_castps_si256(scale));
            store_words(offsets + v * lane_bytes,
                        _mm256_castps_si256(_mm256_mul_ps(scale, _mm256_set1_ps(-8.0f))));
        }
        group += interleaved_scales_bytes;
        UNROLL for (Size at = 0; at < block_bytes / 2; at += lane_bytes) {
            const __m256i nibbles = load_words(group + at);
            store_words(tile + at, _mm256_and_si256(nibbles, low));
            store_words(tile + block_bytes / 2 + at, _mm256_and_si256(_mm256_srli_epi16(nibbles, 4), low));
        }
        group += block_bytes / 2;
        tile += block_bytes;
        scales += tile_step;
        offsets += tile_step;
    }
}

// A row of q4_K into its lane of a tile, by way of plain code.
void unpack_super_blocks(const std::byte *row, int n_cols, Size r, std::byte *tile) {
    constexpr int super_block = 256;
    for (int first = 0; first < n_cols; first += super_block, row += 144) {
        std::int8_t quants[super_block];
        float scales[super_block / quant_block];
        float offsets[super_block / quant_block];
        unpack_quants(Storage::q4_k, row, super_block, quants, scales, offsets);
        for (Size i = 0; i < super_block / quant_block; ++i) {
            const Size b = n_blocks(first) + i;
            for (Size g = 0; g < 8; ++g)
                __builtin_memcpy(tile + b * block_bytes + g * tile_step + 4 * r,
                                 quants + i * quant_block + 4 * g, 4);
            __builtin_memcpy(tile + scales_at(n_cols) + b * tile_step + 4 * r, scales + i, 4);
            __builtin_memcpy(tile + offsets_at(n_cols) + b * tile_step + 4 * r, offsets + i, 4);
        }
    }
}

void unpack_quant_tile(Storage storage, const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                       std::byte *tile) {
    if (storage == Storage::q4_0_16x4) return unpack_interleaved(rows, n_cols, tile);
    if (storage == Storage::q4_k) {
        if (n_rows < n_tile_rows) __builtin_memset(tile, 0, quant_tile_bytes(n_cols));
        for (int r = 0; r < n_rows; ++r)
            unpack_super_blocks(rows + size(r) * row_bytes, n_cols, size(r), tile);
        return;
    }
    for (int v = 0; v < n_tile_registers; ++v, tile += lane_bytes) {
        const std::byte *each[8];
        for (int r = 0; r < 8; ++r) each[r] = rows + (8 * v + r < n_rows ? size(8 * v + r) : 0) * row_bytes;
        const __m256i present = first_lanes(n_rows - 8 * v);
        if (storage == Storage::q8_0) {
            unpack_bytes(each, n_cols, present, tile);
        } else {
            unpack_nibbles(each, storage == Storage::q4_0 ? 2 : 4, n_cols, present, tile);
        }
    }
}

struct Words {
    static __m256i add(__m256i sum, __m256i a, __m256i b) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
    }
};

// Of 8 bits: 16 are enough for the sums of a block of nibbles with quants of at most 127, as panels have
// them.
struct Bytes {
    static __m256i add(__m256i sums, __m256i a, __m256i b) {
        return _mm256_add_epi16(sums, _mm256_maddubs_epi16(a, b));
    }
    static __m256i words(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
};
static_assert(quant_block / 2 * 15 * 127 < 32768);

// --- One vector against rows as they are stored.

// f32 and f16: the vector as it is.
void prepare_plain(const float *x, int n_cols, std::byte *prepared) {
    __builtin_memcpy(prepared, x, single_row_bytes(n_cols));
}

template <Storage Stored, int R>
void plain_rows(const std::byte *rows, Size row_bytes, int n_cols, const std::byte *prepared, float *out) {
    __m256 sums[R];
    UNROLL for (int r = 0; r < R; ++r) sums[r] = _mm256_setzero_ps();
    const std::byte *ahead = rows + prefetch_distance;
    constexpr Size step = R * 8 * (Stored == Storage::f32 ? 4 : 2);
    for (int c = 0; c < n_cols; c += 8) {
        UNROLL for (Size line = 0; line < step; line += 64)
            _mm_prefetch(reinterpret_cast<const char *>(ahead + line), _MM_HINT_T0);
        ahead += step;
        const __m256 x = load_values<Storage::f32>(prepared, c, n_cols);
        UNROLL for (int r = 0; r < R; ++r) sums[r] =
            _mm256_fmadd_ps(load_values<Stored>(rows + size(r) * row_bytes, c, n_cols), x, sums[r]);
    }
    UNROLL for (int r = 0; r < R; ++r) out[r] = sum_lanes(sums[r]);
}

template <Storage Stored> void multiply_plain(const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                                              const std::byte *prepared, float *out) {
    int r = 0;
    for (; r + n_stream_rows <= n_rows; r += n_stream_rows)
        plain_rows<Stored, n_stream_rows>(rows + size(r) * row_bytes, row_bytes, n_cols, prepared, out + r);
    for (; r < n_rows; ++r)
        plain_rows<Stored, 1>(rows + size(r) * row_bytes, row_bytes, n_cols, prepared, out + r);
}

const VectorProduct *vector_product(Storage storage) {
    static constexpr VectorProduct q4_0{16, stream_bytes<NibbleRow>, prepare_stream<NibbleRow>,
                                        multiply_stream<Words, NibbleRow>};
    static constexpr VectorProduct q8_0{16, stream_bytes<ByteRow>, prepare_stream<ByteRow>,
                                        multiply_stream<Words, ByteRow>};
    static constexpr VectorProduct q4_0_16x4{8, quant_row_bytes<1>, prepare_interleaved,
                                             multiply_interleaved<Bytes>};
    static constexpr VectorProduct f32{32, single_row_bytes, prepare_plain, multiply_plain<Storage::f32>};
    static constexpr VectorProduct f16{32, single_row_bytes, prepare_plain, multiply_plain<Storage::f16>};
    switch (storage) {
    case Storage::q4_0:
        return &q4_0;
    case Storage::q8_0:
        return &q8_0;
    case Storage::q4_0_16x4:
        return &q4_0_16x4;
    case Storage::f32:
        return &f32;
    case Storage::f16:
        return &f16;
    case Storage::q4_1:
    case Storage::q4_k:
        return nullptr;
    }
    return nullptr;
}

// --- Attention of one position.

template <int H> void scores_of_heads(const float *q, int width, const std::uint16_t *keys, Size stride,
                                      int n, float scale, float *scores, Size score_stride) {
    for (Size i = 0; i < size(n); ++i, keys += stride) {
        __m256 sums[H];
        UNROLL for (int h = 0; h < H; ++h) sums[h] = _mm256_setzero_ps();
        for (int c = 0; c < width; c += 8) {
            const __m256 key = load_halves(keys + c, width - c);
            UNROLL for (int h = 0; h < H; ++h) sums[h] =
                _mm256_fmadd_ps(key, load_upto(q + size(h) * size(width), c, width), sums[h]);
        }
        UNROLL for (int h = 0; h < H; ++h) scores[size(h) * score_stride + i] = scale * sum_lanes(sums[h]);
    }
}

void attention_scores(const float *q, int n_heads, int width, const std::uint16_t *keys, Size stride, int n,
                      float scale, float *scores, Size score_stride) {
    int h = 0;
    for (; h + 2 <= n_heads; h += 2) {
        scores_of_heads<2>(q + size(h) * size(width), width, keys, stride, n, scale,
                           scores + size(h) * score_stride, score_stride);
    }
    if (h < n_heads) {
        scores_of_heads<1>(q + size(h) * size(width), width, keys, stride, n, scale,
                           scores + size(h) * score_stride, score_stride);
    }
}

// Registers of columns side by side; of the last one, columns may be missing.
template <int Registers> void values_of_columns(const float *weights, int n_columns,
                                                const std::uint16_t *values, Size stride, int n, float *out) {
    __m256 sums[Registers];
    UNROLL for (int c = 0; c < Registers; ++c) sums[c] = load_upto(out, 8 * c, n_columns);
    for (Size i = 0; i < size(n); ++i, values += stride) {
        const __m256 weight = _mm256_set1_ps(weights[i]);
        UNROLL for (int c = 0; c < Registers; ++c) sums[c] =
            _mm256_fmadd_ps(weight, load_halves(values + 8 * c, n_columns - 8 * c), sums[c]);
    }
    UNROLL for (int c = 0; c < Registers; ++c) {
        if (n_columns - 8 * c >= 8) {
            _mm256_storeu_ps(out + 8 * c, sums[c]);
        } else {
            _mm256_maskstore_ps(out + 8 * c, first_lanes(n_columns - 8 * c), sums[c]);
        }
    }
}

void attention_values(const float *weights, Size weight_stride, int n_heads, int width,
                      const std::uint16_t *values, Size stride, int n, float *out) {
    for (int h = 0; h < n_heads; ++h, weights += weight_stride, out += width) {
        int c = 0;
        for (; c + 64 <= width; c += 64) values_of_columns<8>(weights, 64, values + c, stride, n, out + c);
        for (; c < width; c += 8) values_of_columns<1>(weights, width - c, values + c, stride, n, out + c);
    }
}

Kernels make_table() {
    static constexpr Arithmetic single{n_panel_rows,  single_tile_bytes, single_row_bytes,
                                       unpack_single, pack_single,       multiply_single};
    Kernels table = scalar_kernels();
    table.name = "avx2";
    table.tile_rows = n_tile_rows;
    table.single = single;
    table.half = single;
    table.precise = {n_panel_rows,      quant_tile_bytes, quant_row_bytes<2>,
                     unpack_quant_tile, pack_quants<2>,   multiply_precise<Words>};
    table.quick = table.precise;
    table.vector_product = vector_product;
    table.interleave = interleave;
    table.attention_scores = attention_scores;
    table.attention_values = attention_values;
    table.unpack_f16 = unpack_f16;
    table.pack_f16 = pack_f16;
    table.add = add;
    table.scale = scale;
    table.gelu = gelu;
    table.silu_multiply = silu_multiply;
    table.exponentials = exponentials;
    table.maximum = maximum;
    table.rms_norm = rms_norm;
    table.layer_norm = layer_norm;
    return table;
}

}  // namespace

const Kernels &avx2_kernels() {
    static const Kernels table = make_table();
    return table;
}

}  // namespace chatllm

#endif

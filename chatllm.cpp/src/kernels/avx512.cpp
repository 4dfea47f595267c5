// AVX-512 with F, BW, DQ, VL and VNNI, and BF16 where the processor has it. Compiled with flags of its own,
// so nothing here may use an inline function of the standard library: the linker could keep the copy that
// this file makes of it, for processors without AVX-512 too.

#include "kernels/kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

namespace chatllm {
namespace {

using Size = std::size_t;

constexpr int n_tile_rows = 16;   // the lanes of a register
constexpr int n_panel_rows = 16;  // with its sums in registers, and room for operands
constexpr Size lane_bytes = 64;

#define UNROLL _Pragma("GCC unroll 32")

Size size(int n) { return static_cast<Size>(n); }

__mmask16 first_lanes(int n) { return n >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << n) - 1u); }

__m512 load_floats(const std::byte *at) { return _mm512_loadu_ps(reinterpret_cast<const float *>(at)); }

std::uint32_t read_word(const std::byte *at) {
    std::uint32_t word;
    __builtin_memcpy(&word, at, sizeof(word));
    return word;
}

__m512i broadcast_word(const std::byte *at) { return _mm512_set1_epi32(static_cast<int>(read_word(at))); }

__m512 broadcast_float(const std::byte *at) {
    float value;
    __builtin_memcpy(&value, at, sizeof(value));
    return _mm512_set1_ps(value);
}

// Lanes [0, n_rows) of a sum, to its place.
void put(__m512 sum, __mmask16 rows, bool accumulate, float *out) {
    if (accumulate) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(rows, out));
    _mm512_mask_storeu_ps(out, rows, sum);
}

// Sixteen rows of sixteen words, transposed.
void transpose(__m512i rows[16]) {
    __m512i pairs[16], quads[16];
    UNROLL for (int i = 0; i < 8; ++i) {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // quads[4 i + j]: word 4 l + j of the rows 4 i to 4 i + 3 in 128-bit lane l.
    UNROLL for (int i = 0; i < 4; ++i) {
        quads[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        quads[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    UNROLL for (int j = 0; j < 4; ++j) {
        const __m512i low_left = _mm512_shuffle_i32x4(quads[j], quads[4 + j], 0x44);
        const __m512i high_left = _mm512_shuffle_i32x4(quads[j], quads[4 + j], 0xee);
        const __m512i low_right = _mm512_shuffle_i32x4(quads[8 + j], quads[12 + j], 0x44);
        const __m512i high_right = _mm512_shuffle_i32x4(quads[8 + j], quads[12 + j], 0xee);
        rows[j] = _mm512_shuffle_i32x4(low_left, low_right, 0x88);
        rows[4 + j] = _mm512_shuffle_i32x4(low_left, low_right, 0xdd);
        rows[8 + j] = _mm512_shuffle_i32x4(high_left, high_right, 0x88);
        rows[12 + j] = _mm512_shuffle_i32x4(high_left, high_right, 0xdd);
    }
}

// Stores the first n_words of the transposed rows side by side, n_rows of each.
void store_transposed(__m512i rows[16], int n_rows, int n_words, std::uint32_t *out) {
    transpose(rows);
    const __mmask16 mask = first_lanes(n_rows);
    for (int i = 0; i < n_words; ++i, out += n_rows) _mm512_mask_storeu_epi32(out, mask, rows[i]);
}

void interleave(const std::uint32_t *const *rows, int n_rows, int n_words, std::uint32_t *out) {
    for (int first = 0; first < n_words; first += 16) {
        const int count = n_words - first < 16 ? n_words - first : 16;
        __m512i words[16];
        UNROLL for (int r = 0; r < 16; ++r) {
            words[r] = r < n_rows ? _mm512_maskz_loadu_epi32(first_lanes(count), rows[r] + first)
                                  : _mm512_setzero_si512();
        }
        store_transposed(words, n_rows, count, out + size(first) * size(n_rows));
    }
}

// The sums of four registers.
__m128 sum_four(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512 quads = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    const __m256 pairs = _mm256_add_ps(_mm512_castps512_ps256(quads), _mm512_extractf32x8_ps(quads, 1));
    return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

// --- Single precision.

Size single_tile_bytes(int n_cols) { return size(n_cols) * n_tile_rows * sizeof(float); }
Size single_row_bytes(int n_cols) { return size(n_cols) * sizeof(float); }

// Up to sixteen values of a row from column `first` on; zeros behind the end.
__m512 load_values(Storage storage, const std::byte *row, int first, int n_cols) {
    const int left = n_cols - first < 16 ? n_cols - first : 16;
    if (storage == Storage::f16) {
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(left), row + 2 * size(first)));
    }
    return _mm512_maskz_loadu_ps(first_lanes(left), row + sizeof(float) * size(first));
}

void unpack_single(Storage storage, const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                   std::byte *tile) {
    auto *out = reinterpret_cast<std::uint32_t *>(tile);
    for (int first = 0; first < n_cols; first += 16, out += 16 * n_tile_rows) {
        __m512i words[16];
        for (int r = 0; r < 16; ++r) {
            words[r] =
                r < n_rows
                    ? _mm512_castps_si512(load_values(storage, rows + size(r) * row_bytes, first, n_cols))
                    : _mm512_setzero_si512();
        }
        store_transposed(words, n_tile_rows, n_cols - first < 16 ? n_cols - first : 16, out);
    }
}

void pack_single(const float *x, Size stride, int n_rows, int n_cols, std::byte *panel) {
    const std::uint32_t *rows[n_panel_rows];
    for (int r = 0; r < n_rows; ++r) rows[r] = reinterpret_cast<const std::uint32_t *>(x + size(r) * stride);
    interleave(rows, n_rows, n_cols, reinterpret_cast<std::uint32_t *>(panel));
}

template <int T> void single_products(const std::byte *tile, int n_rows, const std::byte *panel, int n_cols,
                                      bool accumulate, float *out, Size out_stride) {
    __m512 sums[T];
    UNROLL for (int t = 0; t < T; ++t) sums[t] = _mm512_setzero_ps();
    for (int c = 0; c < n_cols; ++c, tile += lane_bytes, panel += 4 * T) {
        const __m512 w = load_floats(tile);
        UNROLL for (int t = 0; t < T; ++t) sums[t] =
            _mm512_fmadd_ps(w, broadcast_float(panel + 4 * t), sums[t]);
    }
    const __mmask16 rows = first_lanes(n_rows);
    UNROLL for (int t = 0; t < T; ++t) put(sums[t], rows, accumulate, out + size(t) * out_stride);
}

using Products = void (*)(const std::byte *, int, const std::byte *, int, bool, float *, Size);

void multiply_single(const std::byte *tile, int n_rows, const std::byte *panel, int n_tokens, int n_cols,
                     bool accumulate, float *out, Size out_stride) {
    static constexpr Products products[n_panel_rows] = {
        single_products<1>,  single_products<2>,  single_products<3>,  single_products<4>,
        single_products<5>,  single_products<6>,  single_products<7>,  single_products<8>,
        single_products<9>,  single_products<10>, single_products<11>, single_products<12>,
        single_products<13>, single_products<14>, single_products<15>, single_products<16>};
    products[n_tokens - 1](tile, n_rows, panel, n_cols, accumulate, out, out_stride);
}

// --- bfloat16, two columns to a word.

#define BF16 __attribute__((target("avx512bf16")))

Size half_words(int n_cols) { return size(n_cols + 1) / 2; }
Size half_tile_bytes(int n_cols) { return half_words(n_cols) * lane_bytes; }
Size half_row_bytes(int n_cols) { return half_words(n_cols) * 4; }

// 32 values as 16 words: the first of two in the low half.
BF16 __m512i round_pair(__m512 first, __m512 second) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
}

BF16 void round_to_half(const float *x, int n, std::uint16_t *out) {
    for (int i = 0; i < n; i += 32) {
        const auto *at = reinterpret_cast<const std::byte *>(x);
        const __m512i words =
            round_pair(load_values(Storage::f32, at, i, n),
                       i + 16 < n ? load_values(Storage::f32, at, i + 16, n) : _mm512_setzero_ps());
        const int left = n - i;
        const auto mask = left >= 32 ? __mmask32{0xffffffff} : static_cast<__mmask32>((1u << left) - 1u);
        _mm512_mask_storeu_epi16(out + i, mask, words);
    }
}

// n_rows rows of f32 or f16 as words side by side, `step` words from one column pair to the next.
BF16 void round_rows(Storage storage, const std::byte *rows, Size row_bytes, int n_rows, int n_cols, int step,
                     std::uint32_t *out) {
    for (int first = 0; first < n_cols; first += 32, out += 16 * step) {
        __m512i words[16];
        for (int r = 0; r < 16; ++r) {
            const std::byte *row = rows + size(r) * row_bytes;
            words[r] = r >= n_rows
                           ? _mm512_setzero_si512()
                           : round_pair(load_values(storage, row, first, n_cols),
                                        first + 16 < n_cols ? load_values(storage, row, first + 16, n_cols)
                                                            : _mm512_setzero_ps());
        }
        const int left = (n_cols - first + 1) / 2;
        store_transposed(words, step, left < 16 ? left : 16, out);
    }
}

BF16 void unpack_half(Storage storage, const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                      std::byte *tile) {
    round_rows(storage, rows, row_bytes, n_rows, n_cols, n_tile_rows,
               reinterpret_cast<std::uint32_t *>(tile));
}

BF16 void pack_half(const float *x, Size stride, int n_rows, int n_cols, std::byte *panel) {
    round_rows(Storage::f32, reinterpret_cast<const std::byte *>(x), stride * sizeof(float), n_rows, n_cols,
               n_rows, reinterpret_cast<std::uint32_t *>(panel));
}

template <int T> BF16 void half_products(const std::byte *tile, int n_rows, const std::byte *panel,
                                         int n_cols, bool accumulate, float *out, Size out_stride) {
    __m512 sums[T];
    UNROLL for (int t = 0; t < T; ++t) sums[t] = _mm512_setzero_ps();
    for (Size word = half_words(n_cols); word > 0; --word, tile += lane_bytes, panel += 4 * T) {
        const __m512bh w = reinterpret_cast<__m512bh>(_mm512_loadu_si512(tile));
        UNROLL for (int t = 0; t < T; ++t) {
            sums[t] = _mm512_dpbf16_ps(sums[t], w, reinterpret_cast<__m512bh>(broadcast_word(panel + 4 * t)));
        }
    }
    const __mmask16 rows = first_lanes(n_rows);
    UNROLL for (int t = 0; t < T; ++t) put(sums[t], rows, accumulate, out + size(t) * out_stride);
}

BF16 void multiply_half(const std::byte *tile, int n_rows, const std::byte *panel, int n_tokens, int n_cols,
                        bool accumulate, float *out, Size out_stride) {
    static constexpr Products products[n_panel_rows] = {
        half_products<1>,  half_products<2>,  half_products<3>,  half_products<4>,
        half_products<5>,  half_products<6>,  half_products<7>,  half_products<8>,
        half_products<9>,  half_products<10>, half_products<11>, half_products<12>,
        half_products<13>, half_products<14>, half_products<15>, half_products<16>};
    products[n_tokens - 1](tile, n_rows, panel, n_cols, accumulate, out, out_stride);
}

// --- Quantised. The instruction multiplies unsigned with signed bytes, so weights are stored plus 128, and
// every sum begins at -128 times the sum of its activations.
//
// Tile: quants [n_blocks][8 groups of 4 columns][16 rows][4], scales [n_blocks][16], offsets [n_blocks][16],
// and behind them a word that says whether there are offsets.
// Panel, a record a block: quants [8 groups][planes][4], then for each plane -128 * sum, then for each row
// its scale, then its scale times its sum. A row has one plane of 8 bits or, in `precise`, the upper and
// lower byte of 16 bits.

constexpr int n_planes = 12;  // of a panel: sums in registers beside those in single precision
constexpr Size block_bytes = 8 * lane_bytes;

Size n_blocks(int n_cols) { return size(n_cols) / quant_block; }
Size scales_at(int n_cols) { return n_blocks(n_cols) * block_bytes; }
Size offsets_at(int n_cols) { return scales_at(n_cols) + n_blocks(n_cols) * lane_bytes; }
Size flag_at(int n_cols) { return offsets_at(n_cols) + n_blocks(n_cols) * lane_bytes; }
Size quant_tile_bytes(int n_cols) { return flag_at(n_cols) + lane_bytes; }

template <int Planes> constexpr Size record_bytes(Size n_rows) { return n_rows * (36 * Planes + 8); }
template <int Planes> Size quant_row_bytes(int n_cols) { return n_blocks(n_cols) * record_bytes<Planes>(1); }

// Sixteen 16-byte pieces, one a row, as four groups: group g holds word g of every row.
inline __attribute__((always_inline)) void group_words(const std::byte *const rows[16], Size at,
                                                       __m512i groups[4]) {
    __m512i quads[4];
    UNROLL for (Size j = 0; j < 4; ++j) {
        // 128-bit lane l of quads[j] is row 4 l + j.
        __m512i quad =
            _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[j] + at)));
        quad =
            _mm512_inserti32x4(quad, _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[4 + j] + at)), 1);
        quad =
            _mm512_inserti32x4(quad, _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[8 + j] + at)), 2);
        quad = _mm512_inserti32x4(quad, _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[12 + j] + at)),
                                  3);
        quads[j] = quad;
    }
    const __m512i a = _mm512_unpacklo_epi32(quads[0], quads[1]);
    const __m512i b = _mm512_unpackhi_epi32(quads[0], quads[1]);
    const __m512i c = _mm512_unpacklo_epi32(quads[2], quads[3]);
    const __m512i d = _mm512_unpackhi_epi32(quads[2], quads[3]);
    groups[0] = _mm512_unpacklo_epi64(a, c);
    groups[1] = _mm512_unpackhi_epi64(a, c);
    groups[2] = _mm512_unpacklo_epi64(b, d);
    groups[3] = _mm512_unpackhi_epi64(b, d);
}

inline __attribute__((always_inline)) short read_short(const std::byte *at) {
    short bits;
    __builtin_memcpy(&bits, at, sizeof(bits));
    return bits;
}

// The f16 at an offset of every row, as floats.
inline __attribute__((always_inline)) __m512 gather_halves(const std::byte *const rows[16], Size at) {
    __m128i low = _mm_cvtsi32_si128(read_short(rows[0] + at));
    __m128i high = _mm_cvtsi32_si128(read_short(rows[8] + at));
#define INSERT(i)                                                                                            \
    low = _mm_insert_epi16(low, read_short(rows[i] + at), i);                                                \
    high = _mm_insert_epi16(high, read_short(rows[8 + i] + at), i)
    INSERT(1);
    INSERT(2);
    INSERT(3);
    INSERT(4);
    INSERT(5);
    INSERT(6);
    INSERT(7);
#undef INSERT
    return _mm512_cvtph_ps(_mm256_set_m128i(high, low));
}

// q4_0 and q4_1: `head` bytes of scale and perhaps offset, then 32 nibbles, to which `bias` is added.
void unpack_nibbles(const std::byte *const rows[16], Size head, int bias, int n_cols, __mmask16 present,
                    std::byte *tile) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i shift = _mm512_set1_epi8(static_cast<char>(bias));
    for (Size b = 0; b < n_blocks(n_cols); ++b) {
        const Size at = b * (head + 16);
        __m512i groups[4];
        group_words(rows, at + head, groups);
        std::byte *out = tile + b * block_bytes;
        UNROLL for (Size g = 0; g < 4; ++g) {
            const __m512i lower = _mm512_and_si512(groups[g], low);
            const __m512i upper = _mm512_and_si512(_mm512_srli_epi16(groups[g], 4), low);
            _mm512_storeu_si512(out + g * lane_bytes, _mm512_add_epi8(lower, shift));
            _mm512_storeu_si512(out + (g + 4) * lane_bytes, _mm512_add_epi8(upper, shift));
        }
        _mm512_storeu_ps(tile + scales_at(n_cols) + b * lane_bytes,
                         _mm512_maskz_mov_ps(present, gather_halves(rows, at)));
        if (head > 2) {
            _mm512_storeu_ps(tile + offsets_at(n_cols) + b * lane_bytes,
                             _mm512_maskz_mov_ps(present, gather_halves(rows, at + 2)));
        }
    }
}

void unpack_bytes(const std::byte *const rows[16], int n_cols, __mmask16 present, std::byte *tile) {
    const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
    for (Size b = 0; b < n_blocks(n_cols); ++b) {
        const Size at = b * 34;
        for (Size half = 0; half < 2; ++half) {
            __m512i groups[4];
            group_words(rows, at + 2 + 16 * half, groups);
            std::byte *out = tile + b * block_bytes + half * 4 * lane_bytes;
            UNROLL for (Size g = 0; g < 4; ++g) {
                _mm512_storeu_si512(out + g * lane_bytes, _mm512_xor_si512(groups[g], flip));
            }
        }
        _mm512_storeu_ps(tile + scales_at(n_cols) + b * lane_bytes,
                         _mm512_maskz_mov_ps(present, gather_halves(rows, at)));
    }
}

// A group of q4_0_16x4, which has the order of a tile.
void unpack_interleaved(const std::byte *group, int n_cols, std::byte *tile) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i shift = _mm512_set1_epi8(128 - 8);
    for (Size b = 0; b < n_blocks(n_cols); ++b, group += interleaved_block_bytes) {
        const __m256i scales = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(group));
        _mm512_storeu_ps(tile + scales_at(n_cols) + b * lane_bytes, _mm512_cvtph_ps(scales));
        std::byte *out = tile + b * block_bytes;
        UNROLL for (Size g = 0; g < 4; ++g) {
            const __m512i packed = _mm512_loadu_si512(group + interleaved_scales_bytes + g * lane_bytes);
            const __m512i lower = _mm512_and_si512(packed, low);
            const __m512i upper = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
            _mm512_storeu_si512(out + g * lane_bytes, _mm512_add_epi8(lower, shift));
            _mm512_storeu_si512(out + (g + 4) * lane_bytes, _mm512_add_epi8(upper, shift));
        }
    }
}

// By way of plain code.
void unpack_q4_k(const std::byte *rows, Size row_bytes, int n_rows, int n_cols, std::byte *tile) {
    constexpr int piece = 256;  // a super-block
    constexpr Size piece_bytes = 144;
    for (Size r = 0; r < n_tile_rows; ++r) {
        for (int first = 0; first < n_cols; first += piece) {
            std::int8_t quants[piece] = {};
            float scales[piece / quant_block] = {};
            float offsets[piece / quant_block] = {};
            if (r < size(n_rows)) {
                unpack_quants(Storage::q4_k, rows + r * row_bytes + size(first / piece) * piece_bytes, piece,
                              quants, scales, offsets);
            }
            for (Size i = 0; i < piece / quant_block; ++i) {
                const Size b = size(first) / quant_block + i;
                for (Size g = 0; g < 8; ++g) {
                    std::uint32_t word;
                    __builtin_memcpy(&word, quants + i * quant_block + 4 * g, 4);
                    word ^= 0x80808080u;  // plus 128, four times
                    __builtin_memcpy(tile + b * block_bytes + g * lane_bytes + 4 * r, &word, 4);
                }
                __builtin_memcpy(tile + scales_at(n_cols) + b * lane_bytes + 4 * r, scales + i, 4);
                __builtin_memcpy(tile + offsets_at(n_cols) + b * lane_bytes + 4 * r, offsets + i, 4);
            }
        }
    }
}

void unpack_quant_tile(Storage storage, const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                       std::byte *tile) {
    const std::byte *each[16];
    for (int r = 0; r < 16; ++r) each[r] = rows + (r < n_rows ? size(r) : 0) * row_bytes;
    const __mmask16 present = first_lanes(n_rows);
    const int has_offsets = storage == Storage::q4_1 || storage == Storage::q4_k;
    __builtin_memcpy(tile + flag_at(n_cols), &has_offsets, sizeof(has_offsets));
    switch (storage) {
    case Storage::q4_0:
        return unpack_nibbles(each, 2, 128 - 8, n_cols, present, tile);
    case Storage::q4_1:
        return unpack_nibbles(each, 4, 128, n_cols, present, tile);
    case Storage::q8_0:
        return unpack_bytes(each, n_cols, present, tile);
    case Storage::q4_k:
        return unpack_q4_k(rows, row_bytes, n_rows, n_cols, tile);
    case Storage::q4_0_16x4:
        return unpack_interleaved(rows, n_cols, tile);
    case Storage::f32:
    case Storage::f16:
        return;
    }
}

// The largest magnitude of 32 values; what is no number counts for nothing.
float largest_magnitude(__m512 a, __m512 b) {
    const __m512 zero = _mm512_setzero_ps();
    return _mm512_reduce_max_ps(
        _mm512_max_ps(_mm512_max_ps(_mm512_abs_ps(a), zero), _mm512_max_ps(_mm512_abs_ps(b), zero)));
}

// Rounds to whole numbers in [-most, most]; what is no number becomes -most by the order of the operands.
__m512i quantise(__m512 x, __m512 inverse, float most) {
    __m512 scaled = _mm512_mul_ps(x, inverse);
    scaled = _mm512_max_ps(scaled, _mm512_set1_ps(-most));
    scaled = _mm512_min_ps(scaled, _mm512_set1_ps(most));
    return _mm512_cvt_roundps_epi32(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Bytes of 32 whole numbers, as eight words `step` bytes apart.
void put_bytes(__m512i first, __m512i second, Size step, std::byte *out) {
    alignas(32) std::uint32_t words[8];
    _mm_store_si128(reinterpret_cast<__m128i *>(words), _mm512_cvtepi32_epi8(first));
    _mm_store_si128(reinterpret_cast<__m128i *>(words + 4), _mm512_cvtepi32_epi8(second));
    UNROLL for (Size g = 0; g < 8; ++g) __builtin_memcpy(out + g * step, words + g, 4);
}

// 16 bits are 127 * 256 at most, so that the rounded upper byte fits.
template <int Planes> constexpr float most_quant = Planes == 1 ? 127.0f : 127.0f * 256.0f;

template <int Planes>
void pack_quants(const float *x, Size stride, int n_rows, int n_cols, std::byte *panel) {
    const Size rows = size(n_rows);
    const Size step = 4 * Planes * rows;  // from a group to the next
    for (Size b = 0; b < n_blocks(n_cols); ++b, panel += record_bytes<Planes>(rows)) {
        for (Size t = 0; t < rows; ++t) {
            const float *block = x + t * stride + b * quant_block;
            const __m512 low = _mm512_loadu_ps(block);
            const __m512 high = _mm512_loadu_ps(block + 16);
            const float largest = largest_magnitude(low, high);
            const __m512 inverse = _mm512_set1_ps(largest > 0 ? most_quant<Planes> / largest : 0.0f);
            const float scale = largest / most_quant<Planes>;
            const __m512i first = quantise(low, inverse, most_quant<Planes>);
            const __m512i second = quantise(high, inverse, most_quant<Planes>);
            const int sum = _mm512_reduce_add_epi32(_mm512_add_epi32(first, second));
            const float scaled_sum = scale * static_cast<float>(sum);
            std::byte *corrections = panel + 8 * step + 4 * Planes * t;
            if (Planes == 1) {
                put_bytes(first, second, step, panel + 4 * t);
                const int correction = -128 * sum;
                __builtin_memcpy(corrections, &correction, 4);
            } else {
                const __m512i round = _mm512_set1_epi32(128);
                const __m512i upper_first = _mm512_srai_epi32(_mm512_add_epi32(first, round), 8);
                const __m512i upper_second = _mm512_srai_epi32(_mm512_add_epi32(second, round), 8);
                put_bytes(upper_first, upper_second, step, panel + 8 * t);
                // Truncation to the low byte is what is left: in [-128, 127].
                put_bytes(first, second, step, panel + 8 * t + 4);
                const int upper_sum = _mm512_reduce_add_epi32(_mm512_add_epi32(upper_first, upper_second));
                const int pair[2] = {-128 * upper_sum, -128 * (sum - 256 * upper_sum)};
                __builtin_memcpy(corrections, pair, 8);
            }
            std::byte *scales = panel + 9 * step + 4 * t;
            __builtin_memcpy(scales, &scale, 4);
            __builtin_memcpy(scales + 4 * rows, &scaled_sum, 4);
        }
    }
}

template <int Planes, int T, bool Offsets> void quant_products(const std::byte *tile, int n_rows,
                                                               const std::byte *panel, int n_cols,
                                                               bool accumulate, float *out, Size out_stride) {
    constexpr Size planes = Planes * T;
    __m512 sums[T];
    UNROLL for (int t = 0; t < T; ++t) sums[t] = _mm512_setzero_ps();
    const std::byte *scales = tile + scales_at(n_cols);
    const std::byte *offsets = tile + offsets_at(n_cols);
    for (Size b = n_blocks(n_cols); b > 0; --b, panel += record_bytes<Planes>(T)) {
        const std::byte *corrections = panel + 32 * planes;
        const std::byte *row_scales = corrections + 4 * planes;
        __m512i products[planes];
        UNROLL for (Size p = 0; p < planes; ++p) products[p] = broadcast_word(corrections + 4 * p);
        UNROLL for (Size g = 0; g < 8; ++g) {
            const __m512i w = _mm512_loadu_si512(tile + g * lane_bytes);
            UNROLL for (Size p = 0; p < planes; ++p) {
                products[p] =
                    _mm512_dpbusd_epi32(products[p], w, broadcast_word(panel + 4 * (g * planes + p)));
            }
        }
        const __m512 w_scale = load_floats(scales);
        UNROLL for (int t = 0; t < T; ++t) {
            const __m512i product = Planes == 1 ? products[t]
                                                : _mm512_add_epi32(_mm512_slli_epi32(products[Planes * t], 8),
                                                                   products[Planes * t + Planes - 1]);
            const __m512 scale = _mm512_mul_ps(w_scale, broadcast_float(row_scales + 4 * t));
            sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scale, sums[t]);
            if (Offsets) {
                sums[t] =
                    _mm512_fmadd_ps(load_floats(offsets), broadcast_float(row_scales + 4 * (T + t)), sums[t]);
            }
        }
        tile += block_bytes;
        scales += lane_bytes;
        offsets += lane_bytes;
    }
    const __mmask16 rows = first_lanes(n_rows);
    UNROLL for (int t = 0; t < T; ++t) put(sums[t], rows, accumulate, out + size(t) * out_stride);
}

bool has_offsets(const std::byte *tile, int n_cols) { return read_word(tile + flag_at(n_cols)) != 0; }

template <bool Offsets> constexpr Products quick_products[n_planes] = {
    quant_products<1, 1, Offsets>,  quant_products<1, 2, Offsets>,  quant_products<1, 3, Offsets>,
    quant_products<1, 4, Offsets>,  quant_products<1, 5, Offsets>,  quant_products<1, 6, Offsets>,
    quant_products<1, 7, Offsets>,  quant_products<1, 8, Offsets>,  quant_products<1, 9, Offsets>,
    quant_products<1, 10, Offsets>, quant_products<1, 11, Offsets>, quant_products<1, 12, Offsets>};

template <bool Offsets> constexpr Products precise_products[n_planes / 2] = {
    quant_products<2, 1, Offsets>, quant_products<2, 2, Offsets>, quant_products<2, 3, Offsets>,
    quant_products<2, 4, Offsets>, quant_products<2, 5, Offsets>, quant_products<2, 6, Offsets>};

void multiply_quick(const std::byte *tile, int n_rows, const std::byte *panel, int n_tokens, int n_cols,
                    bool accumulate, float *out, Size out_stride) {
    const auto *products = has_offsets(tile, n_cols) ? quick_products<true> : quick_products<false>;
    products[n_tokens - 1](tile, n_rows, panel, n_cols, accumulate, out, out_stride);
}

void multiply_precise(const std::byte *tile, int n_rows, const std::byte *panel, int n_tokens, int n_cols,
                      bool accumulate, float *out, Size out_stride) {
    const auto *products = has_offsets(tile, n_cols) ? precise_products<true> : precise_products<false>;
    products[n_tokens - 1](tile, n_rows, panel, n_cols, accumulate, out, out_stride);
}

// --- One vector against rows as they are stored.
//
// A row is read 64 bytes at a time and never shuffled. Two blocks of q4_0 are 36 bytes, two of q8_0 68: nine
// or seventeen words, each of which belongs to one block, because a scale takes two bytes and so either
// begins the first word of the first block or ends the last word of the first. So the vector is spread out to
// match: where the row has a scale, the vector has zeros. Only the scales themselves have to be moved, to all
// words of their block, by one permutation of this register and the one before; its pattern repeats every 32
// blocks. Words also are what the vector is quantised by, to 8 bits: with 16 the processor would multiply
// more slowly than two cores can read.

constexpr int n_stream_rows = 4;
// Fetched ahead is in memory order, which the hardware's own prefetcher follows, and not in that of use: rows
// that are read together have to be fetched before the first of them begins. Where they are long that is more
// than the first-level cache holds beside the vector.
constexpr Size near_distance = 8192;
constexpr Size far_distance = 16384;
constexpr Size most_near_bytes = 8000;  // of rows that are read together

template <int BlockBytes> struct Stream {
    static constexpr Size block = BlockBytes;
    static constexpr Size period = 32 * block / lane_bytes;  // registers of a row until the pattern repeats
    static constexpr bool nibbles = BlockBytes == 18;
    static constexpr Size n_vectors = nibbles ? 2 : 1;

    static Size row_bytes(int n_cols) { return n_blocks(n_cols) * block; }
    static Size n_registers(int n_cols) { return (row_bytes(n_cols) + lane_bytes - 1) / lane_bytes; }

    // Prepared are the permutations and then, each as long as the row, the vectors, sums and scales.
    static constexpr Size permutations_bytes = period * lane_bytes;
    static Size plane_bytes(int n_cols) { return n_registers(n_cols) * lane_bytes; }
    static Size prepared_bytes(int n_cols) {
        return permutations_bytes + (n_vectors + 2) * plane_bytes(n_cols) +
               lane_bytes;  // stored beyond the end
    }
};

template <int BlockBytes> Size stream_bytes(int n_cols) { return Stream<BlockBytes>::prepared_bytes(n_cols); }

template <int N> __m512 rotate_floats(__m512 x) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(x), _mm512_castps_si512(x), N));
}

// The largest of each aligned four, in all of the four.
__m512 largest_of_fours(__m512 x) {
    x = _mm512_max_ps(x, _mm512_permute_ps(x, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm512_max_ps(x, _mm512_permute_ps(x, _MM_SHUFFLE(1, 0, 3, 2)));
}

void store_bytes(std::byte *out, __m512i numbers) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(out), _mm512_cvtepi32_epi8(numbers));
}

template <int BlockBytes> void prepare_permutations(std::byte *prepared) {
    using S = Stream<BlockBytes>;
    auto *permutations = reinterpret_cast<std::uint16_t *>(prepared);
    constexpr Size words =
        S::block / 2;  // of two blocks, of 32 bits; the scale of block b is half word b * words
    for (Size word = 0; word < S::period * 16; ++word) {
        const Size b = word / words * 2 + (word % words > words / 2 ? 1 : 0);
        const Size at = b * words;
        const Size first = word / 16 * 32;  // half word of its register
        permutations[word / 16 * 32 + word % 16] = static_cast<std::uint16_t>(
            at + 32 - first);  // from 32 on in this register, below in the one before
    }
}

// The columns of a word, or in q4_0 the four and the four sixteen columns on, have a scale of their own; but
// the first two of an even block share that of its last two.
template <int BlockBytes> void prepare_stream(const float *x, int n_cols, std::byte *prepared) {
    using S = Stream<BlockBytes>;
    prepare_permutations<BlockBytes>(prepared);
    const Size plane = S::plane_bytes(n_cols);
    std::byte *vectors = prepared + S::permutations_bytes;
    std::byte *sums = vectors + S::n_vectors * plane;
    std::byte *scales = sums + plane;
    // What the last register has behind the row.
    for (std::byte *each = vectors; each <= scales; each += plane)
        _mm512_storeu_si512(each + plane - lane_bytes, _mm512_setzero_si512());

    // The column, modulo 16, that each word of a block begins with.
    const __m512i even_columns = _mm512_setr_epi32(0, 2, 6, 10, 14, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0);
    const __m512i odd_columns = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512 zero = _mm512_setzero_ps();
    const __m512 most = _mm512_set1_ps(most_quant<1>);
    const __m512 step = _mm512_set1_ps(1 / most_quant<1>);
    for (Size b = 0; b < n_blocks(n_cols); ++b) {
        const bool even = b % 2 == 0;
        const __m512 first = _mm512_loadu_ps(x + b * quant_block);
        const __m512 second = _mm512_loadu_ps(x + b * quant_block + 16);
        // What is no number counts for nothing.
        __m512 largest = _mm512_max_ps(_mm512_max_ps(_mm512_abs_ps(first), zero),
                                       _mm512_max_ps(_mm512_abs_ps(second), zero));
        if (even) largest = rotate_floats<14>(largest);
        largest = largest_of_fours(largest);
        if (even) largest = rotate_floats<2>(largest);
        const __mmask16 some = _mm512_cmp_ps_mask(largest, zero, _CMP_GT_OQ);
        const __m512 inverse = _mm512_maskz_div_ps(some, most, largest);
        // Zeros where the row has its scale, then the numbers.
        std::byte *at = vectors + b * S::block;
        __builtin_memset(at, 0, 2);
        store_bytes(at + 2, quantise(first, inverse, most_quant<1>));
        if (S::nibbles) {
            __builtin_memset(at + plane, 0, 2);
            store_bytes(at + plane + 2, quantise(second, inverse, most_quant<1>));
        } else {
            store_bytes(at + 18, quantise(second, inverse, most_quant<1>));
        }
        // From the word that begins with this block's scale, or that follows it.
        const Size first_word = (b * S::block + 2) / 4;
        // Those behind this block's are overwritten by the next; a masked store would be slow.
        const __m512 of_words =
            _mm512_permutexvar_ps(even ? even_columns : odd_columns, _mm512_mul_ps(largest, step));
        _mm512_storeu_si512(scales + first_word * 4, _mm512_castps_si512(of_words));
    }
    const Size used = (S::row_bytes(n_cols) + 3) / 4 * 4;
    __builtin_memset(scales + used, 0, plane - used);
    // What the weights' bias adds to each word, to begin its sum with.
    const __m512i bias = _mm512_set1_epi8(static_cast<char>(S::nibbles ? 8 : 128));
    for (Size i = 0; i < plane; i += lane_bytes) {
        __m512i sum = _mm512_setzero_si512();
        for (Size v = 0; v < S::n_vectors; ++v)
            sum = _mm512_dpbusd_epi32(sum, bias, _mm512_loadu_si512(vectors + v * plane + i));
        _mm512_storeu_si512(sums + i, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
    }
}

template <int BlockBytes> struct StreamVectors {
    __m512i vectors[Stream<BlockBytes>::n_vectors];
    __m512i sums;
    __m512 scales;
    __m512i permutation;
};

// One register of a row: its words' sums, scaled.
template <int BlockBytes>
__m512 stream_step(__m512i packed, __m512i before, const StreamVectors<BlockBytes> &x, __m512 sum) {
    __m512i product = x.sums;
    if (Stream<BlockBytes>::nibbles) {
        const __m512i mask = _mm512_set1_epi8(15);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask);
        product = _mm512_dpbusd_epi32(product, _mm512_and_si512(packed, mask), x.vectors[0]);
        product = _mm512_dpbusd_epi32(product, high, x.vectors[Stream<BlockBytes>::n_vectors - 1]);
    } else {
        const __m512i flipped = _mm512_xor_si512(packed, _mm512_set1_epi8(static_cast<char>(0x80)));
        product = _mm512_dpbusd_epi32(product, flipped, x.vectors[0]);
    }
    const __m512i halves = _mm512_permutex2var_epi16(before, x.permutation, packed);
    const __m512 scales = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), x.scales);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scales, sum);
}

template <int BlockBytes, int R, bool Far>
void stream_rows(const std::byte *rows, Size row_bytes, int n_cols, const std::byte *prepared, float *out) {
    using S = Stream<BlockBytes>;
    __m512 sums[R];
    __m512i before[R];
    UNROLL for (int r = 0; r < R; ++r) {
        sums[r] = _mm512_setzero_ps();
        before[r] = _mm512_setzero_si512();
    }
    const std::byte *permutation = prepared;
    const std::byte *vectors = prepared + S::permutations_bytes;
    const Size plane = S::plane_bytes(n_cols);
    const std::byte *ahead = rows + (Far ? far_distance : near_distance);
    // `load` reads a register of a row.
    const auto step = [&](Size i, auto load) {
        StreamVectors<BlockBytes> x;
        UNROLL for (Size v = 0; v < S::n_vectors; ++v) x.vectors[v] = _mm512_loadu_si512(vectors + v * plane);
        x.sums = _mm512_loadu_si512(vectors + S::n_vectors * plane);
        x.scales = load_floats(vectors + (S::n_vectors + 1) * plane);
        x.permutation = _mm512_loadu_si512(permutation);
        permutation += lane_bytes;
        if (permutation == prepared + S::permutations_bytes) permutation = prepared;
        vectors += lane_bytes;
        const std::byte *at = rows + i * lane_bytes;
        UNROLL for (int r = 0; r < R; ++r, at += row_bytes) {
            const __m512i packed = load(at);
            _mm_prefetch(reinterpret_cast<const char *>(ahead + size(r) * lane_bytes),
                         Far ? _MM_HINT_T1 : _MM_HINT_T0);
            sums[r] = stream_step<BlockBytes>(packed, before[r], x, sums[r]);
            before[r] = packed;
        }
        ahead += R * lane_bytes;
    };
    const Size n_whole = S::row_bytes(n_cols) / lane_bytes;
    for (Size i = 0; i < n_whole; ++i) step(i, [](const std::byte *at) { return _mm512_loadu_si512(at); });
    if (const Size tail = S::row_bytes(n_cols) % lane_bytes; tail != 0) {
        // Not a byte behind the last row: the mapping may end there.
        const __mmask64 mask = (__mmask64{1} << tail) - 1;
        step(n_whole, [mask](const std::byte *at) { return _mm512_maskz_loadu_epi8(mask, at); });
    }
    if (R == 4) {
        _mm_storeu_ps(out, sum_four(sums[0], sums[1 % R], sums[2 % R], sums[3 % R]));
    } else {
        UNROLL for (int r = 0; r < R; ++r) out[r] = _mm512_reduce_add_ps(sums[r]);
    }
}

template <int BlockBytes, bool Far> void multiply_groups(const std::byte *rows, Size row_bytes, int n_rows,
                                                         int n_cols, const std::byte *prepared, float *out) {
    int r = 0;
    for (; r + n_stream_rows <= n_rows; r += n_stream_rows)
        stream_rows<BlockBytes, n_stream_rows, Far>(rows + size(r) * row_bytes, row_bytes, n_cols, prepared,
                                                    out + r);
    for (; r < n_rows; ++r)
        stream_rows<BlockBytes, 1, Far>(rows + size(r) * row_bytes, row_bytes, n_cols, prepared, out + r);
}

template <int BlockBytes> void multiply_stream(const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                                               const std::byte *prepared, float *out) {
    const bool far = n_stream_rows * row_bytes > most_near_bytes;
    (far ? multiply_groups<BlockBytes, true> : multiply_groups<BlockBytes, false>)(rows, row_bytes, n_rows,
                                                                                   n_cols, prepared, out);
}

// q4_0_16x4: a lane is a row, and a group is read from its beginning to its end, which the hardware's own
// prefetcher follows best alone.
//
// Prepared: a panel of one row.
void prepare_interleaved(const float *x, int n_cols, std::byte *prepared) {
    pack_quants<1>(x, 0, 1, n_cols, prepared);
}

__m512 multiply_group(const std::byte *group, Size blocks, const std::byte *prepared) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i high = _mm512_set1_epi8(static_cast<char>(0xf0));
    __m512 sums = _mm512_setzero_ps();
    for (; blocks > 0; --blocks, group += interleaved_block_bytes, prepared += record_bytes<1>(1)) {
        // The upper nibbles stay where they are, sixteen times their value, as is what their bias of 8 takes
        // away.
        __m512i lower = _mm512_setzero_si512();
        __m512i upper = broadcast_word(prepared + quant_block);
        UNROLL for (Size g = 0; g < 4; ++g) {
            const __m512i packed = _mm512_loadu_si512(group + interleaved_scales_bytes + g * lane_bytes);
            const std::byte *words = prepared + 4 * g;
            lower = _mm512_dpbusd_epi32(lower, _mm512_and_si512(packed, low), broadcast_word(words));
            upper = _mm512_dpbusd_epi32(upper, _mm512_and_si512(packed, high), broadcast_word(words + 16));
        }
        const __m512 products = _mm512_cvtepi32_ps(_mm512_add_epi32(lower, _mm512_srai_epi32(upper, 4)));
        const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(group));
        const __m512 scales =
            _mm512_mul_ps(_mm512_cvtph_ps(halves), broadcast_float(prepared + quant_block + 4));
        sums = _mm512_fmadd_ps(products, scales, sums);
    }
    return sums;
}

void multiply_interleaved(const std::byte *rows, Size, int n_rows, int n_cols, const std::byte *prepared,
                          float *out) {
    const Size blocks = n_blocks(n_cols);
    for (int r = 0; r < n_rows; r += interleaved_rows, rows += blocks * interleaved_block_bytes)
        _mm512_storeu_ps(out + r, multiply_group(rows, blocks, prepared));
}

// f32 and f16: the vector as it is.
Size plain_bytes(int n_cols) { return single_row_bytes(n_cols); }

void prepare_plain(const float *x, int n_cols, std::byte *prepared) {
    __builtin_memcpy(prepared, x, plain_bytes(n_cols));
}

template <Storage Stored> void multiply_plain(const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                                              const std::byte *prepared, float *out) {
    for (int first = 0; first < n_rows; first += n_stream_rows) {
        const std::byte *row[n_stream_rows];
        __m512 sums[n_stream_rows];
        UNROLL for (int r = 0; r < n_stream_rows; ++r) {
            // The last rows stand in for those behind the end.
            row[r] = rows + size(first + r < n_rows ? first + r : n_rows - 1) * row_bytes;
            sums[r] = _mm512_setzero_ps();
        }
        const std::byte *ahead = row[0] + near_distance;
        for (int c = 0; c < n_cols; c += 16) {
            const __m512 x = load_values(Storage::f32, prepared, c, n_cols);
            UNROLL for (int r = 0; r < n_stream_rows; ++r) sums[r] =
                _mm512_fmadd_ps(load_values(Stored, row[r], c, n_cols), x, sums[r]);
            for (Size line = 0; line < 64 * n_stream_rows / 32 * (Stored == Storage::f32 ? 2 : 1);
                 line += 64) {
                _mm_prefetch(reinterpret_cast<const char *>(ahead), _MM_HINT_T0);
                ahead += 64;
            }
        }
        for (int r = 0; r < n_stream_rows && first + r < n_rows; ++r)
            out[first + r] = _mm512_reduce_add_ps(sums[r]);
    }
}

const VectorProduct *vector_product(Storage storage) {
    static constexpr VectorProduct q4_0{8, stream_bytes<18>, prepare_stream<18>, multiply_stream<18>};
    static constexpr VectorProduct q8_0{8, stream_bytes<34>, prepare_stream<34>, multiply_stream<34>};
    static constexpr VectorProduct q4_0_16x4{8, quant_row_bytes<1>, prepare_interleaved,
                                             multiply_interleaved};
    static constexpr VectorProduct f32{32, plain_bytes, prepare_plain, multiply_plain<Storage::f32>};
    static constexpr VectorProduct f16{32, plain_bytes, prepare_plain, multiply_plain<Storage::f16>};
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

// Keys and values come from memory once for each token: fetched some positions ahead of their use.
constexpr int positions_ahead = 8;

__m512 load_halves(const std::uint16_t *at, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, at));
}

void prefetch_row(const std::uint16_t *row, int width) {
    for (int c = 0; c < width; c += 32) _mm_prefetch(reinterpret_cast<const char *>(row + c), _MM_HINT_T0);
}

// A few heads and up to 128 columns, from registers.
constexpr int n_columns = 8;

template <int H> void scores_of_heads(const float *q, int width, const std::uint16_t *keys, Size stride,
                                      int n, float scale, float *scores, Size score_stride) {
    for (int i = 0; i < n; ++i, keys += stride) {
        __m512 sums[H];
        UNROLL for (int h = 0; h < H; ++h) sums[h] = _mm512_setzero_ps();
        prefetch_row(keys + positions_ahead * stride, width);
        for (int c = 0; c < width; c += 16) {
            const __mmask16 mask = first_lanes(width - c);
            const __m512 key = load_halves(keys + c, mask);
            UNROLL for (int h = 0; h < H; ++h) sums[h] =
                _mm512_fmadd_ps(key, _mm512_maskz_loadu_ps(mask, q + h * width + c), sums[h]);
        }
        UNROLL for (int h = 0; h < H; ++h) scores[size(h) * score_stride + size(i)] =
            scale * _mm512_reduce_add_ps(sums[h]);
    }
}

void attention_scores(const float *q, int n_heads, int width, const std::uint16_t *keys, Size stride, int n,
                      float scale, float *scores, Size score_stride) {
    int h = 0;
    for (; h + 2 <= n_heads; h += 2) {
        scores_of_heads<2>(q + h * width, width, keys, stride, n, scale, scores + size(h) * score_stride,
                           score_stride);
    }
    if (h < n_heads) {
        scores_of_heads<1>(q + h * width, width, keys, stride, n, scale, scores + size(h) * score_stride,
                           score_stride);
    }
}

template <int H> void values_of_heads(const float *weights, Size weight_stride, int width,
                                      const std::uint16_t *values, Size stride, int n, float *out) {
    for (int first = 0; first < width; first += 16 * n_columns) {
        __mmask16 masks[n_columns];
        __m512 sums[H][n_columns];
        UNROLL for (int c = 0; c < n_columns; ++c) {
            const int left = width - first - 16 * c;
            masks[c] = left > 0 ? first_lanes(left) : __mmask16{0};
            UNROLL for (int h = 0; h < H; ++h) sums[h][c] =
                _mm512_maskz_loadu_ps(masks[c], out + h * width + first + 16 * c);
        }
        const std::uint16_t *value = values + first;
        for (int i = 0; i < n; ++i, value += stride) {
            __m512 factors[H];
            UNROLL for (int h = 0; h < H; ++h) factors[h] =
                _mm512_set1_ps(weights[size(h) * weight_stride + size(i)]);
            prefetch_row(value + positions_ahead * stride, width);
            UNROLL for (int c = 0; c < n_columns; ++c) {
                const __m512 column = load_halves(value + 16 * c, masks[c]);
                UNROLL for (int h = 0; h < H; ++h) sums[h][c] =
                    _mm512_fmadd_ps(factors[h], column, sums[h][c]);
            }
        }
        UNROLL for (int c = 0; c < n_columns; ++c) {
            UNROLL for (int h = 0; h < H; ++h)
                _mm512_mask_storeu_ps(out + h * width + first + 16 * c, masks[c], sums[h][c]);
        }
    }
}

void attention_values(const float *weights, Size weight_stride, int n_heads, int width,
                      const std::uint16_t *values, Size stride, int n, float *out) {
    int h = 0;
    for (; h + 2 <= n_heads; h += 2) {
        values_of_heads<2>(weights + size(h) * weight_stride, weight_stride, width, values, stride, n,
                           out + h * width);
    }
    if (h < n_heads) {
        values_of_heads<1>(weights + size(h) * weight_stride, weight_stride, width, values, stride, n,
                           out + h * width);
    }
}

// --- Functions of single values.

// exp(x) by 2^n * exp(r), |r| <= ln 2 / 2, with a polynomial of degree six; relative error below 3e-7.
// Arguments under -87 give 0, over 88 the value at 88.
__m512 exponential(__m512 x) {
    const __mmask16 large_enough = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    x = _mm512_min_ps(x, _mm512_set1_ps(88.0f));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // ln 2 in two parts, the first exact in 15 bits, keeps r accurate.
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145751953125f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860682030941723e-6f), r);
    __m512 p = _mm512_set1_ps(1.0f / 720);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(large_enough, p, n);
}

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
__m512 error_function(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.3275911f), one));
    __m512 p = _mm512_set1_ps(1.061405429f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
    p = _mm512_mul_ps(p, t);
    const __m512 decay = exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(x, x)));
    const __m512 magnitude = _mm512_fnmadd_ps(p, decay, one);
    return _mm512_or_ps(magnitude, _mm512_and_ps(x, _mm512_set1_ps(-0.0f)));
}

void gelu(float *y, int n) {
    const __m512 half = _mm512_set1_ps(0.5f);
    for (int i = 0; i < n; i += 16) {
        const __mmask16 mask = first_lanes(n - i);
        const __m512 v = _mm512_maskz_loadu_ps(mask, y + i);
        const __m512 half_v = _mm512_mul_ps(v, half);
        const __m512 erf = error_function(_mm512_mul_ps(v, _mm512_set1_ps(0.70710678118654752440f)));
        _mm512_mask_storeu_ps(y + i, mask, _mm512_fmadd_ps(half_v, erf, half_v));
    }
}

void silu_multiply(float *y, const float *x, int n) {
    for (int i = 0; i < n; i += 16) {
        const __mmask16 mask = first_lanes(n - i);
        const __m512 v = _mm512_maskz_loadu_ps(mask, y + i);
        const __m512 divisor =
            _mm512_add_ps(_mm512_set1_ps(1.0f), exponential(_mm512_sub_ps(_mm512_setzero_ps(), v)));
        const __m512 product = _mm512_mul_ps(_mm512_div_ps(v, divisor), _mm512_maskz_loadu_ps(mask, x + i));
        _mm512_mask_storeu_ps(y + i, mask, product);
    }
}

float exponentials(float *y, float maximum, int n) {
    const __m512 shift = _mm512_set1_ps(maximum);
    __m512 sums = _mm512_setzero_ps();
    for (int i = 0; i < n; i += 16) {
        const __mmask16 mask = first_lanes(n - i);
        const __m512 v = exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, y + i), shift));
        _mm512_mask_storeu_ps(y + i, mask, v);
        sums = _mm512_mask_add_ps(sums, mask, sums, v);
    }
    return _mm512_reduce_add_ps(sums);
}

Kernels make_table(bool bf16) {
    static constexpr Arithmetic single{n_panel_rows,  single_tile_bytes, single_row_bytes,
                                       unpack_single, pack_single,       multiply_single};
    static constexpr Arithmetic half{n_panel_rows, half_tile_bytes, half_row_bytes,
                                     unpack_half,  pack_half,       multiply_half};
    Kernels table = avx2_kernels();  // where wider registers gain nothing
    table.name = "avx512";
    table.tile_rows = n_tile_rows;
    table.single = single;
    table.half = bf16 ? half : single;
    table.half_bytes = bf16 ? 2 : 4;
    table.precise = {n_planes / 2,      quant_tile_bytes, quant_row_bytes<2>,
                     unpack_quant_tile, pack_quants<2>,   multiply_precise};
    table.quick = {n_planes,          quant_tile_bytes, quant_row_bytes<1>,
                   unpack_quant_tile, pack_quants<1>,   multiply_quick};
    table.vector_product = vector_product;
    table.interleave = interleave;
    if (bf16) table.round_to_half = round_to_half;
    table.attention_scores = attention_scores;
    table.attention_values = attention_values;
    table.gelu = gelu;
    table.silu_multiply = silu_multiply;
    table.exponentials = exponentials;
    return table;
}

}  // namespace

const Kernels &avx512_kernels(bool bf16) {
    static const Kernels with = make_table(true);
    static const Kernels without = make_table(false);
    return bf16 ? with : without;
}

}  // namespace chatllm

#endif

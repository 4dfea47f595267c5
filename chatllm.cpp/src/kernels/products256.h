#pragma once

// Quantised products in 256-bit registers, for the tables that differ only in the instruction that multiplies
// and adds. Everything here is local to the file that includes it: each compiles it with flags of its own,
// and none may use an inline function of the standard library.

#include <immintrin.h>

#include "kernels/kernels.h"

namespace chatllm {
namespace {

using Size = std::size_t;

constexpr Size lane_bytes = 32;      // a register, eight lanes
constexpr int n_tile_registers = 2;  // of rows: twice the products for each broadcast
constexpr int n_tile_rows = 8 * n_tile_registers;
constexpr int n_panel_rows = 12 / n_tile_registers;  // twelve sums in registers, and room for operands
constexpr Size tile_step = n_tile_registers * lane_bytes;

#define UNROLL _Pragma("GCC unroll 16")
// Ends a step of a sum, without an instruction: or GCC makes all products first, more than the registers
// hold.
#define SETTLE(sum) __asm__ volatile("" : "+x"(sum))

constexpr Size size(int n) { return static_cast<Size>(n); }

// Lanes [0, n) of eight, whatever n is.
inline __m256i first_lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline __m256i load_words(const std::byte *at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(at));
}

inline void store_words(std::byte *at, __m256i words) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(at), words);
}

inline __m256 load_floats(const std::byte *at) {
    return _mm256_loadu_ps(reinterpret_cast<const float *>(at));
}

inline __m256 load_halves(const std::byte *at) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(at)));
}

inline __m256i broadcast_word(const std::byte *at) {
    int word;
    __builtin_memcpy(&word, at, sizeof(word));
    return _mm256_set1_epi32(word);
}

inline __m256 broadcast_float(const std::byte *at) {
    float value;
    __builtin_memcpy(&value, at, sizeof(value));
    return _mm256_set1_ps(value);
}

inline float sum_lanes(__m256 v) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

inline float max_lanes(__m256 v) {
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

// Rows [0, n_rows) of a tile's sums for one row of activations, to their place.
inline void put(const __m256 sums[n_tile_registers], int n_rows, bool accumulate, float *out) {
    UNROLL for (int v = 0; v < n_tile_registers; ++v, n_rows -= 8, out += 8) {
        if (n_rows >= 8) {
            _mm256_storeu_ps(out, accumulate ? _mm256_add_ps(sums[v], _mm256_loadu_ps(out)) : sums[v]);
        } else if (n_rows > 0) {
            const __m256i mask = first_lanes(n_rows);
            const __m256 sum = accumulate ? _mm256_add_ps(sums[v], _mm256_maskload_ps(out, mask)) : sums[v];
            _mm256_maskstore_ps(out, mask, sum);
        }
    }
}

// The one of six that multiplies n_tokens rows of activations.
using Products = void (*)(const std::byte *, int, const std::byte *, int, bool, float *, Size);

// --- Tiles and panels.
//
// Tile: quants [n_blocks][8 groups of 4 columns][rows][4], scales [n_blocks][rows], offsets [n_blocks][rows].
// Quants are unsigned: those that are stored with a sign are raised, and what that adds is taken away by the
// offset.
// Panel, a record a block: quants, then for each row its scale, then its scale times its sum. Quants of 8
// bits: [8 groups][rows][4]. Of 16 bits: [8 groups][rows][4], the even columns of a group before the odd
// ones, because that is how a tile's bytes become words without a shuffle.

constexpr Size block_bytes = 8 * tile_step;

inline Size n_blocks(int n_cols) { return size(n_cols) / quant_block; }
inline Size scales_at(int n_cols) { return n_blocks(n_cols) * block_bytes; }
inline Size offsets_at(int n_cols) { return scales_at(n_cols) + n_blocks(n_cols) * tile_step; }

// Of a panel, for each of its rows.
template <int Bytes> constexpr Size record_bytes = quant_block *Bytes + 2 * sizeof(float);

template <int Bytes> Size quant_row_bytes(int n_cols) { return n_blocks(n_cols) * record_bytes<Bytes>; }

// The magnitude, or zero for what is no number.
inline __m256 magnitude(__m256 x) {
    return _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x), _mm256_setzero_ps());
}

// Rounds to whole numbers in [-most, most]; what is no number becomes -most by the order of the operands.
inline __m256i quantise(__m256 x, float inverse, float most) {
    __m256 scaled = _mm256_mul_ps(x, _mm256_set1_ps(inverse));
    scaled = _mm256_max_ps(scaled, _mm256_set1_ps(-most));
    scaled = _mm256_min_ps(scaled, _mm256_set1_ps(most));
    return _mm256_cvtps_epi32(_mm256_round_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

constexpr float most_word = 32767.0f;

inline int sum_lanes(__m256i v) {
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

// A block in 16 bits, as 64-bit groups of four columns: 0, 2, 1, 3 and then 4, 6, 5, 7.
struct BlockWords {
    __m256i words[2];
    float scale;
    float scaled_sum;
};

inline BlockWords quantise_block(const float *x, float most) {
    __m256 values[4];
    UNROLL for (int i = 0; i < 4; ++i) values[i] = _mm256_loadu_ps(x + 8 * i);
    const float largest = max_lanes(_mm256_max_ps(_mm256_max_ps(magnitude(values[0]), magnitude(values[1])),
                                                  _mm256_max_ps(magnitude(values[2]), magnitude(values[3]))));
    const float inverse = largest > 0 ? most / largest : 0.0f;
    __m256i quants[4];
    UNROLL for (int i = 0; i < 4; ++i) quants[i] = quantise(values[i], inverse, most);
    const __m256i sum =
        _mm256_add_epi32(_mm256_add_epi32(quants[0], quants[1]), _mm256_add_epi32(quants[2], quants[3]));
    const float scale = largest / most;
    return {{_mm256_packs_epi32(quants[0], quants[1]), _mm256_packs_epi32(quants[2], quants[3])},
            scale,
            scale * static_cast<float>(sum_lanes(sum))};
}

// Where 64-bit and 32-bit groups stand in what packing leaves.
constexpr Size group_order[8] = {0, 2, 1, 3, 4, 6, 5, 7};
constexpr Size byte_group_order[8] = {0, 2, 4, 6, 1, 3, 5, 7};

template <int Bytes> void pack_quants(const float *x, Size stride, int n_rows, int n_cols, std::byte *panel) {
    const Size rows = size(n_rows);
    for (Size b = 0; b < n_blocks(n_cols); ++b, panel += rows * record_bytes<Bytes>) {
        for (Size t = 0; t < rows; ++t) {
            const BlockWords block =
                quantise_block(x + t * stride + b * quant_block, Bytes == 1 ? 127.0f : most_word);
            alignas(32) std::byte groups[quant_block * Bytes];
            if (Bytes == 1) {
                store_words(groups, _mm256_packs_epi16(block.words[0], block.words[1]));
            } else {
                // Even columns first.
                const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15,
                                                       0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
                store_words(groups, _mm256_shuffle_epi8(block.words[0], order));
                store_words(groups + 32 * (Bytes - 1), _mm256_shuffle_epi8(block.words[1], order));
            }
            UNROLL for (Size g = 0; g < 8; ++g) {
                const Size group = Bytes == 1 ? byte_group_order[g] : group_order[g];
                __builtin_memcpy(panel + 4 * Bytes * (group * rows + t), groups + 4 * Bytes * g, 4 * Bytes);
            }
            std::byte *scales = panel + rows * quant_block * Bytes + 4 * t;
            __builtin_memcpy(scales, &block.scale, 4);
            __builtin_memcpy(scales + 4 * rows, &block.scaled_sum, 4);
        }
    }
}

// sums += scale * product + offset * (sum of the activations), for the block that `record` ends.
template <int T> void add_block(const __m256i products[T][n_tile_registers], const std::byte *scales,
                                const std::byte *offsets, const std::byte *record,
                                __m256 sums[T][n_tile_registers]) {
    UNROLL for (int t = 0; t < T; ++t) {
        const __m256 scale = broadcast_float(record + 4 * t);
        const __m256 sum = broadcast_float(record + 4 * (T + t));
        UNROLL for (int v = 0; v < n_tile_registers; ++v) {
            const __m256 scaled =
                _mm256_mul_ps(_mm256_cvtepi32_ps(products[t][v]), load_floats(scales + size(v) * lane_bytes));
            sums[t][v] = _mm256_fmadd_ps(scaled, scale, sums[t][v]);
            sums[t][v] = _mm256_fmadd_ps(load_floats(offsets + size(v) * lane_bytes), sum, sums[t][v]);
            SETTLE(sums[t][v]);
        }
    }
}

// Runs block(quants of the tile, quants of the panel, products) for every block and adds it up. The products
// of a block are whole numbers below 2^31: 32 of 255 * 32767.
template <int T, int Bytes, typename Block>
void quant_products(const std::byte *tile, int n_rows, const std::byte *panel, int n_cols, bool accumulate,
                    float *out, Size out_stride, const Block &block) {
    __m256 sums[T][n_tile_registers];
    UNROLL for (int t = 0; t < T; ++t) {
        UNROLL for (int v = 0; v < n_tile_registers; ++v) sums[t][v] = _mm256_setzero_ps();
    }
    const std::byte *scales = tile + scales_at(n_cols);
    const std::byte *offsets = tile + offsets_at(n_cols);
    for (Size b = n_blocks(n_cols); b > 0; --b) {
        __m256i products[T][n_tile_registers];
        UNROLL for (int t = 0; t < T; ++t) {
            UNROLL for (int v = 0; v < n_tile_registers; ++v) products[t][v] = _mm256_setzero_si256();
        }
        block(tile, panel, products);
        add_block<T>(products, scales, offsets, panel + T * quant_block * Bytes, sums);
        panel += T * record_bytes<Bytes>;
        tile += block_bytes;
        scales += tile_step;
        offsets += tile_step;
    }
    UNROLL for (int t = 0; t < T; ++t) put(sums[t], n_rows, accumulate, out + size(t) * out_stride);
}

// products += words * activations, whose words lie 8 bytes apart.
template <typename Dot, int T> void add_words(const __m256i words[n_tile_registers], const std::byte *x,
                                              __m256i products[T][n_tile_registers]) {
    UNROLL for (int t = 0; t < T; ++t) {
        const __m256i activations = broadcast_word(x + 8 * t);
        UNROLL for (int v = 0; v < n_tile_registers; ++v) {
            products[t][v] = Dot::add(products[t][v], words[v], activations);
            SETTLE(products[t][v]);
        }
    }
}

// 16 bits. Dot::add(sum, a, b) adds the products of pairs of 16-bit numbers to sums of 32 bits.
template <typename Dot, int T> void precise_products(const std::byte *tile, int n_rows,
                                                     const std::byte *panel, int n_cols, bool accumulate,
                                                     float *out, Size out_stride) {
    const auto block = [](const std::byte *w, const std::byte *x, __m256i products[T][n_tile_registers]) {
        UNROLL for (Size g = 0; g < 8; ++g) {
            __m256i even[n_tile_registers];
            UNROLL for (int v = 0; v < n_tile_registers; ++v) {
                even[v] = _mm256_and_si256(load_words(w + g * tile_step + size(v) * lane_bytes),
                                           _mm256_set1_epi16(0xff));
            }
            add_words<Dot, T>(even, x + g * 8 * T, products);
        }
        UNROLL for (Size g = 0; g < 8; ++g) {
            __m256i odd[n_tile_registers];
            UNROLL for (int v = 0; v < n_tile_registers; ++v) odd[v] =
                _mm256_srli_epi16(load_words(w + g * tile_step + size(v) * lane_bytes), 8);
            add_words<Dot, T>(odd, x + g * 8 * T + 4, products);
        }
    };
    quant_products<T, 2>(tile, n_rows, panel, n_cols, accumulate, out, out_stride, block);
}

template <typename Dot> void multiply_precise(const std::byte *tile, int n_rows, const std::byte *panel,
                                              int n_tokens, int n_cols, bool accumulate, float *out,
                                              Size out_stride) {
    static constexpr Products products[n_panel_rows] = {precise_products<Dot, 1>, precise_products<Dot, 2>,
                                                        precise_products<Dot, 3>, precise_products<Dot, 4>,
                                                        precise_products<Dot, 5>, precise_products<Dot, 6>};
    products[n_tokens - 1](tile, n_rows, panel, n_cols, accumulate, out, out_stride);
}

// --- One vector of 16 bits against rows as they are stored, four at a time.
//
// Prepared: the vector's scale, then a record a block of what its quants are multiplied with, in their order.

constexpr int n_stream_rows = 4;
constexpr Size prefetch_distance = 8192;  // ahead in memory order: what the hardware's own prefetcher follows

// Each row's sums of its lower and its upper four lanes: rows 0 to 3, twice.
inline __m256i sums_of_halves(const __m256i rows[n_stream_rows]) {
    const __m256i first =
        _mm256_add_epi32(_mm256_unpacklo_epi32(rows[0], rows[1]), _mm256_unpackhi_epi32(rows[0], rows[1]));
    const __m256i second =
        _mm256_add_epi32(_mm256_unpacklo_epi32(rows[2], rows[3]), _mm256_unpackhi_epi32(rows[2], rows[3]));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(first, second), _mm256_unpackhi_epi64(first, second));
}

// 16 bytes hold 32 quants: the even ones of both halves, then the odd ones. Then what the quants' bias of 8
// adds to the sums.
struct NibbleRow {
    static constexpr Size block = 18;
    static constexpr Size record = 3 * lane_bytes;

    template <typename Dot>
    static __m256i products(const std::byte *const rows[n_stream_rows], const std::byte *x) {
        const __m256i even = load_words(x);
        const __m256i odd = load_words(x + lane_bytes);
        const __m256i upper_half = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
        const __m256i low = _mm256_set1_epi16(15);
        __m256i sums[n_stream_rows];
        UNROLL for (int r = 0; r < n_stream_rows; ++r) {
            const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[r] + 2));
            const __m256i nibbles = _mm256_srlv_epi32(_mm256_broadcastsi128_si256(packed), upper_half);
            const __m256i sum = Dot::add(_mm256_setzero_si256(), _mm256_and_si256(nibbles, low), even);
            sums[r] = Dot::add(sum, _mm256_and_si256(_mm256_srli_epi16(nibbles, 8), low), odd);
        }
        return _mm256_add_epi32(sums_of_halves(sums), load_words(x + 2 * lane_bytes));
    }
};

// 32 quants as they are.
struct ByteRow {
    static constexpr Size block = 34;
    static constexpr Size record = 2 * lane_bytes;

    template <typename Dot>
    static __m256i products(const std::byte *const rows[n_stream_rows], const std::byte *x) {
        const __m256i first = load_words(x);
        const __m256i second = load_words(x + lane_bytes);
        __m256i sums[n_stream_rows];
        UNROLL for (int r = 0; r < n_stream_rows; ++r) {
            const auto *packed = reinterpret_cast<const __m128i *>(rows[r] + 2);
            const __m256i low = _mm256_cvtepi8_epi16(_mm_loadu_si128(packed));
            const __m256i high = _mm256_cvtepi8_epi16(_mm_loadu_si128(packed + 1));
            sums[r] = Dot::add(Dot::add(_mm256_setzero_si256(), low, first), high, second);
        }
        return sums_of_halves(sums);
    }
};

template <typename Row> Size stream_bytes(int n_cols) { return lane_bytes + n_blocks(n_cols) * Row::record; }

// The vector is quantised to 16 bits with one scale.
template <typename Row> void prepare_stream(const float *x, int n_cols, std::byte *prepared) {
    __m256 largest_lanes = _mm256_setzero_ps();
    for (int c = 0; c < n_cols; c += 8)
        largest_lanes = _mm256_max_ps(largest_lanes, magnitude(_mm256_loadu_ps(x + c)));
    const float largest = max_lanes(largest_lanes);
    const float inverse = largest > 0 ? most_word / largest : 0.0f;
    const float scale = largest / most_word;
    __builtin_memcpy(prepared, &scale, sizeof(scale));
    std::byte *record = prepared + lane_bytes;
    for (Size b = 0; b < n_blocks(n_cols); ++b, x += quant_block, record += Row::record) {
        __m256i quants[4];
        UNROLL for (int i = 0; i < 4; ++i) quants[i] =
            quantise(_mm256_loadu_ps(x + 8 * i), inverse, most_word);
        __m256i words[2];
        UNROLL for (int i = 0; i < 2; ++i) {
            const __m256i packed = _mm256_packs_epi32(quants[2 * i], quants[2 * i + 1]);
            words[i] = _mm256_permute4x64_epi64(packed, 0xd8);
        }
        if (Row::block == ByteRow::block) {
            store_words(record, words[0]);
            store_words(record + lane_bytes, words[1]);
            continue;
        }
        // Even columns as low half words, odd ones as high.
        const __m256i low = _mm256_set1_epi32(0xffff);
        const __m256i even =
            _mm256_packus_epi32(_mm256_and_si256(words[0], low), _mm256_and_si256(words[1], low));
        const __m256i odd =
            _mm256_packus_epi32(_mm256_srli_epi32(words[0], 16), _mm256_srli_epi32(words[1], 16));
        const __m256i evens = _mm256_permute4x64_epi64(even, 0xd8);
        const __m256i odds = _mm256_permute4x64_epi64(odd, 0xd8);
        const __m256i minus_bias = _mm256_set1_epi16(-8);
        store_words(record, evens);
        store_words(record + lane_bytes, odds);
        const __m256i bias =
            _mm256_add_epi32(_mm256_madd_epi16(evens, minus_bias), _mm256_madd_epi16(odds, minus_bias));
        const __m256i biases[n_stream_rows] = {bias, bias, bias, bias};
        store_words(record + 2 * lane_bytes, sums_of_halves(biases));
    }
}

// The blocks' scales: rows 0 to 3, twice.
inline __m256 load_scales(const std::byte *const rows[n_stream_rows]) {
    std::uint64_t halves = 0;
    UNROLL for (int r = n_stream_rows - 1; r >= 0; --r) {
        std::uint16_t half;
        __builtin_memcpy(&half, rows[r], sizeof(half));
        halves = halves << 16 | half;
    }
    return _mm256_cvtph_ps(_mm_set1_epi64x(static_cast<long long>(halves)));
}

template <typename Dot, typename Row> void multiply_stream(const std::byte *weights, Size row_bytes,
                                                           int n_rows, int n_cols, const std::byte *prepared,
                                                           float *out) {
    float scale;
    __builtin_memcpy(&scale, prepared, sizeof(scale));
    for (int first = 0; first < n_rows; first += n_stream_rows) {
        const std::byte *rows[n_stream_rows];
        // The last row stands in for those behind the end.
        UNROLL for (int r = 0; r < n_stream_rows; ++r) rows[r] =
            weights + size(first + r < n_rows ? first + r : n_rows - 1) * row_bytes;
        const std::byte *x = prepared + lane_bytes;
        const std::byte *ahead = rows[0] + prefetch_distance;
        __m256 sums = _mm256_setzero_ps();
        for (Size b = n_blocks(n_cols); b > 0; --b, x += Row::record) {
            UNROLL for (Size line = 0; line < n_stream_rows * Row::block; line += 64)
                _mm_prefetch(reinterpret_cast<const char *>(ahead + line), _MM_HINT_T0);
            ahead += n_stream_rows * Row::block;
            const __m256i products = Row::template products<Dot>(rows, x);
            sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), load_scales(rows), sums);
            UNROLL for (int r = 0; r < n_stream_rows; ++r) rows[r] += Row::block;
        }
        const __m128 both = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
        const __m128i present = _mm256_castsi256_si128(first_lanes(n_rows - first));
        _mm_maskstore_ps(out + first, present, _mm_mul_ps(both, _mm_set1_ps(scale)));
    }
}

// --- One vector of 8 bits against sixteen interleaved rows of q4_0, which are the lanes of registers as they
// lie, and are read from beginning to end: the hardware's own prefetcher follows that best alone.
//
// Prepared: a panel of one row.

constexpr Size n_group_pieces = 4;  // of each block: four bytes of every row
static_assert(interleaved_rows == n_tile_rows);

inline void prepare_interleaved(const float *x, int n_cols, std::byte *prepared) {
    pack_quants<1>(x, 0, 1, n_cols, prepared);
}

// Dot::add(sums, a, b) adds products of unsigned and signed bytes to a block's sums, which Dot::words(sums)
// makes 32 bits each.
template <typename Dot> void multiply_interleaved(const std::byte *rows, Size, int n_rows, int n_cols,
                                                  const std::byte *prepared, float *out) {
    const __m256i low = _mm256_set1_epi8(15);
    for (int first = 0; first < n_rows; first += interleaved_rows, out += interleaved_rows) {
        __m256 sums[n_tile_registers];
        UNROLL for (int v = 0; v < n_tile_registers; ++v) sums[v] = _mm256_setzero_ps();
        const std::byte *x = prepared;
        for (Size b = n_blocks(n_cols); b > 0; --b, x += record_bytes<1>) {
            const std::byte *piece = rows + interleaved_scales_bytes;
            __m256i products[n_tile_registers];
            UNROLL for (int v = 0; v < n_tile_registers; ++v) products[v] = _mm256_setzero_si256();
            UNROLL for (Size g = 0; g < n_group_pieces; ++g, piece += tile_step) {
                const __m256i first_half = broadcast_word(x + 4 * g);
                const __m256i second_half = broadcast_word(x + 4 * (n_group_pieces + g));
                UNROLL for (int v = 0; v < n_tile_registers; ++v) {
                    const __m256i nibbles = load_words(piece + size(v) * lane_bytes);
                    products[v] = Dot::add(products[v], _mm256_and_si256(nibbles, low), first_half);
                    products[v] = Dot::add(products[v], _mm256_and_si256(_mm256_srli_epi16(nibbles, 4), low),
                                           second_half);
                }
            }
            const __m256 scale = broadcast_float(x + quant_block);
            // What the nibbles' bias of 8 adds.
            const __m256 bias = _mm256_mul_ps(broadcast_float(x + quant_block + 4), _mm256_set1_ps(8.0f));
            UNROLL for (int v = 0; v < n_tile_registers; ++v) {
                const __m256 product =
                    _mm256_fmsub_ps(_mm256_cvtepi32_ps(Dot::words(products[v])), scale, bias);
                sums[v] = _mm256_fmadd_ps(product, load_halves(rows + size(v) * 16), sums[v]);
            }
            rows += interleaved_block_bytes;
        }
        UNROLL for (int v = 0; v < n_tile_registers; ++v) _mm256_storeu_ps(out + 8 * v, sums[v]);
    }
}

}  // namespace
}  // namespace chatllm

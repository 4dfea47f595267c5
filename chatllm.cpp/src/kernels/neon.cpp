// NEON with dot product, of ARMv8.2. Compiled with flags of its own, so nothing here may use an inline
// function of the standard library: the linker could keep the copy that this file makes of it, for processors
// without the extension too.

#include "kernels/kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>

namespace chatllm {
namespace {

using Size = std::size_t;

constexpr int n_lanes = 4;
constexpr int n_tile_rows = 8;    // two registers
constexpr int n_panel_rows = 12;  // of single precision: 24 sums in registers, and room for operands

#define UNROLL _Pragma("GCC unroll 32")
#define INLINE __attribute__((always_inline)) inline

Size size(int n) { return static_cast<Size>(n); }

// Bytes have no alignment to keep: rows of a file may begin anywhere.
INLINE uint8x16_t load_bytes(const std::byte *at) {
    return vld1q_u8(reinterpret_cast<const std::uint8_t *>(at));
}
INLINE int8x16_t load_quants(const std::byte *at) {
    return vld1q_s8(reinterpret_cast<const std::int8_t *>(at));
}

void store_bytes(std::byte *at, uint8x16_t bytes) { vst1q_u8(reinterpret_cast<std::uint8_t *>(at), bytes); }

template <typename Value> INLINE Value read(const std::byte *at) {
    Value value;
    __builtin_memcpy(&value, at, sizeof(value));
    return value;
}

template <typename Value> void write(std::byte *at, Value value) {
    __builtin_memcpy(at, &value, sizeof(value));
}

INLINE float32x4_t widen(uint16x4_t halves) { return vcvt_f32_f16(vreinterpret_f16_u16(halves)); }

// Four values of a row of f32 or f16, from column `first` on.
template <Storage Stored> INLINE float32x4_t load_four(const std::byte *row, int first) {
    if (Stored == Storage::f16) {
        return widen(
            vreinterpret_u16_u8(vld1_u8(reinterpret_cast<const std::uint8_t *>(row + 2 * size(first)))));
    }
    return vreinterpretq_f32_u8(load_bytes(row + sizeof(float) * size(first)));
}

// The same where the row may end before; zeros behind its end.
template <Storage Stored> float32x4_t load_upto(const std::byte *row, int first, int n_cols) {
    const int left = n_cols - first;
    if (left >= n_lanes) return load_four<Stored>(row, first);
    constexpr Size element = Stored == Storage::f16 ? 2 : 4;
    std::byte values[n_lanes * element] = {};
    __builtin_memcpy(values, row + element * size(first), element * size(left));
    return load_four<Stored>(values, 0);
}

float32x4_t load_upto(const float *x, int first, int n) {
    return load_upto<Storage::f32>(reinterpret_cast<const std::byte *>(x), first, n);
}

// Lanes [0, n), none if n is negative.
void store_upto(float *out, float32x4_t values, int n) {
    if (n >= n_lanes) return vst1q_f32(out, values);
    float each[n_lanes];
    vst1q_f32(each, values);
    for (int i = 0; i < n; ++i) out[i] = each[i];
}

void transpose(uint32x4_t rows[4]) {
    const auto wide = [](uint32x4_t words) { return vreinterpretq_u64_u32(words); };
    const auto narrow = [](uint64x2_t pairs) { return vreinterpretq_u32_u64(pairs); };
    const uint64x2_t even_low = wide(vtrn1q_u32(rows[0], rows[1]));
    const uint64x2_t odd_low = wide(vtrn2q_u32(rows[0], rows[1]));
    const uint64x2_t even_high = wide(vtrn1q_u32(rows[2], rows[3]));
    const uint64x2_t odd_high = wide(vtrn2q_u32(rows[2], rows[3]));
    rows[0] = narrow(vtrn1q_u64(even_low, even_high));
    rows[1] = narrow(vtrn1q_u64(odd_low, odd_high));
    rows[2] = narrow(vtrn2q_u64(even_low, even_high));
    rows[3] = narrow(vtrn2q_u64(odd_low, odd_high));
}

void interleave(const std::uint32_t *const *rows, int n_rows, int n_words, std::uint32_t *out) {
    const Size step = size(n_rows);
    int r = 0;
    for (; r + n_lanes <= n_rows; r += n_lanes) {
        int i = 0;
        for (; i + n_lanes <= n_words; i += n_lanes) {
            uint32x4_t words[4];
            UNROLL for (int j = 0; j < 4; ++j) words[j] = vld1q_u32(rows[r + j] + i);
            transpose(words);
            UNROLL for (int j = 0; j < 4; ++j) vst1q_u32(out + size(i + j) * step + r, words[j]);
        }
        for (; i < n_words; ++i) {
            for (int j = 0; j < n_lanes; ++j) out[size(i) * step + size(r + j)] = rows[r + j][i];
        }
    }
    for (; r < n_rows; ++r) {
        for (int i = 0; i < n_words; ++i) out[size(i) * step + size(r)] = rows[r][i];
    }
}

// --- Single precision.

Size single_tile_bytes(int n_cols) { return size(n_cols) * n_tile_rows * sizeof(float); }
Size single_row_bytes(int n_cols) { return size(n_cols) * sizeof(float); }

template <Storage Stored>
void unpack_values(const std::byte *rows, Size row_bytes, int n_rows, int n_cols, float *tile) {
    for (int r = 0; r < n_tile_rows; r += n_lanes) {
        for (int c = 0; c < n_cols; c += n_lanes) {
            uint32x4_t words[4];
            for (int i = 0; i < n_lanes; ++i) {
                words[i] =
                    r + i < n_rows
                        ? vreinterpretq_u32_f32(load_upto<Stored>(rows + size(r + i) * row_bytes, c, n_cols))
                        : vdupq_n_u32(0);
            }
            transpose(words);
            for (int i = 0; i < n_lanes && c + i < n_cols; ++i)
                vst1q_f32(tile + (c + i) * n_tile_rows + r, vreinterpretq_f32_u32(words[i]));
        }
    }
}

void unpack_single(Storage storage, const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                   std::byte *tile) {
    auto *values = reinterpret_cast<float *>(tile);
    if (storage == Storage::f16) {
        unpack_values<Storage::f16>(rows, row_bytes, n_rows, n_cols, values);
    } else {
        unpack_values<Storage::f32>(rows, row_bytes, n_rows, n_cols, values);
    }
}

void pack_single(const float *x, Size stride, int n_rows, int n_cols, std::byte *panel) {
    const std::uint32_t *rows[n_panel_rows];
    for (int r = 0; r < n_rows; ++r) rows[r] = reinterpret_cast<const std::uint32_t *>(x + size(r) * stride);
    interleave(rows, n_rows, n_cols, reinterpret_cast<std::uint32_t *>(panel));
}

// The sums of a tile's rows with one row of activations, to their place.
void put(float32x4_t low, float32x4_t high, int n_rows, bool accumulate, float *out) {
    if (accumulate) low = vaddq_f32(load_upto(out, 0, n_rows), low);
    store_upto(out, low, n_rows);
    if (n_rows <= n_lanes) return;
    if (accumulate) high = vaddq_f32(load_upto(out, n_lanes, n_rows), high);
    store_upto(out + n_lanes, high, n_rows - n_lanes);
}

template <int T> void single_products(const std::byte *tile, int n_rows, const std::byte *panel, int n_cols,
                                      bool accumulate, float *out, Size out_stride) {
    const auto *weights = reinterpret_cast<const float *>(tile);
    const auto *x = reinterpret_cast<const float *>(panel);
    float32x4_t sums[T][2];
    UNROLL for (int t = 0; t < T; ++t) sums[t][0] = sums[t][1] = vdupq_n_f32(0);
    for (int c = 0; c < n_cols; ++c, weights += n_tile_rows, x += T) {
        const float32x4_t w[2] = {vld1q_f32(weights), vld1q_f32(weights + n_lanes)};
        UNROLL for (int t = 0; t + n_lanes <= T; t += n_lanes) {
            const float32x4_t four = vld1q_f32(x + t);
            UNROLL for (int half = 0; half < 2; ++half) {
                sums[t][half] = vfmaq_laneq_f32(sums[t][half], w[half], four, 0);
                sums[t + 1][half] = vfmaq_laneq_f32(sums[t + 1][half], w[half], four, 1);
                sums[t + 2][half] = vfmaq_laneq_f32(sums[t + 2][half], w[half], four, 2);
                sums[t + 3][half] = vfmaq_laneq_f32(sums[t + 3][half], w[half], four, 3);
            }
        }
        UNROLL for (int t = T / n_lanes * n_lanes; t < T; ++t) {
            sums[t][0] = vfmaq_n_f32(sums[t][0], w[0], x[t]);
            sums[t][1] = vfmaq_n_f32(sums[t][1], w[1], x[t]);
        }
    }
    UNROLL for (int t = 0; t < T; ++t)
        put(sums[t][0], sums[t][1], n_rows, accumulate, out + size(t) * out_stride);
}

using Products = void (*)(const std::byte *, int, const std::byte *, int, bool, float *, Size);

void multiply_single(const std::byte *tile, int n_rows, const std::byte *panel, int n_tokens, int n_cols,
                     bool accumulate, float *out, Size out_stride) {
    static constexpr Products products[n_panel_rows] = {
        single_products<1>, single_products<2>,  single_products<3>,  single_products<4>,
        single_products<5>, single_products<6>,  single_products<7>,  single_products<8>,
        single_products<9>, single_products<10>, single_products<11>, single_products<12>};
    products[n_tokens - 1](tile, n_rows, panel, n_cols, accumulate, out, out_stride);
}

// --- Quantised.
//
// Tile: quants [n_blocks][8 groups of 4 columns][8 rows][4], scales [n_blocks][8], offsets [n_blocks][8], and
// behind them a word that says whether there are offsets.
// Panel, a record a block: quants [8 groups][words][4], then for each row its scale, then its scale times its
// sum. A row has one word of 8 bits a number or, in `precise`, two: the upper and the lower bytes of 16 bits.

constexpr int n_groups = 8;
constexpr int n_quick_rows = 6;    // with their products and sums in registers
constexpr int n_precise_rows = 4;  // likewise
constexpr Size group_bytes = n_tile_rows * 4;
constexpr Size block_bytes = n_groups * group_bytes;
constexpr Size scales_bytes = n_tile_rows * sizeof(float);

Size n_blocks(int n_cols) { return size(n_cols) / quant_block; }
Size scales_at(int n_cols) { return n_blocks(n_cols) * block_bytes; }
Size offsets_at(int n_cols) { return scales_at(n_cols) + n_blocks(n_cols) * scales_bytes; }
Size flag_at(int n_cols) { return offsets_at(n_cols) + n_blocks(n_cols) * scales_bytes; }
Size quant_tile_bytes(int n_cols) { return flag_at(n_cols) + sizeof(std::uint32_t); }

template <int Planes> constexpr Size record_bytes(Size n_rows) { return n_rows * (quant_block * Planes + 8); }
template <int Planes> Size quant_row_bytes(int n_cols) { return n_blocks(n_cols) * record_bytes<Planes>(1); }

// Sixteen bytes of each row as four groups.
void store_groups(uint8x16_t bytes[n_tile_rows], std::byte *out) {
    for (int r = 0; r < n_tile_rows; r += n_lanes) {
        uint32x4_t words[4];
        UNROLL for (int i = 0; i < 4; ++i) words[i] = vreinterpretq_u32_u8(bytes[r + i]);
        transpose(words);
        UNROLL for (int i = 0; i < 4; ++i)
            store_bytes(out + size(i) * group_bytes + size(r) * 4, vreinterpretq_u8_u32(words[i]));
    }
}

// The f16 at an offset of every row, as floats; 0 for rows that are not there.
void store_halves(const std::byte *rows, Size row_bytes, int n_rows, Size at, std::byte *out) {
    std::uint16_t halves[n_tile_rows] = {};
    for (int r = 0; r < n_rows; ++r) halves[r] = read<std::uint16_t>(rows + size(r) * row_bytes + at);
    const uint16x8_t all = vld1q_u16(halves);
    store_bytes(out, vreinterpretq_u8_f32(widen(vget_low_u16(all))));
    store_bytes(out + 16, vreinterpretq_u8_f32(widen(vget_high_u16(all))));
}

// q4_0 and q4_1: `head` bytes of scale and perhaps offset, then 32 nibbles, from which `bias` is taken.
void unpack_nibbles(const std::byte *rows, Size row_bytes, int n_rows, Size head, std::uint8_t bias,
                    int n_cols, std::byte *tile) {
    for (Size b = 0; b < n_blocks(n_cols); ++b) {
        const Size at = b * (head + 16);
        uint8x16_t low[n_tile_rows];
        uint8x16_t high[n_tile_rows];
        for (int r = 0; r < n_tile_rows; ++r) {
            // The first row stands in for those that are not there.
            const uint8x16_t packed = load_bytes(rows + (r < n_rows ? size(r) * row_bytes : 0) + at + head);
            low[r] = vsubq_u8(vandq_u8(packed, vdupq_n_u8(15)), vdupq_n_u8(bias));
            high[r] = vsubq_u8(vshrq_n_u8(packed, 4), vdupq_n_u8(bias));
        }
        store_groups(low, tile + b * block_bytes);
        store_groups(high, tile + b * block_bytes + block_bytes / 2);
        store_halves(rows, row_bytes, n_rows, at, tile + scales_at(n_cols) + b * scales_bytes);
        if (head > 2)
            store_halves(rows, row_bytes, n_rows, at + 2, tile + offsets_at(n_cols) + b * scales_bytes);
    }
}

void unpack_q8_0(const std::byte *rows, Size row_bytes, int n_rows, int n_cols, std::byte *tile) {
    for (Size b = 0; b < n_blocks(n_cols); ++b) {
        const Size at = b * 34;
        for (Size half = 0; half < 2; ++half) {
            uint8x16_t bytes[n_tile_rows];
            for (int r = 0; r < n_tile_rows; ++r) {
                bytes[r] = load_bytes(rows + (r < n_rows ? size(r) * row_bytes : 0) + at + 2 + 16 * half);
            }
            store_groups(bytes, tile + b * block_bytes + half * block_bytes / 2);
        }
        store_halves(rows, row_bytes, n_rows, at, tile + scales_at(n_cols) + b * scales_bytes);
    }
}

// By way of plain code, a super-block at a time.
void unpack_q4_k(const std::byte *rows, Size row_bytes, int n_rows, int n_cols, std::byte *tile) {
    constexpr int super_block = 256;
    constexpr Size super_block_bytes = 144;
    for (int r = 0; r < n_tile_rows; ++r) {
        for (int first = 0; first < n_cols; first += super_block) {
            std::int8_t quants[super_block] = {};
            float scales[super_block / quant_block] = {};
            float offsets[super_block / quant_block] = {};
            if (r < n_rows) {
                unpack_quants(Storage::q4_k,
                              rows + size(r) * row_bytes + size(first / super_block) * super_block_bytes,
                              super_block, quants, scales, offsets);
            }
            for (int i = 0; i < super_block / quant_block; ++i) {
                const Size b = size(first / quant_block + i);
                std::byte *out = tile + b * block_bytes + size(r) * 4;
                for (int g = 0; g < n_groups; ++g, out += group_bytes)
                    __builtin_memcpy(out, quants + i * quant_block + 4 * g, 4);
                const Size at = b * scales_bytes + size(r) * sizeof(float);
                write(tile + scales_at(n_cols) + at, scales[i]);
                write(tile + offsets_at(n_cols) + at, offsets[i]);
            }
        }
    }
}

void unpack_quant_tile(Storage storage, const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                       std::byte *tile) {
    const std::uint32_t has_offsets = storage == Storage::q4_1 || storage == Storage::q4_k;
    write(tile + flag_at(n_cols), has_offsets);
    switch (storage) {
    case Storage::q4_0:
        return unpack_nibbles(rows, row_bytes, n_rows, 2, 8, n_cols, tile);
    case Storage::q4_1:
        return unpack_nibbles(rows, row_bytes, n_rows, 4, 0, n_cols, tile);
    case Storage::q8_0:
        return unpack_q8_0(rows, row_bytes, n_rows, n_cols, tile);
    case Storage::q4_k:
        return unpack_q4_k(rows, row_bytes, n_rows, n_cols, tile);
    case Storage::q4_0_16x4:
    case Storage::f32:
    case Storage::f16:
        return;
    }
}

// 16 bits are 127 * 256 at most, so that the rounded upper byte fits.
template <int Planes> constexpr float most_quant = Planes == 1 ? 127.0f : 127.0f * 256.0f;

// 32 values: value = quant * scale.
struct QuantBlock {
    int16x8_t quants[4];
    float scale;
    int sum;
};

template <int Planes> QuantBlock quantise(const float *x) {
    constexpr int n_quads = quant_block / n_lanes;
    float32x4_t largest = vdupq_n_f32(0);
    UNROLL for (int i = 0; i < n_quads; ++i) {
        // By comparison: what is no number counts for nothing.
        const float32x4_t magnitude = vabsq_f32(vld1q_f32(x + n_lanes * i));
        largest = vbslq_f32(vcgtq_f32(magnitude, largest), magnitude, largest);
    }
    const float most = vmaxvq_f32(largest);
    const float inverse = most > 0 ? most_quant<Planes> / most : 0.0f;
    int32x4_t sum = vdupq_n_s32(0);
    int16x4_t quants[n_quads];
    UNROLL for (int i = 0; i < n_quads; ++i) {
        float32x4_t scaled = vmulq_n_f32(vld1q_f32(x + n_lanes * i), inverse);
        // What is no number becomes the least.
        scaled = vmaxnmq_f32(scaled, vdupq_n_f32(-most_quant<Planes>));
        scaled = vminnmq_f32(scaled, vdupq_n_f32(most_quant<Planes>));
        const int32x4_t rounded = vcvtnq_s32_f32(scaled);
        sum = vaddq_s32(sum, rounded);
        quants[i] = vmovn_s32(rounded);
    }
    QuantBlock block;
    UNROLL for (int i = 0; i < 4; ++i) block.quants[i] = vcombine_s16(quants[2 * i], quants[2 * i + 1]);
    block.scale = most / most_quant<Planes>;
    block.sum = vaddvq_s32(sum);
    return block;
}

// The upper bytes, rounded, of sixteen quants, and the lower ones, which are what is left: in [-128, 127].
int8x16_t upper_bytes(const int16x8_t quants[2]) {
    return vrshrn_high_n_s16(vrshrn_n_s16(quants[0], 8), quants[1], 8);
}
int8x16_t lower_bytes(const int16x8_t quants[2]) { return vmovn_high_s16(vmovn_s16(quants[0]), quants[1]); }

// Sixteen bytes as four words `step` bytes apart.
void store_words(int8x16_t bytes, Size step, std::byte *out) {
    std::uint32_t words[4];
    vst1q_u32(words, vreinterpretq_u32_s8(bytes));
    UNROLL for (Size i = 0; i < 4; ++i) write(out + i * step, words[i]);
}

template <int Planes>
void pack_quants(const float *x, Size stride, int n_rows, int n_cols, std::byte *panel) {
    const Size rows = size(n_rows);
    const Size step = 4 * Planes * rows;  // from a group to the next
    for (Size b = 0; b < n_blocks(n_cols); ++b, panel += record_bytes<Planes>(rows)) {
        for (Size t = 0; t < rows; ++t) {
            const QuantBlock block = quantise<Planes>(x + t * stride + b * quant_block);
            std::byte *words = panel + 4 * Planes * t;
            UNROLL for (Size half = 0; half < 2; ++half, words += 4 * step) {
                if (Planes == 2) store_words(upper_bytes(block.quants + 2 * half), step, words);
                store_words(lower_bytes(block.quants + 2 * half), step, words + 4 * (Planes - 1));
            }
            std::byte *scales = panel + n_groups * step + 4 * t;
            write(scales, block.scale);
            write(scales + 4 * rows, block.scale * static_cast<float>(block.sum));
        }
    }
}

// One of four words of activations with its group of the tile.
template <int Words, int Lane>
INLINE void add_products(const std::byte *tile, int quad, int8x16_t x, int32x4_t products[Words][2]) {
    const int word = n_lanes * quad + Lane;
    const std::byte *group = tile + size(word / Words) * group_bytes;
    int32x4_t *const both = products[word % Words];
    both[0] = vdotq_laneq_s32(both[0], load_quants(group), x, Lane);
    both[1] = vdotq_laneq_s32(both[1], load_quants(group + 16), x, Lane);
}

template <int Planes, int T, bool Offsets> void quant_products(const std::byte *tile, int n_rows,
                                                               const std::byte *panel, int n_cols,
                                                               bool accumulate, float *out, Size out_stride) {
    constexpr int words = Planes * T;  // of a group
    float32x4_t sums[T][2];
    UNROLL for (int t = 0; t < T; ++t) sums[t][0] = sums[t][1] = vdupq_n_f32(0);
    const std::byte *scales = tile + scales_at(n_cols);
    const std::byte *offsets = tile + offsets_at(n_cols);
    for (Size b = n_blocks(n_cols); b > 0; --b, panel += record_bytes<Planes>(T)) {
        int32x4_t products[words][2];
        UNROLL for (int i = 0; i < words; ++i) products[i][0] = products[i][1] = vdupq_n_s32(0);
        UNROLL for (int quad = 0; quad < n_groups * words / n_lanes; ++quad) {
            const int8x16_t x = load_quants(panel + 16 * quad);
            add_products<words, 0>(tile, quad, x, products);
            add_products<words, 1>(tile, quad, x, products);
            add_products<words, 2>(tile, quad, x, products);
            add_products<words, 3>(tile, quad, x, products);
        }
        const std::byte *x_scales = panel + n_groups * 4 * words;
        UNROLL for (int half = 0; half < 2; ++half) {
            const float32x4_t w_scales = vreinterpretq_f32_u8(load_bytes(scales + 16 * half));
            const float32x4_t w_offsets =
                Offsets ? vreinterpretq_f32_u8(load_bytes(offsets + 16 * half)) : vdupq_n_f32(0);
            UNROLL for (int t = 0; t < T; ++t) {
                int32x4_t product = products[Planes * t + Planes - 1][half];
                if (Planes == 2) product = vaddq_s32(product, vshlq_n_s32(products[Planes * t][half], 8));
                const float32x4_t scale = vmulq_n_f32(w_scales, read<float>(x_scales + 4 * t));
                sums[t][half] = vfmaq_f32(sums[t][half], vcvtq_f32_s32(product), scale);
                if (Offsets) {
                    const float x_sum = read<float>(x_scales + 4 * (T + t));
                    sums[t][half] = vfmaq_n_f32(sums[t][half], w_offsets, x_sum);
                }
            }
        }
        tile += block_bytes;
        scales += scales_bytes;
        offsets += scales_bytes;
    }
    UNROLL for (int t = 0; t < T; ++t)
        put(sums[t][0], sums[t][1], n_rows, accumulate, out + size(t) * out_stride);
}

bool has_offsets(const std::byte *tile, int n_cols) {
    return read<std::uint32_t>(tile + flag_at(n_cols)) != 0;
}

template <bool Offsets> constexpr Products quick_products[n_quick_rows] = {
    quant_products<1, 1, Offsets>, quant_products<1, 2, Offsets>, quant_products<1, 3, Offsets>,
    quant_products<1, 4, Offsets>, quant_products<1, 5, Offsets>, quant_products<1, 6, Offsets>};

template <bool Offsets> constexpr Products precise_products[n_precise_rows] = {
    quant_products<2, 1, Offsets>, quant_products<2, 2, Offsets>, quant_products<2, 3, Offsets>,
    quant_products<2, 4, Offsets>};

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

// --- One vector against rows as they are stored, four at a time: their sums are the lanes of a register.
//
// Prepared for quantised rows: [n_blocks] records of the vector's 32 upper and 32 lower bytes, then the
// blocks' scales, then -8 times the sums of their quants: what the bias of q4_0's nibbles comes to.

constexpr int n_stream_rows = n_lanes;
constexpr Size vector_bytes = 2 * quant_block;  // of a record

Size vector_scales_at(int n_cols) { return n_blocks(n_cols) * vector_bytes; }
Size vector_biases_at(int n_cols) { return vector_scales_at(n_cols) + n_blocks(n_cols) * sizeof(float); }
Size vector_prepared_bytes(int n_cols) { return vector_biases_at(n_cols) + n_blocks(n_cols) * sizeof(int); }

void prepare_vector(const float *x, int n_cols, std::byte *prepared) {
    for (Size b = 0; b < n_blocks(n_cols); ++b) {
        const QuantBlock block = quantise<2>(x + b * quant_block);
        std::byte *record = prepared + b * vector_bytes;
        for (Size half = 0; half < 2; ++half, record += 16) {
            store_bytes(record, vreinterpretq_u8_s8(upper_bytes(block.quants + 2 * half)));
            store_bytes(record + quant_block, vreinterpretq_u8_s8(lower_bytes(block.quants + 2 * half)));
        }
        write(prepared + vector_scales_at(n_cols) + 4 * b, block.scale);
        write(prepared + vector_biases_at(n_cols) + 4 * b, -8 * block.sum);
    }
}

// The last rows stand in for those behind the end.
void row_pointers(const std::byte *rows, Size row_bytes, int first, int n_rows,
                  const std::byte *each[n_lanes]) {
    for (int r = 0; r < n_lanes; ++r)
        each[r] = rows + size(first + r < n_rows ? first + r : n_rows - 1) * row_bytes;
}

// Lane r: the sum of the lanes of sums[r].
INLINE int32x4_t sum_each(const int32x4_t sums[4]) {
    return vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
}
INLINE float32x4_t sum_each(const float32x4_t sums[4]) {
    return vpaddq_f32(vpaddq_f32(sums[0], sums[1]), vpaddq_f32(sums[2], sums[3]));
}

template <Storage Stored> void multiply_vector(const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                                               const std::byte *prepared, float *out) {
    constexpr bool nibbles = Stored == Storage::q4_0;
    constexpr Size stored_block_bytes = nibbles ? 18 : 34;
    for (int first = 0; first < n_rows; first += n_stream_rows) {
        const std::byte *row[n_stream_rows];
        row_pointers(rows, row_bytes, first, n_rows, row);
        const std::byte *x = prepared;
        const std::byte *x_scale = prepared + vector_scales_at(n_cols);
        const std::byte *bias = prepared + vector_biases_at(n_cols);
        float32x4_t sum = vdupq_n_f32(0);
        for (Size b = n_blocks(n_cols); b > 0; --b, x += vector_bytes, x_scale += 4, bias += 4) {
            const int8x16_t upper[2] = {load_quants(x), load_quants(x + 16)};
            const int8x16_t lower[2] = {load_quants(x + 32), load_quants(x + 48)};
            int32x4_t products[n_stream_rows];
            UNROLL for (int r = 0; r < n_stream_rows; ++r) {
                int8x16_t w[2];
                if (nibbles) {
                    const uint8x16_t packed = load_bytes(row[r] + 2);
                    w[0] = vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15)));
                    w[1] = vreinterpretq_s8_u8(vshrq_n_u8(packed, 4));
                } else {
                    w[0] = load_quants(row[r] + 2);
                    w[1] = load_quants(row[r] + 18);
                }
                int32x4_t product = vdotq_s32(vdupq_n_s32(0), w[0], upper[0]);
                product = vshlq_n_s32(vdotq_s32(product, w[1], upper[1]), 8);
                product = vdotq_s32(product, w[0], lower[0]);
                products[r] = vdotq_s32(product, w[1], lower[1]);
            }
            uint16x4_t halves = vdup_n_u16(read<std::uint16_t>(row[0]));
            halves = vset_lane_u16(read<std::uint16_t>(row[1]), halves, 1);
            halves = vset_lane_u16(read<std::uint16_t>(row[2]), halves, 2);
            halves = vset_lane_u16(read<std::uint16_t>(row[3]), halves, 3);
            int32x4_t product = sum_each(products);
            if (nibbles) product = vaddq_s32(product, vdupq_n_s32(read<int>(bias)));
            sum = vfmaq_f32(sum, vcvtq_f32_s32(product), vmulq_n_f32(widen(halves), read<float>(x_scale)));
            UNROLL for (int r = 0; r < n_stream_rows; ++r) row[r] += stored_block_bytes;
        }
        store_upto(out + first, sum, n_rows - first);
    }
}

// A group of q4_0_16x4 is four registers of rows as it lies. Prepared: [n_blocks] records of the vector's 32
// bytes, their scale, and -8 times their sum.

constexpr int n_group_registers = interleaved_rows / n_lanes;
constexpr Size interleaved_record_bytes = quant_block + 8;
constexpr Size piece_bytes = interleaved_rows * 4;  // four bytes of every row

Size interleaved_prepared_bytes(int n_cols) { return n_blocks(n_cols) * interleaved_record_bytes; }

void prepare_interleaved(const float *x, int n_cols, std::byte *prepared) {
    for (Size b = n_blocks(n_cols); b > 0; --b, x += quant_block, prepared += interleaved_record_bytes) {
        const QuantBlock block = quantise<1>(x);
        UNROLL for (Size half = 0; half < 2; ++half)
            store_bytes(prepared + 16 * half, vreinterpretq_u8_s8(lower_bytes(block.quants + 2 * half)));
        write(prepared + quant_block, block.scale);
        write(prepared + quant_block + 4, -8 * block.sum);
    }
}

// Columns 4 G to 4 G + 3 of both halves of a block.
template <int G>
INLINE void add_piece(const std::byte *pieces, const int8x16_t x[2], int32x4_t products[n_group_registers]) {
    UNROLL for (int v = 0; v < n_group_registers; ++v) {
        const uint8x16_t packed = load_bytes(pieces + G * piece_bytes + 16 * size(v));
        const int8x16_t low = vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15)));
        const int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(packed, 4));
        products[v] = vdotq_laneq_s32(products[v], low, x[0], G);
        products[v] = vdotq_laneq_s32(products[v], high, x[1], G);
    }
}

void multiply_interleaved(const std::byte *rows, Size, int n_rows, int n_cols, const std::byte *prepared,
                          float *out) {
    for (int first = 0; first < n_rows; first += interleaved_rows, out += interleaved_rows) {
        float32x4_t sums[n_group_registers];
        UNROLL for (int v = 0; v < n_group_registers; ++v) sums[v] = vdupq_n_f32(0);
        const std::byte *record = prepared;
        for (Size b = n_blocks(n_cols); b > 0; --b, record += interleaved_record_bytes) {
            const int8x16_t x[2] = {load_quants(record), load_quants(record + 16)};
            const std::byte *pieces = rows + interleaved_scales_bytes;
            int32x4_t products[n_group_registers];
            UNROLL for (int v = 0; v < n_group_registers; ++v) products[v] =
                vdupq_n_s32(read<int>(record + quant_block + 4));
            add_piece<0>(pieces, x, products);
            add_piece<1>(pieces, x, products);
            add_piece<2>(pieces, x, products);
            add_piece<3>(pieces, x, products);
            const float scale = read<float>(record + quant_block);
            UNROLL for (int v = 0; v < n_group_registers; ++v) {
                const float32x4_t scales = vmulq_n_f32(load_four<Storage::f16>(rows, n_lanes * v), scale);
                sums[v] = vfmaq_f32(sums[v], vcvtq_f32_s32(products[v]), scales);
            }
            rows += interleaved_block_bytes;
        }
        UNROLL for (int v = 0; v < n_group_registers; ++v) vst1q_f32(out + n_lanes * v, sums[v]);
    }
}

// f32 and f16: the vector as it is.
void prepare_plain(const float *x, int n_cols, std::byte *prepared) {
    __builtin_memcpy(prepared, x, single_row_bytes(n_cols));
}

template <Storage Stored> void multiply_plain(const std::byte *rows, Size row_bytes, int n_rows, int n_cols,
                                              const std::byte *prepared, float *out) {
    for (int first = 0; first < n_rows; first += n_stream_rows) {
        const std::byte *row[n_stream_rows];
        row_pointers(rows, row_bytes, first, n_rows, row);
        float32x4_t sums[n_stream_rows];
        UNROLL for (int r = 0; r < n_stream_rows; ++r) sums[r] = vdupq_n_f32(0);
        int c = 0;
        for (; c + n_lanes <= n_cols; c += n_lanes) {
            const float32x4_t x = load_four<Storage::f32>(prepared, c);
            UNROLL for (int r = 0; r < n_stream_rows; ++r) {
                sums[r] = vfmaq_f32(sums[r], load_four<Stored>(row[r], c), x);
            }
        }
        if (c < n_cols) {
            const float32x4_t x = load_upto<Storage::f32>(prepared, c, n_cols);
            UNROLL for (int r = 0; r < n_stream_rows; ++r) {
                sums[r] = vfmaq_f32(sums[r], load_upto<Stored>(row[r], c, n_cols), x);
            }
        }
        store_upto(out + first, sum_each(sums), n_rows - first);
    }
}

const VectorProduct *vector_product(Storage storage) {
    static constexpr VectorProduct q4_0{16, vector_prepared_bytes, prepare_vector,
                                        multiply_vector<Storage::q4_0>};
    static constexpr VectorProduct q8_0{16, vector_prepared_bytes, prepare_vector,
                                        multiply_vector<Storage::q8_0>};
    static constexpr VectorProduct q4_0_16x4{8, interleaved_prepared_bytes, prepare_interleaved,
                                             multiply_interleaved};
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

// Adds the products of four columns, from `c` on, of four keys and H heads; `Whole` if all columns are there.
template <int H, bool Whole> INLINE void add_scores(const float *q, int width,
                                                    const std::byte *const key[n_lanes], int c,
                                                    float32x4_t sums[H][n_lanes]) {
    float32x4_t values[n_lanes];
    UNROLL for (int i = 0; i < n_lanes; ++i) {
        values[i] = Whole ? load_four<Storage::f16>(key[i], c) : load_upto<Storage::f16>(key[i], c, width);
    }
    UNROLL for (int h = 0; h < H; ++h) {
        const float *head = q + h * width;
        const float32x4_t query = Whole ? vld1q_f32(head + c) : load_upto(head, c, width);
        UNROLL for (int i = 0; i < n_lanes; ++i) sums[h][i] = vfmaq_f32(sums[h][i], values[i], query);
    }
}

template <int H> void scores_of_heads(const float *q, int width, const std::uint16_t *keys, Size stride,
                                      int n, float scale, float *scores, Size score_stride) {
    for (int first = 0; first < n; first += n_lanes) {
        const std::byte *key[n_lanes];
        row_pointers(reinterpret_cast<const std::byte *>(keys), stride * sizeof(std::uint16_t), first, n,
                     key);
        float32x4_t sums[H][n_lanes];
        UNROLL for (int h = 0; h < H; ++h) {
            UNROLL for (int i = 0; i < n_lanes; ++i) sums[h][i] = vdupq_n_f32(0);
        }
        int c = 0;
        for (; c + n_lanes <= width; c += n_lanes) add_scores<H, true>(q, width, key, c, sums);
        if (c < width) add_scores<H, false>(q, width, key, c, sums);
        UNROLL for (int h = 0; h < H; ++h) {
            store_upto(scores + size(h) * score_stride + first, vmulq_n_f32(sum_each(sums[h]), scale),
                       n - first);
        }
    }
}

void attention_scores(const float *q, int n_heads, int width, const std::uint16_t *keys, Size stride, int n,
                      float scale, float *scores, Size score_stride) {
    int h = 0;
    for (; h + 2 <= n_heads; h += 2, q += 2 * width, scores += 2 * score_stride)
        scores_of_heads<2>(q, width, keys, stride, n, scale, scores, score_stride);
    if (h < n_heads) scores_of_heads<1>(q, width, keys, stride, n, scale, scores, score_stride);
}

// C registers of columns from `first` on; of the last some lanes may be behind the end.
template <int C> void values_of_columns(const float *weights, Size weight_stride, int n_heads, int width,
                                        const std::uint16_t *values, Size stride, int n, int first,
                                        float *out) {
    const bool whole = first + C * n_lanes <= width;
    for (int h = 0; h < n_heads; ++h, weights += weight_stride, out += width) {
        float32x4_t sums[C];
        UNROLL for (int c = 0; c < C; ++c) sums[c] = load_upto(out, first + c * n_lanes, width);
        const auto *value = reinterpret_cast<const std::byte *>(values);
        for (int i = 0; i < n; ++i, value += stride * sizeof(std::uint16_t)) {
            UNROLL for (int c = 0; c < C; ++c) {
                const int column = first + c * n_lanes;
                const float32x4_t four = whole ? load_four<Storage::f16>(value, column)
                                               : load_upto<Storage::f16>(value, column, width);
                sums[c] = vfmaq_n_f32(sums[c], four, weights[i]);
            }
        }
        UNROLL for (int c = 0; c < C; ++c) {
            const int column = first + c * n_lanes;
            store_upto(out + column, sums[c], width - column);
        }
    }
}

void attention_values(const float *weights, Size weight_stride, int n_heads, int width,
                      const std::uint16_t *values, Size stride, int n, float *out) {
    constexpr int many = 8;  // registers of sums that do not wait for one another
    int c = 0;
    for (; c + many * n_lanes <= width; c += many * n_lanes)
        values_of_columns<many>(weights, weight_stride, n_heads, width, values, stride, n, c, out);
    for (; c < width; c += n_lanes)
        values_of_columns<1>(weights, weight_stride, n_heads, width, values, stride, n, c, out);
}

// --- Element by element.

// exp(x) by 2^n * exp(r), |r| <= ln 2 / 2, with a polynomial of degree six; relative error below 3e-7.
// Arguments under -87 give 0, over 88 the value at 88.
float32x4_t exponential(float32x4_t x) {
    const uint32x4_t too_small = vcltq_f32(x, vdupq_n_f32(-87.0f));
    x = vminq_f32(x, vdupq_n_f32(88.0f));
    const float32x4_t n = vrndnq_f32(vmulq_n_f32(x, 1.44269504088896341f));
    // ln 2 in two parts, the first exact in 15 bits, keeps r accurate.
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0.693145751953125f));
    r = vfmsq_f32(r, n, vdupq_n_f32(1.42860682030941723e-6f));
    float32x4_t p = vdupq_n_f32(1.0f / 720);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 120), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 24), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 6), p, r);
    p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    const float32x4_t product = vmulq_f32(p, vreinterpretq_f32_s32(power));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(product), too_small));
}

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
float32x4_t error_function(float32x4_t x) {
    const float32x4_t one = vdupq_n_f32(1.0f);
    const float32x4_t t = vdivq_f32(one, vfmaq_f32(one, vabsq_f32(x), vdupq_n_f32(0.3275911f)));
    float32x4_t p = vdupq_n_f32(1.061405429f);
    p = vfmaq_f32(vdupq_n_f32(-1.453152027f), p, t);
    p = vfmaq_f32(vdupq_n_f32(1.421413741f), p, t);
    p = vfmaq_f32(vdupq_n_f32(-0.284496736f), p, t);
    p = vfmaq_f32(vdupq_n_f32(0.254829592f), p, t);
    p = vmulq_f32(p, t);
    const float32x4_t decay = exponential(vnegq_f32(vmulq_f32(x, x)));
    return vbslq_f32(vdupq_n_u32(0x80000000u), x, vfmsq_f32(one, p, decay));
}

void unpack_f16(const std::byte *row, int n, float *out) {
    int i = 0;
    for (; i + n_lanes <= n; i += n_lanes) vst1q_f32(out + i, load_four<Storage::f16>(row, i));
    store_upto(out + i, load_upto<Storage::f16>(row, i, n), n - i);
}

void pack_f16(const float *x, int n, std::uint16_t *out) {
    const auto round = [](float32x4_t values) { return vreinterpret_u16_f16(vcvt_f16_f32(values)); };
    int i = 0;
    for (; i + n_lanes <= n; i += n_lanes) vst1_u16(out + i, round(vld1q_f32(x + i)));
    std::uint16_t last[n_lanes];
    vst1_u16(last, round(load_upto(x, i, n)));
    __builtin_memcpy(out + i, last, sizeof(last[0]) * size(n - i));
}

// Runs `vector` on four floats at a time, the last ones through a padded copy, so that an element's result
// does not depend on its place.
template <typename Vector> void for_each_four(float *y, int n, const Vector &vector) {
    for (int i = 0; i < n; i += n_lanes) store_upto(y + i, vector(load_upto(y, i, n), i), n - i);
}

void add(float *y, const float *x, int n) {
    for_each_four(y, n, [=](float32x4_t v, int i) { return vaddq_f32(v, load_upto(x, i, n)); });
}

void scale(float *y, float a, int n) {
    for_each_four(y, n, [=](float32x4_t v, int) { return vmulq_n_f32(v, a); });
}

void gelu(float *y, int n) {
    for_each_four(y, n, [](float32x4_t v, int) {
        const float32x4_t half = vmulq_n_f32(v, 0.5f);
        return vfmaq_f32(half, half, error_function(vmulq_n_f32(v, 0.70710678118654752440f)));
    });
}

void silu_multiply(float *y, const float *x, int n) {
    for_each_four(y, n, [=](float32x4_t v, int i) {
        const float32x4_t divisor = vaddq_f32(vdupq_n_f32(1.0f), exponential(vnegq_f32(v)));
        return vmulq_f32(vdivq_f32(v, divisor), load_upto(x, i, n));
    });
}

float sum_of(const float *x, int n) {
    float32x4_t sums = vdupq_n_f32(0);
    for (int i = 0; i < n; i += n_lanes) sums = vaddq_f32(sums, load_upto(x, i, n));
    return vaddvq_f32(sums);
}

float sum_of_squares(const float *x, int n) {
    float32x4_t sums = vdupq_n_f32(0);
    for (int i = 0; i < n; i += n_lanes) {
        const float32x4_t four = load_upto(x, i, n);
        sums = vfmaq_f32(sums, four, four);
    }
    return vaddvq_f32(sums);
}

float exponentials(float *y, float maximum, int n) {
    const float32x4_t shift = vdupq_n_f32(maximum);
    for_each_four(y, n, [=](float32x4_t v, int) { return exponential(vsubq_f32(v, shift)); });
    return sum_of(y, n);
}

float maximum(const float *x, int n) {
    float32x4_t most = vdupq_n_f32(x[0]);
    int i = 0;
    for (; i + n_lanes <= n; i += n_lanes) most = vmaxnmq_f32(most, vld1q_f32(x + i));
    float largest = vmaxnmvq_f32(most);
    for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

// 1 / sqrt(sum / n + epsilon)
float inverse_root(float sum, int n, float epsilon) {
    return 1.0f / vget_lane_f32(vsqrt_f32(vdup_n_f32(sum / static_cast<float>(n) + epsilon)), 0);
}

void rms_norm(const float *x, const float *weight, float epsilon, int n, float *out) {
    const float factor = inverse_root(sum_of_squares(x, n), n, epsilon);
    for_each_four(out, n, [=](float32x4_t, int i) {
        return vmulq_f32(vmulq_n_f32(load_upto(x, i, n), factor), load_upto(weight, i, n));
    });
}

void layer_norm(const float *x, const float *weight, const float *bias, float epsilon, int n, float *out) {
    const float32x4_t mean = vdupq_n_f32(sum_of(x, n) / static_cast<float>(n));
    for_each_four(out, n, [=](float32x4_t, int i) { return vsubq_f32(load_upto(x, i, n), mean); });
    const float factor = inverse_root(sum_of_squares(out, n), n, epsilon);
    for_each_four(out, n, [=](float32x4_t v, int i) {
        return vfmaq_f32(load_upto(bias, i, n), vmulq_n_f32(v, factor), load_upto(weight, i, n));
    });
}

Kernels make_table() {
    static constexpr Arithmetic single{n_panel_rows,  single_tile_bytes, single_row_bytes,
                                       unpack_single, pack_single,       multiply_single};
    Kernels table = scalar_kernels();
    table.name = "neon";
    table.tile_rows = n_tile_rows;
    table.single = single;
    table.half = single;
    table.precise = {n_precise_rows,    quant_tile_bytes, quant_row_bytes<2>,
                     unpack_quant_tile, pack_quants<2>,   multiply_precise};
    table.quick = {n_quick_rows,      quant_tile_bytes, quant_row_bytes<1>,
                   unpack_quant_tile, pack_quants<1>,   multiply_quick};
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

const Kernels &neon_kernels() {
    static const Kernels table = make_table();
    return table;
}

}  // namespace chatllm

#endif

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

// The few operations that cost time, behind one table: a file per instruction set fills one in, and the
// choice is made at run time. Kernels know arrays, never models. Every table must agree with `scalar` within
// the ceilings stated in tests/ceilings.h.
namespace chatllm {

// How numbers are stored in a model file, with the file format's own numbers; ours are from 256 on.
//
// q4_0_16x4 is q4_0 with the bytes of sixteen rows interleaved, so that the lanes of a register are rows: for
// each 32 columns the f16 scales of the rows, [16], then their nibbles four bytes at a time, [4][16 rows][4].
// What q4_0 has in row r at byte 2 + 4 g + i of a block is here at byte 32 + 64 g + 4 r + i of the sixteen's.
enum class Storage : std::int32_t {
    f32 = 0,
    f16 = 1,
    q4_0 = 2,
    q4_1 = 3,
    q8_0 = 8,
    q4_k = 12,
    q4_0_16x4 = 258
};

// Values that share a scale in every quantised storage, and in quantised activations.
inline constexpr int quant_block = 32;
// Rows that q4_0_16x4 stores together. A pointer to its rows is one to such a group, and rows come in groups.
inline constexpr int interleaved_rows = 16;
// For each 32 columns of a group: of its scales, and of all.
inline constexpr std::size_t interleaved_scales_bytes = 2 * interleaved_rows;
inline constexpr std::size_t interleaved_block_bytes = 18 * interleaved_rows;
// Tiles and panels begin at multiples of this, in bytes.
inline constexpr std::size_t kernel_alignment = 64;

// One way to multiply matrices: out[t][r] = sum over c of weights[r][c] * x[t][c]. A few rows of weights are
// unpacked once into a tile, a few rows of activations once into a panel, and every tile meets every panel;
// the layouts of both are the table's own. A result does not depend on the other rows of its tile or panel.
struct Arithmetic {
    int panel_rows;  // rows of activations in a panel, at most
    // Bytes of a tile, and of a row's share in a panel, for rows of n_cols.
    std::size_t (*tile_bytes)(int n_cols);
    std::size_t (*panel_row_bytes)(int n_cols);
    // n_rows <= tile_rows rows that lie row_bytes apart. Quantised arithmetic takes quantised storage, with
    // n_cols a multiple of its block; the others take f32 and f16. See also `unpacks`.
    void (*unpack)(Storage storage, const std::byte *rows, std::size_t row_bytes, int n_rows, int n_cols,
                   std::byte *tile);
    // 1 <= n_rows <= panel_rows rows that lie `stride` floats apart.
    void (*pack)(const float *x, std::size_t stride, int n_rows, int n_cols, std::byte *panel);
    // out[t * out_stride + r], r < n_rows, t < n_tokens; added to what is there if `accumulate`.
    void (*multiply)(const std::byte *tile, int n_rows, const std::byte *panel, int n_tokens, int n_cols,
                     bool accumulate, float *out, std::size_t out_stride);
};

// Products of a matrix with one vector, straight from the rows where they lie: a pass over memory and no
// more. `prepare` brings the vector into the layout that `multiply` wants, in prepared_bytes(n_cols) bytes.
struct VectorProduct {
    // Of the vector as it is multiplied: 32, as it is; 16, with one scale; 8, with a scale for at most 32
    // columns.
    int bits;
    std::size_t (*prepared_bytes)(int n_cols);
    void (*prepare)(const float *x, int n_cols, std::byte *prepared);
    // out[r] for n_rows rows that lie row_bytes apart; of q4_0_16x4 for whole groups, one after the other.
    void (*multiply)(const std::byte *rows, std::size_t row_bytes, int n_rows, int n_cols,
                     const std::byte *prepared, float *out);
};

struct Kernels {
    const char *name;

    int tile_rows;  // rows of weights that are unpacked together
    // Single precision. Its tile is [n_cols][tile_rows] floats and its panel [n_cols][n_rows] floats.
    Arithmetic single;
    // Both sides rounded to bfloat16, sums in single precision, where the processor has it; else as `single`.
    // Weights that are stored in f16, in models whose other weights are quantised. Its panel is two columns
    // to a word, [n_cols / 2, rounded up][n_rows] words.
    Arithmetic half;
    int half_bytes;  // of an element of its panels: 2, or 4 where it is `single`
    // Quantised weights; activations in 16 bits, in blocks of 32.
    Arithmetic precise;
    // The same with 8 bits where those multiply faster; else as `precise`. Its tiles are those of `precise`.
    Arithmetic quick;

    // Null where products with one row take the way of many.
    const VectorProduct *(*vector_product)(Storage storage);

    // Rows of 32-bit words side by side: out[i * n_rows + r] = rows[r][i]; n_rows <= single.panel_rows.
    void (*interleave)(const std::uint32_t *const *rows, int n_rows, int n_words, std::uint32_t *out);
    // Rounds to bfloat16, nearest even: what a panel of `half` is made of, two to a word.
    void (*round_to_half)(const float *x, int n, std::uint16_t *out);

    // Attention of one position. keys, values: n rows of f16, `stride` halves apart.
    // scores[h * score_stride + i] = scale * q[h] . keys[i], q: [n_heads, width]
    void (*attention_scores)(const float *q, int n_heads, int width, const std::uint16_t *keys,
                             std::size_t stride, int n, float scale, float *scores, std::size_t score_stride);
    // out[h] += sum over i of weights[h * weight_stride + i] * values[i], out: [n_heads, width]
    void (*attention_values)(const float *weights, std::size_t weight_stride, int n_heads, int width,
                             const std::uint16_t *values, std::size_t stride, int n, float *out);

    void (*unpack_f16)(const std::byte *row, int n, float *out);
    void (*pack_f16)(const float *x, int n, std::uint16_t *out);  // round to nearest even

    void (*add)(float *y, const float *x, int n);            // y += x
    void (*scale)(float *y, float a, int n);                 // y *= a
    void (*gelu)(float *y, int n);                           // y = y * (1 + erf(y / sqrt 2)) / 2
    void (*silu_multiply)(float *y, const float *x, int n);  // y = y / (1 + exp(-y)) * x
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
const Kernels &avx_vnni_kernels();
const Kernels &avx512_kernels(bool bf16);  // whether the processor has that extension
#elif defined(__aarch64__)
const Kernels &neon_kernels();
#endif

// The tables that this processor can run, slowest first; `scalar` is always there.
std::vector<const Kernels *> available_kernels();
// The named table, or the fastest one when `name` is empty. Throws Error naming those available.
const Kernels &choose_kernels(std::string_view name);

// One row of any storage but q4_0_16x4 as single precision, in plain code.
void unpack_row(Storage storage, const std::byte *row, int n, float *out);
// A quantised row: value = quant * scale[block] + offset[block], blocks of 32. Storage without offsets leaves
// `offsets` as it is.
void unpack_quants(Storage storage, const std::byte *row, int n, std::int8_t *quants, float *scales,
                   float *offsets);

// Whether a table makes tiles of rows as they are stored: all but groups that have not as many rows as a
// tile.
bool unpacks(const Kernels &kernels, Storage storage);
// A group of q4_0_16x4 as its rows in q4_0, one after the other: what those are unpacked from.
void separate_rows(const std::byte *group, int n_cols, std::byte *rows);

// Conversions that every table shares: IEEE 754 half precision in its bits, and bfloat16.
float f16_to_f32(std::uint16_t half);
std::uint16_t f32_to_f16(float value);
std::uint16_t f32_to_bf16(float value);
float bf16_to_f32(std::uint16_t half);

}  // namespace chatllm

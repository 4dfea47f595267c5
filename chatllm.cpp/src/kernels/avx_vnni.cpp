// AVX-VNNI, for processors that have it but not AVX-512: the quantised products of AVX2 with the instructions
// that multiply and add. Compiled with flags of its own, so nothing here may use an inline function of the
// standard library: the linker could keep the copy that this file makes of it, for older processors too.

#if defined(__x86_64__)

#include "kernels/products256.h"

namespace chatllm {
namespace {

struct Words {
    static __m256i add(__m256i sum, __m256i a, __m256i b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }
};

struct Bytes {
    static __m256i add(__m256i sums, __m256i a, __m256i b) { return _mm256_dpbusd_avx_epi32(sums, a, b); }
    static __m256i words(__m256i sums) { return sums; }
};

template <int T> void quick_products(const std::byte *tile, int n_rows, const std::byte *panel, int n_cols,
                                     bool accumulate, float *out, Size out_stride) {
    const auto block = [](const std::byte *w, const std::byte *x, __m256i products[T][n_tile_registers]) {
        UNROLL for (Size g = 0; g < 8; ++g) {
            __m256i bytes[n_tile_registers];
            UNROLL for (Size v = 0; v < n_tile_registers; ++v) bytes[v] =
                load_words(w + g * tile_step + v * lane_bytes);
            UNROLL for (Size t = 0; t < T; ++t) {
                const __m256i activations = broadcast_word(x + 4 * (g * T + t));
                UNROLL for (int v = 0; v < n_tile_registers; ++v) {
                    products[t][v] = Bytes::add(products[t][v], bytes[v], activations);
                    SETTLE(products[t][v]);
                }
            }
        }
    };
    quant_products<T, 1>(tile, n_rows, panel, n_cols, accumulate, out, out_stride, block);
}

void multiply_quick(const std::byte *tile, int n_rows, const std::byte *panel, int n_tokens, int n_cols,
                    bool accumulate, float *out, Size out_stride) {
    static constexpr Products products[n_panel_rows] = {quick_products<1>, quick_products<2>,
                                                        quick_products<3>, quick_products<4>,
                                                        quick_products<5>, quick_products<6>};
    products[n_tokens - 1](tile, n_rows, panel, n_cols, accumulate, out, out_stride);
}

const VectorProduct *vector_product(Storage storage) {
    static constexpr VectorProduct q4_0{16, stream_bytes<NibbleRow>, prepare_stream<NibbleRow>,
                                        multiply_stream<Words, NibbleRow>};
    static constexpr VectorProduct q8_0{16, stream_bytes<ByteRow>, prepare_stream<ByteRow>,
                                        multiply_stream<Words, ByteRow>};
    static constexpr VectorProduct q4_0_16x4{8, quant_row_bytes<1>, prepare_interleaved,
                                             multiply_interleaved<Bytes>};
    if (storage == Storage::q4_0) return &q4_0;
    if (storage == Storage::q8_0) return &q8_0;
    if (storage == Storage::q4_0_16x4) return &q4_0_16x4;
    return avx2_kernels().vector_product(storage);
}

Kernels make_table() {
    Kernels table = avx2_kernels();
    table.name = "avxvnni";
    table.precise.multiply = multiply_precise<Words>;
    table.quick.panel_row_bytes = quant_row_bytes<1>;
    table.quick.pack = pack_quants<1>;
    table.quick.multiply = multiply_quick;
    table.vector_product = vector_product;
    return table;
}

}  // namespace

const Kernels &avx_vnni_kernels() {
    static const Kernels table = make_table();
    return table;
}

}  // namespace chatllm

#endif

#pragma once

#include <span>
#include <vector>

#include "model/attention.h"
#include "model/compute.h"
#include "model/kv_cache.h"
#include "model/model_file.h"

namespace chatllm {

// The Qwen3 text decoder: embeddings in, logits of the last position out.
class Decoder {
public:
    static constexpr int max_batch = 256;  // positions computed together

    // Takes the weights from the file, which must outlive the decoder. Throws Error on a missing or misshapen
    // tensor.
    explicit Decoder(const ModelFile &file);

    // Buffers of one context for batches of up to `n` positions, n <= max_batch.
    class Workspace {
    public:
        Workspace(const Decoder &decoder, int n, int n_threads);
        // Where the caller puts the embeddings of the next batch. [n, width]
        float *embeddings() const { return x_; }

    private:
        friend class Decoder;
        float *x_ = nullptr;         // [n, width]
        float *normed_ = nullptr;    // [n, width]
        float *query_ = nullptr;     // [n, n_heads * head_width]
        float *key_ = nullptr;       // [n, n_kv_heads * head_width]
        float *value_ = nullptr;     // [n, n_kv_heads * head_width]
        float *attended_ = nullptr;  // [n, n_heads * head_width]
        float *gate_ = nullptr;      // [n, ffn_width]
        float *up_ = nullptr;        // [n, ffn_width]
        float *cosines_ = nullptr;   // [n, head_width / 2]
        float *sines_ = nullptr;     // [n, head_width / 2]
        float *logits_ = nullptr;    // [vocab_size]
        QuantBuffers quants_;
        Attention attention_;
        AnonymousMap memory_;
    };

    // The longest row of any of its matrices.
    int widest_row() const;
    // The embedding of a token, id in [0, vocab_size). [width]
    void embed(Compute &compute, int id, float *out) const { compute.unpack_row(*embedding_, id, out); }
    // Runs the n embeddings in the workspace at positions [first, first + n), whose room in the cache is
    // reserved. With `want_logits`, returns those of the last position, valid until the next call.
    // [vocab_size]
    std::span<const float> run(Compute &compute, KvCache &cache, Workspace &work, int first, int n,
                               bool want_logits) const;

private:
    struct Layer {
        const float *attention_norm;
        const Tensor *query, *key, *value, *output;
        const float *query_norm, *key_norm;
        const float *ffn_norm;
        const Tensor *gate, *up, *down;
    };

    void run_layer(Compute &compute, KvCache &cache, Workspace &work, int layer, int first, int n) const;
    // Normalises and rotates the heads of n rows, in place. [n, n_heads, head_width]
    void norm_and_rotate(Compute &compute, const Workspace &work, const float *norm, int n_heads, int n,
                         float *rows) const;

    TextConfig config_;
    const Tensor *embedding_;
    std::vector<Layer> layers_;
    const float *final_norm_;
    const Tensor *output_;
    std::vector<float> frequencies_;  // [head_width / 2]
    bool quantised_ = false;          // any matrix of a layer or the output
};

}  // namespace chatllm

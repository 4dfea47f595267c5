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
        Workspace(const Decoder &decoder, int n, const Compute &compute);
        static std::size_t bytes(const Decoder &decoder, int n, const Compute &compute);
        // Where the caller puts the embeddings of the next batch. [n, width]
        float *embeddings() const { return x_; }

    private:
        friend class Decoder;
        Workspace() = default;
        void lay_out(ArenaCursor &arena, const Decoder &decoder, int n, const Compute &compute);
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
        float *scores_ = nullptr;    // of one position: per thread [heads of a group, cache block]
        std::byte *panels_ = nullptr;
        Attention attention_;
        AnonymousMap memory_;
    };

    // The longest row of any of its matrices.
    int widest_row() const;
    // Whether any matrix is.
    bool is_quantised() const { return quantised_; }
    // The embedding of a token, id in [0, vocab_size). [width]
    void embed(int id, float *out) const {
        unpack_row(embedding_->type, embedding_->row(id), config_.width, out);
    }
    // Runs the n embeddings in the workspace at positions [first, first + n), whose room in the cache is
    // reserved. The last n_precise of them are held to the precision of single positions.
    void run(Compute &compute, KvCache &cache, Workspace &work, int first, int n, int n_precise) const;
    // The logits behind the last of the n positions that were run last, valid until the next call.
    // [vocab_size]
    std::span<const float> logits(Compute &compute, Workspace &work, int n) const;

private:
    struct Layer {
        const float *attention_norm;
        const Tensor *query, *key, *value, *output;
        const float *query_norm, *key_norm;
        const float *ffn_norm;
        const Tensor *gate, *up, *down;
    };

    void run_layer(Compute &compute, KvCache &cache, Workspace &work, int layer, int first, int n,
                   int n_precise) const;
    void attend_many(Compute &compute, KvCache &cache, const Workspace &work, int layer, int first,
                     int n) const;
    void attend_one(Compute &compute, KvCache &cache, const Workspace &work, int layer, int position) const;
    // Normalises and rotates n_heads heads of the t-th position of the batch, in place. [n_heads, head_width]
    void norm_and_rotate(const Kernels &kernels, const Workspace &work, const float *norm, int n_heads, int t,
                         float *heads) const;

    TextConfig config_;
    const Tensor *embedding_;
    std::vector<Layer> layers_;
    const float *final_norm_;
    const Tensor *output_;
    std::vector<float> frequencies_;  // [head_width / 2]
    bool quantised_ = false;          // any matrix of a layer or the output
};

}  // namespace chatllm

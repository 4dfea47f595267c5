#pragma once

#include <vector>

#include "model/compute.h"
#include "model/model_file.h"
#include "model/trace.h"

namespace chatllm {

// The audio encoder: log-mel to rows that stand in for embeddings in the decoder's prompt.
//
// The mel is cut into chunks that pass alone through three strided convolutions; the resulting tokens attend
// to each other within windows (or, by option, within the whole clip); a projector of two layers ends in the
// decoder's width.
class Encoder {
public:
    // Takes the weights from the file, which must outlive the encoder. Throws Error on a missing or misshapen
    // tensor.
    explicit Encoder(const ModelFile &file);

    // The longest row of any of its matrices.
    int widest_row() const;
    // Whether any matrix is.
    bool is_quantised() const { return quantised_; }
    // Tokens that a mel of n_frames yields.
    int n_tokens(int n_frames) const;
    // Bytes of workspace that `run` takes.
    std::size_t workspace_bytes(const Compute &compute, int n_frames, bool whole_clip) const;
    // mel: [n_mel_bands, n_frames]; out: [n_tokens(n_frames), decoder width]. With `whole_clip`, attention
    // has no windows. Workspace is taken for the call and returned with it.
    void run(Compute &compute, const float *mel, int n_frames, bool whole_clip, float *out,
             const Trace &trace) const;

private:
    struct Affine {
        const Tensor *weight;
        const float *bias;
    };
    struct Norm {
        const float *weight;
        const float *bias;
    };
    struct Layer {
        Norm attention_norm;
        Affine query, key, value, output;
        Norm ffn_norm;
        Affine ffn_in, ffn_out;
    };
    struct Workspace;
    struct Map;
    struct Group;

    // Frames that go through the layers together, and tokens that attend to each other.
    struct Cut {
        int batch_frames;
        int window_tokens;
    };
    Cut cut(int n_frames, bool whole_clip) const;
    void lay_out(ArenaCursor &arena, Workspace &work, const Compute &compute, int n_frames,
                 bool whole_clip) const;
    // Weights of the second and third convolution in tiles, columns by tap and then channel.
    void unpack_convolutions(Compute &compute, Workspace &work) const;
    // A few chunks at once, to rows of columns, channel-major. [tokens, channels * bands]
    void convolve(Compute &compute, Workspace &work, const Group &group, float *columns) const;
    // One convolution of them.
    void convolve_first(Compute &compute, Workspace &work, const Group &group, const Map &out) const;
    void convolve_map(Compute &compute, Workspace &work, int stage, const Map &in, const Map &out,
                      float *columns) const;
    // Bias and GELU of the n positions in `values`, then to their places in the map, or to columns.
    void store(Compute &compute, int stage, float *values, int first, int n, const Map &out,
               float *columns) const;
    void run_layer(Compute &compute, const Layer &layer, Workspace &work, int n_tokens,
                   int window_tokens) const;

    AudioConfig config_;
    int text_width_;
    Affine convolutions_[3];
    const Tensor *conv_out_;
    std::vector<Layer> layers_;
    Norm final_norm_;
    Affine projector_[2];
    std::vector<float> positions_;  // [tokens of a chunk, width]
    bool quantised_ = false;        // any matrix
};

}  // namespace chatllm

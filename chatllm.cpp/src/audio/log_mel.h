#pragma once

#include <complex>
#include <span>
#include <vector>

#include "base/thread_pool.h"

namespace chatllm {

// Log-mel spectrogram as Whisper's feature extractor computes it (ENGINE facts: STFT of 400 points with a hop
// of 160, periodic Hann window, reflected ends, power, Slaney mel bands from 0 to 8,000 Hz, log10 clipped 8
// below the clip's maximum). Computed in double precision: a quiet band beside a loud one loses its digits in
// single.
class LogMel {
public:
    static constexpr int sample_rate = 16000;
    static constexpr int window = 400;
    static constexpr int hop = 160;

    explicit LogMel(int n_bands);

    int n_bands() const { return n_bands_; }
    static int n_frames(std::size_t n_samples) { return static_cast<int>(n_samples / hop); }
    // samples: mono, 16 kHz, more than `window`; out: [n_bands, n_frames(samples.size())].
    void run(ThreadPool &pool, std::span<const float> samples, float *out) const;

private:
    static constexpr int n_bins = window / 2 + 1;
    using Complex = std::complex<double>;

    struct Band {
        int first_bin;
        std::vector<double> weights;
    };

    // Power spectrum of 400 windowed samples. [n_bins]
    void power_spectrum(const double *frame, double *power) const;

    int n_bands_;
    std::vector<double> hann_;        // [window]
    std::vector<Complex> rotations_;  // [window]: exp(-2 pi i k / window)
    std::vector<Band> bands_;
};

}  // namespace chatllm

#pragma once

#include <complex>
#include <cstddef>
#include <span>
#include <vector>

#include "base/thread_pool.h"

namespace chatllm {

// Log-mel spectrogram as Whisper's feature extractor computes it (ENGINE facts: STFT of 400 points with a hop
// of 160, periodic Hann window, reflected ends, power, Slaney mel bands from 0 to 8,000 Hz, log10 clipped 8
// below the clip's maximum). Spectra are computed in double precision: a quiet band beside a loud one loses
// its digits in single.
class LogMel {
public:
    static constexpr int sample_rate = 16000;
    static constexpr int window = 400;
    static constexpr int hop = 160;
    static constexpr int n_bins = window / 2 + 1;
    // Neighbouring frames are transformed together, one in each lane of every operation.
    static constexpr int lanes = 4;

    explicit LogMel(int n_bands);

    int n_bands() const { return n_bands_; }
    static int n_frames(std::size_t n_samples) { return static_cast<int>(n_samples / hop); }
    // samples: mono, 16 kHz, more than `window`; out: [n_bands, n_frames(samples.size())].
    void run(ThreadPool &pool, std::span<const float> samples, float *out) const;
    // Power spectra of `lanes` windowed frames, one every `hop` samples.
    // samples: [(lanes - 1) * hop + window]; power: [n_bins, lanes].
    void power_spectra(const float *samples, double *power) const;

private:
    struct Band {
        std::size_t first_bin;
        std::size_t n_bins;
    };
    // log10 of the mel energies of `lanes` frames, or of as many as are left; returns the largest.
    // out: [n_bands, n_frames].
    float log_energies(std::span<const float> samples, int first_frame, float *out) const;

    int n_bands_;
    std::vector<double> hann_;                 // [window], halved
    std::vector<std::complex<double>> roots_;  // [window]: exp(-2 pi i k / window)
    std::vector<Band> bands_;                  // [n_bands]
    std::vector<double> weights_;              // each band's, one band after the other
};

// Replaces normal positive numbers by their decimal logarithms, to half a unit in the last place and 1e-7.
void replace_by_log10(std::span<float> values);

}  // namespace chatllm

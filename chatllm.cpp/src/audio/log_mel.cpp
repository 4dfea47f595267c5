#include "audio/log_mel.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace chatllm {
namespace {

using Complex = std::complex<double>;

// Slaney's mel scale: linear to 1,000 Hz, logarithmic above.
constexpr double linear_hz_per_mel = 200.0 / 3;
constexpr double break_hz = 1000.0;
constexpr double break_mel = break_hz / linear_hz_per_mel;
const double log_step = std::log(6.4) / 27.0;

double hz_to_mel(double hz) {
    return hz < break_hz ? hz / linear_hz_per_mel : break_mel + std::log(hz / break_hz) / log_step;
}

double mel_to_hz(double mel) {
    return mel < break_mel ? mel * linear_hz_per_mel : break_hz * std::exp(log_step * (mel - break_mel));
}

// Plain product: std::complex's checks for infinities, which cannot occur here.
Complex times(Complex a, Complex b) {
    return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}

// Mixed-radix decimation in time: transforms n points `stride` apart; the factors of n are 5 and 2.
// `rotations` holds the n * stride roots of unity.
void transform(const Complex *in, int n, int stride, const Complex *rotations, Complex *out) {
    if (n == 1) {
        *out = *in;
        return;
    }
    const int radix = n % 5 == 0 ? 5 : 2;
    const int m = n / radix;
    for (int part = 0; part < radix; ++part) {
        transform(in + part * stride, m, stride * radix, rotations, out + part * m);
    }
    for (int k = 0; k < m; ++k) {
        std::array<Complex, 5> parts;
        for (int part = 0; part < radix; ++part) {
            parts[static_cast<std::size_t>(part)] = times(out[part * m + k], rotations[part * k * stride]);
        }
        for (int q = 0; q < radix; ++q) {
            Complex sum = parts[0];
            for (int part = 1; part < radix; ++part) {
                sum += times(parts[static_cast<std::size_t>(part)], rotations[part * q * m % n * stride]);
            }
            out[q * m + k] = sum;
        }
    }
}

}  // namespace

LogMel::LogMel(int n_bands) : n_bands_(n_bands) {
    for (int i = 0; i < window; ++i) {
        const double angle = 2 * std::numbers::pi * i / window;
        hann_.push_back(0.5 - 0.5 * std::cos(angle));
        rotations_.emplace_back(std::cos(angle), -std::sin(angle));
    }
    std::vector<double> edges;
    const double top_mel = hz_to_mel(sample_rate / 2.0);
    for (int i = 0; i < n_bands + 2; ++i) edges.push_back(mel_to_hz(top_mel * i / (n_bands + 1)));
    for (std::size_t band = 0; band < static_cast<std::size_t>(n_bands); ++band) {
        const double low = edges[band];
        const double middle = edges[band + 1];
        const double high = edges[band + 2];
        Band triangle{n_bins, {}};
        for (int bin = 0; bin < n_bins; ++bin) {
            const double hz = static_cast<double>(bin) * sample_rate / window;
            const double weight = std::min((hz - low) / (middle - low), (high - hz) / (high - middle));
            if (weight <= 0) continue;
            triangle.first_bin = std::min(triangle.first_bin, bin);
            triangle.weights.push_back(weight * 2 / (high - low));  // Slaney's normalisation: equal area
        }
        bands_.push_back(std::move(triangle));
    }
}

void LogMel::power_spectrum(const double *frame, double *power) const {
    // 400 real points as 200 complex ones, then untangled.
    constexpr int half = window / 2;
    std::array<Complex, half> packed;
    std::array<Complex, half> spectrum;
    std::array<Complex, half> roots;
    for (std::size_t i = 0; i < half; ++i) {
        packed[i] = {frame[2 * i], frame[2 * i + 1]};
        roots[i] = rotations_[2 * i];
    }
    transform(packed.data(), half, 1, roots.data(), spectrum.data());
    for (int k = 0; k <= half; ++k) {
        const Complex a = spectrum[static_cast<std::size_t>(k % half)];
        const Complex b = std::conj(spectrum[static_cast<std::size_t>((half - k) % half)]);
        const Complex even = 0.5 * (a + b);
        const Complex odd = times({0, -0.5}, a - b);
        power[k] = std::norm(even + times(odd, rotations_[static_cast<std::size_t>(k)]));
    }
}

void LogMel::run(ThreadPool &pool, std::span<const float> samples, float *out) const {
    constexpr int frames_per_chunk = 16;
    const int n_frames = LogMel::n_frames(samples.size());
    const auto n_samples = static_cast<std::int64_t>(samples.size());
    const auto frames = static_cast<std::size_t>(n_frames);

    pool.run((n_frames + frames_per_chunk - 1) / frames_per_chunk, [&](int chunk, int) {
        std::array<double, window> windowed;
        std::array<double, n_bins> power;
        const int last = std::min((chunk + 1) * frames_per_chunk, n_frames);
        for (int frame = chunk * frames_per_chunk; frame < last; ++frame) {
            for (int i = 0; i < window; ++i) {
                std::int64_t at = std::int64_t{frame} * hop + i - window / 2;
                if (at < 0) at = -at;
                if (at >= n_samples) at = 2 * (n_samples - 1) - at;
                windowed[static_cast<std::size_t>(i)] =
                    hann_[static_cast<std::size_t>(i)] *
                    static_cast<double>(samples[static_cast<std::size_t>(at)]);
            }
            power_spectrum(windowed.data(), power.data());
            for (std::size_t band = 0; band < bands_.size(); ++band) {
                double energy = 0;
                for (std::size_t i = 0; i < bands_[band].weights.size(); ++i) {
                    energy +=
                        bands_[band].weights[i] * power[static_cast<std::size_t>(bands_[band].first_bin) + i];
                }
                out[band * frames + static_cast<std::size_t>(frame)] =
                    static_cast<float>(std::log10(std::max(energy, 1e-10)));
            }
        }
    });

    float maximum = -10.0f;
    const std::size_t n_values = frames * static_cast<std::size_t>(n_bands_);
    for (std::size_t i = 0; i < n_values; ++i) maximum = std::max(maximum, out[i]);
    const float least = maximum - 8.0f;
    for (std::size_t i = 0; i < n_values; ++i) out[i] = (std::max(out[i], least) + 4.0f) / 4.0f;
}

}  // namespace chatllm

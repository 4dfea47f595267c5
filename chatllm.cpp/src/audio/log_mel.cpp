#include "audio/log_mel.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <numbers>

namespace chatllm {
namespace {

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

using Complex = std::complex<double>;

constexpr int lanes = LogMel::lanes;
constexpr int half = LogMel::window / 2;
constexpr int frames_per_chunk = 4 * lanes;
constexpr std::size_t bands_per_block = 32;
constexpr double least = 1e-10;  // energy
constexpr double most = std::numeric_limits<float>::max();
constexpr float least_log = -10.0f;

// Plain product: std::complex's checks for infinities, which cannot occur here.
Complex times(Complex a, Complex b) {
    return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}

Complex times_minus_i(Complex a) { return {a.imag(), -a.real()}; }

double squared(Complex a) { return a.real() * a.real() + a.imag() * a.imag(); }

// `half` complex points for each lane. Lanes lie side by side and meet in no operation, so the compiler
// vectorises the innermost loops below.
struct Points {
    std::array<double, half * lanes> re;  // [half, lanes]
    std::array<double, half * lanes> im;  // [half, lanes]

    Complex get(int i) const { return {re[static_cast<std::size_t>(i)], im[static_cast<std::size_t>(i)]}; }
    void set(int i, Complex point) {
        re[static_cast<std::size_t>(i)] = point.real();
        im[static_cast<std::size_t>(i)] = point.imag();
    }
};

std::array<Complex, 4> transform_4(Complex a, Complex b, Complex c, Complex d) {
    const Complex even = a + c;
    const Complex odd = b + d;
    const Complex even_rest = a - c;
    const Complex odd_rest = times_minus_i(b - d);
    return {even + odd, even_rest + odd_rest, even - odd, even_rest - odd_rest};
}

// The transform of `half` = 8 * 5 * 5 points is Stockham's (self-sorting, decimation in frequency): a pass of
// radix r over sequences of n points, `stride` of them interleaved, sends the points p + j n / r to r p + j.
// `roots` are LogMel's: half as many points take every second one.

// First pass, radix 8 as 2 * 4: applies the window and takes even samples as real parts, odd ones as
// imaginary parts.
void window_and_pass_8(const float *samples, const double *hann, const Complex *roots, Points &out) {
    constexpr int m = half / 8;
    constexpr double r = std::numbers::sqrt2 / 2;
    for (int p = 0; p < m; ++p) {
        const Complex w1 = roots[2 * p], w2 = roots[4 * p], w3 = roots[6 * p], w4 = roots[8 * p];
        const Complex w5 = roots[10 * p], w6 = roots[12 * p], w7 = roots[14 * p];
        for (int lane = 0; lane < lanes; ++lane) {
            const auto in = [&](int j) {
                const int at = 2 * (p + m * j);
                const float *sample = samples + lane * LogMel::hop + at;
                return Complex(hann[at] * static_cast<double>(sample[0]),
                               hann[at + 1] * static_cast<double>(sample[1]));
            };
            const auto set = [&](int j, Complex point) { out.set((8 * p + j) * lanes + lane, point); };
            const auto [a0, a1, a2, a3] = transform_4(in(0), in(2), in(4), in(6));
            const auto [b0, b1, b2, b3] = transform_4(in(1), in(3), in(5), in(7));
            const Complex c1 = r * (b1 + times_minus_i(b1));
            const Complex c2 = times_minus_i(b2);
            const Complex c3 = r * (times_minus_i(b3) - b3);
            set(0, a0 + b0);
            set(1, times(w1, a1 + c1));
            set(2, times(w2, a2 + c2));
            set(3, times(w3, a3 + c3));
            set(4, times(w4, a0 - b0));
            set(5, times(w5, a1 - c1));
            set(6, times(w6, a2 - c2));
            set(7, times(w7, a3 - c3));
        }
    }
}

// Radix 5 with Winograd's factors for the real parts, over sequences of 5 m points.
template <int m> void pass_5(const Points &in, const Complex *roots, Points &out) {
    constexpr int stride = half / (5 * m);
    constexpr int width = stride * lanes;
    const Complex fifth = roots[LogMel::window / 5];
    const Complex two_fifths = roots[2 * LogMel::window / 5];
    const double c = (fifth.real() - two_fifths.real()) / 2;  // their mean is -1/4
    const double s1 = -fifth.imag();
    const double s2 = -two_fifths.imag();
    for (int p = 0; p < m; ++p) {
        const int step = 2 * stride * p;
        const Complex w1 = roots[step], w2 = roots[2 * step], w3 = roots[3 * step], w4 = roots[4 * step];
        for (int i = 0; i < width; ++i) {
            const auto get = [&](int j) { return in.get((p + m * j) * width + i); };
            const auto set = [&](int j, Complex w, Complex point) {
                out.set((5 * p + j) * width + i, m > 1 ? times(w, point) : point);
            };
            const Complex a0 = get(0), a1 = get(1), a2 = get(2), a3 = get(3), a4 = get(4);
            const Complex sum = (a1 + a4) + (a2 + a3);
            const Complex mean = a0 - 0.25 * sum;
            const Complex spread = c * ((a1 + a4) - (a2 + a3));
            const Complex outer = times_minus_i(a1 - a4);
            const Complex inner = times_minus_i(a2 - a3);
            const Complex even1 = mean + spread;
            const Complex even2 = mean - spread;
            const Complex odd1 = s1 * outer + s2 * inner;
            const Complex odd2 = s2 * outer - s1 * inner;
            out.set(5 * p * width + i, a0 + sum);
            set(1, w1, even1 + odd1);
            set(2, w2, even2 + odd2);
            set(3, w3, even2 - odd2);
            set(4, w4, even1 - odd1);
        }
    }
}

// From the spectra of even samples + i * odd samples to the power spectra of all (Cooley, Lewis and Welch,
// 1970), twofold in amplitude.
void untangle(const Points &in, const Complex *roots, double *power) {
    for (int k = 0; k <= half / 2; ++k) {
        const int mirror = (half - k) % half;
        const Complex w = roots[k];
        for (int lane = 0; lane < lanes; ++lane) {
            const Complex a = in.get(k * lanes + lane);
            const Complex b = std::conj(in.get(mirror * lanes + lane));
            const Complex even = a + b;
            const Complex odd = times(w, times_minus_i(a - b));
            power[k * lanes + lane] = squared(even + odd);
            power[(half - k) * lanes + lane] = squared(even - odd);
        }
    }
}

using GroupSamples = std::array<float, (lanes - 1) * LogMel::hop + LogMel::window>;

// The samples of `lanes` frames, from the clip itself or, at its ends, reflected into `copy`. Lanes after the
// last frame get what there is.
const float *group_samples(std::span<const float> samples, std::int64_t begin, GroupSamples &copy) {
    const auto last = static_cast<std::int64_t>(samples.size()) - 1;
    if (begin >= 0 && begin + static_cast<std::int64_t>(copy.size()) <= last + 1)
        return samples.data() + begin;
    for (float &sample : copy) {
        const std::int64_t at = last - std::abs(last - std::abs(begin++));
        sample = samples[static_cast<std::size_t>(std::max<std::int64_t>(at, 0))];
    }
    return copy.data();
}

}  // namespace

LogMel::LogMel(int n_bands) : n_bands_(n_bands) {
    for (int i = 0; i < window; ++i) {
        const double angle = 2 * std::numbers::pi * i / window;
        hann_.push_back(0.25 - 0.25 * std::cos(angle));
        roots_.emplace_back(std::cos(angle), -std::sin(angle));
    }
    std::vector<double> edges;
    const double top_mel = hz_to_mel(sample_rate / 2.0);
    for (int i = 0; i < n_bands + 2; ++i) edges.push_back(mel_to_hz(top_mel * i / (n_bands + 1)));
    for (std::size_t band = 0; band < static_cast<std::size_t>(n_bands); ++band) {
        const double low = edges[band];
        const double middle = edges[band + 1];
        const double high = edges[band + 2];
        Band triangle{n_bins, 0};
        for (std::size_t bin = 0; bin < n_bins; ++bin) {
            const double hz = static_cast<double>(bin) * sample_rate / window;
            const double weight = std::min((hz - low) / (middle - low), (high - hz) / (high - middle));
            if (weight <= 0) continue;
            triangle.first_bin = std::min(triangle.first_bin, bin);
            ++triangle.n_bins;
            weights_.push_back(weight * 2 / (high - low));  // Slaney's normalisation: equal area
        }
        bands_.push_back(triangle);
    }
}

void replace_by_log10(std::span<float> values) {
    // 2^exponent * mantissa with the mantissa in [sqrt(1/2), sqrt(2)), and log(mantissa) by the series of the
    // inverse hyperbolic tangent, 2 (t + t^3 / 3 + ...) with t = (mantissa - 1) / (mantissa + 1).
    constexpr std::int32_t sqrt_half = 0x3f3504f3;  // its bits
    constexpr float log10_2_high = 0x1.344p-2f;  // few digits, so that its product with the exponent is exact
    constexpr float log10_2_low = 4.6050389812e-6f;
    constexpr float two_log10_e = 0.86858896381f;
    for (float &value : values) {
        const auto bits = std::bit_cast<std::int32_t>(value);
        const std::int32_t exponent = (bits - sqrt_half) >> 23;
        const auto mantissa = std::bit_cast<float>(bits - (exponent << 23));
        const float t = (mantissa - 1) / (mantissa + 1);
        const float u = t * t;
        const float series = 1 + u * (1.0f / 3 + u * (1.0f / 5 + u * (1.0f / 7 + u * (1.0f / 9))));
        const auto e = static_cast<float>(exponent);
        value = e * log10_2_high + (e * log10_2_low + two_log10_e * t * series);
    }
}

void LogMel::power_spectra(const float *samples, double *power) const {
    Points a;
    Points b;
    window_and_pass_8(samples, hann_.data(), roots_.data(), a);
    pass_5<5>(a, roots_.data(), b);
    pass_5<1>(b, roots_.data(), a);
    untangle(a, roots_.data(), power);
}

float LogMel::log_energies(std::span<const float> samples, int first_frame, float *out) const {
    GroupSamples reflected;
    std::array<double, n_bins * lanes> power;
    power_spectra(group_samples(samples, std::int64_t{first_frame} * hop - window / 2, reflected),
                  power.data());

    const auto n_frames = static_cast<std::size_t>(LogMel::n_frames(samples.size()));
    const std::size_t n_lanes =
        std::min<std::size_t>(lanes, n_frames - static_cast<std::size_t>(first_frame));
    const double *weight = weights_.data();
    std::array<float, lanes> maxima;
    maxima.fill(least_log);
    for (std::size_t block = 0; block < bands_.size(); block += bands_per_block) {
        const auto bands = std::span(bands_).subspan(block, std::min(bands_per_block, bands_.size() - block));
        std::array<float, bands_per_block * lanes> logs;
        float *log = logs.data();
        for (const Band &band : bands) {
            std::array<double, lanes> energy{};
            const double *bin = power.data() + band.first_bin * lanes;
            for (std::size_t i = 0; i < band.n_bins; ++i, ++weight, bin += lanes) {
                for (std::size_t lane = 0; lane < lanes; ++lane) energy[lane] += *weight * bin[lane];
            }
            for (const double value : energy) *log++ = static_cast<float>(std::clamp(value, least, most));
        }
        replace_by_log10(std::span(logs).first(bands.size() * lanes));
        for (std::size_t band = 0; band < bands.size(); ++band) {
            const float *values = logs.data() + band * lanes;
            for (std::size_t lane = 0; lane < lanes; ++lane)
                maxima[lane] = std::max(maxima[lane], values[lane]);
            std::copy_n(values, n_lanes,
                        out + (block + band) * n_frames + static_cast<std::size_t>(first_frame));
        }
    }
    return *std::max_element(maxima.data(), maxima.data() + n_lanes);
}

void LogMel::run(ThreadPool &pool, std::span<const float> samples, float *out) const {
    const int n_frames = LogMel::n_frames(samples.size());
    std::atomic<float> maximum{least_log};
    pool.run((n_frames + frames_per_chunk - 1) / frames_per_chunk, [&](int chunk, int) {
        const int last = std::min((chunk + 1) * frames_per_chunk, n_frames);
        float largest = least_log;
        for (int frame = chunk * frames_per_chunk; frame < last; frame += lanes) {
            largest = std::max(largest, log_energies(samples, frame, out));
        }
        float known = maximum.load(std::memory_order_relaxed);
        while (known < largest && !maximum.compare_exchange_weak(known, largest, std::memory_order_relaxed)) {
        }
    });

    const float floor = maximum.load(std::memory_order_relaxed) - 8.0f;
    const auto n = static_cast<std::size_t>(n_frames);
    pool.run(n_bands_, [&](int band, int) {
        float *row = out + static_cast<std::size_t>(band) * n;
        for (std::size_t i = 0; i < n; ++i) row[i] = (std::max(row[i], floor) + 4.0f) / 4.0f;
    });
}

}  // namespace chatllm

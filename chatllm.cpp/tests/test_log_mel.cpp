#include "audio/log_mel.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "random.h"

using chatllm::LogMel;
using chatllm::ThreadPool;
using chatllm::check::Random;

namespace {

constexpr double ceiling = 1e-6;  // absolute, in the normalised domain

// |X(bin)|^2 of 400 points, from the definition.
double power_at(const double *windowed, int bin) {
    double real = 0, imaginary = 0;
    for (int i = 0; i < 400; ++i) {
        const double angle = 2 * std::numbers::pi * (bin * i % 400) / 400;
        real += windowed[i] * std::cos(angle);
        imaginary += windowed[i] * std::sin(angle);
    }
    return real * real + imaginary * imaginary;
}

double hann(int i) { return std::pow(std::sin(std::numbers::pi * i / 400), 2); }

// Slaney's mel scale (Auditory Toolbox, 1998): 15 mel up to 1,000 Hz in straight line, then 27 steps to a
// factor of 6.4.
double mel_of(double hz) { return hz < 1000 ? 3 * hz / 200 : 15 + 27 * std::log(hz / 1000) / std::log(6.4); }
double hz_of(double mel) { return mel < 15 ? 200 * mel / 3 : 1000 * std::pow(6.4, (mel - 15) / 27); }

// Straight from the definition, with a discrete Fourier transform of 400 * 201 steps a frame. [bands, frames]
std::vector<double> reference(const std::vector<float> &samples, int n_bands) {
    const auto n_frames = static_cast<int>(samples.size() / 160);
    const auto last = static_cast<int>(samples.size()) - 1;
    std::vector<double> mel(static_cast<std::size_t>(n_bands * n_frames));
    double largest = -10;
    for (int frame = 0; frame < n_frames; ++frame) {
        double windowed[400];
        for (int i = 0; i < 400; ++i) {
            int at = std::abs(160 * frame + i - 200);
            if (at > last) at = 2 * last - at;
            windowed[i] = hann(i) * static_cast<double>(samples[static_cast<std::size_t>(at)]);
        }
        double power[201];
        for (int bin = 0; bin <= 200; ++bin) power[bin] = power_at(windowed, bin);
        for (int band = 0; band < n_bands; ++band) {
            const double mel_step = mel_of(8000) / (n_bands + 1);
            const double low = hz_of(band * mel_step), peak = hz_of((band + 1) * mel_step),
                         high = hz_of((band + 2) * mel_step);
            double energy = 0;
            for (int bin = 0; bin <= 200; ++bin) {
                const double hz = 40.0 * bin;
                const double height = hz < peak ? (hz - low) / (peak - low) : (high - hz) / (high - peak);
                energy += std::max(0.0, height) * 2 / (high - low) * power[bin];
            }
            const double value = std::log10(std::max(energy, 1e-10));
            mel[static_cast<std::size_t>(band * n_frames + frame)] = value;
            largest = std::max(largest, value);
        }
    }
    for (double &value : mel) value = (std::max(value, largest - 8) + 4) / 4;
    return mel;
}

std::vector<float> computed(const std::vector<float> &samples, int n_bands, int n_threads) {
    ThreadPool pool(n_threads);
    const LogMel log_mel(n_bands);
    std::vector<float> mel(static_cast<std::size_t>(n_bands * LogMel::n_frames(samples.size())));
    log_mel.run(pool, samples, mel.data());
    return mel;
}

void check_against_reference(const std::vector<float> &samples, int n_bands = 128) {
    const auto expected = reference(samples, n_bands);
    const auto mel = computed(samples, n_bands, 1);
    CHECK_EQ(mel.size(), expected.size());
    double worst = 0;
    for (std::size_t i = 0; i < mel.size(); ++i)
        worst = std::max(worst, std::fabs(static_cast<double>(mel[i]) - expected[i]));
    CHECK(worst <= ceiling);
}

}  // namespace

TEST(noise) { check_against_reference(Random(1).reals(8000, 0.5f)); }

TEST(lengths_that_no_hop_divides) {
    for (const std::size_t n : {401u, 8001u, 8159u, 8161u, 8320u, 8500u})
        check_against_reference(Random(n).reals(n, 0.1f));
}

TEST(a_loud_tone_beside_silence) {
    std::vector<float> samples(8000);
    for (std::size_t i = 0; i < 3000; ++i)
        samples[i] = static_cast<float>(std::sin(0.5 * static_cast<double>(i)));
    check_against_reference(samples);
}

TEST(an_impulse) {
    std::vector<float> samples(8000);
    samples[4000] = 1.0f;
    check_against_reference(samples);
}

TEST(other_numbers_of_bands) {
    check_against_reference(Random(2).reals(2000, 0.5f), 80);
    check_against_reference(Random(2).reals(2000, 0.5f), 1);
}

TEST(silence_is_minus_one_and_a_half) {
    for (const float value : computed(std::vector<float>(8000), 128, 1)) CHECK_EQ(value, -1.5f);
}

TEST(samples_outside_every_frame_change_nothing) {
    std::vector<float> samples(8159);
    samples.back() = 1.0f;
    for (const float value : computed(samples, 128, 1)) CHECK_EQ(value, -1.5f);
}

TEST(any_loudness_gives_numbers) {
    for (const float value : computed(Random(4).reals(8000, 1e38f), 128, 1)) CHECK(std::isfinite(value));
}

TEST(power_spectra_are_those_of_the_definition) {
    constexpr int lanes = LogMel::lanes;
    const auto samples = Random(5).reals((lanes - 1) * 160 + 400, 1.0f);
    std::vector<double> power(201 * lanes);
    LogMel(128).power_spectra(samples.data(), power.data());
    double worst = 0, largest = 0;
    for (int lane = 0; lane < lanes; ++lane) {
        double windowed[400];
        for (int i = 0; i < 400; ++i)
            windowed[i] = hann(i) * static_cast<double>(samples[static_cast<std::size_t>(160 * lane + i)]);
        for (int bin = 0; bin <= 200; ++bin) {
            const double expected = power_at(windowed, bin);
            const double difference = power[static_cast<std::size_t>(bin * lanes + lane)] - expected;
            worst = std::max(worst, std::fabs(difference));
            largest = std::max(largest, expected);
        }
    }
    CHECK(worst <= 1e-13 * largest);
}

TEST(logarithms_are_those_of_the_library) {
    std::vector<float> values;
    Random random(6);
    for (float power = 0x1p-126f; power < 0x1p127f; power *= 2) {
        values.push_back(power);
        for (int i = 0; i < 1000; ++i) values.push_back(power * (1.5f + random.real(0.5f)));
    }
    for (int i = 0; i < 100000; ++i) values.push_back(1 + random.real(0.01f));
    auto logarithms = values;
    chatllm::replace_by_log10(logarithms);
    double worst = 0;  // beyond the half unit in the last place that any float has
    for (std::size_t i = 0; i < values.size(); ++i) {
        const double expected = std::log10(static_cast<double>(values[i]));
        const double half_unit = std::fabs(expected) * 0x1p-24;
        worst = std::max(worst, std::fabs(static_cast<double>(logarithms[i]) - expected) - half_unit);
    }
    CHECK(worst <= 1e-7);
}

TEST(frames_are_the_whole_hops) {
    CHECK_EQ(LogMel::n_frames(8000), 50);
    CHECK_EQ(LogMel::n_frames(8159), 50);
    CHECK_EQ(LogMel::n_frames(8160), 51);
}

TEST(threads_change_no_bit) {
    const auto samples = Random(3).reals(16000, 0.5f);
    const auto alone = computed(samples, 128, 1);
    for (const int n_threads : {2, 3, 7}) CHECK(computed(samples, 128, n_threads) == alone);
}

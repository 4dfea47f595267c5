#pragma once

#include <span>
#include <string_view>

// What the processor can do at best, for the engine's speed to be held against: "read" (bytes a second from
// memory) and "int8", "bf16", "f32" (operations a second, a multiplication and an addition being two), each
// with the fastest instructions that this processor has for it.
namespace chatllm {

// The instructions that `kind` is measured with, or null for an unknown kind.
const char *ceiling_isa(std::string_view kind);

// Runs `n_threads` threads at once for `rates.size()` slices of `slice_ms` milliseconds, after one that does
// not count, and writes down the rate of each slice, summed over the threads. "read" passes over 512 MiB, or
// a quarter of what memory is there if that is less. Throws Error for an unknown kind or impossible numbers,
// and where there is no memory or no thread.
void measure_ceiling(std::string_view kind, int n_threads, double slice_ms, std::span<double> rates);

}  // namespace chatllm

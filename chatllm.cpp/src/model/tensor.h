#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/kernels.h"

namespace chatllm {

using TensorType = Storage;

struct TypeTraits {
    std::string_view name;
    int block;  // elements that are stored together, along the last dimension
    int block_bytes;
    bool quantised;
    int rows_together = 1;  // rows that are stored together
};

// Null for a number that is no type of ours.
const TypeTraits *find_type(std::int32_t number);
const TypeTraits &traits(TensorType type);

inline constexpr int max_dims = 4;

// A tensor where it lies in the mapped file.
struct Tensor {
    std::string_view name;
    TensorType type = TensorType::f32;
    int n_dims = 0;
    std::array<std::int32_t, max_dims> dims{};  // slowest first
    const std::byte *data = nullptr;            // 16-byte aligned
    std::size_t n_bytes = 0;

    // As a matrix: the first dimension by all the others.
    int rows() const { return dims[0]; }
    int cols() const { return static_cast<int>(n_elements() / rows()); }
    std::int64_t n_elements() const;
    std::size_t row_bytes() const { return n_bytes / static_cast<std::size_t>(rows()); }
    // Row r, or the rows that are stored together of which r is the first.
    const std::byte *row(int r) const { return data + static_cast<std::size_t>(r) * row_bytes(); }
    // The values of an f32 tensor.
    const float *floats() const { return reinterpret_cast<const float *>(data); }
    std::string shape() const;  // "[480, 1, 3, 3]"
};

}  // namespace chatllm

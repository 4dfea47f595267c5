#include "model/tensor.h"

namespace chatllm {

const TypeTraits *find_type(std::int32_t number) {
    static constexpr TypeTraits f32{"f32", 1, 4, false};
    static constexpr TypeTraits f16{"f16", 1, 2, false};
    static constexpr TypeTraits q4_0{"q4_0", 32, 18, true};
    static constexpr TypeTraits q4_1{"q4_1", 32, 20, true};
    static constexpr TypeTraits q8_0{"q8_0", 32, 34, true};
    static constexpr TypeTraits q4_k{"q4_K", 256, 144, true};
    static constexpr TypeTraits q4_0_16x4{"q4_0_16x4", 32, 18, true, interleaved_rows};
    switch (static_cast<TensorType>(number)) {
    case TensorType::f32:
        return &f32;
    case TensorType::f16:
        return &f16;
    case TensorType::q4_0:
        return &q4_0;
    case TensorType::q4_1:
        return &q4_1;
    case TensorType::q8_0:
        return &q8_0;
    case TensorType::q4_k:
        return &q4_k;
    case TensorType::q4_0_16x4:
        return &q4_0_16x4;
    }
    return nullptr;
}

const TypeTraits &traits(TensorType type) { return *find_type(static_cast<std::int32_t>(type)); }

std::int64_t Tensor::n_elements() const {
    std::int64_t product = 1;
    for (int d = 0; d < n_dims; ++d) product *= dims[static_cast<std::size_t>(d)];
    return product;
}

std::string Tensor::shape() const {
    std::string text = "[";
    for (int d = 0; d < n_dims; ++d) {
        if (d > 0) text += ", ";
        text += std::to_string(dims[static_cast<std::size_t>(d)]);
    }
    return text + "]";
}

}  // namespace chatllm

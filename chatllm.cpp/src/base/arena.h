#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "base/error.h"
#include "base/memory_map.h"

namespace chatllm {

// Hands out aligned pieces of one block. Without a block it only adds up what would be needed, so that the
// same layout function first measures and then places:  build_arena(purpose, [&](ArenaCursor &a) { x =
// a.take<float>(n); })
class ArenaCursor {
public:
    explicit ArenaCursor(std::byte *base) : base_(base) {}

    // Null while measuring. Throws Error when the sum does not fit into a size_t.
    template <typename T> T *take(std::size_t count) {
        static_assert(std::is_trivial_v<T>);
        constexpr std::size_t limit = std::numeric_limits<std::size_t>::max() / 2;
        if (count > (limit - used_) / sizeof(T))
            throw Error("out of memory: a buffer larger than the address space");
        auto *place = base_ == nullptr ? nullptr : reinterpret_cast<T *>(base_ + used_);
        used_ += (count * sizeof(T) + alignment - 1) / alignment * alignment;
        return place;
    }

    std::size_t used() const { return used_; }

private:
    static constexpr std::size_t alignment = 64;  // a cache line, and the widest vector

    std::byte *base_;
    std::size_t used_ = 0;
};

template <typename Layout> AnonymousMap build_arena(const char *purpose, Layout &&layout) {
    ArenaCursor measure(nullptr);
    layout(measure);
    AnonymousMap block(measure.used(), purpose);
    ArenaCursor place(block.data());
    layout(place);
    return block;
}

}  // namespace chatllm

#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <vector>

namespace chatllm {

// Shows tensors from inside a run to whoever asked for them, in tests against reference implementations.
class Trace {
public:
    using Sink =
        std::function<void(const char *name, const float *data, const std::int64_t *shape, int n_dims)>;

    Trace() = default;
    explicit Trace(Sink sink) : sink_(std::move(sink)) {}

    explicit operator bool() const { return static_cast<bool>(sink_); }
    void show(const char *name, const float *data, std::initializer_list<std::int64_t> shape) const {
        if (sink_) sink_(name, data, shape.begin(), static_cast<int>(shape.size()));
    }

private:
    Sink sink_;
};

}  // namespace chatllm

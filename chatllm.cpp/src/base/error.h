#pragma once

#include <stdexcept>
#include <string>

namespace chatllm {

// The one way in which the engine reports failure inside: a message that a user can act on. `api.cpp` turns it
// into a status and an error line; nothing is thrown across the C interface.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// The user called chatllm_abort_generation: unwinds from wherever the work was.
class Aborted : public Error {
public:
    Aborted() : Error("aborted") {}
};

}  // namespace chatllm

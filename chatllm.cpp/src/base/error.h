#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace chatllm {

// The one way in which the engine reports failure inside: a message that a user can act on. `api.cpp` turns
// it into a status and an error line; nothing is thrown across the C interface.
class Error : public std::runtime_error {
public:
    // One line whatever stands in the message: control characters, as a file's name may have, become '?'.
    explicit Error(std::string message) : std::runtime_error(one_line(std::move(message))) {}

private:
    static std::string one_line(std::string message) {
        for (char &c : message) {
            if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
        }
        return message;
    }
};

// The user called chatllm_abort_generation: unwinds from wherever the work was.
class Aborted : public Error {
public:
    Aborted() : Error("aborted") {}
};

}  // namespace chatllm

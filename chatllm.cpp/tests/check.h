#pragma once

#include <atomic>
#include <concepts>
#include <cstddef>
#include <optional>
#include <ranges>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

// Assertions and a registry for the native tests. A failed CHECK prints one line and the test goes on; an
// exception ends its test. tests/main.cpp runs what is registered.
//
//     TEST(adds_up) { CHECK_EQ(1 + 1, 2); }

namespace chatllm::check {

struct Test {
    std::string_view name;
    void (*run)();
};

struct Registration {
    Registration(std::string_view name, void (*run)());
};

// Of failed checks until now.
std::atomic<int> &failures();

void report(const char *file, int line, const std::string &what);

template <typename T> std::string describe(const T &value) {
    std::ostringstream text;
    if constexpr (std::is_same_v<T, std::byte>) {
        text << std::to_integer<int>(value);
    } else if constexpr (std::is_enum_v<T>) {
        text << static_cast<long long>(value);
    } else if constexpr (std::is_convertible_v<const T &, std::string_view>) {
        text << '"' << std::string_view(value) << '"';
    } else if constexpr (std::ranges::range<T>) {
        text << '[';
        for (const auto &element : value) text << ' ' << describe(element);
        text << " ]";
    } else if constexpr (requires { text << value; }) {
        text << std::boolalpha << value;
    } else if constexpr (requires { value.has_value(); }) {
        text << (value ? describe(*value) : "none");
    } else {
        text << "(a value without a printed form)";
    }
    return text.str();
}

template <typename T>
concept Integer = std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char>;

// All texts as one type and all integers as two: what compares them need not be compiled for each length and
// width.
template <typename T> decltype(auto) as_compared(const T &value) {
    if constexpr (std::is_convertible_v<const T &, std::string_view>) {
        return std::string_view(value);
    } else if constexpr (Integer<T>) {
        return static_cast<std::conditional_t<std::is_signed_v<T>, long long, unsigned long long>>(value);
    } else {
        return (value);
    }
}

template <typename A, typename B> bool equal(const A &a, const B &b) {
    if constexpr (Integer<A> && Integer<B>) {
        return std::cmp_equal(a, b);
    } else {
        return a == b;
    }
}

template <typename A, typename B>
void check_equal(const A &a, const B &b, const char *text, const char *file, int line) {
    if (!equal(a, b)) report(file, line, std::string(text) + ": " + describe(a) + " is not " + describe(b));
}

void check_throws(const void *run, void (*call)(const void *), std::string_view part, const char *text,
                  const char *file, int line);

template <typename Run>
void check_throws(const Run &run, std::string_view part, const char *text, const char *file, int line) {
    const auto call = [](const void *what) { (*static_cast<const Run *>(what))(); };
    check_throws(&run, call, part, text, file, line);
}

}  // namespace chatllm::check

#define TEST(name)                                                                                           \
    static void test_##name();                                                                               \
    static const chatllm::check::Registration registration_##name{#name, test_##name};                       \
    static void test_##name()

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) chatllm::check::report(__FILE__, __LINE__, "not true: " #condition);               \
    } while (false)

#define CHECK_EQ(a, b)                                                                                       \
    chatllm::check::check_equal(chatllm::check::as_compared(a), chatllm::check::as_compared(b),              \
                                #a " == " #b, __FILE__, __LINE__)

// The expression throws a std::exception whose message contains `part`.
#define CHECK_THROWS(expression, part)                                                                       \
    chatllm::check::check_throws([&] { (void)(expression); }, (part), #expression, __FILE__, __LINE__)

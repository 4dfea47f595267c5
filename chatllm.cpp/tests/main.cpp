#include <algorithm>
#include <atomic>
#include <exception>
#include <iostream>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"

namespace chatllm::check {

namespace {

std::vector<Test> &tests() {
    static std::vector<Test> registered;
    return registered;
}

}  // namespace

Registration::Registration(std::string_view name, void (*run)()) { tests().push_back({name, run}); }

std::atomic<int> &failures() {
    static std::atomic<int> count = 0;
    return count;
}

void report(const char *file, int line, const std::string &what) {
    ++failures();
    std::ostringstream text;
    text << file << ':' << line << ": " << what << '\n';
    std::cerr << text.str();
}

void check_throws(const void *run, void (*call)(const void *), std::string_view part, const char *text,
                  const char *file, int line) {
    try {
        call(run);
    } catch (const std::exception &error) {
        if (std::string_view(error.what()).find(part) == std::string_view::npos) {
            report(file, line,
                   std::string(text) + ": threw \"" + error.what() + "\" without \"" + std::string(part) +
                       '"');
        }
        return;
    }
    report(file, line, std::string(text) + ": threw nothing, expected \"" + std::string(part) + '"');
}

}  // namespace chatllm::check

// Runs the registered tests whose names are given, or all of them. Exit status 1 when a check failed, 2 when
// a name is unknown.
int main(int argc, char **argv) {
    using chatllm::check::Test;
    const std::vector<Test> &all = chatllm::check::tests();
    const auto arguments = std::span(argv, static_cast<std::size_t>(argc)).subspan(1);

    std::vector<Test> chosen = arguments.empty() ? all : std::vector<Test>{};
    for (const std::string_view name : arguments) {
        const auto found = std::ranges::find(all, name, &Test::name);
        if (found == all.end()) {
            std::cerr << "no test is called " << name << '\n';
            return 2;
        }
        chosen.push_back(*found);
    }

    int n_failed = 0;
    for (const Test &test : chosen) {
        const int before = chatllm::check::failures();
        try {
            test.run();
        } catch (const std::exception &error) {
            chatllm::check::report(test.name.data(), 0,
                                   std::string("ended by an exception: ") + error.what());
        }
        if (chatllm::check::failures() != before) {
            ++n_failed;
            std::cerr << "FAILED " << test.name << '\n';
        }
    }
    std::cout << chosen.size() << " tests, " << n_failed << " failed\n";
    return n_failed == 0 ? 0 : 1;
}

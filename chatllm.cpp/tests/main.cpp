#include <algorithm>
#include <exception>
#include <iostream>
#include <span>
#include <string_view>
#include <vector>

#include "check.h"

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

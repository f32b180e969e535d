/* tests/test.h: the smallest test frame that does the job.

       TEST("loader: an empty shard is refused") {
           CHECK(a == b, "a is %d, b is %d", a, b);          // NaN never passes: write !(err <= tol) as CHECK(err <= tol)
           CHECK_ERROR(read("empty.bin"), "empty.bin");      // throws Error whose sentence has these words
       }
   A test fails once, at its first failed CHECK.   defines: ON_GPU, TEST, CHECK, CHECK_ERROR, SKIP, run_tests */
#pragma once
#include "../rwkv/check.h"
#include <cstring>
#include <string>
#include <vector>

#if defined(__CUDACC__) || defined(REHEARSAL)
constexpr bool ON_GPU = true;   // kernels with products of many tokens at once, in another order than one after the other
#else
constexpr bool ON_GPU = false;
#endif

struct TestCase { const char *name; void (*body)(); };
inline std::vector<TestCase> &test_cases() { static std::vector<TestCase> t; return t; }
struct TestFailure { std::string text; };
struct TestSkip { std::string text; };

#define TEST_JOIN2(a, b) a##b
#define TEST_JOIN(a, b) TEST_JOIN2(a, b)
#define TEST(name) TEST_AS(name, TEST_JOIN(test_at_line_, __COUNTER__))
#define TEST_AS(name, id) static void id(); static bool TEST_JOIN(id, _listed) = (test_cases().push_back({name, id}), true); static void id()
#define CHECK(condition, ...) do { if (!(condition)) throw TestFailure{std::string(__FILE__ ":") + std::to_string(__LINE__) + ": " #condition ": " + format(__VA_ARGS__)}; } while (0)
#define SKIP(why) throw TestSkip{why}
#define CHECK_ERROR(expression, words) do { \
    std::string said = "(no error)"; \
    try { (void)(expression); } catch (const Error &e) { said = e.what(); } \
    CHECK(said.find(words) != std::string::npos, "it said: %s", said.c_str()); \
    CHECK(said.find('\n') == std::string::npos, "more than one line: %s", said.c_str()); } while (0)

// Runs the tests whose name contains `filter`; prints "N passed, N failed" last and returns the exit code.
inline int run_tests(const char *filter = "") {
    int passed = 0, failed = 0, skipped = 0;
    for (const TestCase &t : test_cases()) {
        if (!strstr(t.name, filter)) continue;
        std::string problem;
        try {
            t.body();
        } catch (const TestFailure &f) { problem = f.text;
        } catch (const TestSkip &s) { printf("skip  %s (%s)\n", t.name, s.text.c_str()); skipped++; continue;
        } catch (const std::exception &e) { problem = std::string("threw: ") + e.what(); }
        if (problem.empty()) { printf("ok    %s\n", t.name); passed++; }
        else { printf("FAIL  %s\n      %s\n", t.name, problem.c_str()); failed++; }
        fflush(stdout);
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0;
}

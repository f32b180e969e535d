/* rwkv/check.h: how every program fails. Host only, no CUDA.

   The user's fault is an Error: one sentence that names the file or option, the value found and the way
   out, thrown with fail() and printed by run_main(); exit code 1 (2 for wrong usage).
   Our own fault is an assertion with file and line (cudaCheck in rwkv/cuda.h).
   What cannot be written to standard output (a full disk) is an Error too; a reader that has gone away is not.
   defines: Error, Usage, fail, usage_fail, format, shortest, stop_signal, on_stop_signals, run_main */
#pragma once
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <poll.h>
#include <stdexcept>
#include <string>

struct Error : std::runtime_error { using std::runtime_error::runtime_error; };
struct Usage : Error { using Error::Error; };

#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

inline std::string vformat(const char *fmt, va_list args) {
    va_list again;
    va_copy(again, args);
    std::string s(vsnprintf(nullptr, 0, fmt, again), '\0');
    va_end(again);
    vsnprintf(s.data(), s.size() + 1, fmt, args);
    return s;
}
PRINTF_LIKE(1, 2) inline std::string format(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    std::string s = vformat(fmt, args);
    va_end(args);
    return s;
}
[[noreturn]] PRINTF_LIKE(1, 2) inline void fail(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    std::string s = vformat(fmt, args);
    va_end(args);
    throw Error(s);
}
[[noreturn]] PRINTF_LIKE(1, 2) inline void usage_fail(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    std::string s = vformat(fmt, args);
    va_end(args);
    throw Usage(s);
}

// The shortest text that reads as x: 0.0006, where all 17 digits would say 0.00059999999999999995
inline std::string shortest(double x) {
    std::string s;
    for (int digits = 6; digits <= 17 && (s.empty() || strtod(s.c_str(), nullptr) != x); digits++) s = format("%.*g", digits, x);
    return s;
}

// The signal that asked a program which ends at a good moment to end; 0: none yet
inline volatile std::sig_atomic_t &stop_signal() { static volatile std::sig_atomic_t s; return s; }
// What asks a program to end goes to `handler`, but not what was ignored before: under nohup, or in the background of a script
inline void on_stop_signals(void (*handler)(int) = [](int which) { stop_signal() = which; }) {
    for (int s : {SIGINT, SIGTERM, SIGHUP})
        if (signal(s, handler) == SIG_IGN) signal(s, SIG_IGN);
}

// The body of main(): turns an Error into its sentence on stderr and an exit code.
template<class Body> int run_main(Body body) {
    setvbuf(stdout, nullptr, _IOLBF, 0);  // a redirected log loses no line when the program is killed
    signal(SIGXFSZ, SIG_IGN);             // a file beyond `ulimit -f` is an error of write(), which has its sentence
    try {
        int code = body();
        bool unwritten = fflush(stdout) || ferror(stdout);
        struct pollfd reader = {1, 0, 0};
        if (unwritten && !(poll(&reader, 1, 0) == 1 && reader.revents & POLLERR)) fail("standard output could not be written; is the disk full?");
        return code;
    } catch (const Usage &e) {
        fprintf(stderr, "error: %s\n", e.what());
        return 2;
    } catch (const Error &e) {
        fprintf(stderr, "error: %s\n", e.what());
        return 1;
    } catch (const std::bad_alloc &) {
        fprintf(stderr, "error: out of host memory\n");
        return 1;
    }
}

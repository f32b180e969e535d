/* dev/cpu/options.h: the environment variables, the error exit, and the profile.
   defines: fatal, opt, now, Site, Timer */
#pragma once
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <atomic>
#include <type_traits>

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_CPU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_CPU_ASAN 1
#endif
#endif
#ifndef CUDA_CPU_ASAN
#define CUDA_CPU_ASAN 0
#endif
#if CUDA_CPU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else  // these are no-ops without the sanitizer
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

namespace cuda_cpu {

// A bug in a kernel or in the use of CUDA: say so and stop where gdb sees it.
[[noreturn]] __attribute__((noinline, format(printf, 1, 2))) inline void fatal(const char *format, ...) {
    fflush(stdout);
    fprintf(stderr, "cuda_cpu: ");
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    abort();
}

inline int env(const char *name, int otherwise) {
    const char *s = getenv(name);
    return s && *s ? atoi(s) : otherwise;
}
struct Options {
    int check = env("CUDA_CPU_CHECK", 0), race = env("CUDA_CPU_RACE", 0), prof = env("CUDA_CPU_PROF", 0);
    int sms = env("CUDA_CPU_SMS", 4);  // not the number of cores: grids, and so sums, must not depend on the machine
};
inline Options opt;

inline double now() {  // seconds
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// One place that launches work: its profile, and what a block of it costs.
struct Site {
    const char *name = nullptr;
    long calls = 0;
    double seconds = 0;
    std::atomic<float> block_seconds{1};  // measured at each launch; a new kernel counts as heavy
    Site *next = nullptr;
};
inline Site *sites;
inline void print_profile() {
    double sum = 0;
    for (Site *s = sites; s; s = s->next) sum += s->seconds;
    for (;;) {  // the same name can have many sites (templates): add them up, print the largest, repeat
        Site *best = nullptr;
        for (Site *s = sites; s; s = s->next) {
            for (Site *t = s->next; t && s->calls; t = t->next)
                if (t->calls && !strcmp(s->name, t->name)) s->calls += t->calls, s->seconds += t->seconds, t->calls = 0, t->seconds = 0;
            if (s->calls && (!best || s->seconds > best->seconds)) best = s;
        }
        if (!best) return;
        fprintf(stderr, "%6.2f%% %11.3f ms %8ld x %11.2f us  %s\n", 100 * best->seconds / sum, best->seconds * 1e3, best->calls,
                best->seconds * 1e6 / best->calls, best->name);
        best->calls = 0;
    }
}
// Adds its lifetime to the profile:  static Site site; Timer timer(site, "gemm");
struct Timer {
    Site &site;
    double start = 0;
    Timer(Site &site, const char *name) : site(site) {
        if (!opt.prof) return;
        if (!site.name) {
            if (!sites) atexit(print_profile);
            site.name = name, site.next = sites, sites = &site;
        }
        start = now();
    }
    ~Timer() { if (opt.prof) site.calls++, site.seconds += now() - start; }
};

}  // namespace cuda_cpu

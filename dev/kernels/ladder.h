/* dev/kernels/ladder.h: what the ladders share: buffers on the device, times, errors.
   defines: DeviceBuffers, random_numbers, Event, median_us, relative_error, ladder_arguments */
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>
#include "../../rwkv/cuda.h"
#include "../../rwkv/rng.h"

constexpr int64_t REPEATS = 1 << 20;  // random numbers of large problems, or drawing them would take longer than what is measured
// Buffers that are freed together. On the host everything is in fp64.
struct DeviceBuffers {
    std::vector<void *> owned;
    DeviceBuffers() {}
    DeviceBuffers(const DeviceBuffers &) = delete;
    ~DeviceBuffers() { for (void *p : owned) cudaFree(p); }
    template<class T> T *room(int64_t n) {   // filled with NaN: what a kernel does not write is seen
        T *p;
        cudaCheck(cudaMalloc((void **)&p, n * sizeof(T))), cudaCheck(cudaMemset(p, 0xff, n * sizeof(T)));
        owned.push_back(p);
        return p;
    }
    template<class T> T *upload(std::vector<double> &x) {  // x, made of random_numbers(), becomes what the kernels see
        std::vector<T> host(x.size());
        const size_t drawn = std::min<size_t>(x.size(), REPEATS);
        for (size_t i = 0; i < drawn; i++) host[i] = (T)(real)x[i], x[i] = (double)(real)host[i];
        for (size_t i = drawn; i < x.size(); i++) host[i] = host[i - REPEATS], x[i] = x[i - REPEATS];  // conversion is what takes time
        T *p = room<T>(x.size());
        cudaCheck(cudaMemcpy(p, host.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice));
        return p;
    }
    template<class T> static std::vector<double> get(const T *p, int64_t n) {
        std::vector<T> host(n);
        cudaCheck(cudaMemcpy(host.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
        std::vector<double> x(n);
        for (int64_t i = 0; i < n; i++) x[i] = (double)(real)host[i];
        return x;
    }
};
// n times draw(), again from the first after REPEATS
template<class F> std::vector<double> random_numbers(int64_t n, F draw) {
    std::vector<double> x(n);
    for (int64_t i = 0; i < n; i++) x[i] = i < REPEATS ? draw() : x[i - REPEATS];
    return x;
}

struct Event {
    cudaEvent_t e;
    Event() { cudaCheck(cudaEventCreate(&e)); }
    ~Event() { cudaEventDestroy(e); }
};
// median microseconds of launch(i), i = 0, 1, ...: at least five, about `ms` milliseconds in all
template<class F> double median_us(F launch, double ms) {
    Event start, stop;
    std::vector<double> times;
    double total = 0;
    for (int i = 0; i < 2; i++) launch(i);
    for (int i = 2; i < 7 || (total < ms && i < 1000); i++) {
        cudaCheck(cudaEventRecord(start.e, 0));
        launch(i);
        cudaCheck(cudaEventRecord(stop.e, 0)), cudaCheck(cudaEventSynchronize(stop.e));
        float t;
        cudaCheck(cudaEventElapsedTime(&t, start.e, stop.e));
        times.push_back(t * 1000), total += t;
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}
// |a - b| / |b|, Euclidean: single elements of a gradient may be near zero
inline double relative_error(const std::vector<double> &a, const std::vector<double> &b) {
    double d = 0, s = 0;
    for (size_t i = 0; i < std::min(a.size(), b.size()); i++) d += (a[i] - b[i]) * (a[i] - b[i]), s += b[i] * b[i];
    return a.size() != b.size() ? INFINITY : s > 0 ? sqrt(d / s) : sqrt(d);
}

// PROGRAM [all|check|time] [RUNG]
struct LadderArguments {
    bool checked, timed;
    int only;  // this rung; 0: all
};
inline LadderArguments ladder_arguments(int argc, char **argv, const char *program, int rungs) {
    const std::string what = argc > 1 ? argv[1] : "all";
    const int only = argc > 2 ? atoi(argv[2]) : 0;
    if (argc > 3 || (argc > 2 && only < 1) || only > rungs || (what != "all" && what != "check" && what != "time"))
        usage_fail("usage: %s [all|check|time] [rung 1..%d]", program, rungs);
    return {what != "time", what != "check", only};
}

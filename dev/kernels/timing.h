/* dev/kernels/timing.h: how the ladders measure.   defines: Event, median_us, relative_error */
#pragma once
#include <algorithm>
#include <vector>
#include "../../rwkv/cuda.h"

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
// |a - b| / |b|, Euclidean
inline double relative_error(const std::vector<double> &a, const std::vector<double> &b) {
    double d = 0, s = 0;
    for (size_t i = 0; i < a.size(); i++) d += (a[i] - b[i]) * (a[i] - b[i]), s += b[i] * b[i];
    return s > 0 ? sqrt(d / s) : sqrt(d);
}

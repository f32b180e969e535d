/* rwkv/threads.h: work of the host that takes seconds, on all its cores. Host only.
   defines: parallel_each */
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

// f(0) ... f(n - 1), each once, in any order. f must not throw. alone: here and one after the other
template<class F> void parallel_each(int64_t n, F f, bool alone = false) {
    std::atomic<int64_t> next{0};
    auto work = [&] { for (int64_t i; (i = next++) < n;) f(i); };
    std::vector<std::thread> others;
    int64_t threads = alone ? 1 : std::min<int64_t>(n, std::thread::hardware_concurrency());
    try {
        while ((int64_t)others.size() + 1 < threads) others.emplace_back(work);
    } catch (const std::system_error &) {}  // fewer, then
    work();
    for (std::thread &t : others) t.join();
}

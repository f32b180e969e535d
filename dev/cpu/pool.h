/* dev/cpu/pool.h: the OS threads that share the blocks of a launch and the loops of the GEMM.

   One job at a time: a range 0..n-1 from which threads take chunks. `state` is open while there is something to
   take and counts the workers inside; a worker that wakes late finds the job closed, so the caller never waits for
   a thread that the machine has not run. Workers spin for SPIN seconds, then sleep until the next job.
   defines: threads, for_chunks, parallel_for */
#pragma once
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace cuda_cpu {

constexpr double SPIN = 30e-6;  // longer than the host code between two launches, short for a busy machine
inline void relax() {           // let the other hyperthread run
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

struct Pool {
    enum : uint32_t { OPEN = 1 << 15, WAITED = 1 << 14, INSIDE = WAITED - 1, JOB = 1 << 16 };  // the bits above: number of the job
    std::atomic<uint32_t> state{0};
    std::atomic<int> sleepers{0};
    std::atomic<bool> busy{false};
    std::atomic<long> next{0};
    void (*run)(void *context, long begin, long end);
    void *context;
    long n, chunk;
    int size = 0;  // OS threads, the caller included; 0: not started

    static constexpr int WORKERS = 1, CALLER = 2;  // who sleeps on `state`
    void sleep(uint32_t seen, int who) { syscall(SYS_futex, (uint32_t *)&state, FUTEX_WAIT_BITSET_PRIVATE, seen, nullptr, nullptr, who); }
    void wake(int who) { syscall(SYS_futex, (uint32_t *)&state, FUTEX_WAKE_BITSET_PRIVATE, 1 << 30, nullptr, nullptr, who); }

    void take_chunks() {
        for (long i; (i = next.fetch_add(chunk, std::memory_order_relaxed)) < n;) run(context, i, i + chunk < n ? i + chunk : n);
    }
    void work() {  // the life of a worker
        uint32_t last = 0;
        for (double since = now();;) {
            uint32_t s = state.load(std::memory_order_acquire);
            if (s & OPEN && s / JOB != last) {
                if (!state.compare_exchange_weak(s, s + 1, std::memory_order_acquire)) continue;
                last = s / JOB;
                take_chunks();
                if ((state.fetch_sub(1, std::memory_order_release) & (WAITED | INSIDE)) == WAITED + 1) wake(CALLER);
                since = now();
            } else {
                for (int i = 0; i < 16; i++) relax();
                if (now() - since < SPIN) continue;
                sleepers.fetch_add(1);
                if (state.load() == s) sleep(s, WORKERS);
                sleepers.fetch_sub(1);
                since = now();
            }
        }
    }
    void start();
    void run_job(void (*f)(void *, long, long), void *c, long count, long per_chunk) {
        run = f, context = c, n = count, chunk = per_chunk;
        next.store(0, std::memory_order_relaxed);
        uint32_t job = (state.load(std::memory_order_relaxed) / JOB + 1) * JOB;
        state.store(job | OPEN);
        if (sleepers.load()) wake(WORKERS);
        take_chunks();
        uint32_t s = state.fetch_and(~OPEN) & ~OPEN;
        for (double since = now(); s & INSIDE; s = state.load(std::memory_order_acquire)) {  // somebody has a last chunk
            for (int i = 0; i < 16; i++) relax();
            if (now() - since < SPIN || !(s & INSIDE)) continue;
            s = state.fetch_or(WAITED) | WAITED;
            if (s & INSIDE) sleep(s, CALLER);
        }
    }
};
inline Pool pool;

// Cores that this process may use: its affinity mask, and the quota of its container (cgroup v2).
inline int usable_cores() {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    if (FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r")) {
        double quota, period;
        if (fscanf(f, "%lf %lf", &quota, &period) == 2 && quota < n * period) n = (int)ceil(quota / period);
        fclose(f);
    }
    return n < 1 ? 1 : n;
}
inline void Pool::start() {
    size = CUDA_CPU_ASAN ? 1 : env("CUDA_CPU_THREADS", usable_cores());
    if (size < 1) size = 1;
    if (size > 1024) size = 1024;
    for (int i = 1; i < size; i++) {
        pthread_t thread;
        auto life = [](void *) -> void * { return pool.work(), nullptr; };
        if (pthread_create(&thread, nullptr, life, nullptr)) { size = i; break; }
        pthread_detach(thread);
    }
}

// run(context, begin, end) on pieces of 0..n-1. A loop inside a loop, or of a second host thread, runs on its caller.
inline void for_chunks(void (*run)(void *, long, long), void *context, long n, long chunk, bool alone = false) {
    if (n <= chunk || alone || pool.busy.exchange(true, std::memory_order_acquire)) return n > 0 ? run(context, 0, n) : void();
    if (!pool.size) pool.start();
    if (pool.size > 1) pool.run_job(run, context, n, chunk);
    else run(context, 0, n);
    pool.busy.store(false, std::memory_order_release);
}
inline int threads() {
    if (!pool.size && !pool.busy.exchange(true)) pool.start(), pool.busy = false;
    return pool.size;
}
// f(i) for i = 0..n-1, in any order, on all threads
template<class F> void parallel_for(long n, F &&f) {
    auto run = [](void *context, long begin, long end) {
        for (long i = begin; i < end; i++) (*(typename std::remove_reference<F>::type *)context)(i);
    };
    for_chunks(run, (void *)&f, n, 1);
}

}  // namespace cuda_cpu

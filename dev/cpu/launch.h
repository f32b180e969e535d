/* dev/cpu/launch.h: what streams do, now or when a captured graph is replayed.

   Everything runs at once, on the calling thread and the pool; streams only matter to capture.
   defines: launch, dynamic_smem (cuda.sed writes calls of these), enqueue, Graph */
#pragma once
#include <new>
#include <utility>

struct cuda_cpu_stream { struct cuda_cpu_graph *capture; };  // not null: it records into this graph
typedef cuda_cpu_stream *cudaStream_t;

struct cuda_cpu_graph {  // a list of operations; cudaGraph_t and cudaGraphExec_t share it
    struct Op {
        Op *next = nullptr;
        virtual void run() = 0;
        virtual ~Op() {}
    };
    Op *first = nullptr, **last = &first;
    int owners = 1;
    void add(Op *op) { *last = op, last = &op->next; }
    void run() { for (Op *o = first; o; o = o->next) o->run(); }
    void drop() {
        if (--owners) return;
        while (Op *o = first) first = o->next, delete o;
        delete this;
    }
};

namespace cuda_cpu {

inline cuda_cpu_graph *capturing;  // one capture at a time
template<class F> struct GraphOp : cuda_cpu_graph::Op {
    F f;
    GraphOp(F f) : f(f) {}
    void run() override { f(); }
};
// Does the stream record? Work in another stream during a capture is a mistake that CUDA reports (906) or worse.
inline bool records(cudaStream_t stream, bool &ok) {
    bool yes = capturing && stream && stream->capture == capturing;
    ok = !capturing || yes;
    if (!ok) last_error = cudaErrorStreamCaptureImplicit;
    if (!ok && opt.check) fatal("work in another stream than the one being captured");
    return yes;
}
// Host code that works on device memory in stream order: copies, library calls. The name is for the profile.
template<class F> inline cudaError_t enqueue(const char *name, cudaStream_t stream, F f) {
    static Site site;
    auto work = [f, name] { Timer timer(site, name); Open open; f(); };
    bool ok;
    if (records(stream, ok)) capturing->add(new GraphOp<decltype(work)>(work));
    else if (ok) work();
    return ok ? cudaSuccess : last_error;
}

// ------------------------------------------------------------------------------------------------
// kernels

inline int max_smem = 48 << 10;  // raised by cudaFuncSetAttribute, for all kernels alike

struct Grid { const Kernel *k; Site *site; bool one_by_one, reverse, poison; };
static void run_blocks(void *context, long begin, long end) {  // on any thread of the pool
    const Grid &grid = *(Grid *)context;
    const Kernel &k = *grid.k;
    if (!block) new_block(), catch_faults();
    Block &b = *block;
    b.k = k, b.n = k.block.x * k.block.y * k.block.z, b.one_by_one = grid.one_by_one, b.reverse = grid.reverse;
    b.smem = k.smem ? b.smem_end - round_up(k.smem, opt.check ? 16 : 128) : nullptr;  // CHECK: up to the guard page
    ASAN_POISON_MEMORY_REGION(b.smem_end - SMEM, SMEM);
    ASAN_UNPOISON_MEMORY_REGION(b.smem, k.smem);
    ThreadLocals locals = grid.poison ? program_thread_locals() : ThreadLocals{nullptr, 0};
    std::vector<char> saved(locals.p, locals.p + locals.size);  // the host's own thread locals
    long total = (long)k.grid.x * k.grid.y * k.grid.z;
    double start = now();
    for (long i = begin; i < end; i++) {
        long j = grid.reverse ? total - 1 - i : i;
        if (grid.poison) poison_shared(b, locals);
        front = false;
        gridDim = {(int)k.grid.x, (int)k.grid.y, (int)k.grid.z}, blockDim = {(int)k.block.x, (int)k.block.y, (int)k.block.z};
        blockIdx = {(int)(j % k.grid.x), (int)(j / k.grid.x % k.grid.y), (int)(j / k.grid.x / k.grid.y)};
        run_block(b);
    }
    grid.site->block_seconds.store((now() - start) / (end - begin), std::memory_order_relaxed);
    if (locals.p) memcpy(locals.p, saved.data(), saved.size()), block = &b;
}
inline void run_grid(const Kernel &k, Site &site, bool one_by_one, bool reverse, bool poison) {
    Grid grid{&k, &site, one_by_one, reverse, poison};
    long n = (long)k.grid.x * k.grid.y * k.grid.z;
    // About 5 us of work pay for sharing it with threads that spin, 20 us for waking them up.
    float seconds = site.block_seconds.load(std::memory_order_relaxed) * n;
    bool alone = n == 1 || opt.race || seconds < (pool.sleepers.load(std::memory_order_relaxed) ? 20e-6f : 5e-6f);
    for_chunks(run_blocks, &grid, n, alone ? n : n / (threads() * 8) + 1, alone);
}
inline void run_kernel(const Kernel &k, Site &site) {
    Timer timer(site, k.name);
    Open open;
    if (!opt.check && !opt.race) return run_grid(k, site, false, false, false);
    if (!opt.race) run_grid(k, site, true, false, true);
    else {
        RaceCheck race;
        run_grid(k, site, true, true, true);
        race.rewind();
        run_grid(k, site, true, false, true);
        race.compare(k.name);
    }
    if (opt.check) check_slack(k.name);
}

template<class T> inline void check_argument(const char *kernel, int i, const T &x) {
    if constexpr (std::is_pointer<T>::value) {
        if (!x || known((const void *)x)) return;
        fatal("kernel %s: argument %d (%p) %s", kernel, i, (void *)x, find((const void *)x) ? "points to memory that has been freed" : "is not device memory");
    }
}
inline bool valid_configuration(const char *kernel, dim3 g, dim3 b, size_t smem) {
    size_t threads = (size_t)b.x * b.y * b.z;
    if (g.x && g.y && g.z && g.x < 1u << 31 && g.y < 65536 && g.z < 65536 && threads && threads <= 1024 && b.z <= 64 && smem <= (size_t)max_smem) return true;
    fprintf(stderr, "cuda_cpu: kernel %s: invalid configuration: grid (%u,%u,%u), block (%u,%u,%u), %zu bytes of shared memory\n", kernel,
            g.x, g.y, g.z, b.x, b.y, b.z, smem);
    last_error = cudaErrorInvalidConfiguration;
    return false;
}
template<class K> struct Launch {  // kernel<<<grid, block, smem, stream>>> -> launch("kernel", [=](auto... a) { kernel(a...); }, grid, block, smem, stream)
    const char *name;
    K kernel;
    dim3 grid, block;
    size_t smem;
    cudaStream_t stream;
    template<class... A> void operator()(A... args) const {
        static Site site;
        if (opt.check) {
            int i = 0;
            (check_argument(name, i++, args), ...);
            (void)i;
        }
        bool ok;
        if (!valid_configuration(name, grid, block, smem)) return;
        K f = kernel;
        auto call = [=] { f(args...); };
        Kernel k{name, rows<decltype(call)>, &call, grid, block, smem};
        if (records(stream, ok)) {
            auto later = [k, call]() mutable { k.closure = &call, run_kernel(k, site); };
            capturing->add(new GraphOp<decltype(later)>(later));
        } else if (ok) run_kernel(k, site);
    }
};
template<class K> Launch<K> launch(const char *name, K kernel, dim3 grid, dim3 block, size_t smem = 0, cudaStream_t stream = nullptr) {
    return {name, kernel, grid, block, smem, stream};
}
template<class T> T *dynamic_smem() { return (T *)block->smem; }

}  // namespace cuda_cpu

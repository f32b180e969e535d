/* dev/cpu/fibers.h: the threads of a block, on one OS thread.

   A block starts as a loop over its first row of threads (threadIdx.x) on the caller's stack. The first thread that
   has to wait (in a barrier, a shuffle) keeps that stack, and the threads after it run on a fresh one;
   so a kernel that never waits is a plain loop, and one that always waits has a stack for each thread. A waiting
   thread is resumed when its bit in `ready` is set. The scheduler chooses by thread number, so runs are repeatable.
   defines: Block, block, lane_id, rows, run_block, and for warp.h: leave_front, park, try_meet, release_barrier */
#pragma once
#include <sys/mman.h>
#include <unistd.h>

namespace cuda_cpu {

// swap_stack() saves the running context in *save and goes on with the one in `load`. It is inline, without call
// and ret: the compiler saves only the registers that are live here, and the return predictor stays right.
// new_stack() makes a context that starts entry().
#if defined(__x86_64__)
__attribute__((always_inline)) inline void swap_stack(void **save, void *load) {
    asm volatile("lea -128(%%rsp), %%rsp\n\t"  // the red zone of the function around us
                 "push %%rbp\n\tpush %%rbx\n\tlea 1f(%%rip), %%rax\n\tpush %%rax\n\t"
                 "mov %%rsp, (%0)\n\tmov %1, %%rsp\n\tpop %%rax\n\tjmp *%%rax\n"
                 "1:\tpop %%rbx\n\tpop %%rbp\n\tlea 128(%%rsp), %%rsp"
                 : "+D"(save), "+S"(load) :
                 : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory",
                   "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                   "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#ifdef __AVX512F__
                   , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25",
                   "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7"
#endif
    );
}
inline void *new_stack(void **top, void (*entry)()) { return *--top = nullptr, *--top = (void *)entry, top; }
#elif defined(__aarch64__)
__attribute__((always_inline)) inline void swap_stack(void **save, void *load) {
    register void **x0 asm("x0") = save;
    register void *x1 asm("x1") = load;
    asm volatile("adr x2, 1f\n\tstp x29, x30, [sp, #-32]!\n\tstp x2, x19, [sp, #16]\n\tmov x3, sp\n\tstr x3, [x0]\n\t"
                 "mov sp, x1\n\tldp x2, x19, [sp, #16]\n\tldp x29, x30, [sp], #32\n\tbr x2\n1:"
                 : "+r"(x0), "+r"(x1) :
                 : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18",
                   "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "cc", "memory",
                   "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16",
                   "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}
inline void *new_stack(void **top, void (*entry)()) { return top -= 4, top[0] = top[1] = top[3] = nullptr, top[2] = (void *)entry, top; }
#else
#error "dev/cpu/fibers.h: write swap_stack() and new_stack() for this processor"
#endif

struct Kernel {
    const char *name;
    void (*rows)(void *closure, int x, int end);
    void *closure;
    dim3 grid, block;
    size_t smem;
};
typedef void Meet(void **args, unsigned mask);  // runs once, when the lanes of mask have met
struct Wait {  // of a thread, on its own stack
    const char *what, *file;
    int line;
    unsigned mask;
    void *arg;
    Meet *meet;
};

constexpr int MAX_THREADS = 1024;
constexpr size_t PAGE = 64 << 10;   // a multiple of every page size (x86-64: 4 KB, aarch64: up to 64 KB)
constexpr size_t SMEM = 227 << 10;  // dynamic shared memory of a block, as on sm_90
#if CUDA_CPU_ASAN || !defined(__OPTIMIZE__)
constexpr size_t STACK = 256 << 10;
#else
constexpr size_t STACK = 64 << 10;
#endif

struct Block {  // the state of a running block; one per OS thread
    Kernel k;
    long number;                 // counts the blocks that ran here
    bool one_by_one, reverse;    // order of its threads
    int n, alive, waiting;       // threads: all, not finished, in a barrier
    int cur, next, first;        // running; to start; threads first..cur-1 of the running row have finished
    uint32_t ready_warps, ready[32], live[32], barred[32], arrived[32];  // bits of lanes; arrived: wait for others of their warp
    int count, any, all, result[3];  // of __syncthreads_count, _or, _and
    Wait *wait[MAX_THREADS], *bar;
    void *sp[MAX_THREADS], *home, *junk;
    char *stacks, *smem_end, *smem;
    int free_stacks, free_stack[MAX_THREADS];
    struct Copies *copies;  // of cp_async
    const void *home_bottom;
    size_t home_size;  // for ASan
};
static thread_local Block *block;
static thread_local bool front;  // a row of threads is running in rows(), and none of it has had to wait

inline int linear_id() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
inline int lane_id() { return linear_id() & 31; }
inline int lowest(uint32_t bits) { return __builtin_ctz(bits); }
inline void set_ready(Block &b, int warp, uint32_t lanes) { b.ready[warp] |= lanes, b.ready_warps |= (uint32_t)!!b.ready[warp] << warp; }
inline void clear_ready(Block &b, unsigned t) {
    if (!(b.ready[t / 32] &= ~(1u << t % 32))) b.ready_warps &= ~(1u << t / 32);
}

// Nobody can go on: list who waits where.
[[noreturn]] __attribute__((noinline)) inline void deadlock(Block &b) {
    char text[4096];
    int at = 0;
    bool listed[MAX_THREADS] = {};
    auto place = [&](int t) { return b.live[t / 32] >> t % 32 & 1 ? b.wait[t] : nullptr; };  // nullptr: finished
    for (int t = 0; t < b.n && at < 3500; t++) {
        if (listed[t]) continue;
        Wait *w = place(t);
        int same = 0;
        char who[128] = "";
        for (int u = t; u < b.n; u++) {
            Wait *v = place(u);
            if (listed[u] || !v != !w || (v && (v->line != w->line || strcmp(v->what, w->what) || strcmp(v->file, w->file)))) continue;
            listed[u] = true;
            if (same++ < 8) snprintf(who + strlen(who), sizeof who - strlen(who), " %d", u);
        }
        at += snprintf(text + at, sizeof text - at, "\n  %d threads ", same);
        if (w) at += snprintf(text + at, sizeof text - at, "wait in %s at %s:%d:", w->what, w->file, w->line);
        else at += snprintf(text + at, sizeof text - at, "have finished:");
        at += snprintf(text + at, sizeof text - at, "%s%s", who, same > 8 ? " ..." : "");
    }
    fatal("kernel %s, block (%d,%d,%d): deadlock:%s", b.k.name, blockIdx.x, blockIdx.y, blockIdx.z, text);
}

__attribute__((noinline)) inline void release_barrier(Block &b) {
    b.result[0] = b.count, b.result[1] = b.any, b.result[2] = b.all;
    b.count = b.any = b.waiting = 0, b.all = 1;
    for (int w = 0; w * 32 < b.n; w++) set_ready(b, w, b.barred[w]), b.barred[w] = 0;
}
__attribute__((noinline)) inline void meet(Block &b, int warp, Wait &me, unsigned lanes) {
    void *args[32];
    for (unsigned m = lanes; m; m &= m - 1) {
        Wait &other = *b.wait[warp * 32 + lowest(m)];
        args[lowest(m)] = other.arg;
        if (other.meet != me.meet || other.mask != me.mask)
            fatal("kernel %s, block (%d,%d,%d), warp %d: lanes meet in different calls:\n  %s(%08x) at %s:%d\n  %s(%08x) at %s:%d (lane %d)",
                  b.k.name, blockIdx.x, blockIdx.y, blockIdx.z, warp, me.what, me.mask, me.file, me.line, other.what, other.mask, other.file, other.line, lowest(m));
    }
    me.meet(args, lanes);
    b.arrived[warp] &= ~lanes;
    set_ready(b, warp, lanes);
}
// Have all lanes that this one waits for arrived? Lanes that do not exist or have finished are not waited for.
inline bool try_meet(Block &b, unsigned warp, Wait &me) {
    unsigned lanes = me.mask & b.live[warp];
    if ((b.arrived[warp] & lanes) != lanes) return false;
    meet(b, warp, me, lanes);
    return true;
}
__attribute__((noinline)) inline void threads_exit(Block &b, int from, int to) {  // threads from..to-1 have returned
    b.alive -= to - from;
    for (int t = from, end; t < to; t = end) {
        int w = t / 32;
        end = to < w * 32 + 32 ? to : w * 32 + 32;
        b.live[w] &= ~(~0u >> (32 - (end - t)) << t % 32);
        for (unsigned m = b.arrived[w]; m; m &= b.arrived[w] & (m - 1)) try_meet(b, w, *b.wait[w * 32 + lowest(m)]);
    }
    if (b.waiting && b.waiting == b.alive) release_barrier(b);
}
// The running thread may have to wait: it leaves its row, whose other threads are started later.
__attribute__((noinline)) static void leave_front(Block &b) {
    front = false, b.cur = linear_id();
    if (b.one_by_one) b.next++;
    else {
        if (b.first < b.cur) threads_exit(b, b.first, b.cur);
        b.next = b.cur + 1;
    }
}
inline int pick_ready(Block &b) {  // a thread that can go on, or -1
    if (!b.ready_warps) return -1;
    if (b.reverse) {
        int w = 31 - __builtin_clz(b.ready_warps);
        return w * 32 + 31 - __builtin_clz(b.ready[w]);
    }
    unsigned w = (unsigned)b.cur / 32;  // most likely its data are in the cache
    if (!b.ready[w]) w = lowest(b.ready_warps);
    return w * 32 + lowest(b.ready[w]);
}

__attribute__((always_inline)) inline void swap_to(Block &b, void **save, void *load) {
#if CUDA_CPU_ASAN
    size_t offset = (char *)load - b.stacks;
    void *fake, **keep = save == &b.junk ? nullptr : &fake;
    if (offset < MAX_THREADS * STACK) __sanitizer_start_switch_fiber(keep, b.stacks + offset / STACK * STACK, STACK);
    else __sanitizer_start_switch_fiber(keep, b.home_bottom, b.home_size);
    swap_stack(save, load);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    (void)b;
    swap_stack(save, load);
#endif
}
static void fiber_main();
inline void *fresh(Block &b) {  // a context that starts threads
    int s = b.free_stack[--b.free_stacks];
    char *top = b.stacks + (s + 1) * STACK - 64 - s % 61 * 448;  // staggered, or all tops would share a few cache sets
    ASAN_UNPOISON_MEMORY_REGION(top - 4096, 4096);               // the frame which the last user left
    return new_stack((void **)top, fiber_main);
}
__attribute__((always_inline)) inline void park(Block &b, unsigned id) {  // wait until somebody sets our ready bit
    cuda_cpu_index index = threadIdx;
    int t = id + 1;  // most often the next one can go on; to guess that is faster than to look
    if (b.reverse || t >= b.n || !(b.ready[(id + 1) / 32] >> (id + 1) % 32 & 1)) t = pick_ready(b);
    if (t < 0 && b.next == b.n) deadlock(b);
    swap_to(b, &b.sp[id], t >= 0 ? b.sp[t] : fresh(b));
    b.cur = id, threadIdx = index;
}

// Starts threads while there are any and resumes those that can go on. On the caller's stack (home) it returns when
// the block is done; a fiber leaves for good when there is nothing to start.
static void run_threads(Block &b, bool home) {
    for (;;) {
        int t = pick_ready(b);
        if (t < 0 && b.next == b.n) {
            if (b.alive) deadlock(b);
            if (home) return;
        }
        if (t >= 0 || b.next == b.n) {
            void *to = t >= 0 ? b.sp[t] : b.home;
            if (home) { swap_to(b, &b.home, to); continue; }
            b.free_stack[b.free_stacks++] = ((char *)__builtin_frame_address(0) - b.stacks) / STACK;
            swap_to(b, &b.junk, to);
        }
        int id = b.first = b.reverse ? b.n - 1 - b.next : b.next, x = id, y = 0, width = blockDim.x;
        if (width < b.n) x = id % width, y = id / width;
        int end = b.one_by_one ? x + 1 : width;
        threadIdx = {x, y, 0};
        if (y >= blockDim.y) threadIdx.y = y % blockDim.y, threadIdx.z = y / blockDim.y;
        front = true;
        b.k.rows(b.k.closure, x, end);
        if (front) {  // nobody had to wait
            front = false, b.cur = id, b.next += end - x;
            threads_exit(b, id, id + end - x);
        } else threads_exit(b, b.cur, b.cur + 1);
    }
}
__attribute__((noinline)) static void fiber_main() {
#if CUDA_CPU_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!block->home_bottom) block->home_bottom = bottom, block->home_size = size;  // the first fiber comes from home
#endif
    run_threads(*block, false);
    __builtin_unreachable();
}
// One row of threads. Kernels that never wait are inlined here and vectorised.
static inline void set_x(int x) { threadIdx.x = x; }
template<class F>
#if defined(__OPTIMIZE__) && !CUDA_CPU_ASAN
__attribute__((flatten))
#endif
void rows(void *closure, int x, int end) {
    F kernel = *(F *)closure;
    for (; x < end && front; x++) set_x(x), kernel();
}

inline void *map_memory(size_t size) {
    void *p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : p;
}
__attribute__((noinline)) static Block &new_block() {  // for this OS thread; it lives as long as the program
    const size_t guard = sysconf(_SC_PAGESIZE), smem_room = (SMEM / PAGE + 1) * PAGE;
    block = (Block *)map_memory(sizeof(Block));
    char *memory = (char *)map_memory(MAX_THREADS * STACK + smem_room + PAGE);
    if (!block || !memory) fatal("no memory for the stacks of a block");
    block->stacks = memory, block->free_stacks = MAX_THREADS;
    for (int i = 0; i < MAX_THREADS; i++) {
        block->free_stack[i] = MAX_THREADS - 1 - i;
        if (opt.check && guard < STACK) mprotect(memory + i * STACK, guard, PROT_NONE);
    }
    block->smem_end = memory + MAX_THREADS * STACK + smem_room;
    mprotect(block->smem_end, PAGE, PROT_NONE);
    return *block;
}
static void run_block(Block &b) {  // k, n, order and the indices are set
    b.number++;
    b.cur = b.next = b.waiting = b.count = b.any = 0, b.all = 1, b.alive = b.n, b.ready_warps = 0;
    for (int w = 0; w * 32 < b.n; w++) {
        b.live[w] = b.n - w * 32 >= 32 ? ~0u : (1u << (b.n - w * 32)) - 1;
        b.ready[w] = b.barred[w] = b.arrived[w] = 0;
    }
    run_threads(b, true);
}

}  // namespace cuda_cpu

/* dev/cpu/warp.h: where threads of a block wait for each other.
   defines: __syncthreads (_count, _and, _or), __syncwarp, __shfl_sync (_xor, _up, _down), __ballot_sync (any, all),
            cuda_cpu::warp_sum, warp_max, collective */
#pragma once

#define CUDA_CPU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace cuda_cpu {

__attribute__((noinline)) static void barrier(const char *what, int cond, const char *file, int line) {
    Block &b = *block;
    b.count += !!cond, b.any |= !!cond, b.all &= !!cond;
    if (front) {
        if (b.n == 1) return release_barrier(b);
        leave_front(b);
    }
    unsigned id = b.cur;
    Wait me{what, file, line, 0, nullptr, nullptr};
    b.wait[id] = &me, b.barred[id / 32] |= 1u << id % 32;
    if (!b.waiting) b.bar = &me;
    else if (opt.check && (b.bar->line != line || strcmp(b.bar->file, file)))
        fatal("kernel %s, block (%d,%d,%d): threads of a block meet in different barriers:\n  %s at %s:%d\n  %s at %s:%d (thread %d)", b.k.name,
              blockIdx.x, blockIdx.y, blockIdx.z, b.bar->what, b.bar->file, b.bar->line, what, file, line, id);
    if (++b.waiting == b.alive) release_barrier(b);
    else park(b, id);
    clear_ready(b, id);
}
// Every lane of mask brings arg; the last to arrive runs meet() on all of them; then all go on.
__attribute__((noinline)) static void collective(const char *what, unsigned mask, void *arg, Meet *meet, const char *file, int line) {
    Block &b = *block;
    if (front) {
        if (b.n == 1 && mask & 1) return meet(&arg, 1);
        leave_front(b);
    }
    unsigned id = b.cur, w = id / 32, bit = 1u << id % 32;
    if (!(mask & bit))
        fatal("kernel %s, block (%d,%d,%d): lane %d of warp %d is not in the mask %08x of %s at %s:%d", b.k.name, blockIdx.x, blockIdx.y, blockIdx.z,
              id % 32, w, mask, what, file, line);
    if (opt.check && b.n > 1 && (int)w == b.n / 32 && mask >> b.n % 32)
        fatal("kernel %s, block (%d,%d,%d): %s at %s:%d waits for lanes %d to 31 of a warp, and the block has only %d threads", b.k.name,
              blockIdx.x, blockIdx.y, blockIdx.z, what, file, line, b.n % 32, b.n);
    Wait me{what, file, line, mask, arg, meet};
    b.wait[id] = &me, b.arrived[w] |= bit;
    if (!try_meet(b, w, me)) park(b, id);
    clear_ready(b, id);
}

template<class T> struct Shuffle { T in, out; int from; };
template<class T> inline T shuffle(const char *what, unsigned mask, T v, int from, const char *file, int line) {
    Shuffle<T> x{v, v, from};
    collective(what, mask, &x, [](void **lanes, unsigned mask) {
        for (unsigned m = mask; m; m &= m - 1) {
            auto &me = *(Shuffle<T> *)lanes[lowest(m)];
            if (mask >> me.from & 1) me.out = ((Shuffle<T> *)lanes[me.from])->in;
            else if (opt.check) memset((void *)&me.out, 0xff, sizeof(T));  // from a lane that is not there: undefined on a GPU
        }
    }, file, line);
    return x.out;
}

// All lanes of a warp in one meeting: the same bits as v += __shfl_xor_sync(~0u, v, o) for o = 16, 8, 4, 2, 1,
// where lanes that are not there bring `absent`. (Both partners add the same two numbers, so all lanes agree.)
template<class Op, class T> inline T butterfly(const char *what, T v, const char *file, int line) {
    collective(what, ~0u, &v, [](void **lanes, unsigned mask) {
        T t[32];
        int n = 32 - __builtin_clz(mask), size = 1;
        while (size < n) size *= 2;
        for (int i = 0; i < size; i++) t[i] = mask >> i & 1 ? *(T *)lanes[i] : Op::template absent<T>();
        if (size < 32) for (int i = 0; i < size; i++) t[i] = Op::of(t[i], Op::template absent<T>());  // -0 + 0 = 0
        for (int o = size / 2; o; o /= 2)
            for (int i = 0; i < o; i++) t[i] = Op::of(t[i], t[i + o]);
        for (; mask; mask &= mask - 1) *(T *)lanes[lowest(mask)] = t[0];
    }, file, line);
    return v;
}
struct Sum {
    template<class T> static T of(T a, T b) { return a + b; }
    template<class T> static T absent() { return 0; }
};
struct Max {  // ignores NaN, as fmax() does
    template<class T> static T of(T a, T b) { return b > a || a != a ? b : a; }
    template<class T> static T absent() { return -INFINITY; }
};
template<class T> inline T warp_sum(T v, CUDA_CPU_HERE) { return butterfly<Sum>("warp_sum", v, file, line); }
template<class T> inline T warp_max(T v, CUDA_CPU_HERE) { return butterfly<Max>("warp_max", v, file, line); }

}  // namespace cuda_cpu

inline void __syncthreads(CUDA_CPU_HERE) { cuda_cpu::barrier("__syncthreads", 0, file, line); }
inline int __syncthreads_count(int c, CUDA_CPU_HERE) { return cuda_cpu::barrier("__syncthreads_count", c, file, line), cuda_cpu::block->result[0]; }
inline int __syncthreads_or(int c, CUDA_CPU_HERE) { return cuda_cpu::barrier("__syncthreads_or", c, file, line), cuda_cpu::block->result[1]; }
inline int __syncthreads_and(int c, CUDA_CPU_HERE) { return cuda_cpu::barrier("__syncthreads_and", c, file, line), cuda_cpu::block->result[2]; }
inline void __syncwarp(unsigned mask = ~0u, CUDA_CPU_HERE) { cuda_cpu::collective("__syncwarp", mask, nullptr, [](void **, unsigned) {}, file, line); }

// A source beyond the segment of `width` lanes gives the lane its own value.
template<class T> inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, CUDA_CPU_HERE) {
    return cuda_cpu::shuffle("__shfl_sync", mask, v, (cuda_cpu::lane_id() & -width) | (from & (width - 1)), file, line);
}
template<class T> inline T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, CUDA_CPU_HERE) {
    int lane = cuda_cpu::lane_id(), from = lane ^ x;
    return cuda_cpu::shuffle("__shfl_xor_sync", mask, v, from < (lane & -width) + width ? from : lane, file, line);
}
template<class T> inline T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32, CUDA_CPU_HERE) {
    int lane = cuda_cpu::lane_id(), from = lane + (int)d;
    return cuda_cpu::shuffle("__shfl_down_sync", mask, v, from < (lane & -width) + width ? from : lane, file, line);
}
template<class T> inline T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32, CUDA_CPU_HERE) {
    int lane = cuda_cpu::lane_id(), from = lane - (int)d;
    return cuda_cpu::shuffle("__shfl_up_sync", mask, v, from >= (lane & -width) ? from : lane, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int c, CUDA_CPU_HERE) {
    unsigned x = !!c;
    cuda_cpu::collective("__ballot_sync", mask, &x, [](void **lanes, unsigned mask) {
        unsigned votes = 0;
        for (unsigned m = mask; m; m &= m - 1) votes |= *(unsigned *)lanes[cuda_cpu::lowest(m)] << cuda_cpu::lowest(m);
        for (unsigned m = mask; m; m &= m - 1) *(unsigned *)lanes[cuda_cpu::lowest(m)] = votes;
    }, file, line);
    return x;
}
inline int __any_sync(unsigned mask, int c, CUDA_CPU_HERE) { return __ballot_sync(mask, c, file, line) != 0; }
inline int __all_sync(unsigned mask, int c, CUDA_CPU_HERE) { return __ballot_sync(mask, !c, file, line) == 0; }

/* rwkv/cuda.h: the numbers and the few device idioms that every kernel uses.

   floatX   parameters of matrices and activations: bf16 | fp16 | fp32 | fp64 (PRECISION= of the Makefile)
   real     everything that is summed or carried: statistics, recurrent state, gradients of parameters,
            Adam moments, master weights: fp32, or fp64 in the fp64 build
   Vec<W>   W neighbouring channels in one thread: a 16-byte load on the GPU, a SIMD register on the CPU

   The sources compile with nvcc, and with g++ or clang++ through dev/cpu, which defines CUDA_CPU.
   defines: floatX, real, cudaCheck, launchCheck, Vec, load, store, exp2v, sigmoid, warp_sum, block_sum, block_max,
            channel_width, elementwise, row_threads, device, device_init, allow_shared, Graph */
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <cstdint>
#include <cstring>
#include "check.h"

#if defined(PRECISION_FP64)
typedef double floatX;
typedef double real;
#define PRECISION_NAME "fp64"
#elif defined(PRECISION_BF16)
typedef __nv_bfloat16 floatX;
typedef float real;
#define PRECISION_NAME "bf16"
#elif defined(PRECISION_FP16)
typedef __half floatX;
typedef float real;
#define PRECISION_NAME "fp16"
#else
typedef float floatX;
typedef float real;
#define PRECISION_NAME "fp32"
#endif
constexpr bool has_master = sizeof(floatX) < sizeof(real);  // 16-bit parameters keep an fp32 copy

// Our own mistakes: file, line, and what CUDA calls it. The argument is always evaluated.
inline void cuda_check(cudaError_t e, const char *what, const char *file, int line) {
    if (e == cudaSuccess) return;
    if (e == cudaErrorMemoryAllocation) fail("the device is out of memory (%s:%d): lower --batch or --ctx, or raise --recompute", file, line);
    if (e == cudaErrorLaunchOutOfResources) fail("a row of this model is too wide for a block of one kernel (%s:%d), which wants more registers than there are: lower --dim", file, line);
    fail("CUDA error at %s:%d: %s: %s", file, line, what, cudaGetErrorString(e));
}
#define cudaCheck(call) cuda_check((call), #call, __FILE__, __LINE__)
#ifdef DEBUG  // find the kernel that failed, not the next call that notices
#define launchCheck() (cudaCheck(cudaGetLastError()), cudaCheck(cudaDeviceSynchronize()))
#else
#define launchCheck() cudaCheck(cudaGetLastError())
#endif

// Some kernels have two shapes, or there are two of them: what is fast on a CPU and what is fast on a GPU. With REHEARSE=1
// (make) the CPU runs those of the GPU, slowly: a test without a GPU of what a GPU will do.
#if defined(CUDA_CPU) && !defined(REHEARSAL)
#define CPU_SHAPES
#endif

inline int ceil_div(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }
constexpr real LOG2E = real(1.4426950408889634074), LN2 = real(0.6931471805599453094);

// ------------------------------------------------------------------------------------------------
// Vec<W>: the same arithmetic on W channels. On the GPU an array that lives in registers; on the CPU one or more
// compiler vectors of the machine's own size (a larger one would be taken apart through memory, ten times slower).
#ifdef CUDA_CPU
#if defined(__AVX512F__)
constexpr int NATIVE = 64 / sizeof(real);
#elif defined(__AVX__)
constexpr int NATIVE = 32 / sizeof(real);
#else
constexpr int NATIVE = 16 / sizeof(real);
#endif
template<class T, int W> struct Simd { typedef T type __attribute__((vector_size(W * sizeof(T)))); };
template<int W> struct Vec {
    static constexpr int R = W < NATIVE ? W : NATIVE, N = W / R;  // N registers of R numbers
    typedef typename Simd<real, R>::type type;
    type v[N];
    Vec() {}
    Vec(real x) { for (type &r : v) r = type{} + x; }
    real operator[](int i) const { return v[i / R][i % R]; }
    void set(int i, real x) { v[i / R][i % R] = x; }
};
#define FOR_REGISTERS for (int n = 0; n < Vec<W>::N; n++)
#define VEC_OPERATOR(op)                                                                                  \
    template<int W> inline Vec<W> operator op(Vec<W> a, Vec<W> b) { FOR_REGISTERS a.v[n] = a.v[n] op b.v[n]; return a; } \
    template<int W> inline Vec<W> operator op(Vec<W> a, real b) { FOR_REGISTERS a.v[n] = a.v[n] op b; return a; }        \
    template<int W> inline Vec<W> operator op(real a, Vec<W> b) { FOR_REGISTERS b.v[n] = a op b.v[n]; return b; }
#else
template<int W> struct Vec {
    real v[W];
    __device__ Vec() {}
    __device__ Vec(real x) {
#pragma unroll
        for (int i = 0; i < W; i++) v[i] = x;
    }
    __device__ real operator[](int i) const { return v[i]; }
    __device__ void set(int i, real x) { v[i] = x; }
};
#define VEC_OPERATOR(op)                                                                                  \
    template<int W> __device__ inline Vec<W> operator op(Vec<W> a, Vec<W> b) {                            \
        _Pragma("unroll") for (int i = 0; i < W; i++) a.v[i] = a.v[i] op b.v[i];                          \
        return a;                                                                                         \
    }                                                                                                     \
    template<int W> __device__ inline Vec<W> operator op(Vec<W> a, real b) { return a op Vec<W>(b); }     \
    template<int W> __device__ inline Vec<W> operator op(real a, Vec<W> b) { return Vec<W>(a) op b; }
#endif
VEC_OPERATOR(+) VEC_OPERATOR(-) VEC_OPERATOR(*) VEC_OPERATOR(/)
template<int W> __device__ inline void operator+=(Vec<W> &a, Vec<W> b) { a = a + b; }

// f(i) for every channel of a Vec, unrolled
template<int W, class F> __device__ inline Vec<W> each(F f) {
    Vec<W> r;
#pragma unroll
    for (int i = 0; i < W; i++) r.set(i, f(i));
    return r;
}
#ifdef CUDA_CPU
// f over pairs, down to one number. Compilers turn the copies into the extraction of half a register.
template<class T, int R, class F> inline T fold(typename Simd<T, R>::type a, F f) {
    if constexpr (R == 1) return a[0];
    else {
        typename Simd<T, R / 2>::type lo, hi;
        __builtin_memcpy(&lo, &a, sizeof lo), __builtin_memcpy(&hi, (char *)&a + sizeof lo, sizeof hi);
        return fold<T, R / 2>(f(lo, hi), f);
    }
}
template<int W, class F> inline real fold(Vec<W> a, F f) {
    for (int n = 1; n < Vec<W>::N; n++) a.v[0] = f(a.v[0], a.v[n]);
    return fold<real, Vec<W>::R>(a.v[0], f);
}
template<int W> inline real sum(Vec<W> a) { return fold(a, [](auto x, auto y) { return x + y; }); }
template<int W> inline real largest(Vec<W> a) { return fold(a, [](auto x, auto y) { return x > y ? x : y; }); }
template<int W> inline Vec<W> relu(Vec<W> a) { FOR_REGISTERS a.v[n] = a.v[n] > 0 ? a.v[n] : typename Vec<W>::type{}; return a; }
template<int W> inline Vec<W> sqrtv(Vec<W> a) {
    real x[Vec<W>::R];
    FOR_REGISTERS {
        __builtin_memcpy(x, &a.v[n], sizeof x);
        for (real &e : x) e = std::sqrt(e);  // a loop over memory becomes one instruction
        __builtin_memcpy(&a.v[n], x, sizeof x);
    }
    return a;
}
template<int W> inline bool all_within(Vec<W> a, real lo, real hi) {  // false for NaN
    typedef typename std::conditional<sizeof(real) == 8, int64_t, int32_t>::type integer;
    auto in = (a.v[0] >= lo) & (a.v[0] <= hi);
    for (int n = 1; n < Vec<W>::N; n++) in &= (a.v[n] >= lo) & (a.v[n] <= hi);
    typename Simd<integer, Vec<W>::R>::type mask;
    static_assert(sizeof mask == sizeof in, "");
    __builtin_memcpy(&mask, &in, sizeof in);
    return fold<integer, Vec<W>::R>(mask, [](auto x, auto y) { return x & y; });
}
#else
template<int W> __device__ inline real sum(Vec<W> a) {  // in pairs, as on the CPU
    if constexpr (W == 1) return a[0];
    else return sum(each<W / 2>([&](int i) { return a[i] + a[i + W / 2]; }));
}
template<int W> __device__ inline real largest(Vec<W> a) {  // NaN is ignored
    real m = a[0];
#pragma unroll
    for (int i = 1; i < W; i++) m = a[i] > m ? a[i] : m;
    return m;
}
template<int W> __device__ inline Vec<W> relu(Vec<W> a) { return each<W>([&](int i) { return a[i] > 0 ? a[i] : real(0); }); }
template<int W> __device__ inline Vec<W> sqrtv(Vec<W> a) {
    return each<W>([&](int i) {
#if defined(__CUDA_ARCH__) && !defined(PRECISION_FP64)
        float y;  // 1 ulp; sqrtf() takes a slow path for every 0, and half of relu^2 are zeros
        asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(a[i]));
        return y;
#else
        return real(sqrt(a[i]));
#endif
    });
}
template<int W> __device__ inline bool all_within(Vec<W> a, real lo, real hi) {  // false for NaN
    bool in = true;
#pragma unroll
    for (int i = 0; i < W; i++) in = in && a[i] >= lo && a[i] <= hi;
    return in;
}
#endif

// 2^x. GPU: one MUFU instruction (2 ulp). CPU: round to the nearest integer n, a polynomial for
// 2^(x-n) on [-1/2, 1/2] (Taylor to degree 7, 1 ulp), times 2^n from its exponent bits; below 2^-126 it is 0.
template<int W> __device__ inline Vec<W> exp2v(Vec<W> x) {
#if defined(CUDA_CPU) && !defined(PRECISION_FP64)
    typedef typename Vec<W>::type floats;
    typedef typename Simd<int32_t, Vec<W>::R>::type ints;
    FOR_REGISTERS {
        floats y = x.v[n];
        y = y < -127.f ? floats{} - 127.f : y;
        y = y > 128.f ? floats{} + 128.f : y;
        floats whole = (y + 12582912.f) - 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
        floats f = (y - whole) * LN2;
        floats p = 1.f / 5040 * f + 1.f / 720;
        p = p * f + 1.f / 120, p = p * f + 1.f / 24, p = p * f + 1.f / 6, p = p * f + .5f, p = p * f + 1.f, p = p * f + 1.f;
        ints e = (__builtin_convertvector(whole, ints) + 127) << 23;
        floats scale;
        __builtin_memcpy(&scale, &e, sizeof e);
        x.v[n] = p * scale;  // NaN stays NaN; 128 gives inf, -127 gives 0
    }
    return x;
#else
    return each<W>([&](int i) {
#if defined(__CUDA_ARCH__) && !defined(PRECISION_FP64)
        float y;  // exp2f() and 1/x spend four and ten instructions on denormals, which are 0 here
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x[i]));
        return y;
#else
        return real(exp2(x[i]));
#endif
    });
#endif
}
template<int W> __device__ inline Vec<W> reciprocal(Vec<W> x) {  // GPU: 1 ulp
#if defined(__CUDA_ARCH__) && !defined(PRECISION_FP64)
    return each<W>([&](int i) {
        float y;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x[i]));
        return y;
    });
#else
    return real(1) / x;
#endif
}
template<int W> __device__ inline Vec<W> sigmoid(Vec<W> x) { return reciprocal(real(1) + exp2v(x * -LOG2E)); }

// Memory: W values of type T at an address that is a multiple of W elements.
template<class T, int W> struct alignas(sizeof(T) * W <= 16 ? sizeof(T) * W : 16) Pack { T x[W]; };
template<int W, class T> __device__ inline Vec<W> load(const T *p) {
#ifdef CUDA_CPU
    Vec<W> r;
    if constexpr (sizeof(T) == sizeof(real)) FOR_REGISTERS __builtin_memcpy(&r.v[n], p + n * Vec<W>::R, sizeof r.v[n]);  // one by one: a register each
    else if constexpr (std::is_same<T, __nv_bfloat16>::value) {
        typename Simd<uint16_t, Vec<W>::R>::type half;
        typedef typename Simd<uint32_t, Vec<W>::R>::type ints;
        FOR_REGISTERS {
            __builtin_memcpy(&half, p + n * Vec<W>::R, sizeof half);
            ints bits = __builtin_convertvector(half, ints) << 16;
            __builtin_memcpy(&r.v[n], &bits, sizeof bits);
        }
    } else r = each<W>([&](int i) { return (real)p[i]; });
    return r;
#else
    Pack<T, W> a = *(const Pack<T, W> *)p;
    return each<W>([&](int i) { return (real)a.x[i]; });
#endif
}
// The same without widening: registers for a value that is on its way
template<int W, class T> __device__ inline Pack<T, W> load_pack(const T *p) { return *(const Pack<T, W> *)p; }
template<int W, class T> __device__ inline void store(T *p, Vec<W> a) {
#ifdef CUDA_CPU
    if constexpr (sizeof(T) == sizeof(real)) FOR_REGISTERS __builtin_memcpy(p + n * Vec<W>::R, &a.v[n], sizeof a.v[n]);
    else if constexpr (std::is_same<T, __nv_bfloat16>::value) {
        typedef typename Simd<uint16_t, Vec<W>::R>::type shorts;
        typename Simd<uint32_t, Vec<W>::R>::type bits;
        FOR_REGISTERS {
            __builtin_memcpy(&bits, &a.v[n], sizeof bits);
            auto rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest even
            shorts half = __builtin_convertvector(a.v[n] == a.v[n] ? rounded : bits >> 16 | 64, shorts);  // NaN stays NaN
            __builtin_memcpy(p + n * Vec<W>::R, &half, sizeof half);
        }
    } else for (int i = 0; i < W; i++) p[i] = (T)a[i];
#else
    Pack<T, W> b;
#pragma unroll
    for (int i = 0; i < W; i++) b.x[i] = (T)a[i];
    *(Pack<T, W> *)p = b;
#endif
}
template<int W> __device__ inline Vec<W> round_to_floatX(Vec<W> a) {  // what a store and a load would leave
    if constexpr (!has_master) return a;
    else {
        floatX x[W];
        store<W>(x, a);
        return load<W>(x);
    }
}

// ------------------------------------------------------------------------------------------------
// Sums over a warp and over a block; every thread gets the same bits.
__device__ inline real warp_sum(real x) {
#ifdef CUDA_CPU
    return blockDim.x == 1 ? x : cuda_cpu::warp_sum(x);  // one meeting of the 32 lanes instead of five
#else
    for (int o = 16; o; o /= 2) x += __shfl_xor_sync(~0u, x, o);
    return x;
#endif
}
__device__ inline real warp_max(real x) {
#ifdef CUDA_CPU
    return blockDim.x == 1 ? x : cuda_cpu::warp_max(x);
#else
    for (int o = 16; o; o /= 2) x = fmax(x, __shfl_xor_sync(~0u, x, o));
    return x;
#endif
}
// Room for block_sum: two buffers, so that the next sum may start while slow threads still read this one.
struct BlockRoom { real part[2][32][2]; };
// of N <= 2 numbers at once
template<int N, class Warp, class Combine> __device__ inline void block_reduce(real (&x)[N], BlockRoom &room, int &turn, Warp warp, Combine combine) {
    for (int n = 0; n < N; n++) x[n] = warp(x[n]);
    int warps = (blockDim.x + 31) / 32;
    if (warps == 1) return;
    if (threadIdx.x % 32 == 0) for (int n = 0; n < N; n++) room.part[turn][threadIdx.x / 32][n] = x[n];
    __syncthreads();  // all partial results are written before anyone reads them
    for (int n = 0; n < N; n++) {
        x[n] = room.part[turn][0][n];
        for (int w = 1; w < warps; w++) x[n] = combine(x[n], room.part[turn][w][n]);
    }
    turn ^= 1;
}
template<int N> __device__ inline void block_sum(real (&x)[N], BlockRoom &room, int &turn) {
    block_reduce(x, room, turn, [](real v) { return warp_sum(v); }, [](real a, real b) { return a + b; });
}
template<int N> __device__ inline void block_max(real (&x)[N], BlockRoom &room, int &turn) {
    block_reduce(x, room, turn, [](real v) { return warp_max(v); }, [](real a, real b) { return fmax(a, b); });
}

// ------------------------------------------------------------------------------------------------
// Launch shapes
// Kernels take any C; those with more factors of two are faster. Every width is another instance of every kernel
// to compile, so there are three.
#ifdef CUDA_CPU
constexpr int MAX_WIDTH = 4 * NATIVE;  // of rows: fewer threads, because a sum over a block switches between all of them
constexpr int ELEMENT_WIDTH = NATIVE;  // of kernels whose threads do not wait for each other
constexpr int narrower(int width) { return width > NATIVE ? NATIVE : 1; }
#else
constexpr int MAX_WIDTH = 8;           // eight bf16 are one 16-byte load
constexpr int ELEMENT_WIDTH = 8;
constexpr int narrower(int width) { return width == 2 ? 1 : width / 4; }
#endif
inline int channel_width(int64_t C, int most = MAX_WIDTH) {
    while (C % most) most = narrower(most);
    return most;
}
// Calls f with the width as a compile-time constant: dispatch_width(C, [&](auto w) { kernel<w()><<<...>>>(...); })
template<int W = MAX_WIDTH, class F> inline void dispatch_width(int width, F f) {
    if (width == W) f(std::integral_constant<int, W>());
    else if constexpr (W > 1) dispatch_width<narrower(W)>(width, f);
}
// Calls launch(W, blocks, threads) for a kernel with W of n elements per thread
template<class F> inline void elementwise(int64_t n, F launch) {
    int width = channel_width(n, ELEMENT_WIDTH);
    dispatch_width<ELEMENT_WIDTH>(width, [&](auto W) { launch(W, ceil_div(n, 256 * (int64_t)width), 256); });
    launchCheck();
}
// Threads for a row of C channels, one Vec each. On the CPU a warp need not be full, unless checks are on.
inline int row_threads(int C, int width) {
    int n = C / width;
    if (n > 1024) fail("%d channels do not fit one block of 1024 threads: --dim must have more factors of two", C);
#ifdef CPU_SHAPES
    if (!cuda_cpu::opt.check) return n;
#endif
    return (n + 31) / 32 * 32;
}
inline const cudaDeviceProp &device() {
    static cudaDeviceProp p = [] { cudaDeviceProp p; cudaCheck(cudaGetDeviceProperties(&p, 0)); return p; }();
    return p;
}
// A kernel of heads of N channels takes so much dynamic shared memory: more than 48 KB have to be asked for.
template<class Kernel> inline void allow_shared(Kernel *kernel, size_t bytes, int N) {
    if (bytes <= 48 << 10) return;
    if (bytes > device().sharedMemPerBlockOptin)
        fail("heads of %d channels need %zu bytes of shared memory in a block and %s has %zu: use smaller heads", N, bytes, device().name, (size_t)device().sharedMemPerBlockOptin);
    cudaCheck(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}
// Threads of a block whose loops take any number of them: whole warps, as all lanes take part in its sums. On the CPU one:
// its loops are already vector loops.
inline int loop_threads(int64_t most) {
#ifdef CPU_SHAPES
    if (!cuda_cpu::opt.check) return 1;
#endif
    return (int)std::min<int64_t>(1024, (std::max<int64_t>(most, 1) + 31) / 32 * 32);
}
// How many blocks keep the device busy; partial sums have one slot for each.
inline int busy_blocks() { return device().multiProcessorCount * 8; }

// ------------------------------------------------------------------------------------------------
// Is there a device that can run this program?
#ifdef CUDA_CPU
inline void device_init() {}
#else
__global__ void no_work_kernel() {}  // to ask whether the program has code for the device
inline void device_init() {
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || !n) fail("no CUDA GPU can be used (%s); on a machine without one: make cpu", e == cudaSuccess ? "none is visible" : cudaGetErrorString(e));
    const cudaDeviceProp &p = device();
    if (std::is_same<floatX, __nv_bfloat16>::value && p.major < 8)
        fail("%s is sm_%d%d, and bf16 needs sm_80 or later: make PRECISION=fp16", p.name, p.major, p.minor);
    cudaFuncAttributes a;
    if (cudaFuncGetAttributes(&a, (const void *)no_work_kernel) != cudaSuccess)
        fail("this program has no code for %s (sm_%d%d): make GPU_ARCH=%d%d", p.name, p.major, p.minor, p.major, p.minor);
}
#endif

// A sequence of launches, run once as it is (so that everything is planned and tuned), then captured into a
// CUDA graph and replayed: hundreds of launches become one. The pointers in it must not change.
struct Graph {
    int runs = 0;
    cudaGraphExec_t exec = nullptr;
    Graph() {}
    Graph(const Graph &) = delete;
    ~Graph() { if (exec) cudaGraphExecDestroy(exec); }
    template<class F> void run(cudaStream_t stream, F launches) {
#ifdef DEBUG  // every launch is waited for, which a capture does not allow
        return launches();
#endif
        if (runs++ == 0) return launches();
        if (!exec) {
            cudaGraph_t graph;
            cudaCheck(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
            launches();
            cudaCheck(cudaStreamEndCapture(stream, &graph));
            cudaCheck(cudaGraphInstantiateWithFlags(&exec, graph, 0));
            cudaCheck(cudaGraphDestroy(graph));
        }
        cudaCheck(cudaGraphLaunch(exec, stream));
    }
};

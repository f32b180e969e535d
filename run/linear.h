/* run/linear.h: linear layers y = W x over N tokens, with what follows them folded in.

   decode:   own kernel, for which weight bandwidth is the limit: a warp reads R rows of W once and multiplies them
             with the x of all tokens. One launch takes up to 8 layers that do not depend on each other (a block finds
             out which is its own), because at one token a launch costs as much as a small layer.
             The sums of an output do not depend on N: a batch gives the bits of single runs.
   prefill:  matmul.h (cuBLASLt, or the CPU's GEMM, whose sums do not depend on N either); int8 is widened before.

   x is floatX, sums are `real`.   defines: Epilogue, Linear, linear */
#pragma once
#include "weights.h"
#if defined(CUDA_CPU)
#include "../dev/cpu/gemm.h"  // vectors
#endif

enum Epilogue {
    STORE,      // real   out  = y
    ADD,        // real   out += y
    ADD_GATED,  // real   out += sigmoid(gate) y
    ROUND,      // floatX out  = y
    RELU2,      // floatX out  = relu(y)^2
    TANH,       // floatX out  = tanh(y)
    SIGMOID,    // floatX out  = sigmoid(y)
};
struct Linear {
    void *out;             // (N, w.rows) real or floatX
    const floatX *x;       // (N, w.cols)
    Matrix w;
    Epilogue e = STORE;
    const real *gate = nullptr;  // (N, w.rows) of ADD_GATED
};

__device__ inline real sigmoid1(real x) { return sigmoid(Vec<1>(x))[0]; }
__device__ inline real tanh1(real x) { return real(2) * sigmoid1(real(2) * x) - real(1); }  // error 1 ulp of 1, as good as floatX
__device__ inline void finish(void *out, const real *gate, Epilogue e, int64_t i, real y) {
    switch (e) {
        case STORE: ((real *)out)[i] = y; break;
        case ADD: ((real *)out)[i] += y; break;
        case ADD_GATED: ((real *)out)[i] += sigmoid1(gate[i]) * y; break;
        case ROUND: ((floatX *)out)[i] = (floatX)y; break;
        case RELU2: ((floatX *)out)[i] = (floatX)(y > 0 ? y * y : real(0)); break;
        case TANH: ((floatX *)out)[i] = (floatX)(std::is_same<real, double>::value ? real(tanh(y)) : tanh1(y)); break;
        case SIGMOID: ((floatX *)out)[i] = (floatX)sigmoid1(y); break;
    }
}

// ------------------------------------------------------------------------------------------------
// decode

constexpr int MATVEC_JOBS = 8;
#ifdef CUDA_CPU
constexpr int MATVEC_WARPS = 1, MATVEC_ROWS = 4, MATVEC_TOKENS = 2;  // 8 sums of a SIMD register each hide the latency of FMA
#else
constexpr int MATVEC_WARPS = 4, MATVEC_ROWS = 2, MATVEC_TOKENS = 4;  // two rows share the loads of x
#endif
struct MatvecJobs {
    Linear job[MATVEC_JOBS];
    int first[MATVEC_JOBS];  // the first block of each job
    int count, N;
};

// Products go into a sum per row and token, in an order that depends on the number of columns alone.
#ifdef CUDA_CPU
// A chunk is four SIMD registers of numbers, in the order in which they come out of memory with the least work: 16-bit
// numbers as the low and the high halves of words, int8 as the four bytes of words. x must be in the order of W.
typedef typename Simd<real, NATIVE>::type Lanes;
struct Chunk { Lanes v[4]; };
constexpr int CHUNK = 4 * NATIVE;
template<int... I> inline void split_pairs(Lanes &a, Lanes &b, std::integer_sequence<int, I...>) {  // a, b <- even, odd elements of (a, b)
    Lanes even = __builtin_shufflevector(a, b, (2 * I)...), odd = __builtin_shufflevector(a, b, (2 * I + 1)...);
    a = even, b = odd;
}
inline void split_pairs(Lanes &a, Lanes &b) { split_pairs(a, b, std::make_integer_sequence<int, NATIVE>()); }
template<class T> inline Chunk load_chunk(const T *p) {
    Chunk c;
    if constexpr (sizeof(T) == sizeof(real)) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) memcpy(&c.v[i], p + i * NATIVE, sizeof c.v[i]);  // one by one: a register each
    }
    else if constexpr (sizeof(real) == 8) for (int i = 0; i < CHUNK; i++) c.v[i / NATIVE][i % NATIVE] = p[i];  // int8 in the fp64 build
    else if constexpr (sizeof(T) == 1) {
        typename Simd<int32_t, NATIVE>::type words;
        memcpy(&words, p, sizeof words);
        c.v[0] = __builtin_convertvector(words << 24 >> 24, Lanes), c.v[1] = __builtin_convertvector(words << 16 >> 24, Lanes);
        c.v[2] = __builtin_convertvector(words << 8 >> 24, Lanes), c.v[3] = __builtin_convertvector(words >> 24, Lanes);
    } else {
        typedef std::conditional_t<std::is_same<T, __half>::value, cuda_cpu::fp16, cuda_cpu::bf16> Half;
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            typename Simd<uint32_t, NATIVE>::type words;
            memcpy(&words, p + h * 2 * NATIVE, sizeof words);
            cuda_cpu::widen(c.v[2 * h], words & 0xffff, Half{}), cuda_cpu::widen(c.v[2 * h + 1], words >> 16, Half{});
        }
    }
    return c;
}
inline Chunk load_chunk_for_int8(const floatX *p) {
    Chunk c = load_chunk(p);
    if (sizeof(real) == 8) return c;
    if (sizeof(floatX) == 4) split_pairs(c.v[0], c.v[1]), split_pairs(c.v[2], c.v[3]);
    split_pairs(c.v[0], c.v[2]), split_pairs(c.v[1], c.v[3]);  // even, odd, even, odd -> v[i]: elements i, i + 4, ...
    return c;
}
// R rows from `row` on times B tokens from `token` on
template<int W, int R, int B, bool INT8> inline void matvec_tile(const Linear &j, int row, int token) {
    typedef std::conditional_t<INT8, int8_t, floatX> Weight;
    const Weight *w[R];
    Lanes s[R][B] = {};
    int K = j.w.cols, whole = K / CHUNK * CHUNK;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        int64_t at = (int64_t)std::min(row + r, j.w.rows - 1) * K;  // past the end: the last row again
        if constexpr (INT8) w[r] = j.w.q + at;
        else w[r] = j.w.w + at;
    }
    const floatX *x = j.x + (int64_t)token * K;
    for (int k = threadIdx.x * CHUNK; k < whole; k += blockDim.x * CHUNK) {
        Chunk xs[B];
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) xs[b] = INT8 ? load_chunk_for_int8(x + (int64_t)b * K + k) : load_chunk(x + (int64_t)b * K + k);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            Chunk ws = load_chunk(w[r] + k);
#pragma GCC unroll 8
            for (int b = 0; b < B; b++)
#pragma GCC unroll 8
                for (int i = 0; i < 4; i++) s[r][b] += ws.v[i] * xs[b].v[i];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) {
            real y = 0;
            for (int k = whole; threadIdx.x == 0 && k < K; k++) y += (real)w[r][k] * (real)x[(int64_t)b * K + k];
            y = warp_sum(y + fold<real, NATIVE>(s[r][b], [](auto p, auto q) { return p + q; }));
            if (threadIdx.x || row + r >= j.w.rows) continue;
            if (INT8) y *= j.w.scale[row + r];
            finish(j.out, j.gate, j.e, (int64_t)(token + b) * j.w.rows + row + r, y);
        }
}
#else
template<int W, int R, int B, bool INT8> __device__ inline void matvec_tile(const Linear &j, int row, int token) {
    real s[R][B];
    const floatX *w[R];
    const int8_t *q[R];
    int K = j.w.cols;
#pragma unroll
    for (int r = 0; r < R; r++) {
        int64_t at = (int64_t)min(row + r, j.w.rows - 1) * K;  // past the end: the last row again
        if (INT8) q[r] = j.w.q + at;
        else w[r] = j.w.w + at;
#pragma unroll
        for (int b = 0; b < B; b++) s[r][b] = 0;
    }
    const floatX *x = j.x + (int64_t)token * K;
#pragma unroll 4
    for (int k = threadIdx.x * W; k < K; k += blockDim.x * W) {
        Vec<W> xs[B];
#pragma unroll
        for (int b = 0; b < B; b++) xs[b] = load<W>(x + (int64_t)b * K + k);
#pragma unroll
        for (int r = 0; r < R; r++) {
            Vec<W> ws = INT8 ? load<W>(q[r] + k) : load<W>(w[r] + k);
#pragma unroll
            for (int b = 0; b < B; b++)
#pragma unroll
                for (int i = 0; i < W; i++) s[r][b] += ws[i] * xs[b][i];
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int b = 0; b < B; b++) {
            real y = warp_sum(s[r][b]);
            if (threadIdx.x || row + r >= j.w.rows) continue;
            if (INT8) y *= j.w.scale[row + r];
            finish(j.out, j.gate, j.e, (int64_t)(token + b) * j.w.rows + row + r, y);
        }
}
#endif
template<int W, int B, bool INT8> __device__ inline void matvec_rows(const Linear &j, int row, int N) {
    int b = 0;
    for (; b + B <= N; b += B) matvec_tile<W, MATVEC_ROWS, B, INT8>(j, row, b);
    if (B > 1) for (; b < N; b++) matvec_tile<W, MATVEC_ROWS, 1, INT8>(j, row, b);
}
template<int W, int B> __global__ void matvec_kernel(const MatvecJobs jobs) {
    int i = 0;
    while (i + 1 < jobs.count && (int)blockIdx.x >= jobs.first[i + 1]) i++;
    const Linear &j = jobs.job[i];
    int row = ((blockIdx.x - jobs.first[i]) * blockDim.y + threadIdx.y) * MATVEC_ROWS;
    if (row >= j.w.rows) return;
    if (j.w.q) matvec_rows<W, B, true>(j, row, jobs.N);
    else matvec_rows<W, B, false>(j, row, jobs.N);
}
// Threads of a warp. On the CPU one: its loop is a vector loop already.
inline int warp_threads() {
#ifdef CUDA_CPU
    if (!cuda_cpu::opt.check) return 1;
#endif
    return 32;
}
inline void matvec(const Linear *list, int count, int N, cudaStream_t stream) {
    MatvecJobs jobs;
    int blocks = 0, width = ELEMENT_WIDTH;
    for (int i = 0; i < count; i++) {
        jobs.job[i] = list[i], jobs.first[i] = blocks;
        blocks += ceil_div(list[i].w.rows, MATVEC_ROWS * MATVEC_WARPS);
        width = std::min(width, channel_width(list[i].w.cols, ELEMENT_WIDTH));
    }
    jobs.count = count, jobs.N = N;
    dim3 threads(warp_threads(), MATVEC_WARPS);
    auto launch = [&](auto W) {
        if (N == 1) matvec_kernel<W.value, 1><<<blocks, threads, 0, stream>>>(jobs);
        else matvec_kernel<W.value, MATVEC_TOKENS><<<blocks, threads, 0, stream>>>(jobs);
    };
#ifdef CUDA_CPU
    launch(std::integral_constant<int, 1>());  // its loop takes any number of columns
#else
    dispatch_width<ELEMENT_WIDTH>(width, launch);
#endif
    launchCheck();
}

// ------------------------------------------------------------------------------------------------
// prefill

template<int W> __global__ void widen_kernel(floatX *w, const int8_t *q, const real *scale, int64_t n, int cols) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i < n) store(w + i, each<W>([&](int k) { return (real)q[i + k]; }) * scale[i / cols]);
}
__global__ void finish_kernel(void *out, const real *y, const real *gate, Epilogue e, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) finish(out, gate, e, i, y[i]);
}
struct LinearScratch {
    real *y = nullptr;        // (N, widest output that an epilogue follows)
    floatX *w = nullptr;      // one widened matrix
    int64_t w_count = 0;      // its room
};
inline void gemm(const Linear &j, int N, const LinearScratch &s, cudaStream_t stream) {
    int64_t n = (int64_t)j.w.rows * j.w.cols, outputs = (int64_t)N * j.w.rows;
    const floatX *w = j.w.w;
    if (j.w.q) {
        if (n > s.w_count) return matvec(&j, 1, N, stream);  // the head: room for it would be that for all matrices of a few layers
        dispatch_width<ELEMENT_WIDTH>(channel_width(j.w.cols, ELEMENT_WIDTH), [&](auto W) {
            widen_kernel<W.value><<<ceil_div(n, 256 * W.value), 256, 0, stream>>>(s.w, j.w.q, j.w.scale, n, j.w.cols);
        });
        launchCheck(), w = s.w;
    }
    bool direct = j.e == STORE || j.e == ADD;
    real *y = direct ? (real *)j.out : s.y;
    matmul({j.w.rows, N, j.w.cols, 1, true, false, 0, 0, 0, j.e == ADD, data_type<real>()}, w, j.x, y, y, stream);
    if (direct) return;
    finish_kernel<<<ceil_div(outputs, 256), 256, 0, stream>>>(j.out, y, j.gate, j.e, outputs);
    launchCheck();
}

// Layers that do not depend on each other
constexpr int DECODE_MOST = 16;  // tokens up to which reading the weights once a warp beats tiles of a GEMM on a GPU (not measured)
inline void linear(std::initializer_list<Linear> list, int N, bool decode, const LinearScratch &s, cudaStream_t stream) {
#ifdef CPU_SHAPES
    bool many = false;
#else
    bool many = N > DECODE_MOST;
#endif
    if (decode && !many) return matvec(list.begin(), (int)list.size(), N, stream);
    for (const Linear &j : list) gemm(j, N, s, stream);
}

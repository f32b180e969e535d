/* dev/cpu/gemm.h: matrix multiplication for the CPU backend, as cuBLAS defines it.

       D = alpha op(A) op(B) + beta C + bias       D m x n, op(A) m x k, op(B) k x n, column major, batches of them

   How it gets near the peak of the machine, from the inside out:
   1. micro() keeps an MR x NR tile of D in vector registers and adds one column of A times one row of B
      for each k. It loads MR + NR numbers for MR * NR multiply-adds, so the multipliers are the limit, not
      the loads. MR is the vector direction (m), NR counts numbers that are broadcast (n).
   2. It can only do that with A and B in first-level cache and in the order in which it reads them.
      pack_a() and pack_b() copy them there, 16-bit numbers becoming fp32 on the way, KC values of k at a time:
          A  [k block][panel of MR rows][k][row]       B  [k block][column][k]
      A B of fp32 or fp64 whose k are adjacent in memory is in order already and is read where it lies.
   3. A tile of MT x NT of D is one work item. Its sums stay in second-level cache over all blocks of k;
      finish() scales, adds C and the bias, and rounds. Packing is done once, before, by all threads;
      when D is so narrow that no packed A would be used twice, each tile packs its own A where it needs it.
   4. With at most GEMV columns even that costs more than it gains: gemv() uses A straight from memory.
   Each element of D is the sum of blocks of KC products, each block added up in the order of k, and blocks
   in order: its bits depend on its row of op(A), its column of op(B), alpha, beta, C and bias, never on m, n,
   batches or threads. k is not split between threads.  beta = 0 does not read C, alpha = 0 not A and B.
   Needs threads() and parallel_for() of pool.h.   defines: bf16, fp16, Gemm, gemm */
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>
#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace cuda_cpu {

struct bf16 { uint16_t bits; };
struct fp16 { uint16_t bits; };
enum Type { F32, F64, BF16, F16 };

struct Gemm {
    bool ta, tb;                             // op() transposes
    long m, n, k, batches;
    Type type, out;                          // of A and B; of C and D
    const void *a, *b, *c;
    void *d;                                 // may be c
    long lda, ldb, ldc, ldd;                 // elements from one column to the next
    long sa = 0, sb = 0, sc = 0, sd = 0;     // elements from one batch to the next
    double alpha = 1, beta = 0;
    const void *bias = nullptr;              // (m) of type out, added to every column; or nullptr
};

#if defined(__AVX512F__)
constexpr int VECTOR = 64, MV = 2, NR = 12;  // bytes of a vector; MR in vectors; MV * NR sums + MV + 1 of 32 registers
#elif defined(__AVX__)
constexpr int VECTOR = 32, MV = 2, NR = 6;   // 12 + 2 + 1 of 16 registers
#elif defined(__ARM_NEON)
constexpr int VECTOR = 16, MV = 4, NR = 6;
#else
constexpr int VECTOR = 16, MV = 2, NR = 6;
#endif
constexpr int KC = 256;               // MR * KC floats of A and NR * KC of B live in first-level cache
constexpr int MT = 128, NT = 96;      // a tile: MT * KC floats of packed A (128 KB) live in second-level cache
constexpr int GEMV = 4;               // columns of gemv()
constexpr long PACKED_A = 4 << 20, PACKED_B = 1 << 20;  // elements to pack at once: 16 MB and 4 MB of fp32

// A vector of lanes of type F, one of unsigned integers of the same width, and halfwords for them.
template<class F> struct Lanes {
    enum { N = VECTOR / sizeof(F), MR = MV * N };
    typedef std::conditional_t<sizeof(F) == 8, uint64_t, uint32_t> U;
    typedef F vec __attribute__((vector_size(VECTOR)));
    typedef U uvec __attribute__((vector_size(VECTOR)));
    typedef uint16_t half __attribute__((vector_size(2 * N)));
};
template<class F> using vec = typename Lanes<F>::vec;
using uvec = Lanes<float>::uvec;
using hvec = Lanes<float>::half;
inline long least(long a, long b) { return a < b ? a : b; }
inline long most(long a, long b) { return a > b ? a : b; }
#define CUDA_CPU_INLINE __attribute__((always_inline)) inline

// 16 bits in the low half of each lane -> fp32, and back, to nearest even. NaN stays NaN.
CUDA_CPU_INLINE void widen(vec<float> &v, uvec u, bf16) { v = (vec<float>)(u << 16); }
CUDA_CPU_INLINE void widen(vec<float> &v, uvec u, fp16) {
    uvec magnitude = (u & 0x7fff) << 13;
    v = (vec<float>)magnitude * 0x1p112f;                            // moves the bias from 127 to 15; subnormals too
    uvec special = (uvec)(magnitude >= 0x7c00u << 13) & 0x7f800000;  // infinity, NaN
    v = (vec<float>)((uvec)v | special | (u & 0x8000) << 16);
}
CUDA_CPU_INLINE uvec narrow(vec<float> v, bf16) {
    uvec u = (uvec)v, nan = (uvec)(v != v);
    return (nan & 0x7fff) | (~nan & ((u + 0x7fff + (u >> 16 & 1)) >> 16));
}
CUDA_CPU_INLINE uvec narrow(vec<float> v, fp16) {
    uvec u = (uvec)v & 0x7fffffff, sign = (uvec)v >> 16 & 0x8000;
    uvec tiny = (uvec)((vec<float>)u + 0.5f) - 0x3f000000;           // the adder rounds at 2^-24, the smallest fp16
    uvec usual = (u - (112u << 23) + 0xfff + (u >> 13 & 1)) >> 13;
    uvec is_tiny = (uvec)(u < 113u << 23), is_big = (uvec)(u >= 143u << 23), is_nan = (uvec)(u > 0x7f800000);
    return sign | (is_tiny & tiny) | (~is_tiny & ~is_big & usual) | (is_big & ((~is_nan & 0x7c00) | (is_nan & 0x7fff)));
}

// N elements of memory <-> one vector
template<class F, class T> CUDA_CPU_INLINE void load(vec<F> &v, const T *p) {
    if constexpr (sizeof(T) == 2) {
        hvec h;
        memcpy(&h, p, sizeof h);
        widen(v, __builtin_convertvector(h, uvec), T{});
    } else memcpy(&v, p, VECTOR);
}
template<class F, class T> CUDA_CPU_INLINE void store(T *p, const vec<F> &v) {
    if constexpr (sizeof(T) == 2) {
        hvec h = __builtin_convertvector(narrow(v, T{}), hvec);
        memcpy(p, &h, sizeof h);
    } else memcpy(p, &v, VECTOR);
}

// x += a * b, rounded once where the machine can. Not left to the compiler: it fuses in one loop and not in another.
template<class F> CUDA_CPU_INLINE void multiply_add(vec<F> &x, const vec<F> &a, F b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(F) == 4) x = (vec<F>)_mm512_fmadd_ps((__m512)a, _mm512_set1_ps(b), (__m512)x);
    else x = (vec<F>)_mm512_fmadd_pd((__m512d)a, _mm512_set1_pd(b), (__m512d)x);
#elif defined(__AVX__) && defined(__FMA__)
    if constexpr (sizeof(F) == 4) x = (vec<F>)_mm256_fmadd_ps((__m256)a, _mm256_set1_ps(b), (__m256)x);
    else x = (vec<F>)_mm256_fmadd_pd((__m256d)a, _mm256_set1_pd(b), (__m256d)x);
#else
    x += a * b;
#endif
}

// ------------------------------------------------------------------------------------------------
// packing

// dst[r * ds + c] = src[r * ss + c].   dst has room for columns up to a whole vector.
template<class F, class T> void copy(F *dst, long ds, const T *src, long ss, long rows, long cols) {
    constexpr int N = Lanes<F>::N;
    for (long r = 0; r < rows; r++, dst += ds, src += ss)
        for (long c = 0; c < cols; c += N) {
            vec<F> v;
            T tail[N] = {};
            bool whole = cols - c >= N;
            if (!whole) memcpy(tail, src + c, (cols - c) * sizeof(T));
            load<F>(v, whole ? src + c : tail);
            store<F>(dst + c, v);
        }
}

// Transposes N vectors of N lanes: swap the two off-diagonal squares of D x D in each 2D x 2D, for D = N/2 ... 1.
template<class F, int D, int... L> CUDA_CPU_INLINE void swap_squares(vec<F> &a, vec<F> &b, std::integer_sequence<int, L...>) {
    constexpr int N = sizeof...(L);
    vec<F> t = __builtin_shufflevector(a, b, (L & D ? N + L - D : L)...);
    b = __builtin_shufflevector(a, b, (L & D ? N + L : L + D)...);
    a = t;
}
template<class F, int D = Lanes<F>::N / 2> CUDA_CPU_INLINE void transpose(vec<F> *v) {
    constexpr int N = Lanes<F>::N;
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) if (!(i & D)) swap_squares<F, D>(v[i], v[i + D], std::make_integer_sequence<int, N>());
    if constexpr (D > 1) transpose<F, D / 2>(v);
}
// v[r] = src[r], src[r + ss], ..., src[r + (N-1) ss] for r < STEP, of which `rows` and `cols` exist; the rest is 0.
// 16-bit numbers are moved in pairs, so that a vector of them costs as many shuffles as one of fp32.
template<class T> constexpr int STEP = VECTOR / sizeof(T);
template<class T> __attribute__((noinline)) void copy_part(T *dst, int ds, const T *src, long ss, long rows, long cols) {
    for (long c = 0; c < cols; c++) memcpy(dst + c * ds, src + c * ss, rows * sizeof(T));
}
template<class F, class T> CUDA_CPU_INLINE void load_transposed(vec<F> *v, const T *src, long ss, long rows, long cols) {
    constexpr int N = Lanes<F>::N, S = STEP<T>;
    T part[S * N];
    if (rows < S || cols < N) {
        memset(part, 0, sizeof part);
        copy_part(part, S, src, ss, least(rows, S), least(cols, N));
        src = part, ss = S;
    }
    vec<F> t[N];
#pragma GCC unroll 16
    for (int c = 0; c < N; c++) memcpy(&t[c], src + c * ss, VECTOR);
    transpose<F>(t);
#pragma GCC unroll 16
    for (int i = 0; i < N; i++)
        if constexpr (std::is_same_v<F, T>) v[i] = t[i];
        else widen(v[2 * i], (uvec)t[i] & 0xffff, T{}), widen(v[2 * i + 1], (uvec)t[i] >> 16, T{});
}
// dst[r * ds + c] = src[c * ss + r].   dst has room for columns up to a whole vector.
template<class F, class T> void copy_transposed(F *dst, long ds, const T *src, long ss, long rows, long cols) {
    constexpr int N = Lanes<F>::N, S = STEP<T>;
    for (long r = 0; r < rows; r += S)
        for (long c = 0; c < cols; c += N) {
            vec<F> v[S];
            load_transposed<F, T>(v, src + c * ss + r, ss, rows - r, cols - c);
#pragma GCC unroll 32
            for (int i = 0; i < S; i++) if (r + i < rows) store<F>(dst + (r + i) * ds + c, v[i]);
        }
}
// Rows i... of op(A) as panels of MR rows; columns j... of op(B), KC apart; both for kc values of k from k on.
// Memory is read in the order in which it lies: a row of k across all panels, not a panel at a time.
template<class F, class T> void pack_a(F *dst, const Gemm &g, const T *a, long i, long k, long rows, long kc) {
    constexpr int MR = Lanes<F>::MR;
    a += g.ta ? i * g.lda + k : i + k * g.lda;
    if (g.ta) for (long r = 0; r < rows; r += MR) copy_transposed(dst + r * KC, MR, a + r * g.lda, g.lda, kc, least(MR, rows - r));
    else for (; kc > 0; kc--, a += g.lda, dst += MR) for (long r = 0; r < rows; r += MR) copy(dst + r * KC, 0, a + r, 0, 1, least(MR, rows - r));
}
template<class F, class T> void pack_b(F *dst, const Gemm &g, const T *b, long j, long k, long columns, long kc) {
    if (g.tb) copy_transposed(dst, KC, b + j + k * g.ldb, g.ldb, columns, kc);
    else copy(dst, KC, b + j * g.ldb + k, g.ldb, columns, kc);
}

// ------------------------------------------------------------------------------------------------
// computing

template<class F> CUDA_CPU_INLINE void put_sum(F *s, vec<F> x, bool add) {
    vec<F> before;
    if (add) load<F>(before, s), x = before + x;
    store<F>(s, x);
}
// s (V vectors x N columns, MT apart) = or += a panel of A times N columns of B, `next` apart
template<class F, int V, int N> void micro(F *s, const F *a, const F *b, long next, long kc, bool add) {
    constexpr int L = Lanes<F>::N;
    vec<F> x[N][V] = {}, p[V];
    for (long k = 0; k < kc; k++, a += Lanes<F>::MR, b++) {
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) load<F>(p[v], a + v * L);
#pragma GCC unroll 16
        for (int j = 0; j < N; j++) {
            F q = b[j * next];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) multiply_add<F>(x[j][v], p[v], q);
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < N; j++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) put_sum<F>(s + j * MT + v * L, x[j][v], add);
}
// At the edges of a matrix there are fewer vectors and columns: a kernel for each, so that nothing is computed in vain.
template<class F, int V = MV, int N = NR> void micro(F *s, const F *a, const F *b, long next, long kc, bool add, int vectors, int columns) {
    if constexpr (V > 1) if (vectors < V) return micro<F, V - 1, N>(s, a, b, next, kc, add, vectors, columns);
    if constexpr (N > 1) if (columns < N) return micro<F, V, N - 1>(s, a, b, next, kc, add, vectors, columns);
    micro<F, V, N>(s, a, b, next, kc, add);
}
// Rows of A^T, whose k are adjacent in memory, times C columns of packed B (blocks of k `next` apart); s as in micro().
// Every multiply-add waits 4 cycles for the one before it: too slow for one column of 16-bit numbers, so P = 2 sums.
template<class F, class T, int C> void gemv(F *s, const T *a, long lda, long rows, const F *packed_b, long next, long depth) {
    constexpr int N = Lanes<F>::N, S = STEP<T>, P = C == 1 && sizeof(T) == 2 ? 2 : 1;
    for (long r = 0; r < rows; r += P * N, a += P * N * lda)
        for (long k0 = 0; k0 < depth; k0 += KC) {
            const F *b = packed_b + k0 / KC * next;
            const long kc = least(KC, depth - k0), left = rows - r;
            vec<F> x[P][C] = {};
            long k = 0;
            for (; k + S <= kc; k += S)
#pragma GCC unroll 2
                for (int p = 0; p < P; p++) {
                    vec<F> v[S];
                    load_transposed<F, T>(v, a + p * N * lda + k0 + k, lda, S, left - p * N);
#pragma GCC unroll 32
                    for (int i = 0; i < S; i++)
#pragma GCC unroll 4
                        for (int c = 0; c < C; c++) multiply_add<F>(x[p][c], v[i], b[c * KC + k + i]);
                }
#pragma GCC unroll 2
            for (int p = 0; p < P; p++) {
                vec<F> v[S];
                if (k < kc) load_transposed<F, T>(v, a + p * N * lda + k0 + k, lda, kc - k, left - p * N);
                for (int i = 0; i < kc - k; i++)
#pragma GCC unroll 4
                    for (int c = 0; c < C; c++) multiply_add<F>(x[p][c], v[i], b[c * KC + k + i]);
#pragma GCC unroll 4
                for (int c = 0; c < C; c++) if (p * N < left) put_sum<F>(s + c * MT + r + p * N, x[p][c], k0 > 0);
            }
        }
}
template<class F, class T, int C = GEMV> void gemv(F *s, const T *a, long lda, long rows, const F *b, long next, long depth, long columns) {
    if constexpr (C > 1) if (columns < C) return gemv<F, T, C - 1>(s, a, lda, rows, b, next, depth, columns);
    gemv<F, T, C>(s, a, lda, rows, b, next, depth);
}

// D = alpha s + beta C + bias for a tile of the sums; C and D are touched in runs along m only, via a buffer of whole vectors.
template<class F, class T> void finish(const Gemm &g, F *s, long batch, long i, long j, long rows, long columns) {
    const F alpha = g.alpha, beta = g.beta;
    for (long col = 0; col < columns; col++, s += MT) {
        T line[MT];
        if (g.beta != 0) memcpy(line, (const T *)g.c + batch * g.sc + (j + col) * g.ldc + i, rows * sizeof(T));
        for (long r = 0; r < rows; r += Lanes<F>::N) {
            vec<F> v, c;
            load<F>(v, s + r);
            v *= alpha;
            if (g.beta != 0) load<F>(c, line + r), v += beta * c;
            store<F>(s + r, v);
        }
        if (g.bias) {  // a loop of its own: in the one above a compiler may round alpha s + bias once
            memcpy(line, (const T *)g.bias + i, rows * sizeof(T));
            for (long r = 0; r < rows; r += Lanes<F>::N) {
                vec<F> v, b;
                load<F>(v, s + r), load<F>(b, line + r);
                store<F>(s + r, v + b);
            }
        }
        for (long r = 0; r < rows; r += Lanes<F>::N) {
            vec<F> v;
            load<F>(v, s + r);
            store<F>(line + r, v);
        }
        memcpy((T *)g.d + batch * g.sd + (j + col) * g.ldd + i, line, rows * sizeof(T));
    }
}

// ------------------------------------------------------------------------------------------------
// the work as a list of tiles

// Memory of this thread that is kept from call to call, at least `bytes` of it. Two: of the caller, of a tile.
inline void *scratch(int which, size_t bytes) {
    struct Buffer {
        void *p = nullptr;
        size_t size = 0;
        ~Buffer() { free(p); }
    };
    thread_local Buffer buffer[2];
    Buffer &b = buffer[which];
    if (b.size < bytes) {
        free(b.p);
        b.size = (bytes + 4095) / 4096 * 4096, b.p = aligned_alloc(4096, b.size);
        if (!b.p) b.size = 0, throw std::bad_alloc();
    }
    return b.p;
}
inline long ceil_div(long a, long b) { return (a + b - 1) / b; }
// The size of equal parts of n, multiples of unit, of about `limit`, but not less than 2 units
inline long part(long n, long limit, long unit) {
    long count = ceil_div(n, most(limit, 2 * unit));
    return least(n, ceil_div(ceil_div(n, count), unit) * unit);
}
// f(0) ... f(n - 1); all on this thread if waking the others would take longer than the work itself.
template<class G> void each(long n, bool tiny, G f) {
    if (!tiny) return parallel_for(n, f);
    for (long i = 0; i < n; i++) f(i);
}

template<class F, class T> void gemm(const Gemm &g) {
    constexpr int MR = Lanes<F>::MR, N = Lanes<F>::N;
    const T *a = (const T *)g.a, *b = (const T *)g.b;
    const long depth = g.alpha == 0 ? 0 : g.k, blocks = ceil_div(depth, KC);  // of k

    // D is worked off in parts of m, n and batches: of A as much as possible, as B is packed again for each part of it,
    // of B what third-level cache holds.
    const long width = most(blocks, 1) * KC, pm = part(g.m, PACKED_A / width, MT), pn = part(g.n, PACKED_B / width, NT);
    const long pb = least(g.batches, most(least(PACKED_A / width / pm, PACKED_B / width / pn), 1));
    // Tiles are made smaller while there are too few to go round, but not below 10 us or so each.
    long mt = MT, nt = NT;
    while (ceil_div(pm, mt) * ceil_div(pn, nt) * pb < 4 * threads() && least(mt, pm) * least(nt, pn) * depth > 1 << 19 && (mt > MR || nt > NR))
        if (nt > NR && (mt <= MR || least(nt, pn) >= least(mt, pm))) nt /= 2; else mt /= 2;
    const bool pack_first = pn > nt, few = g.ta && g.n <= GEMV, in_order = std::is_same_v<F, T> && !g.tb && !few, tiny = g.m * g.n * g.batches * depth < 1 << 16;  // 2 us
    const long panels = ceil_div(pm, MR), na = pack_first ? pb * blocks * panels * MR * KC : 0, nb = in_order ? 0 : pb * blocks * pn * KC;
    F *packed_a = (F *)scratch(0, (na + nb) * sizeof(F)), *packed_b = packed_a + na;

    for (long p0 = 0; p0 < g.batches; p0 += pb) for (long i0 = 0; i0 < g.m; i0 += pm) for (long j0 = 0; j0 < g.n; j0 += pn) {
        const long batches = least(pb, g.batches - p0), m = least(pm, g.m - i0), n = least(pn, g.n - j0);
        const bool same_a = j0 > 0;  // still packed
        const long ai = pack_first && !same_a ? ceil_div(m, MT) : 0, bi = in_order ? 0 : ceil_div(n, NT);
        each(batches * blocks * (ai + bi), tiny, [&](long t) {
            long batch = t / (ai + bi) / blocks, q = t / (ai + bi) % blocks, x = t % (ai + bi), kc = least(KC, depth - q * KC);
            if (x < ai) pack_a(packed_a + ((batch * blocks + q) * panels * MR + x * MT) * KC, g, a + (p0 + batch) * g.sa, i0 + x * MT, q * KC, least(MT, m - x * MT), kc);
            else x -= ai, pack_b(packed_b + ((batch * blocks + q) * pn + x * NT) * KC, g, b + (p0 + batch) * g.sb, j0 + x * NT, q * KC, least(NT, n - x * NT), kc);
        });
        const long tm = ceil_div(m, mt), tn = ceil_div(n, nt);
        each(batches * tm * tn, tiny, [&](long t) {
            long batch = t / (tm * tn), i = t % tm * mt, j = t / tm % tn * nt, rows = least(mt, m - i), columns = least(nt, n - j);
            F *s = (F *)scratch(1, (MT * NT + MT * KC) * sizeof(F)), *own = s + MT * NT;
            if (!blocks) memset(s, 0, MT * NT * sizeof(F));
            if (few) gemv<F>(s, a + (p0 + batch) * g.sa + (i0 + i) * g.lda, g.lda, rows, packed_b + (batch * blocks * pn + j) * KC, pn * KC, depth, columns);
            else for (long q = 0; q < blocks; q++) {
                const long kc = least(KC, depth - q * KC);
                const F *bp = packed_b + ((batch * blocks + q) * pn + j) * KC, *ap = own;
                const long next = in_order ? g.ldb : KC;
                if (in_order) bp = (const F *)b + (p0 + batch) * g.sb + (j0 + j) * g.ldb + q * KC;
                const T *from = a + (p0 + batch) * g.sa;
                if (pack_first) ap = packed_a + ((batch * blocks + q) * panels * MR + i) * KC;
                else pack_a(own, g, from, i0 + i, q * KC, rows, kc);
                for (long y = 0; y < columns; y += NR) for (long x = 0; x < rows; x += MR)
                    micro(s + y * MT + x, ap + x * KC, bp + y * next, next, kc, q > 0, (int)ceil_div(least(MR, rows - x), N), (int)least(NR, columns - y));
            }
            if constexpr (sizeof(T) == 2) if (g.out == F32) return finish<F, F>(g, s, p0 + batch, i0 + i, j0 + j, rows, columns);
            finish<F, T>(g, s, p0 + batch, i0 + i, j0 + j, rows, columns);
        });
    }
}
inline void gemm(const Gemm &g) {
    if (!g.m || !g.n || !g.batches) return;
    if (g.type == F32) gemm<float, float>(g);
    else if (g.type == F64) gemm<double, double>(g);
    else if (g.type == BF16) gemm<float, bf16>(g);
    else gemm<float, fp16>(g);
}
}  // namespace cuda_cpu

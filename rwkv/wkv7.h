/* rwkv/wkv7.h: the recurrence of RWKV-7, forward and backward.   doc/wkv7.md

   Each head of each sequence has a state S of N x N, row i = value channel, column j = key channel. A token does

       u_i = sum_j S_ij a_j      S_ij <- S_ij e^{l_j} + u_i b_j + v_i k_j      y_i = sum_j S_ij r_j

   with the log-decay l_j = -e^{-1/2} sigmoid(w_j), so that a column keeps between 0.545 and all of itself. w is the
   raw value (w0 plus its LoRA), as in official training: near "no decay" a 16-bit w is precise where a 16-bit e^l is 1.
   RWKV-7 passes a = -kk and b = kk * gate; the kernels take any.
   Any T; N is a multiple of 16 up to 128, tuned for 64. Same input, same bits.
   defines: Wkv7Args, wkv7_head_size_ok, wkv7_state_count, wkv7_kept_count, wkv7_scratch_count, wkv7_forward, wkv7_backward */
#pragma once
#include "cuda.h"

constexpr int WKV7_CHUNK = 16;  // steps between two kept states
constexpr real WKV7_DECAY = real(0.60653065971263342);  // e^{-1/2}
constexpr bool wkv7_head_size_ok(int N) { return N >= 16 && N <= 128 && N % 16 == 0; }

struct Wkv7Args {
    floatX *y;                               // (B,T,H N)
    const floatX *r, *w, *k, *v, *a, *b;     // (B,T,H N)
    real *states;                            // wkv7_kept_count(), for backward (layout is the kernels' own); or null: only the forward is wanted
    real *scratch;                           // wkv7_scratch_count() of the largest B and T; used by backward, free between calls
    const real *state_in;                    // (B,H,N,N) [value][key] or null: zero
    real *state_out;                         // (B,H,N,N) or null
    const uint8_t *reset;                    // (B,T) or null; nonzero: the state is emptied before this token
    int B, T, H, N;
    __host__ __device__ int64_t at(int s, int t, int h) const { return (((int64_t)s * T + t) * H + h) * N; }  // sequence s
    __host__ __device__ int64_t state(int s, int h) const { return ((int64_t)s * H + h) * N * N; }
    __host__ __device__ real *kept(int s, int h, int chunk, int L = WKV7_CHUNK) const { return states + (((int64_t)s * H + h) * ((T + L - 1) / L) + chunk) * N * N; }
    __host__ __device__ bool first(int s, int t) const { return reset && reset[(int64_t)s * T + t]; }
};
struct Wkv7BackwardArgs {
    Wkv7Args f;                              // of the forward, whose states are filled (y is not used)
    const floatX *dy;                        // (B,T,H N)
    floatX *dr, *dw, *dk, *dv, *da, *db;     // (B,T,H N) written, not added to
    const real *dstate_out;                  // (B,H,N,N) or null: zero
    real *dstate_in;                         // (B,H,N,N) or null
};
inline int64_t wkv7_state_count(int B, int H, int N) { return (int64_t)B * H * N * N; }
inline int64_t wkv7_kept_count(int B, int T, int H, int N) { return ceil_div(T, WKV7_CHUNK) * wkv7_state_count(B, H, N); }

// ------------------------------------------------------------------------------------------------
// Chunks of L steps as matrix products.   doc/wkv7.md, section 4
//
// With the decays multiplied up to step t, E_t = e^{l_1 + .. + l_t} (per key channel), and relative to c, their value
// in the middle of the chunk, so that no factor leaves e^{+-0.61 L/2}:
//
//   Q = [a_t E_{t-1}/c; r_t E_t/c]    K = [b_t c/E_t; k_t c/E_t]    X = S c      (2L,N) (2L,N) (N,N)
//   M = mask(Q K^T)                   a rows see earlier tokens, r rows their own too; none sees beyond a reset
//   [U; Y] = Q X^T + M [U; V]         U = (1 - M_ab)^-1 (Q_a X^T + M_ak V)
//   X <- X + [U; V]^T K               S <- X E_L/c
//
// A block has one head of one sequence and walks over its chunks. Q, K, M and the inverse T are made by all its warps and
// lie in shared memory. Then a warp has 16 value channels, whose rows of X stay in its registers from chunk to chunk:
// no row of X sees another. All products are 16x8x8 of a warp, in tf32 when floatX has 16 bits: its 11 bits
// keep every rounding 8 times below that of bf16 inputs. What is multiplied twice is rounded once, so that the
// sums that must cancel in dw cancel.

// How a 16x8x8 product is made. TF32: operands rounded to 11 bits. SPLIT: as high + low part, three products: fp32.
// EXACT: in `real`; what the others are on sm_75, which has no tf32, and the fp64 build.
enum Wkv7Mode { WKV7_TF32, WKV7_SPLIT, WKV7_EXACT };
constexpr Wkv7Mode WKV7_MODE = sizeof(real) == 8 ? WKV7_EXACT : has_master ? WKV7_TF32 : WKV7_SPLIT;
#if defined(CUDA_CPU) || __CUDA_ARCH__ >= 800
constexpr bool WKV7_HAS_TF32 = true;
#else
constexpr bool WKV7_HAS_TF32 = false;
#endif

template<Wkv7Mode MODE> __device__ inline real wkv7_round(real x) {
    if constexpr (MODE != WKV7_TF32) return x;
#ifdef CUDA_CPU
    float y = (float)x;
    uint32_t u;
    memcpy(&u, &y, 4);
    u = (u + 0x1000) & ~0x1fffu;  // to nearest, ties away from zero, as cvt.rna
    memcpy(&y, &u, 4);
    return y;
#elif __CUDA_ARCH__ >= 800
    uint32_t u;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(u) : "f"((float)x));
    return __uint_as_float(u);
#else
    return x;
#endif
}
// C (16x8) += A (16x8) B (8x8). Of lane l, with g = l / 4 and t = 2 (l % 4):
//   A, C: [0,1] row g, columns t, t + 1    [2,3] row g + 8        B: rows t, t + 1, column g
// so that a C is the A of another product as it is. (The instruction wants columns l % 4 and l % 4 + 4 of A, and the same
// rows of B: any order of the inner index will do.) Operands are already rounded.
__device__ inline void wkv7_mma(real (&c)[4], const real (&a)[4], const real (&b)[2]) {
#ifdef CUDA_CPU
    struct Lane { real *c; const real *a, *b; } x{c, a, b};
    cuda_cpu::collective("wkv7_mma", ~0u, &x, [](void **lanes, unsigned mask) {
        cuda_cpu::need_whole_warp("wkv7_mma", mask);
        auto lane = [&](int i) -> Lane & { return *(Lane *)lanes[i]; };
        real A[16][8], B[8][8];
        for (int i = 0; i < 32; i++) {
            for (int r = 0; r < 4; r++) A[i / 4 + r / 2 * 8][i % 4 * 2 + r % 2] = lane(i).a[r];
            for (int r = 0; r < 2; r++) B[i % 4 * 2 + r][i / 4] = lane(i).b[r];
        }
        for (int m = 0; m < 16; m++) {
            real d[8] = {};
            for (int k = 0; k < 8; k++) for (int n = 0; n < 8; n++) d[n] += A[m][k] * B[k][n];
            for (int n = 0; n < 8; n++) lane(m % 8 * 4 + n / 2).c[m / 8 * 2 + n % 2] += d[n];
        }
    }, __FILE__, __LINE__);
#elif __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[3])),
          "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}
__device__ inline void wkv7_split(real (&c)[4], const real (&a)[4], const real (&b)[2]) {
    real ah[4], al[4], bh[2], bl[2];
#pragma unroll
    for (int i = 0; i < 4; i++) ah[i] = wkv7_round<WKV7_TF32>(a[i]), al[i] = wkv7_round<WKV7_TF32>(a[i] - ah[i]);
#pragma unroll
    for (int i = 0; i < 2; i++) bh[i] = wkv7_round<WKV7_TF32>(b[i]), bl[i] = wkv7_round<WKV7_TF32>(b[i] - bh[i]);
    wkv7_mma(c, al, bh), wkv7_mma(c, ah, bl), wkv7_mma(c, ah, bh);
}
#ifndef CUDA_CPU
// The product in fp32. A function, because a kernel has hundreds of products: inlined, ptxas takes minutes and spills.
__device__ __noinline__ static float4 wkv7_precise(float4 c, float4 a, float2 b) {
#if __CUDA_ARCH__ >= 800
    real d[4] = {c.x, c.y, c.z, c.w};
    wkv7_split(d, {a.x, a.y, a.z, a.w}, {b.x, b.y});
    return make_float4(d[0], d[1], d[2], d[3]);
#else
    const int lane = threadIdx.x % 32;
    for (int q = 0; q < 4; q++) {            // two columns of A, two rows of B
        const int row = lane / 4 * 4 + q, col = lane % 4 * 8 + q;
        float a0 = __shfl_sync(~0u, a.x, row), a1 = __shfl_sync(~0u, a.z, row), b0 = __shfl_sync(~0u, b.x, col), b1 = __shfl_sync(~0u, b.x, col + 4);
        c.x += a0 * b0, c.y += a0 * b1, c.z += a1 * b0, c.w += a1 * b1;
        a0 = __shfl_sync(~0u, a.y, row), a1 = __shfl_sync(~0u, a.w, row), b0 = __shfl_sync(~0u, b.y, col), b1 = __shfl_sync(~0u, b.y, col + 4);
        c.x += a0 * b0, c.y += a0 * b1, c.z += a1 * b0, c.w += a1 * b1;
    }
    return c;
#endif
}
#endif
template<Wkv7Mode MODE> __device__ inline void wkv7_product(real (&c)[4], const real (&a)[4], const real (&b)[2]) {
#ifdef CUDA_CPU
    if (MODE == WKV7_SPLIT) wkv7_split(c, a, b);
    else wkv7_mma(c, a, b);
#else
    if constexpr (MODE == WKV7_TF32 && WKV7_HAS_TF32) wkv7_mma(c, a, b);
    else {
        float4 d = wkv7_precise(make_float4(c[0], c[1], c[2], c[3]), make_float4(a[0], a[1], a[2], a[3]), make_float2(b[0], b[1]));
        c[0] = d.x, c[1] = d.y, c[2] = d.z, c[3] = d.w;
    }
#endif
}

// A matrix in shared memory. Columns are exchanged in groups of 8, so that the 32 lanes of a fragment are in 32 banks
// both when they read along rows (8 rows x 4 pairs) and along columns (4 pairs of rows x 8).
template<int COLUMNS> constexpr int WKV7_PITCH = (COLUMNS + 31) / 32 * 32;
template<int PITCH> struct Wkv7Tile {
    real *p;
    __device__ real &operator()(int row, int col) const { return p[row * PITCH + (col ^ ((row ^ (row >> 2 & 1)) & 3) << 3)]; }
};
struct Wkv7Lane {  // where this lane is in a fragment
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4 * 2;
    // A or C with element (r, c) of the product at (row0 + r, col0 + c) of the tile; transposed: at (row0 + c, col0 + r)
    template<int P> __device__ void a(real (&f)[4], const Wkv7Tile<P> &x, int row0, int col0) const {
#pragma unroll
        for (int i = 0; i < 4; i++) f[i] = x(row0 + g + i / 2 * 8, col0 + t + i % 2);
    }
    template<int P> __device__ void a_transposed(real (&f)[4], const Wkv7Tile<P> &x, int row0, int col0) const {
#pragma unroll
        for (int i = 0; i < 4; i++) f[i] = x(row0 + t + i % 2, col0 + g + i / 2 * 8);
    }
    template<int P> __device__ void b(real (&f)[2], const Wkv7Tile<P> &x, int row0, int col0) const {
        f[0] = x(row0 + t, col0 + g), f[1] = x(row0 + t + 1, col0 + g);
    }
    template<int P> __device__ void b_transposed(real (&f)[2], const Wkv7Tile<P> &x, int row0, int col0) const {  // one 8-byte load
        f[0] = x(row0 + g, col0 + t), f[1] = x(row0 + g, col0 + t + 1);
    }
};

// What may see what in a chunk: bit t of `bits` says that the state is emptied before step t.
template<int L> struct Wkv7Resets {
    uint64_t bits;
    __device__ Wkv7Resets(const Wkv7Args &f, int seq, int t0, int n) : bits(0) {
        if (f.reset)
#pragma unroll 1
            for (int t = 0; t < n; t++) bits |= (uint64_t)f.first(seq, t0 + t) << t;
    }
    __device__ static uint64_t below(int t) { return t < 64 ? ((uint64_t)1 << t) - 1 : ~(uint64_t)0; }
    __device__ bool between(int s, int t) const { return !(bits & below(t + 1) & ~below(s + 1)); }  // from s on to t
    __device__ bool from_start(int t) const { return !(bits & below(t + 1)); }                   // from the state before the chunk to t
    __device__ bool to_end(int s) const { return !(bits & ~below(s + 1)); }                      // from s to the state after the chunk
    __device__ bool at(int t) const { return bits >> t & 1; }
};

template<int N, int L> struct Wkv7Keys {  // shared by the warps of a block: the key side of a chunk
    static constexpr int PN = WKV7_PITCH<N>, PM = 2 * L, PT = WKV7_PITCH<L>;
    Wkv7Tile<PN> Q, K;                       // (2L,N)
    Wkv7Tile<PM> M;                          // (2L,2L) rows a, r; columns b, k
    Wkv7Tile<PT> T;                          // (L,L) (1 - M_ab)^-1
    real *work, *center, *last;              // (16 L) of the inverse; (N) c; (N) E_L/c
    real *E, *slope;                         // (L+1,N) E_t/c; (L,N) dl/dw; backward only
    static constexpr int forward_count = 4 * L * PN + 2 * L * PM + L * PT + (L > 16 ? 16 * L : 0) + 2 * PN, count = forward_count + (2 * L + 1) * PN;
    __device__ Wkv7Keys(real *&room, bool backward) {
        auto take = [&](int n) { real *p = room; room += n; return p; };
        Q.p = take(2 * L * PN), K.p = take(2 * L * PN), M.p = take(2 * L * PM), T.p = take(L * PT), work = take(L > 16 ? 16 * L : 0);
        center = take(PN), last = take(PN), E = backward ? take((L + 1) * PN) : nullptr, slope = backward ? take(L * PN) : nullptr;
    }
};
// What surrounds the recurrence can be done in its kernels, while a chunk is in shared memory, by a struct like this one
// with `inside` true (dev/kernels/wkv7/fused.h). Its enter() makes a, r, b, k, w, v of the chunk (backward: dy, too), its leave()
// takes y (backward: the gradients of all those, and begin() and finish() are called around the walk); all by tokens. A block
// then has all value channels of its head.
struct Wkv7Bare {                            // nothing: everything is read from memory and written to it
    static constexpr bool inside = false;
    template<int N, int L> static constexpr int forward_room = 0;  // reals of shared memory of its own
    template<int N, int L> static constexpr int backward_room = 0;
};
template<int N, int L> struct Wkv7Staged {
    typedef Wkv7Tile<WKV7_PITCH<N>> Tile;
    Tile a, r, b, k, w, v, y;                // (L,N); a, r, b, k lie where Q and K come to lie
    Tile dv;                                 // backward: y is dy, the gradients of a, r, b, k replace them
    real *dw, *own;                          // (L,PN); room for the struct
    static constexpr int forward_count = 3 * L * WKV7_PITCH<N>;
};
// Q, K and the decays of n steps; steps and channels past the end are zeros that do not decay. A thread has Q or K of one channel.
// Here and below `threads` is blockDim.x, where the caller knows it as a constant.
template<Wkv7Mode MODE, class Around, int N, int L> __device__ inline void wkv7_prepare(const Wkv7Keys<N, L> &s, const Wkv7Staged<N, L> &staged, const Wkv7Args &f, int seq, int h, int t0, int n, int threads) {
    for (int x = threadIdx.x; x < 2 * N; x += threads) {
        const int j = x % N, keys = x / N;
        const floatX *p = keys ? f.b : f.a, *q = keys ? f.k : f.r;
        const int64_t at = f.at(seq, t0, h) + min(j, f.N - 1), step = (int64_t)f.H * f.N;
        const int present = j < f.N ? n : 0;
        std::conditional_t<Around::inside, real, floatX> w[L], first[L], second[L];
#pragma unroll
        for (int t = 0; t < L; t++) {        // all under way before the first is used; past the end: the last again
            int64_t i = at + min(t, n - 1) * step;
            if constexpr (Around::inside) w[t] = staged.w(t, j), first[t] = (keys ? staged.b : staged.a)(t, j), second[t] = (keys ? staged.k : staged.r)(t, j);
            else if (L <= 16) w[t] = f.w[i], first[t] = p[i], second[t] = q[i];  // registers for more there are not
        }
        real sum[L], total = 0;              // log2 E_t
#pragma unroll
        for (int t = 0; t < L; t++) {
            if (L > 16 && !Around::inside) w[t] = f.w[at + min(t, n - 1) * step];
            real e = exp2v(Vec<1>(-fabs((real)w[t]) * LOG2E))[0], z = reciprocal(Vec<1>(1 + e))[0];
            if (t < present) total -= WKV7_DECAY * LOG2E * z * ((real)w[t] < 0 ? e : real(1));
            sum[t] = total;
            if (!keys && s.slope) s.slope[t * s.PN + j] = -WKV7_DECAY * e * z * z;
        }
        const real c = sum[L / 2 - 1];
        real before = exp2v(Vec<1>(-c))[0];  // E_{t-1}/c
        if (!keys && s.E) s.E[j] = before;
#pragma unroll
        for (int t = 0; t < L; t++) {
            if (L > 16 && !Around::inside) first[t] = p[at + min(t, n - 1) * step], second[t] = q[at + min(t, n - 1) * step];
            real now = exp2v(Vec<1>(keys ? c - sum[t] : sum[t] - c))[0], x1 = t < present ? (real)first[t] : 0, x2 = t < present ? (real)second[t] : 0;
            (keys ? s.K : s.Q)(t, j) = wkv7_round<MODE>(x1 * (keys ? now : before));
            (keys ? s.K : s.Q)(L + t, j) = wkv7_round<MODE>(x2 * now);
            if (!keys && s.E) s.E[(t + 1) * s.PN + j] = now;
            before = now;
        }
        if (!keys) s.center[j] = exp2v(Vec<1>(c))[0], s.last[j] = before;
    }
}
// 16x16 blocks of mask(A B^T): rows and columns are tokens twice, as in M. A, B: (2L,J)
template<Wkv7Mode MODE, int L, int J, int PM, int P> __device__ inline void wkv7_masked(const Wkv7Tile<PM> &M, const Wkv7Tile<P> &A, const Wkv7Tile<P> &B, const Wkv7Resets<L> &resets, int threads) {
    const Wkv7Lane l;
    constexpr int side = 2 * L / 16;
    for (int x = threadIdx.x / 32; x < side * side; x += threads / 32) {
        const int row = x / side * 16, col = x % side * 16;
        if (row % L < col % L) continue;     // tokens to come: never read
        real c[2][4] = {};
#pragma unroll 2
        for (int j = 0; j < J; j += 8) {
            real a[4], b[2];
            l.a(a, A, row, j);
#pragma unroll
            for (int i = 0; i < 2; i++) l.b_transposed(b, B, col + 8 * i, j), wkv7_product<MODE>(c[i], a, b);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int r = row + l.g + i % 4 / 2 * 8, k = col + i / 4 * 8 + l.t + i % 2, t = r % L, s = k % L;
            M(r, k) = s < t + (r >= L) && resets.between(s, t) ? wkv7_round<MODE>(c[i / 4][i % 4]) : real(0);
        }
    }
}
// T = (1 - M_ab)^-1 in fp32: a 16x16 block on the diagonal per warp, a column per lane; L > 16: then the blocks left of
// it, row by row, with all threads. Ends with a barrier only if L > 16.
template<Wkv7Mode MODE, int N, int L> __device__ inline void wkv7_invert(const Wkv7Keys<N, L> &s, int threads) {
    const int column = threadIdx.x % 16;
    for (int d = threadIdx.x / 32 * 16; d < L; d += threads / 32 * 16) {
        real x[16];
#pragma unroll
        for (int t = 0; t < 16; t++) x[t] = t == column;
#pragma unroll
        for (int q = 0; q < 15; q++)
#pragma unroll
            for (int t = q + 1; t < 16; t++) x[t] += s.M(d + t, d + q) * x[q];
        if (threadIdx.x % 32 < 16)
#pragma unroll
            for (int t = 0; t < 16; t++) s.T(d + t, d + column) = wkv7_round<MODE>(x[t]);
    }
    if constexpr (L > 16)
        for (int d = 16; d < L; d += 16) {
            __syncthreads();                 // the rows above are complete
            for (int x = threadIdx.x; x < 16 * d; x += threads) {
                real sum = 0;
                for (int q = x % d / 16 * 16; q < d; q++) sum += s.M(d + x / d, q) * s.T(q, x % d);  // above: zeros, not written
                s.work[x] = sum;
            }
            __syncthreads();                 // work is complete
            for (int x = threadIdx.x; x < 16 * d; x += threads) {
                real sum = 0;
                for (int q = 0; q < 16; q++) sum += s.T(d + x / d, d + q) * s.work[q * d + x % d];
                s.T(d + x / d, x % d) = wkv7_round<MODE>(sum);
            }
        }
}
template<Wkv7Mode MODE, int F> __device__ inline void wkv7_round_all(real (&x)[F][4]) {
#pragma unroll
    for (int i = 0; i < 4 * F; i++) x[i / 4][i % 4] = wkv7_round<MODE>(x[i / 4][i % 4]);
}
// Sets columns of a fragment to 0 for whose tokens `sees` is false
template<int F, class Sees> __device__ inline void wkv7_keep(real (&x)[F][4], int tokens, const Wkv7Lane &l, Sees sees) {
#pragma unroll
    for (int i = 0; i < 4 * F; i++) if (!sees((i / 4 * 8 + l.t + i % 2) % tokens)) x[i / 4][i % 4] = 0;
}

// Kept states lie as registers of forward have them: a fragment of 16 value channels and 8 key channels is 128 numbers in a
// row, 4 for each lane, so that a warp writes, and backward's P reads, 512 bytes at once. A state is N N numbers however its
// kernel is padded: N is a multiple of 16.
__device__ inline int wkv7_fragment(int N, int i, int j) { return (i / 16 * (N / 8) + j / 8) * 128; }

// FULL: the head has N channels, T is whole chunks, there are no resets and a head is one block, all of which is then known to
// the compiler and takes a third fewer instructions. Heads of RWKV-7 have 64 channels, so only these have a kernel of their own for it.
template<int N, int L> inline bool wkv7_full(const Wkv7Args &f, int slices) { return N == 64 && f.N == N && f.T % L == 0 && !f.reset && slices == 1; }

// A warp has rows i0 .. i0 + 15 of X, P = (Q X^T)^T, U and Y, all with the value channel as row of the fragment.
template<Wkv7Mode MODE, int N, int L, bool FULL, class Around> __global__ void __launch_bounds__(N * 2, has_master && N <= 64 && L == 16 && WKV7_HAS_TF32 ? 3 : 1) wkv7_chunk_forward_kernel(Wkv7Args f, Around around) {
    if constexpr (FULL) f.N = N, f.reset = nullptr;
    extern __shared__ real wkv7_room[];
    real *room = wkv7_room;
    const Wkv7Keys<N, L> s(room, false);
    constexpr int LN = L * WKV7_PITCH<N>;
    const Wkv7Staged<N, L> staged = {{s.Q.p}, {s.Q.p + LN}, {s.K.p}, {s.K.p + LN}, {room}, {room + LN}, {room + 2 * LN}, {}, nullptr, room + 3 * LN};
    const Wkv7Lane l;
    const int threads = FULL ? 2 * N : blockDim.x, h = blockIdx.x, seq = blockIdx.y, i0 = ((FULL ? 0 : blockIdx.z * (threads / 32)) + threadIdx.x / 32) * 16 + l.g;
    auto exists = [&](int i, int j = 0) { return FULL || max(i, j) < f.N; };
    constexpr int F = L / 8, J = N / 8;      // fragments of 8 steps, of 8 key channels
    real X[J][4];
#pragma unroll
    for (int x = 0; x < 4 * J; x++) {
        int i = i0 + x % 4 / 2 * 8, j = x / 4 * 8 + l.t + x % 2;
        X[x / 4][x % 4] = f.state_in && exists(i, j) ? f.state_in[f.state(seq, h) + i * f.N + j] : real(0);
    }
    for (int t0 = 0; t0 < f.T; t0 += L) {
        const int n = FULL ? L : min(L, f.T - t0);
        const Wkv7Resets<L> resets(f, seq, t0, n);
        if constexpr (Around::inside) {
            around.template enter<MODE>(staged, f, seq, h, t0, n);
            __syncthreads();                 // a, r, b, k, w, v are complete
        }
        floatX raw[4 * F];                   // V^T, under way while Q and K are made; past the end: the last again
        if constexpr (!Around::inside)
#pragma unroll
            for (int x = 0; x < 4 * F; x++) raw[x] = f.v[f.at(seq, t0 + min(x / 4 * 8 + l.t + x % 2, n - 1), h) + (FULL ? i0 + x % 4 / 2 * 8 : min(i0 + x % 4 / 2 * 8, f.N - 1))];
        wkv7_prepare<MODE, Around>(s, staged, f, seq, h, t0, n, threads);
        real V[F][4];                        // V^T
#pragma unroll
        for (int x = 0; x < 4 * F; x++) {
            int t = x / 4 * 8 + l.t + x % 2, i = i0 + x % 4 / 2 * 8;
            if constexpr (Around::inside) V[x / 4][x % 4] = staged.v(t, i);
            else V[x / 4][x % 4] = t < n && exists(i) ? (real)raw[x] : real(0);
        }
        __syncthreads();                     // Q, K, c are complete
        wkv7_masked<MODE, L, N>(s.M, s.Q, s.K, resets, threads);
        if (f.states) {
            real *kept = f.kept(seq, h, t0 / L, L) + wkv7_fragment(f.N, i0, 0) + threadIdx.x % 32 * 4;
#pragma unroll
            for (int j = 0; j < J; j++)
                if (exists(i0, 8 * j)) store(kept + j * 128, each<4>([&](int x) { return X[j][x]; }));
        }
#pragma unroll
        for (int x = 0; x < 4 * J; x++) X[x / 4][x % 4] *= s.center[x / 4 * 8 + l.t + x % 2];
        __syncthreads();                     // M is complete
        wkv7_invert<MODE>(s, threads);
        real P[2 * F][4] = {}, b[2];
#pragma unroll
        for (int j = 0; j < J; j++) {
            real a[4];
#pragma unroll
            for (int x = 0; x < 4; x++) a[x] = wkv7_round<MODE>(X[j][x]);
#pragma unroll
            for (int q = 0; q < 2 * F; q++) l.b_transposed(b, s.Q, 8 * q, 8 * j), wkv7_product<MODE>(P[q], a, b);
        }
        if (resets.bits) wkv7_keep(P, L, l, [&](int t) { return resets.from_start(t); });
        __syncthreads();                     // T is complete
        real U[F][4] = {}, R[F][4];
#pragma unroll
        for (int q = 0; q < F; q++)
#pragma unroll
            for (int p = 0; p <= q; p++) l.b_transposed(b, s.M, 8 * q, L + 8 * p), wkv7_product<MODE>(P[q], V[p], b);
#pragma unroll
        for (int x = 0; x < 4 * F; x++) R[x / 4][x % 4] = wkv7_round<MODE>(P[x / 4][x % 4]);
#pragma unroll
        for (int q = 0; q < F; q++)
#pragma unroll
            for (int p = 0; p <= q; p++) l.b_transposed(b, s.T, 8 * q, 8 * p), wkv7_product<MODE>(U[q], R[p], b);
        wkv7_round_all<MODE>(U);
#pragma unroll
        for (int q = 0; q < F; q++)
#pragma unroll
            for (int p = 0; p <= q; p++) {
                l.b_transposed(b, s.M, L + 8 * q, 8 * p), wkv7_product<MODE>(P[F + q], U[p], b);
                l.b_transposed(b, s.M, L + 8 * q, L + 8 * p), wkv7_product<MODE>(P[F + q], V[p], b);
            }
#pragma unroll
        for (int x = 0; x < 4 * F; x++) {
            int t = x / 4 * 8 + l.t + x % 2, i = i0 + x % 4 / 2 * 8;
            if constexpr (Around::inside) staged.y(t, i) = P[F + x / 4][x % 4];
            else if (t < n && exists(i)) f.y[f.at(seq, t0 + t, h) + i] = (floatX)P[F + x / 4][x % 4];
        }
        if (resets.bits) {
            wkv7_keep(U, L, l, [&](int t) { return resets.to_end(t); }), wkv7_keep(V, L, l, [&](int t) { return resets.to_end(t); });
#pragma unroll
            for (int x = 0; x < 4 * J; x++) X[x / 4][x % 4] = 0;
        }
#pragma unroll
        for (int j = 0; j < J; j++) {
#pragma unroll
            for (int q = 0; q < F; q++) {
                l.b(b, s.K, 8 * q, 8 * j), wkv7_product<MODE>(X[j], U[q], b);
                l.b(b, s.K, L + 8 * q, 8 * j), wkv7_product<MODE>(X[j], V[q], b);
            }
#pragma unroll
            for (int x = 0; x < 4; x++) X[j][x] *= s.last[8 * j + l.t + x % 2];
        }
        __syncthreads();                     // nobody reads Q, K, M, T any more
        if constexpr (Around::inside) around.leave(staged, f, seq, h, t0, n);
    }
    if (f.state_out)
#pragma unroll
        for (int x = 0; x < 4 * J; x++) {
            int i = i0 + x % 4 / 2 * 8, j = x / 4 * 8 + l.t + x % 2;
            if (exists(i, j)) f.state_out[f.state(seq, h) + i * f.N + j] = X[x / 4][x % 4];
        }
}

// Backward of a chunk, with G = [Z; dY] (the gradients of what Q X^T + M [U; V] gives) and D = dL/dX after the chunk:
//
//   [dU; dV] = K D^T + M^T G, Z = T^T (the b rows without Z's own part)     dM = mask(G [U; V]^T)
//   dQ = G X + dM K      dK = [U; V] D + dM^T Q      dX = D + G^T Q
//   dl_t = sum_i X dX + sum_{s<t} (k dk + b db - r dr)_s - sum_{s<=t} (a da)_s     what flows over the decay of step t
//
// U and Z are by value channel: 16 of them a warp. What has key channels (dQ, dK, D) is, transposed, with the warp of
// 16 key channels; D stays there in registers, and goes to shared memory once a chunk for K D^T. A block has V of the N
// value channels; if that is not all, its dr dw dk da db are partial sums, and a second kernel adds them.
// Gradients by key channel go to their tensors, or, from one of several slices of the value channels, to its partial sums.
__device__ inline void wkv7_put(const Wkv7BackwardArgs &g, bool whole, int64_t at, real dr, real dw, real dk, real da, real db) {
    if (whole) g.dr[at] = (floatX)dr, g.dw[at] = (floatX)dw, g.dk[at] = (floatX)dk, g.da[at] = (floatX)da, g.db[at] = (floatX)db;
    else {
        const int64_t n = (int64_t)g.f.B * g.f.T * g.f.H * g.f.N;
        real *p = g.f.scratch + blockIdx.z * 5 * n + at;
        p[0] = dr, p[n] = dw, p[2 * n] = dk, p[3 * n] = da, p[4 * n] = db;
    }
}
template<int N, int L, int V, class Around = Wkv7Bare> struct Wkv7Backward {
    static constexpr size_t bytes = sizeof(real) * (Wkv7Keys<N, L>::count + (4 * L + N) * WKV7_PITCH<V> + Around::template backward_room<N, L>);
};
template<Wkv7Mode MODE, int N, int L, int V, bool FULL, class Around> __global__ void __launch_bounds__(N * 2, N <= 64 ? 2 : 1) wkv7_chunk_backward_kernel(Wkv7BackwardArgs g, Around around) {
    if constexpr (FULL) g.f.N = N, g.f.reset = nullptr;
    extern __shared__ real wkv7_room[];
    const Wkv7Args &f = g.f;
    real *room = wkv7_room;
    const Wkv7Keys<N, L> s(room, true);
    constexpr int F = L / 8, J = N / 8, I = V / 8, PV = WKV7_PITCH<V>;
    const Wkv7Tile<PV> W{room}, G{room + 2 * L * PV}, DT{room + 4 * L * PV};  // [U; V] (2L,V), [Z; dY] (2L,V), D^T (N,V)
    const Wkv7Tile<2 * L> dM = s.M;         // M has been read when dM is made
    constexpr int LN = L * s.PN, LV = L * PV;  // w and dv lie in the place of D^T, before and after it is there
    const Wkv7Staged<N, L> staged = {{s.Q.p}, {s.Q.p + LN}, {s.K.p}, {s.K.p + LN}, {DT.p}, {W.p + LV}, {G.p + LV}, {DT.p}, s.slope, DT.p + N * PV};
    if constexpr (Around::inside) around.begin(staged);
    const Wkv7Lane l;
    constexpr int threads = 2 * N;
    const int h = blockIdx.x, seq = blockIdx.y, slice = V == N ? 0 : blockIdx.z * V, warp0 = threadIdx.x / 32 * 16, j0 = warp0 + l.g;
    auto exists = [&](int i, int j = 0) { return FULL || max(i, j) < f.N; };
    real D[I][4];                            // D^T: rows are key channels of this warp
#pragma unroll
    for (int x = 0; x < 4 * I; x++) {
        int i = slice + x / 4 * 8 + l.t + x % 2, j = j0 + x % 4 / 2 * 8;
        D[x / 4][x % 4] = g.dstate_out && exists(i, j) ? g.dstate_out[f.state(seq, h) + i * f.N + j] : real(0);
    }
    for (int t0 = (f.T - 1) / L * L; t0 >= 0; t0 -= L) {
        const int n = FULL ? L : min(L, f.T - t0);
        const Wkv7Resets<L> resets(f, seq, t0, n);
        const real *kept = f.kept(seq, h, t0 / L, L);
        auto fragment = [&](int i, int j) { return kept + (FULL ? wkv7_fragment(N, i, j) : wkv7_fragment(f.N, min(i, f.N - 8), min(j, f.N - 8))); };
        auto X_at = [&](real S, int i, int j) { return wkv7_round<MODE>(exists(i, j) ? S * s.center[j] : real(0)); };
        if constexpr (Around::inside) {
            around.template enter<MODE>(staged, f, seq, h, t0, n);
            __syncthreads();                 // a, r, b, k, w are complete
        }
        constexpr int OWN = L * V / threads;  // numbers of V, and of dY, that a thread brings
        floatX raw_v[OWN], raw_dy[OWN];      // under way while Q and K are made; past the end: the last again
        if constexpr (!Around::inside)
#pragma unroll
            for (int q = 0; q < OWN; q++) {
                const int x = threadIdx.x + q * threads;
                const int64_t at = f.at(seq, t0 + min(x / V, n - 1), h) + (FULL ? slice + x % V : min(slice + x % V, f.N - 1));
                raw_v[q] = f.v[at], raw_dy[q] = g.dy[at];
            }
        wkv7_prepare<MODE, Around>(s, staged, f, seq, h, t0, n, threads);
        if constexpr (!Around::inside)
#pragma unroll
            for (int q = 0; q < OWN; q++) {
                const int x = threadIdx.x + q * threads, t = x / V, i = x % V;
                const bool present = t < n && exists(slice + i);
                W(L + t, i) = present ? (real)raw_v[q] : real(0), G(L + t, i) = present ? (real)raw_dy[q] : real(0);
            }
        __syncthreads();                     // Q, K, c, V, dY are complete
        wkv7_masked<MODE, L, N>(s.M, s.Q, s.K, resets, threads);
#pragma unroll
        for (int x = 0; x < 4 * I; x++) {
            D[x / 4][x % 4] *= s.last[j0 + x % 4 / 2 * 8];
            DT(j0 + x % 4 / 2 * 8, x / 4 * 8 + l.t + x % 2) = wkv7_round<MODE>(D[x / 4][x % 4]);
        }
        __syncthreads();                     // M, D are complete
        Vec<4> S[J];                         // on its way while T is made
        if (warp0 < V)
#pragma unroll
            for (int j = 0; j < J; j++) S[j] = load<4>(fragment(slice + warp0, 8 * j) + threadIdx.x % 32 * 4);
        wkv7_invert<MODE>(s, threads);
        real b[2], P[F][4] = {}, KD[2 * F][4] = {};
        if (warp0 < V) {                     // value channels warp0 ..
#pragma unroll
            for (int j = 0; j < J; j++) {
                real a[4], d[4];
                l.a_transposed(d, DT, 8 * j, warp0);
#pragma unroll
                for (int x = 0; x < 4; x++) a[x] = X_at(S[j][x], slice + warp0 + l.g + x / 2 * 8, 8 * j + l.t + x % 2);
#pragma unroll
                for (int q = 0; q < F; q++) l.b_transposed(b, s.Q, 8 * q, 8 * j), wkv7_product<MODE>(P[q], a, b);
#pragma unroll
                for (int q = 0; q < 2 * F; q++) l.b_transposed(b, s.K, 8 * q, 8 * j), wkv7_product<MODE>(KD[q], d, b);
            }
            if (resets.bits) wkv7_keep(P, L, l, [&](int t) { return resets.from_start(t); }), wkv7_keep(KD, L, l, [&](int t) { return resets.to_end(t); });
#pragma unroll
            for (int p = 0; p < F; p++) {
                real v[4], dy[4];
                l.a_transposed(v, W, L + 8 * p, warp0), l.a_transposed(dy, G, L + 8 * p, warp0);
#pragma unroll
                for (int q = p; q < F; q++) l.b_transposed(b, s.M, 8 * q, L + 8 * p), wkv7_product<MODE>(P[q], v, b);
#pragma unroll
                for (int q = 0; q <= p; q++) {
                    l.b(b, s.M, L + 8 * p, 8 * q), wkv7_product<MODE>(KD[q], dy, b);
                    l.b(b, s.M, L + 8 * p, L + 8 * q), wkv7_product<MODE>(KD[F + q], dy, b);
                }
            }
        }
        __syncthreads();                     // T is complete
        if (warp0 < V) {
            real U[F][4] = {}, Z[F][4] = {};
            wkv7_round_all<MODE>(P);
#pragma unroll
            for (int q = 0; q < F; q++)
#pragma unroll
                for (int x = 0; x < 4; x++) KD[q][x] = wkv7_round<MODE>(KD[q][x]);
#pragma unroll
            for (int q = 0; q < F; q++)
#pragma unroll
                for (int p = 0; p <= q; p++) {
                    l.b_transposed(b, s.T, 8 * q, 8 * p), wkv7_product<MODE>(U[q], P[p], b);
                    l.b(b, s.T, 8 * q, 8 * p), wkv7_product<MODE>(Z[p], KD[q], b);
                }
            wkv7_round_all<MODE>(U), wkv7_round_all<MODE>(Z);
#pragma unroll
            for (int x = 0; x < 4 * F; x++) {
                int t = x / 4 * 8 + l.t + x % 2, i = warp0 + l.g + x % 4 / 2 * 8;
                W(t, i) = U[x / 4][x % 4], G(t, i) = Z[x / 4][x % 4];
            }
#pragma unroll
            for (int q = 0; q < F; q++)
#pragma unroll
                for (int p = q; p < F; p++) l.b(b, s.M, 8 * p, L + 8 * q), wkv7_product<MODE>(KD[F + q], Z[p], b);
#pragma unroll
            for (int x = 0; x < 4 * F; x++) {
                int t = x / 4 * 8 + l.t + x % 2, i = slice + warp0 + l.g + x % 4 / 2 * 8;
                if constexpr (Around::inside) staged.dv(t, i) = KD[F + x / 4][x % 4];
                else if (t < n && exists(i)) g.dv[f.at(seq, t0 + t, h) + i] = (floatX)KD[F + x / 4][x % 4];
            }
        }
        __syncthreads();                     // U, Z are complete
        real X[I][4];                        // of all value channels; on its way while dM is made
#pragma unroll
        for (int x = 0; x < 4 * I; x++) X[x / 4][x % 4] = fragment(slice + x / 4 * 8, warp0 + x % 4 / 2 * 8)[(l.t + x % 2) * 16 + l.g / 2 * 4 + x / 4 % 2 * 2 + l.g % 2];
        wkv7_masked<MODE, L, V>(dM, G, W, resets, threads);
        real dQ[2 * F][4] = {}, dK[2 * F][4] = {}, E[2] = {};  // transposed; E: sum_i X dX
#pragma unroll
        for (int m = 0; m < I; m++) {
#pragma unroll
            for (int x = 0; x < 4; x++) X[m][x] = X_at(X[m][x], slice + 8 * m + l.t + x % 2, j0 + x / 2 * 8);
            real d[4];
#pragma unroll
            for (int x = 0; x < 4; x++) d[x] = wkv7_round<MODE>(D[m][x]);
#pragma unroll
            for (int q = 0; q < 2 * F; q++) {
                l.b_transposed(b, G, 8 * q, 8 * m), wkv7_product<MODE>(dQ[q], X[m], b);
                l.b_transposed(b, W, 8 * q, 8 * m), wkv7_product<MODE>(dK[q], d, b);
            }
        }
        if (resets.bits) {
            wkv7_keep(dQ, L, l, [&](int t) { return resets.from_start(t); }), wkv7_keep(dK, L, l, [&](int t) { return resets.to_end(t); });
#pragma unroll
            for (int x = 0; x < 4 * I; x++) D[x / 4][x % 4] = 0;
        }
        __syncthreads();                     // dM is complete
#pragma unroll
        for (int p = 0; p < 2 * F; p++) {
            real k[4], q[4];
            l.a_transposed(k, s.K, 8 * p, warp0), l.a_transposed(q, s.Q, 8 * p, warp0);
#pragma unroll
            for (int t = 0; t < 2 * F; t++) {
                if (p % F <= t % F) l.b_transposed(b, dM, 8 * t, 8 * p), wkv7_product<MODE>(dQ[t], k, b);
                if (t % F <= p % F) l.b(b, dM, 8 * p, 8 * t), wkv7_product<MODE>(dK[t], q, b);
            }
            if (resets.bits)
#pragma unroll
                for (int x = 0; x < 4; x++) if (!resets.from_start((8 * p + l.t + x % 2) % L)) q[x] = 0;
#pragma unroll
            for (int m = 0; m < I; m++) l.b(b, G, 8 * p, 8 * m), wkv7_product<MODE>(D[m], q, b);
        }
#pragma unroll
        for (int x = 0; x < 4 * I; x++) {
            E[x % 4 / 2] += X[x / 4][x % 4] * D[x / 4][x % 4];
            D[x / 4][x % 4] *= s.center[j0 + x % 4 / 2 * 8];
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {        // key channel j; its 8 steps at a time are in the 4 lanes of a group
            const int j = j0 + 8 * r;
            real flow = E[r];
            flow += __shfl_xor_sync(~0u, flow, 1), flow += __shfl_xor_sync(~0u, flow, 2);
#pragma unroll
            for (int q = 0; q < F; q++) {
                real gain[2], used[2];       // k dk + b db - r dr - a da and a da of two steps
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int t = 8 * q + l.t + e, x = 2 * r + e;
                    used[e] = s.Q(t, j) * dQ[q][x];
                    gain[e] = s.K(L + t, j) * dK[F + q][x] + s.K(t, j) * dK[q][x] - s.Q(L + t, j) * dQ[F + q][x] - used[e];
                }
                real pair = gain[0] + gain[1], before = 0, all = 0;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    real x = __shfl_sync(~0u, pair, threadIdx.x % 32 / 4 * 4 + i);
                    if (2 * i < l.t) before += x;
                    all += x;
                }
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int t = 8 * q + l.t + e, x = 2 * r + e;
                    if (t >= n || !exists(j)) continue;
                    real now = s.E[(t + 1) * s.PN + j], back = reciprocal(Vec<1>(now))[0];
                    real dl = resets.at(t) ? real(0) : flow + before + (e ? gain[0] : real(0)) - used[e];
                    real dr = dQ[F + q][x] * now, dw = dl * s.slope[t * s.PN + j], dk = dK[F + q][x] * back, da = dQ[q][x] * s.E[t * s.PN + j], db = dK[q][x] * back;
                    if constexpr (Around::inside)  // this lane alone has read these five by now, the rest of its warp before the sums above
                        staged.r(t, j) = dr, staged.dw[t * s.PN + j] = dw, staged.k(t, j) = dk, staged.a(t, j) = da, staged.b(t, j) = db;
                    else wkv7_put(g, V == N || gridDim.z == 1, f.at(seq, t0 + t, h) + j, dr, dw, dk, da, db);
                }
                flow += all;
            }
        }
        __syncthreads();                     // nobody reads this chunk's shared memory any more
        if constexpr (Around::inside) around.leave(staged, f, seq, h, t0, n);
    }
    if (g.dstate_in)
#pragma unroll
        for (int x = 0; x < 4 * I; x++) {
            int i = slice + x / 4 * 8 + l.t + x % 2, j = j0 + x % 4 / 2 * 8;
            if (exists(i, j)) g.dstate_in[f.state(seq, h) + i * f.N + j] = D[x / 4][x % 4];
        }
    if constexpr (Around::inside) around.finish(staged, f, seq, h);
}
__global__ void wkv7_add_slices_kernel(Wkv7BackwardArgs g, int slices) {
    const int64_t n = (int64_t)g.f.B * g.f.T * g.f.H * g.f.N, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    real sum[5] = {};
    for (int z = 0; z < slices; z++)
        for (int x = 0; x < 5; x++) sum[x] += g.f.scratch[(z * 5 + x) * n + i];
    wkv7_put(g, true, i, sum[0], sum[1], sum[2], sum[3], sum[4]);
}
template<class Kernel> inline void wkv7_shared(Kernel *kernel, size_t bytes, int N) {
    allow_shared(kernel, bytes, N);
    cudaCheck(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100));  // percent: for all blocks that registers allow
}
// Heads of up to N channels, in `slices` blocks each; backward: in blocks of V value channels, with scratch if they are several
template<Wkv7Mode MODE, int N, int L, class Around = Wkv7Bare> inline void wkv7_chunk_forward(const Wkv7Args &f, int slices, cudaStream_t stream, const Around &around = {}) {
    size_t bytes = (Wkv7Keys<N, L>::forward_count + (Around::inside ? Wkv7Staged<N, L>::forward_count : 0) + Around::template forward_room<N, L>) * sizeof(real);
    auto kernel = wkv7_full<N, L>(f, slices) ? wkv7_chunk_forward_kernel<MODE, N, L, N == 64, Around> : wkv7_chunk_forward_kernel<MODE, N, L, false, Around>;
    wkv7_shared(kernel, bytes, f.N);
    kernel<<<dim3(f.H, f.B, slices), 2 * N / slices, bytes, stream>>>(f, around);
    launchCheck();
}
template<Wkv7Mode MODE, int N, int L, int V, class Around = Wkv7Bare> inline void wkv7_chunk_backward(const Wkv7BackwardArgs &g, cudaStream_t stream, const Around &around = {}) {
    size_t bytes = Wkv7Backward<N, L, V, Around>::bytes;
    int slices = ceil_div(g.f.N, V);
    auto kernel = wkv7_full<N, L>(g.f, 1) ? wkv7_chunk_backward_kernel<MODE, N, L, V, N == 64, Around> : wkv7_chunk_backward_kernel<MODE, N, L, V, false, Around>;
    wkv7_shared(kernel, bytes, g.f.N);
    kernel<<<dim3(g.f.H, g.f.B, slices), 2 * N, bytes, stream>>>(g, around);
    if (slices > 1) wkv7_add_slices_kernel<<<ceil_div((int64_t)g.f.B * g.f.T * g.f.H * g.f.N, 256), 256, 0, stream>>>(g, slices);
    launchCheck();
}
inline int64_t wkv7_slice_count(int B, int T, int H, int N, int V) { return N > V ? (int64_t)ceil_div(N, V) * 5 * B * T * H * N : 0; }

#ifndef CPU_SHAPES
// ------------------------------------------------------------------------------------------------
// GPU: chunks of 16, heads of up to 32, 64 and 128 channels; those between are padded with zeros, which costs time only.
// Forward is cut into more blocks while there are fewer than processors. Backward has all value channels of a head in a block,
// which makes its partial sums unnecessary, if they are up to 64, shared memory has room, and there are heads enough.

inline int wkv7_values(int B, int H, int N) {
    bool room = device().sharedMemPerBlockOptin >= Wkv7Backward<64, WKV7_CHUNK, 64>::bytes, many = 2 * B * H > device().multiProcessorCount;
    return N > 32 && N <= 64 && room && many ? 64 : 32;
}
inline int64_t wkv7_scratch_count(int B, int T, int H, int N) {  // for batches of up to B: smaller ones may be cut where B is not
    int cut = B;
    while (cut && wkv7_values(cut, H, N) >= N) cut--;
    return wkv7_slice_count(cut, T, H, N, wkv7_values(cut, H, N));
}
inline void wkv7_forward(const Wkv7Args &f, cudaStream_t stream) {
    int width = f.N <= 32 ? 32 : f.N <= 64 ? 64 : 128, slices = 1;
    while (f.B * f.H * slices < device().multiProcessorCount && width > 16 * slices) slices *= 2;
    if (width == 32) wkv7_chunk_forward<WKV7_MODE, 32, WKV7_CHUNK>(f, slices, stream);
    else if (width == 64) wkv7_chunk_forward<WKV7_MODE, 64, WKV7_CHUNK>(f, slices, stream);
    else wkv7_chunk_forward<WKV7_MODE, 128, WKV7_CHUNK>(f, slices, stream);
}
inline void wkv7_backward(const Wkv7BackwardArgs &g, cudaStream_t stream) {
    const int N = g.f.N, V = wkv7_values(g.f.B, g.f.H, N);
    if (N <= 32) wkv7_chunk_backward<WKV7_MODE, 32, WKV7_CHUNK, 32>(g, stream);
    else if (N <= 64 && V == 64) wkv7_chunk_backward<WKV7_MODE, 64, WKV7_CHUNK, 64>(g, stream);
    else if (N <= 64) wkv7_chunk_backward<WKV7_MODE, 64, WKV7_CHUNK, 32>(g, stream);
    else wkv7_chunk_backward<WKV7_MODE, 128, WKV7_CHUNK, 32>(g, stream);
}
#endif

#ifdef CPU_SHAPES
// ------------------------------------------------------------------------------------------------
// CPU: the recurrence row by row. One thread has one head of one sequence; rows of S do not see each other, so four at
// a time go through 16 steps while they and the inputs of those steps lie in the first-level cache. (In chunks of
// matrix products, as on the GPU, it is the same number of multiplications.)
// A reset is a decay of 0 and a = 0: nothing in the inner loops knows of it.

constexpr int WKV7_LANES = NATIVE;           // N is a multiple of 16, and so of every SIMD register
constexpr int WKV7_ROWS = sizeof(real) == 8 ? 2 : 4;  // a fifth faster than 2; in fp64 more do not fit shared memory
typedef Vec<WKV7_LANES> Wkv7Vec;
enum Wkv7Input { WKV7_W, WKV7_A, WKV7_B, WKV7_K, WKV7_R, WKV7_V, WKV7_G, WKV7_INPUTS };  // W: e^l, G: dy

struct Wkv7Stage { real *x[WKV7_INPUTS]; };  // the inputs of 16 steps of a head, (16,N) each
inline Wkv7Stage wkv7_stage(real *&room, int N, int inputs) {
    Wkv7Stage s = {};
    for (int i = 0; i < inputs; i++) s.x[i] = room, room += WKV7_CHUNK * N;
    return s;
}
inline Wkv7Vec wkv7_decay(Wkv7Vec z) { return exp2v(z * (-WKV7_DECAY * LOG2E)); }  // e^l, z = sigmoid(w)
inline void wkv7_read_chunk(const Wkv7Stage &s, const Wkv7Args &f, const floatX *dy, int seq, int h, int t0, int n) {
    const floatX *from[WKV7_INPUTS] = {f.w, f.a, f.b, f.k, f.r, f.v, dy};
    for (int t = 0; t < n; t++) {
        bool first = f.first(seq, t0 + t);
        for (int j = 0; j < f.N; j += WKV7_LANES) {
            int64_t at = f.at(seq, t0 + t, h) + j;
            int to = t * f.N + j;
            for (int i = WKV7_A; i < WKV7_INPUTS; i++) if (from[i]) store(s.x[i] + to, load<WKV7_LANES>(from[i] + at));
            store(s.x[WKV7_W] + to, first ? Wkv7Vec(0) : wkv7_decay(sigmoid(load<WKV7_LANES>(from[WKV7_W] + at))));
            if (first) store(s.x[WKV7_A] + to, Wkv7Vec(0));
        }
    }
}
// Rows i .. of the state through one step: S -> next (may be S), u = S a known, u of the next step and y come back.
struct Wkv7Rows { real u[WKV7_ROWS], y[WKV7_ROWS]; };
template<bool READ> inline Wkv7Rows wkv7_step(real *next, const real *S, const Wkv7Stage &s, const real *u, int i, int t, int n, int N) {
    const int to = t * N, following = (t + 1 < n ? t + 1 : t) * N;
    Wkv7Vec au[WKV7_ROWS], ay[WKV7_ROWS];
    for (int q = 0; q < WKV7_ROWS; q++) au[q] = 0, ay[q] = 0;
    for (int j = 0; j < N; j += WKV7_LANES) {
        Wkv7Vec w = load<WKV7_LANES>(s.x[WKV7_W] + to + j), b = load<WKV7_LANES>(s.x[WKV7_B] + to + j), k = load<WKV7_LANES>(s.x[WKV7_K] + to + j);
        Wkv7Vec a = load<WKV7_LANES>(s.x[WKV7_A] + following + j), r = READ ? load<WKV7_LANES>(s.x[WKV7_R] + to + j) : w;
        for (int q = 0; q < WKV7_ROWS; q++) {
            Wkv7Vec x = load<WKV7_LANES>(S + q * N + j) * w + b * u[q] + k * s.x[WKV7_V][to + i + q];
            store(next + q * N + j, x);
            au[q] += x * a;
            if (READ) ay[q] += x * r;
        }
    }
    Wkv7Rows out;
    for (int q = 0; q < WKV7_ROWS; q++) out.u[q] = sum(au[q]), out.y[q] = READ ? sum(ay[q]) : 0;
    return out;
}
inline Wkv7Rows wkv7_first(const real *S, const real *a, int N) {  // u of a chunk's first step
    Wkv7Rows out;
    for (int q = 0; q < WKV7_ROWS; q++) {
        Wkv7Vec s = 0;
        for (int j = 0; j < N; j += WKV7_LANES) s += load<WKV7_LANES>(S + q * N + j) * load<WKV7_LANES>(a + j);
        out.u[q] = sum(s);
    }
    return out;
}

__global__ void wkv7_forward_kernel(Wkv7Args f) {
    extern __shared__ real wkv7_room[];
    const int h = blockIdx.x, seq = blockIdx.y, N = f.N;
    real *S = wkv7_room, *room = S + N * N;
    Wkv7Stage s = wkv7_stage(room, N, WKV7_G);
    for (int i = 0; i < N * N; i++) S[i] = f.state_in ? f.state_in[f.state(seq, h) + i] : 0;
    for (int t0 = 0; t0 < f.T; t0 += WKV7_CHUNK) {
        const int n = min(WKV7_CHUNK, f.T - t0);
        if (f.states) memcpy(f.kept(seq, h, t0 / WKV7_CHUNK), S, N * N * sizeof(real));
        wkv7_read_chunk(s, f, nullptr, seq, h, t0, n);
        for (int i = 0; i < N; i += WKV7_ROWS) {
            Wkv7Rows x = wkv7_first(S + i * N, s.x[WKV7_A], N);
            for (int t = 0; t < n; t++) {
                x = wkv7_step<true>(S + i * N, S + i * N, s, x.u, i, t, n, N);
                for (int q = 0; q < WKV7_ROWS; q++) s.x[WKV7_V][t * N + i + q] = x.y[q];  // v_i is not needed any more
            }
        }
        for (int t = 0; t < n; t++)
            for (int j = 0; j < N; j += WKV7_LANES) store(f.y + f.at(seq, t0 + t, h) + j, load<WKV7_LANES>(s.x[WKV7_V] + t * N + j));
    }
    if (f.state_out) memcpy(f.state_out + f.state(seq, h), S, N * N * sizeof(real));
}

// Backward. D = dL/dS after the step, with what y_t adds: D += dy r. Then
//
//   dr = S_t^T dy   dl = e^l sum_i D S_{t-1}   dk = D^T v   dv = D k   db = D^T u   du = D b   da = S_{t-1}^T du   D <- D e^l + du a
//
// The states of a chunk's 16 steps are made again from the kept one, WKV7_ROWS at a time, and never by dividing by e^l.
__global__ void wkv7_backward_kernel(Wkv7BackwardArgs x) {
    extern __shared__ real wkv7_room[];
    const Wkv7Args &f = x.f;
    const int h = blockIdx.x, seq = blockIdx.y, N = f.N, CN = WKV7_CHUNK * N;
    real *D = f.scratch + f.state(seq, h), *room = wkv7_room;
    Wkv7Stage s = wkv7_stage(room, N, WKV7_INPUTS);
    real *dr = room, *dw = dr + CN, *dk = dw + CN, *db = dk + CN, *da = db + CN, *S = da + CN;  // S (17,ROWS,N)
    real *dv = s.x[WKV7_V];  // v_i is read for the last time just before dv_i is known
    for (int i = 0; i < N * N; i++) D[i] = x.dstate_out ? x.dstate_out[f.state(seq, h) + i] : 0;
    for (int t0 = (f.T - 1) / WKV7_CHUNK * WKV7_CHUNK; t0 >= 0; t0 -= WKV7_CHUNK) {
        const int n = min(WKV7_CHUNK, f.T - t0), RN = WKV7_ROWS * N;
        wkv7_read_chunk(s, f, x.dy, seq, h, t0, n);
        memset(dr, 0, 5 * CN * sizeof(real));
        for (int i = 0; i < N; i += WKV7_ROWS) {
            Wkv7Rows u[WKV7_CHUNK + 1];
            memcpy(S, f.kept(seq, h, t0 / WKV7_CHUNK) + i * N, RN * sizeof(real));
            u[0] = wkv7_first(S, s.x[WKV7_A], N);
            for (int t = 0; t < n; t++) u[t + 1] = wkv7_step<false>(S + (t + 1) * RN, S + t * RN, s, u[t].u, i, t, n, N);
            for (int t = n - 1; t >= 0; t--) {
                const int to = t * N;
                const real *before = S + t * RN, *after = before + RN, *g = s.x[WKV7_G] + to + i, *v = s.x[WKV7_V] + to + i;
                Wkv7Vec av[WKV7_ROWS], au[WKV7_ROWS];
                real du[WKV7_ROWS];
                for (int q = 0; q < WKV7_ROWS; q++) av[q] = 0, au[q] = 0;
                for (int j = 0; j < N; j += WKV7_LANES) {
                    Wkv7Vec r = load<WKV7_LANES>(s.x[WKV7_R] + to + j), k = load<WKV7_LANES>(s.x[WKV7_K] + to + j), b = load<WKV7_LANES>(s.x[WKV7_B] + to + j);
                    Wkv7Vec ar = load<WKV7_LANES>(dr + to + j), aw = load<WKV7_LANES>(dw + to + j), ak = load<WKV7_LANES>(dk + to + j), ab = load<WKV7_LANES>(db + to + j);
                    for (int q = 0; q < WKV7_ROWS; q++) {
                        Wkv7Vec d = load<WKV7_LANES>(D + (i + q) * N + j) + r * g[q];
                        store(D + (i + q) * N + j, d);
                        ar += load<WKV7_LANES>(after + q * N + j) * g[q], aw += d * load<WKV7_LANES>(before + q * N + j);
                        ak += d * v[q], ab += d * u[t].u[q], av[q] += d * k, au[q] += d * b;
                    }
                    store(dr + to + j, ar), store(dw + to + j, aw), store(dk + to + j, ak), store(db + to + j, ab);
                }
                for (int q = 0; q < WKV7_ROWS; q++) dv[to + i + q] = sum(av[q]), du[q] = sum(au[q]);
                for (int j = 0; j < N; j += WKV7_LANES) {
                    Wkv7Vec w = load<WKV7_LANES>(s.x[WKV7_W] + to + j), a = load<WKV7_LANES>(s.x[WKV7_A] + to + j), aa = load<WKV7_LANES>(da + to + j);
                    for (int q = 0; q < WKV7_ROWS; q++) {
                        aa += load<WKV7_LANES>(before + q * N + j) * du[q];
                        store(D + (i + q) * N + j, load<WKV7_LANES>(D + (i + q) * N + j) * w + a * du[q]);
                    }
                    store(da + to + j, aa);
                }
            }
        }
        for (int t = 0; t < n; t++)
            for (int j = 0; j < N; j += WKV7_LANES) {
                int64_t at = f.at(seq, t0 + t, h) + j;
                int from = t * N + j;
                bool first = f.first(seq, t0 + t);
                Wkv7Vec w = load<WKV7_LANES>(f.w + at), e = exp2v((relu(w) + relu(w * real(-1))) * -LOG2E), z = reciprocal(real(1) + e);
                store(x.dr + at, load<WKV7_LANES>(dr + from)), store(x.dk + at, load<WKV7_LANES>(dk + from));
                store(x.dv + at, load<WKV7_LANES>(dv + from)), store(x.db + at, load<WKV7_LANES>(db + from));
                store(x.dw + at, first ? Wkv7Vec(0) : load<WKV7_LANES>(dw + from) * e * z * z * wkv7_decay(sigmoid(w)) * -WKV7_DECAY);  // z (1 - z) has no digits left at large w
                store(x.da + at, first ? Wkv7Vec(0) : load<WKV7_LANES>(da + from));
            }
    }
    if (x.dstate_in) memcpy(x.dstate_in + f.state(seq, h), D, N * N * sizeof(real));
}

inline int64_t wkv7_scratch_count(int B, int, int H, int N) { return wkv7_state_count(B, H, N); }  // D
inline void wkv7_forward(const Wkv7Args &f, cudaStream_t stream) {
    size_t bytes = (size_t)(f.N + WKV7_G * WKV7_CHUNK) * f.N * sizeof(real);
    allow_shared(wkv7_forward_kernel, bytes, f.N);
    wkv7_forward_kernel<<<dim3(f.H, f.B), 1, bytes, stream>>>(f);
    launchCheck();
}
inline void wkv7_backward(const Wkv7BackwardArgs &x, cudaStream_t stream) {
    size_t bytes = (size_t)((WKV7_INPUTS + 5) * WKV7_CHUNK + (WKV7_CHUNK + 1) * WKV7_ROWS) * x.f.N * sizeof(real);  // fp64, N 128: 226 of 227 KB
    allow_shared(wkv7_backward_kernel, bytes, x.f.N);
    wkv7_backward_kernel<<<dim3(x.f.H, x.f.B), 1, bytes, stream>>>(x);
    launchCheck();
}
#endif

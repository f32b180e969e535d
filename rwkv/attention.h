/* rwkv/attention.h: causal self-attention of H heads without a T x T matrix ("flash attention", arXiv 2205.14135).

       s_ij = scale q_i k_j  (j <= i)    p_ij = e^(s_ij - L_i),  L_i = log sum_j e^s_ij    out_i = sum_j m_ij p_ij v_j
       D_i = dout_i out_i    dp_ij = m_ij dout_i v_j    ds_ij = p_ij (dp_ij - D_i)
       dv_j = sum_i m_ij p_ij dout_i    dk_j = scale sum_i ds_ij q_i    dq_i = scale sum_j ds_ij k_j

   m is the dropout mask: 0 with probability `dropout`, otherwise 1/(1 - dropout). Forward walks over tiles of keys with a
   running maximum and keeps L alone; backward makes p again from it, once for dk and dv (a block owns keys) and once for dq
   (a block owns queries), so that nothing is summed by atomics: the same bits every time.
   All exponents are in base 2: s is multiplied by scale log2(e), and lse is L log2(e).

   q, k, v are views: head h of token (b,t) begins at (b T + t) row + h D. Packed (B,T,3C): k = q + C, v = q + 2C, row = 3C;
   three (B,T,C) buffers: row = C. T and B are free, D is even and at most 128 (64 and 128 fill their tiles; 32, too), row is even.
   defines: AttentionArgs, attention_forward, attention_backward, attention_scratch,
            AttentionCache, attention_cached, attention_append, attention_cached_scratch */
#pragma once
#include "cuda.h"
#include "mma.h"
#include "rng.h"

struct AttentionArgs {
    const floatX *q, *k, *v;
    int64_t row;                      // elements from one token to the next in q, k, v (and dq, dk, dv)
    floatX *out;                      // (B,T,H D)
    real *lse;                        // (B,H,T), written by forward and read by backward; null: not wanted
    int B, T, H, D;
    real scale;                       // 1/sqrt(D)
    real dropout = 0;                 // probability
    const uint64_t *draw = nullptr;   // on the device: which mask, a number of its own for every micro-step
    int layer = 0;                    // layers have masks of their own
};

// ------------------------------------------------------------------------------------------------
// Dropout. m_ij is a function of (draw, layer, b, h, i, j). One call of philox gives the four elements of {i, i+8} x
// {j, j+8}, which the tensor-core kernels have in one thread, whichever of queries and keys are their rows.
struct AttentionMask {
    uint64_t key, bh;
    uint32_t threshold;
    real keep;                        // 1/(1 - dropout)

    __device__ AttentionMask(const AttentionArgs &a, int bh) : key(0), bh(bh), threshold(0), keep(1) {
        if (a.dropout == 0) return;
        Random128 r = philox(0, *a.draw, 0xa77e0000u + (uint64_t)a.layer);
        key = (uint64_t)r.x[1] << 32 | r.x[0], threshold = (uint32_t)(a.dropout * 4294967296.0), keep = 1 / (1 - a.dropout);
    }
    // for (i,j), (i,j+8), (i+8,j), (i+8,j+8), where i % 16 < 8 and j % 16 < 8
    __device__ Random128 group(int i, int j) const {
        return philox(key, (uint64_t)(i / 16 * 8 + i % 8) << 32 | (uint32_t)(j / 16 * 8 + j % 8), bh);
    }
    __device__ real at(int i, int j) const {
        Random128 r = group(i, j);
        uint32_t low = j & 8 ? r.x[1] : r.x[0], high = j & 8 ? r.x[3] : r.x[2];
        return (i & 8 ? high : low) < threshold ? real(0) : keep;
    }
};

// ------------------------------------------------------------------------------------------------
// The exact path, in `real`: what fp32 and fp64 use, and every type on the CPU.
//
// A block owns F items (queries, or keys in backward) and walks over tiles of S items of the other kind ("rows"). All its
// matrices have the owned items as their last dimension, the lanes of the vector unit: scores [S][F], sums [D][F]. So softmax is
// arithmetic between vectors, and both products are R rows x W lanes of sums in registers that take scalars from a row and
// one vector at a time. Threads share the pieces of a product; on the CPU a block is one thread, and waits for nobody.

constexpr int ROWS = 4;                               // of a piece: ROWS * LANES sums in registers
#ifdef CPU_SHAPES
constexpr int LANES = 2 * NATIVE, SOFTMAX_LANES = LANES, GROUP = 1, EXACT_SHARED = 227 << 10;
constexpr bool ROWS_FIRST = true;                     // neighbouring pieces have their lanes in common: they stay in L1
#else
constexpr int LANES = 4, SOFTMAX_LANES = 1, GROUP = 32, EXACT_SHARED = 64 << 10;  // what sm_75 has
constexpr bool ROWS_FIRST = false;                    // neighbouring threads read neighbouring lanes
#endif
constexpr int EXACT_THREADS = 128;

template<int W> struct VecParts { static constexpr int n = sizeof(Vec<W>::v) / sizeof(Vec<W>().v[0]); };
#define FOR_PARTS _Pragma("unroll") for (int n = 0; n < VecParts<W>::n; n++)
template<int W> __device__ inline void add_product(Vec<W> &sum, real a, const Vec<W> &b) { FOR_PARTS sum.v[n] += a * b.v[n]; }  // one FMA each
template<int W> __device__ inline Vec<W> larger(Vec<W> a, const Vec<W> &b) { FOR_PARTS a.v[n] = a.v[n] > b.v[n] ? a.v[n] : b.v[n]; return a; }
// a where x <= y, else b
template<int W> __device__ inline Vec<W> where_ordered(const Vec<W> &x, const Vec<W> &y, Vec<W> a, const Vec<W> &b) {
    FOR_PARTS a.v[n] = x.v[n] <= y.v[n] ? a.v[n] : b.v[n];
    return a;
}
template<int W> __device__ inline Vec<W> count_from(int first) {  // first, first + 1, ...; exact up to 2^24
    return each<W>([&](int i) { return real(first + i); });
}
template<int W> __device__ inline Vec<W> mask_lanes(const AttentionMask &mask, int i, int j, bool lanes_are_keys) {
    return each<W>([&](int l) { return lanes_are_keys ? mask.at(i, j + l) : mask.at(i + l, j); });
}

// Calls f(row, lane) for the pieces of a matrix of `rows` x F
template<int F, class Body> __device__ inline void for_pieces(int rows, Body f) {
    constexpr int across = F / LANES;
    int down = (rows + ROWS - 1) / ROWS;
    for (int i = threadIdx.x; i < down * across; i += blockDim.x)
        f((ROWS_FIRST ? i % down : i / across) * ROWS, (ROWS_FIRST ? i / down : i % across) * LANES);
}
// sum[r] += x_(row + r) y, over d < n: x rows of n scalars, y [n][F] at its first lane
template<int F> __device__ inline void multiply_rows(Vec<LANES> (&sum)[ROWS], const real *x, const real *y, int n) {
#ifdef CPU_SHAPES
    constexpr int STEP = 1;
#else
    constexpr int STEP = 4;                           // scalars at a load
#endif
    for (int d = 0; d < n; d += STEP) {
        Pack<real, STEP> a[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) a[r] = *(const Pack<real, STEP> *)(x + r * n + d);
#pragma unroll
        for (int s = 0; s < STEP; s++) {
            Vec<LANES> b = load<LANES>(y + (d + s) * F);
#pragma unroll
            for (int r = 0; r < ROWS; r++) add_product(sum[r], a[r].x[s], b);
        }
    }
}
// sum[r] += x[j][r] y[j], over first <= j < last: x at its first column, rows of `stride`; y [..][F] at its first lane
template<int F> __device__ inline void multiply_columns(Vec<LANES> (&sum)[ROWS], const real *x, int stride, const real *y, int first, int last) {
    for (int j = first; j < last; j++) {
        Pack<real, ROWS> a = *(const Pack<real, ROWS> *)(x + j * stride);
        Vec<LANES> b = load<LANES>(y + j * F);
#pragma unroll
        for (int r = 0; r < ROWS; r++) add_product(sum[r], a.x[r], b);
    }
}
// n rows of a view as [n][P], zeros from D to P
template<class X> __device__ inline void stage_rows(real *to, const X *from, int64_t row, int n, int D, int P) {
    for (int j = threadIdx.x / GROUP; j < n; j += blockDim.x / GROUP)
        for (int d = threadIdx.x % GROUP; d < P; d += GROUP) to[j * P + d] = d < D ? (real)from[j * row + d] : real(0);
}
// n rows of a view, times c, as [P][F]; lanes that are not there are zero
template<int F> __device__ inline void stage_lanes(real *to, const floatX *from, int64_t row, int n, int D, int P, real c) {
    for (int f = threadIdx.x; f < F; f += blockDim.x)
        for (int d = 0; d < P; d++) to[d * F + f] = f < n && d < D ? (real)from[f * row + d] * c : real(0);
}
// [P][F], lane f times factor[f] (null: times c), to n rows of a view
template<int F> __device__ inline void store_lanes(floatX *to, int64_t row, const real *from, const real *factor, real c, int n, int D) {
    for (int f = threadIdx.x / GROUP; f < n; f += blockDim.x / GROUP)
        for (int d = threadIdx.x % GROUP; d < D; d += GROUP) to[f * row + d] = (floatX)(from[d * F + f] * (factor ? factor[f] : c));
}
inline __host__ __device__ int padded_head(int D) { return (D + 3) / 4 * 4; }

// Keys and values, of type floatX beside the queries or `real` in a cache
template<class X> struct AttentionKeys {
    const X *k, *v;
    int64_t row, sequence;            // elements from token to token, from sequence to sequence
    const int *past;                  // on the device: keys before the first query; null: none
};

template<int F, int S> inline __host__ __device__ int forward_shared(int P) { return (2 * F * P + S * (P + F) + 3 * F) * (int)sizeof(real); }
template<int F, int S, class X> __global__ void __launch_bounds__(EXACT_THREADS) attention_forward_exact_kernel(AttentionArgs a, AttentionKeys<X> keys) {
    extern __shared__ __align__(16) unsigned char attention_room[];
    int D = a.D, P = padded_head(D), tiles = (a.T + F - 1) / F, tile = tiles - 1 - blockIdx.x % tiles, bh = blockIdx.x / tiles, b = bh / a.H, h = bh % a.H;
    real *q = (real *)attention_room, *sums = q + P * F, *rows = sums + P * F, *scores = rows + S * P;
    real *most = scores + S * F, *total = most + F, *factor = total + F;  // of each lane; factor: what the sums so far are to be multiplied by
    int first = tile * F, n = min(F, a.T - first), position = first + (keys.past ? *keys.past : 0);  // of lane 0 among the keys
    const X *k = keys.k + b * keys.sequence + h * D, *v = keys.v + b * keys.sequence + h * D;
    AttentionMask mask(a, bh);
    stage_lanes<F>(q, a.q + ((int64_t)b * a.T + first) * a.row + h * D, a.row, n, D, P, a.scale * LOG2E);
    for (int i = threadIdx.x; i < P * F; i += blockDim.x) sums[i] = 0;
    for (int i = threadIdx.x; i < F; i += blockDim.x) most[i] = -INFINITY, total[i] = 0;
    for (int at = 0; at < position + n; at += S) {    // keys at .. at + S
        int here = min(S, position + n - at);
        auto seen = [&](int lane, int width) { return min(here, position + lane + width - at); };  // rows that one of these lanes sees
        __syncthreads();                              // the values of the tile before are no longer read
        stage_rows(rows, k + (int64_t)at * keys.row, keys.row, here, D, P);
        __syncthreads();                              // keys (and at first queries) are there
        for_pieces<F>(here, [&](int row, int lane) {
            if (row >= seen(lane, LANES)) return;
            Vec<LANES> s[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) s[r] = 0;
            multiply_rows<F>(s, rows + row * P, q + lane, P);
#pragma unroll
            for (int r = 0; r < ROWS; r++) store(scores + (row + r) * F + lane, s[r]);
        });
        __syncthreads();                              // all scores are there, the keys are no longer read
        stage_rows(rows, v + (int64_t)at * keys.row, keys.row, here, D, P);
        for (int lane = threadIdx.x * SOFTMAX_LANES; lane < F; lane += blockDim.x * SOFTMAX_LANES) {
            typedef Vec<SOFTMAX_LANES> V;
            constexpr int W = SOFTMAX_LANES;
            int end = seen(lane / LANES * LANES, LANES), all = min(end, position + lane - at + 1);  // what the product reads; the first lane sees `all` of them
            V before = load<W>(most + lane), m = before, i = count_from<W>(position + lane);
            for (int j = 0; j < end; j++) {
                V s = load<W>(scores + j * F + lane);
                if (j >= all) store(scores + j * F + lane, s = where_ordered(V(real(at + j)), i, s, V(-INFINITY)));
                m = larger(m, s);
            }
            V c = exp2v(before - m), t = load<W>(total + lane) * c;
            for (int j = 0; j < end; j++) {
                V p = exp2v(load<W>(scores + j * F + lane) - m);
                t += p;
                if (mask.threshold) p = p * mask_lanes<W>(mask, position + lane, at + j, false);
                store(scores + j * F + lane, p);
            }
            store(most + lane, m), store(total + lane, t), store(factor + lane, c);
        }
        __syncthreads();                              // probabilities and values are there
        for_pieces<F>(P, [&](int d, int lane) {
            Vec<LANES> o[ROWS], c = load<LANES>(factor + lane);
#pragma unroll
            for (int r = 0; r < ROWS; r++) o[r] = load<LANES>(sums + (d + r) * F + lane) * c;
            multiply_columns<F>(o, rows + d, P, scores + lane, 0, seen(lane, LANES));
#pragma unroll
            for (int r = 0; r < ROWS; r++) store(sums + (d + r) * F + lane, o[r]);
        });
    }
    __syncthreads();                                  // before factor is written and sums of other threads are read
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        factor[i] = 1 / total[i];
        if (a.lse) a.lse[(int64_t)bh * a.T + first + i] = most[i] + log2(total[i]);
    }
    __syncthreads();                                  // factor is complete
    store_lanes<F>(a.out + ((int64_t)b * a.T + first) * a.H * D + h * D, (int64_t)a.H * D, sums, factor, 0, n, D);
}

// Backward: where a block owns keys (KEYS), the rows are queries from the diagonal on, and it makes dk and dv; where it owns
// queries, the rows are keys up to the diagonal, and it makes dq.
struct AttentionBackwardArgs {
    AttentionArgs f;
    const floatX *dout;               // (B,T,H D)
    real *D;                          // (B,H,T)
    floatX *dq, *dk, *dv;             // views as q, k, v
};
template<int F, int S> inline __host__ __device__ int backward_shared(int P) { return (4 * F * P + 2 * S * (P + F) + 2 * F) * (int)sizeof(real); }
template<int F, int S, bool KEYS> __global__ void __launch_bounds__(EXACT_THREADS, 4) attention_backward_exact_kernel(AttentionBackwardArgs g) {
    extern __shared__ __align__(16) unsigned char attention_room[];
    const AttentionArgs &a = g.f;
    int D = a.D, P = padded_head(D), tiles = (a.T + F - 1) / F, tile = blockIdx.x % tiles, bh = blockIdx.x / tiles, b = bh / a.H, h = bh % a.H;
    if (!KEYS) tile = tiles - 1 - tile;               // the longest first
    real *x1 = (real *)attention_room, *x2 = x1 + P * F, *sum1 = x2 + P * F, *sum2 = sum1 + P * F;  // k or q, v or dout; dk or dq, dv
    real *y1 = sum2 + P * F, *y2 = y1 + S * P, *p = y2 + S * P, *ds = p + S * F, *lse = ds + S * F, *delta = lse + F;
    int first = tile * F, n = min(F, a.T - first);
    int64_t C = (int64_t)a.H * D, at0 = (int64_t)b * a.T * a.row + h * D, out0 = (int64_t)b * a.T * C + h * D;
    const real *all_lse = a.lse + (int64_t)bh * a.T, *all_delta = g.D + (int64_t)bh * a.T;
    AttentionMask mask(a, bh);
    stage_lanes<F>(x1, (KEYS ? a.k : a.q) + at0 + first * a.row, a.row, n, D, P, a.scale * LOG2E);
    if (KEYS) stage_lanes<F>(x2, a.v + at0 + first * a.row, a.row, n, D, P, 1);
    else stage_lanes<F>(x2, g.dout + out0 + first * C, C, n, D, P, 1);
    for (int i = threadIdx.x; i < P * F; i += blockDim.x) sum1[i] = 0, sum2[i] = 0;
    if (!KEYS) for (int i = threadIdx.x; i < F; i += blockDim.x) lse[i] = all_lse[first + min(i, n - 1)], delta[i] = all_delta[first + min(i, n - 1)];
    int stop = KEYS ? a.T : first + n;
    for (int at = KEYS ? first : 0; at < stop; at += S) {
        int here = min(S, stop - at);
        auto begin = [&](int lane) { return KEYS ? max(0, first + lane - at) : 0; };                      // rows that one of these lanes
        auto end = [&](int lane) { return KEYS ? here : min(here, first + lane + LANES - at); };          // has to do with
        __syncthreads();                              // the rows of the tile before are no longer read
        stage_rows(y1, (KEYS ? a.q : a.k) + at0 + at * a.row, a.row, here, D, P);
        if (KEYS) stage_rows(y2, g.dout + out0 + at * C, C, here, D, P);
        else stage_rows(y2, a.v + at0 + at * a.row, a.row, here, D, P);
        __syncthreads();                              // the rows of this tile are there (at first also x1, x2, sums, lse and delta)
        for_pieces<F>(here, [&](int row, int lane) {
            if (row + ROWS <= begin(lane) || row >= end(lane)) return;
            typedef Vec<LANES> V;
            V s[ROWS], i = count_from<LANES>(first + lane);
            bool diagonal = KEYS ? first + lane + LANES > at + row : first + lane < at + row + ROWS;
            auto stat = [&](const real *lanes, const real *all, int r) { return KEYS ? V(all[min(at + row + r, a.T - 1)]) : load<LANES>(lanes + lane); };
#pragma unroll
            for (int r = 0; r < ROWS; r++) s[r] = 0;
            multiply_rows<F>(s, y1 + row * P, x1 + lane, P);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                V e = exp2v(s[r] - stat(lse, all_lse, r)), t = real(at + row + r);
                if (diagonal) e = where_ordered(KEYS ? i : t, KEYS ? t : i, e, V(0));
                store(p + (row + r) * F + lane, e);
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++) s[r] = 0;
            multiply_rows<F>(s, y2 + row * P, x2 + lane, P);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                V e = load<LANES>(p + (row + r) * F + lane);
                if (mask.threshold) {
                    V m = mask_lanes<LANES>(mask, KEYS ? at + row + r : first + lane, KEYS ? first + lane : at + row + r, KEYS);
                    s[r] = s[r] * m;
                    if (KEYS) store(p + (row + r) * F + lane, e * m);
                }
                store(ds + (row + r) * F + lane, e * (s[r] - stat(delta, all_delta, r)));
            }
        });
        __syncthreads();                              // p and ds are there
        for_pieces<F>(P, [&](int d, int lane) {
            auto accumulate = [&](real *sum, const real *x, const real *y) {
                Vec<LANES> o[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; r++) o[r] = load<LANES>(sum + (d + r) * F + lane);
                multiply_columns<F>(o, x + d, P, y + lane, begin(lane), end(lane));
#pragma unroll
                for (int r = 0; r < ROWS; r++) store(sum + (d + r) * F + lane, o[r]);
            };
            accumulate(sum1, y1, ds);
            if (KEYS) accumulate(sum2, y2, p);
        });
    }
    __syncthreads();                                  // all sums are there
    store_lanes<F>((KEYS ? g.dk : g.dq) + at0 + first * a.row, a.row, sum1, nullptr, a.scale, n, D);
    if (KEYS) store_lanes<F>(g.dv + at0 + first * a.row, a.row, sum2, nullptr, 1, n, D);
}

// D_i = dout_i out_i, by 8 lanes each with W elements at a time, so that a warp reads what lies side by side. On the CPU a thread.
#ifdef CPU_SHAPES
constexpr int DELTA_LANES = 1;
#else
constexpr int DELTA_LANES = 8;
#endif
template<int W> __global__ void attention_delta_kernel(real *delta, const floatX *dout, const floatX *out, int64_t n, int T, int H, int D) {
    const int lane = threadIdx.x % DELTA_LANES;
    const int64_t own = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / DELTA_LANES, i = min(own, n - 1);  // (b,t,h); all lanes shuffle
    real s = 0;
    for (int64_t d = i * D + lane * W; d < (i + 1) * D; d += DELTA_LANES * W) s += sum(load<W>(dout + d) * load<W>(out + d));
    for (int o = DELTA_LANES / 2; o; o /= 2) s += __shfl_xor_sync(~0u, s, o);
    if (own < n && lane == 0) delta[((i / H / T) * H + i % H) * T + i / H % T] = s;
}

// ------------------------------------------------------------------------------------------------
// Tensor cores, for 16-bit types. A warp owns M times 16 items as the rows of its scores; the items of the other kind come by in
// tiles of shared memory. Scores become p or ds in the registers where the next product takes them from (rwkv/mma.h), so p never
// is in memory at all. This is why backward makes the scores twice, with keys and with queries as rows: seven products instead
// of five, but none of them waits for the other warps, and no sum is shared.

#if defined(PRECISION_BF16) || defined(PRECISION_FP16)
constexpr int MMA_WARPS = 4, MMA_THREADS = 32 * MMA_WARPS;
template<int P, bool DROPOUT = false> struct MmaShape {                    // P: the head size, padded
    static constexpr int M = P <= 64 && !DROPOUT ? 2 : 1;                   // 2 halves the reads of shared memory; philox needs the registers
    static constexpr int ROWS = 16 * M * MMA_WARPS;                         // of a block
    static constexpr int LD = P + 8;                                        // elements of a row in shared memory
    static constexpr int KEYS = 64;                                         // forward: keys at a time
    static constexpr int TILE = P <= 64 ? 32 : 16;                          // backward: items at a time. More do not fit sm_75's 64 KB,
    static constexpr int FORWARD_BYTES = (ROWS + 2 * KEYS) * LD * (int)sizeof(floatX);                                // nor the registers
    static constexpr int BACKWARD_BYTES = 2 * (ROWS + 2 * TILE) * LD * (int)sizeof(floatX) + 4 * TILE * (int)sizeof(real);
};

// N rows of a view as [N][P + 8], zeros where it has none. Whole chunks of 8 where everything is aligned to them.
template<int P, int N> __device__ inline void load_tile(floatX *to, const floatX *from, int64_t row, int n, int D, bool aligned) {
#pragma unroll
    for (int i = threadIdx.x; i < N * P / 8; i += MMA_THREADS) {
        int r = i / (P / 8), c = i % (P / 8) * 8;
        floatX *x = to + r * MmaShape<P>::LD + c;
        if (aligned && r < n && c < D) cp_async<16>(x, from + r * row + c);
        else if (aligned) *(float4 *)x = float4{0, 0, 0, 0};
        else for (int e = 0; e < 8; e++) x[e] = r < n && c + e < D ? from[r * row + c + e] : (floatX)0.f;
    }
}
template<int M, int N> __device__ inline void clear(float (&x)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++) x[m][n][0] = x[m][n][1] = x[m][n][2] = x[m][n][3] = 0;
}
// s = x y^T: x 16 M rows, y 8 N rows, of P
template<int P, int M, int N> __device__ inline void multiply_tiles(float (&s)[M][N][4], const floatX *x, const floatX *y) {
    clear(s);
#pragma unroll
    for (int k = 0; k < P; k += 16) {
        uint32_t a[M][4], b[4];
#pragma unroll
        for (int m = 0; m < M; m++) load_a(a[m], x + m * 16 * MmaShape<P>::LD + k, MmaShape<P>::LD);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            load_b(b, y + n * 8 * MmaShape<P>::LD + k, MmaShape<P>::LD);
#pragma unroll
            for (int m = 0; m < M; m++) mma(s[m][n], a[m], b, floatX()), mma(s[m][n + 1], a[m], b + 2, floatX());
        }
    }
}
// o += p y: p 16 M x 8 N as scores lie in registers, y 8 N rows of P
template<int P, int M, int N> __device__ inline void accumulate_tiles(float (&o)[M][P / 8][4], const float (&p)[M][N][4], const floatX *y) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        uint32_t a[M][4], b[4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int r = 0; r < 4; r++) a[m][r] = pack_pair(p[m][n + r / 2][r % 2 * 2], p[m][n + r / 2][r % 2 * 2 + 1], floatX());
#pragma unroll
        for (int d = 0; d < P; d += 16) {
            load_b_transposed(b, y + n * 8 * MmaShape<P>::LD + d, MmaShape<P>::LD);
#pragma unroll
            for (int m = 0; m < M; m++) mma(o[m][d / 8], a[m], b, floatX()), mma(o[m][d / 8 + 1], a[m], b + 2, floatX());
        }
    }
}
// o, times factor(m, 0) for rows 0..7 and factor(m, 1) for rows 8..15, to n rows of a view
template<int P, int M, class Factor> __device__ inline void store_tiles(floatX *to, int64_t row, const float (&o)[M][P / 8][4], int n, int D, Factor factor) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int r = m * 16 + half * 8 + g;
            float f = factor(m, half);
#pragma unroll
            for (int d = 0; d < P / 8; d++)
                if (r < n && d * 8 + t < D) *(uint32_t *)(to + r * row + d * 8 + t) = pack_pair(o[m][d][half * 2] * f, o[m][d][half * 2 + 1] * f, floatX());
        }
}
// The mask of the four elements that a thread has in two neighbouring tiles of scores: keep[tile][half] for rows + 8 half
struct MaskGroup { real keep[2][2]; };
__device__ inline MaskGroup mask_group(const AttentionMask &mask, int row, int column, bool rows_are_keys) {
    Random128 r = rows_are_keys ? mask.group(column, row) : mask.group(row, column);
    auto keep = [&](uint32_t x) { return x < mask.threshold ? real(0) : mask.keep; };
    real second = keep(r.x[1]), third = keep(r.x[2]);  // (i, j+8), (i+8, j)
    return {{{keep(r.x[0]), rows_are_keys ? second : third}, {rows_are_keys ? third : second, keep(r.x[3])}}};
}
__device__ inline real quad_sum(real x) { return x += __shfl_xor_sync(~0u, x, 1), x + __shfl_xor_sync(~0u, x, 2); }
__device__ inline real quad_max(real x) { return x = fmax(x, __shfl_xor_sync(~0u, x, 1)), fmax(x, __shfl_xor_sync(~0u, x, 2)); }
__device__ inline real exp2_one(real x) { return exp2v(Vec<1>(x))[0]; }

template<int P, bool DROPOUT> __global__ void __launch_bounds__(MMA_THREADS, 2) attention_forward_mma_kernel(AttentionArgs a, bool aligned) {
    typedef MmaShape<P, DROPOUT> Z;
    constexpr int M = Z::M, TILE = Z::KEYS, N = TILE / 8;
    extern __shared__ __align__(16) unsigned char attention_room[];
    floatX *q = (floatX *)attention_room, *k = q + Z::ROWS * Z::LD, *v = k + TILE * Z::LD;
    int tiles = (a.T + Z::ROWS - 1) / Z::ROWS, tile = tiles - 1 - blockIdx.x % tiles, bh = blockIdx.x / tiles, b = bh / a.H, h = bh % a.H;
    int first = tile * Z::ROWS, own = threadIdx.x / 32 * 16 * M, mine = first + own, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4 * 2;
    int stop = min(a.T, first + Z::ROWS);
    int64_t at0 = (int64_t)b * a.T * a.row + h * a.D;
    const real c = a.scale * LOG2E;
    AttentionMask mask(a, bh);
    float o[M][P / 8][4];
    real most[M][2], total[M][2];
    clear(o);
#pragma unroll
    for (int m = 0; m < M; m++) most[m][0] = most[m][1] = -INFINITY, total[m][0] = total[m][1] = 0;
    load_tile<P, Z::ROWS>(q, a.q + at0 + first * a.row, a.row, a.T - first, a.D, aligned);
    load_tile<P, TILE>(k, a.k + at0, a.row, a.T, a.D, aligned);
    cp_async_commit();
    for (int at = 0; at < stop; at += TILE) {
        bool busy = at < mine + 16 * M;               // otherwise all keys come after this warp's queries
        float s[M][N][4];
        cp_async_wait<0>();
        __syncthreads();                              // keys are there, the values of the tile before are no longer read
        load_tile<P, TILE>(v, a.v + at0 + at * a.row, a.row, a.T - at, a.D, aligned);
        cp_async_commit();
        if (busy) multiply_tiles<P>(s, q + own * Z::LD, k);
        cp_async_wait<0>();
        __syncthreads();                              // values are there, the keys are no longer read
        if (at + TILE < stop) load_tile<P, TILE>(k, a.k + at0 + (at + TILE) * a.row, a.row, a.T - at - TILE, a.D, aligned);
        cp_async_commit();
        if (!busy) continue;
#pragma unroll
        for (int m = 0; m < M; m++) {
            int i = mine + m * 16 + g;
            if (at + TILE > mine)             // on the diagonal
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) if (at + n * 8 + t + e % 2 > i + e / 2 * 8) s[m][n][e] = -INFINITY;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                real before = most[m][half], x = -INFINITY, sum = 0;
#pragma unroll
                for (int n = 0; n < N; n++) x = fmax(x, fmax(s[m][n][half * 2], s[m][n][half * 2 + 1]));
                x = most[m][half] = fmax(before, quad_max(x) * c);
                real shrink = exp2_one(before - x);
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int e = half * 2; e < half * 2 + 2; e++) sum += s[m][n][e] = exp2_one(s[m][n][e] * c - x);
                total[m][half] = total[m][half] * shrink + sum;
#pragma unroll
                for (int d = 0; d < P / 8; d++) o[m][d][half * 2] *= shrink, o[m][d][half * 2 + 1] *= shrink;
            }
            if (DROPOUT)
#pragma unroll
                for (int n = 0; n < N; n += 2)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        MaskGroup x = mask_group(mask, i, at + n * 8 + t + e, false);
#pragma unroll
                        for (int r = 0; r < 4; r++) s[m][n + r / 2][r % 2 * 2 + e] *= x.keep[r / 2][r % 2];
                    }
        }
        accumulate_tiles<P>(o, s, v);
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = mine + m * 16 + half * 8 + g;
            real sum = quad_sum(total[m][half]);
            if (a.lse && t == 0 && i < a.T) a.lse[(int64_t)bh * a.T + i] = most[m][half] + log2(sum);
            total[m][half] = 1 / sum;
        }
    int64_t C = (int64_t)a.H * a.D;
    store_tiles<P>(a.out + ((int64_t)b * a.T + mine) * C + h * a.D, C, o, a.T - mine, a.D, [&](int m, int half) { return total[m][half]; });
}

// As in the exact kernel: KEYS says what a block owns, and what its tiles y1, y2 are.
template<int P, bool KEYS, bool DROPOUT> __global__ void __launch_bounds__(MMA_THREADS, 2) attention_backward_mma_kernel(AttentionBackwardArgs p, bool aligned) {
    typedef MmaShape<P, DROPOUT> Z;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    constexpr int STEP = 16;                          // of a tile at a time: two mma for one take more registers
#else
    constexpr int STEP = Z::TILE;
#endif
    constexpr int M = Z::M, TILE = Z::TILE, N = STEP / 8;
    extern __shared__ __align__(16) unsigned char attention_room[];
    const AttentionArgs &a = p.f;
    floatX *x1 = (floatX *)attention_room, *x2 = x1 + Z::ROWS * Z::LD, *tiles_y = x2 + Z::ROWS * Z::LD;  // two stages of y1, y2
    real *stats = (real *)(tiles_y + 4 * TILE * Z::LD);  // KEYS: two stages of lse and D of the queries of a tile
    int tiles = (a.T + Z::ROWS - 1) / Z::ROWS, tile = blockIdx.x % tiles, bh = blockIdx.x / tiles, b = bh / a.H, h = bh % a.H;
    if (!KEYS) tile = tiles - 1 - tile;               // the longest first
    int first = tile * Z::ROWS, own = threadIdx.x / 32 * 16 * M, mine = first + own, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4 * 2;
    int64_t C = (int64_t)a.H * a.D, at0 = (int64_t)b * a.T * a.row + h * a.D, out0 = (int64_t)b * a.T * C + h * a.D;
    const real *lse = a.lse + (int64_t)bh * a.T, *delta = p.D + (int64_t)bh * a.T, c = a.scale * LOG2E;
    AttentionMask mask(a, bh);
    float sum1[M][P / 8][4], sum2[M][KEYS ? P / 8 : 1][4];  // dk or dq, dv
    real own_lse[M][2], own_delta[M][2];
    clear(sum1), clear(sum2);
    if (!KEYS)
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int i = min(mine + m * 16 + half * 8 + g, a.T - 1);
                own_lse[m][half] = lse[i], own_delta[m][half] = delta[i];
            }
    auto load_rows = [&](int at, int stage) {
        floatX *y = tiles_y + stage * 2 * TILE * Z::LD;
        load_tile<P, TILE>(y, (KEYS ? a.q : a.k) + at0 + at * a.row, a.row, a.T - at, a.D, aligned);
        load_tile<P, TILE>(y + TILE * Z::LD, KEYS ? p.dout + out0 + at * C : a.v + at0 + at * a.row, KEYS ? C : a.row, a.T - at, a.D, aligned);
        cp_async_commit();
        for (int i = threadIdx.x; KEYS && i < TILE; i += MMA_THREADS)  // where there is no query, p = 2^-inf = 0
            stats[stage * 2 * TILE + i] = at + i < a.T ? lse[at + i] : INFINITY, stats[(stage * 2 + 1) * TILE + i] = delta[min(at + i, a.T - 1)];
    };
    load_tile<P, Z::ROWS>(x1, (KEYS ? a.k : a.q) + at0 + first * a.row, a.row, a.T - first, a.D, aligned);
    load_tile<P, Z::ROWS>(x2, KEYS ? a.v + at0 + first * a.row : p.dout + out0 + first * C, KEYS ? a.row : C, a.T - first, a.D, aligned);
    int start = KEYS ? first : 0, stop = KEYS ? a.T : min(a.T, first + Z::ROWS), stage = 0;
    load_rows(start, 0);
    for (int at = start; at < stop; at += TILE, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();                              // this tile is there, the one before is no longer read
        if (at + TILE < stop) load_rows(at + TILE, stage ^ 1);
        if (KEYS ? at + TILE <= mine : at >= mine + 16 * M) continue;  // nothing but queries before this warp's keys
#pragma unroll 1
        for (int part = 0; part < TILE; part += STEP) {
            const floatX *y1 = tiles_y + (stage * 2 * TILE + part) * Z::LD, *y2 = y1 + TILE * Z::LD;
            const real *tile_lse = stats + stage * 2 * TILE + part, *tile_delta = tile_lse + TILE;
            float s[M][N][4], d[M][N][4];
            bool diagonal = KEYS ? at < mine + 16 * M : at + TILE > mine;
            multiply_tiles<P>(s, x1 + own * Z::LD, y1);
            multiply_tiles<P>(d, x2 + own * Z::LD, y2);
#pragma unroll
            for (int m = 0; m < M; m++) {
                int row = mine + m * 16 + g;
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {         // s = p
                        int r = row + e / 2 * 8, column = n * 8 + t + e % 2;
                        s[m][n][e] = exp2_one(s[m][n][e] * c - (KEYS ? tile_lse[column] : own_lse[m][e / 2]));
                        if (diagonal && (KEYS ? r > at + part + column : r < at + part + column)) s[m][n][e] = 0;
                    }
                auto finish = [&](int n, int e, real keep) {  // d = ds, s = m p
                    real D = KEYS ? tile_delta[n * 8 + t + e % 2] : own_delta[m][e / 2];
                    d[m][n][e] = s[m][n][e] * (keep * d[m][n][e] - D), s[m][n][e] *= keep;
                };
#pragma unroll
                for (int n = 0; n < N; n += 2)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        MaskGroup x = {{{1, 1}, {1, 1}}};
                        if (DROPOUT) x = mask_group(mask, row, at + part + n * 8 + t + e, KEYS);
#pragma unroll
                        for (int r = 0; r < 4; r++) finish(n + r / 2, r % 2 * 2 + e, x.keep[r / 2][r % 2]);
                    }
            }
            if constexpr (KEYS) accumulate_tiles<P>(sum2, s, y2);
            accumulate_tiles<P>(sum1, d, y1);
        }
    }
    store_tiles<P>((KEYS ? p.dk : p.dq) + at0 + mine * a.row, a.row, sum1, a.T - mine, a.D, [&](int, int) { return a.scale; });
    if constexpr (KEYS) store_tiles<P>(p.dv + at0 + mine * a.row, a.row, sum2, a.T - mine, a.D, [](int, int) { return real(1); });
}
#endif

// ------------------------------------------------------------------------------------------------
// A few queries and many keys, which are in a cache. A block takes one query of one head and CACHE_CHUNK keys, and leaves a
// maximum, a sum and a weighted sum of values; a second kernel joins the chunks. The chunks that a query has not reached leave
// at once, so the launch, and a graph with it, is the same for every token.

struct AttentionCache {
    real *k, *v;                      // (B,positions,H D)
    int positions;
    const int *past;                  // on the device: tokens in the cache so far
};
constexpr int CACHE_CHUNK = 256, CACHE_QUERIES = 8;   // with more queries than that, tiles of them share the keys

__global__ void attention_append_kernel(AttentionArgs a, AttentionCache cache) {
    int t = blockIdx.x, b = blockIdx.y, C = a.H * a.D, at = *cache.past + t;
    if (at >= cache.positions) return;
    int64_t from = ((int64_t)b * a.T + t) * a.row, to = ((int64_t)b * cache.positions + at) * C;
    for (int c = threadIdx.x; c < C; c += blockDim.x) cache.k[to + c] = a.k[from + c], cache.v[to + c] = a.v[from + c];
}
template<int W> __global__ void attention_chunk_kernel(AttentionArgs a, AttentionCache cache, real *partial, int chunks) {
    alignas(16) __shared__ real q[128], p[CACHE_CHUNK], parts[EXACT_THREADS * W];  // read by vectors
    __shared__ BlockRoom room;
    int chunk = blockIdx.x % chunks, i = blockIdx.x / chunks, t = i % a.T, h = i / a.T % a.H, b = i / a.T / a.H, C = a.H * a.D, turn = 0;  // i: (b,h,t)
    int first = chunk * CACHE_CHUNK, n = min(CACHE_CHUNK, min(cache.positions, *cache.past + t + 1) - first), D = a.D;
    if (n <= 0) return;
    int64_t at = ((int64_t)b * cache.positions + first) * C + h * D;
    const floatX *from = a.q + ((int64_t)b * a.T + t) * a.row + h * D;
    real *to = partial + (int64_t)blockIdx.x * (D + 2), most[1] = {-INFINITY}, total[1] = {0};
    for (int d = threadIdx.x; d < D; d += blockDim.x) q[d] = (real)from[d] * (a.scale * LOG2E);
    __syncthreads();                                  // q is there
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        Vec<W> s = 0;
        for (int d = 0; d < D; d += W) s += load<W>(q + d) * load<W>(cache.k + at + (int64_t)j * C + d);
        p[j] = sum(s), most[0] = fmax(most[0], p[j]);
    }
    block_max(most, room, turn);
    for (int j = threadIdx.x; j < n; j += blockDim.x) p[j] = exp2v(Vec<1>(p[j] - most[0]))[0], total[0] += p[j];
    block_sum(total, room, turn);
    __syncthreads();                                  // p is there, for a block of one warp too
    int across = D / W, groups = max(1, (int)blockDim.x / across);
    for (int x = threadIdx.x; x < across * groups; x += blockDim.x) {
        Vec<W> o = 0;
        for (int j = x / across; j < n; j += groups) o += p[j] * load<W>(cache.v + at + (int64_t)j * C + x % across * W);
        store(parts + x / across * D + x % across * W, o);
    }
    __syncthreads();                                  // the groups' parts are there
    for (int d = threadIdx.x; d < D; d += blockDim.x) {
        real o = 0;
        for (int g = 0; g < groups; g++) o += parts[g * D + d];
        to[d + 2] = o;
    }
    if (threadIdx.x == 0) to[0] = most[0], to[1] = total[0];
}
__global__ void attention_join_kernel(AttentionArgs a, AttentionCache cache, const real *partial, int chunks) {
    int i = blockIdx.x, t = i % a.T, h = i / a.T % a.H, b = i / a.T / a.H, n = min(chunks, (*cache.past + t) / CACHE_CHUNK + 1);
    const real *from = partial + (int64_t)i * chunks * (a.D + 2);
    real most = -INFINITY, total = 0;
    for (int c = 0; c < n; c++) most = fmax(most, from[c * (a.D + 2)]);
    for (int c = 0; c < n; c++) total += from[c * (a.D + 2) + 1] * exp2v(Vec<1>(from[c * (a.D + 2)] - most))[0];
    for (int d = threadIdx.x; d < a.D; d += blockDim.x) {
        real o = 0;
        for (int c = 0; c < n; c++) o += from[c * (a.D + 2) + 2 + d] * exp2v(Vec<1>(from[c * (a.D + 2)] - most))[0];
        a.out[(((int64_t)b * a.T + t) * a.H + h) * a.D + d] = (floatX)(o / total);
    }
}

// ------------------------------------------------------------------------------------------------
// Launchers

inline void attention_check(const AttentionArgs &a) {
    if (a.D < 2 || a.D > 128 || a.D % 2) fail("attention takes heads of an even size from 2 to 128, not %d", a.D);  // even: results leave in pairs
}
#ifdef CPU_SHAPES
constexpr int MOST_LANES = 64, EXACT_ROWS = 64;      // 64 x 64 floats are 16 KB; a block's matrices stay in L2, what a product reads in L1
#else
constexpr int MOST_LANES = 64, EXACT_ROWS = 32;
#endif
inline void attention_delta(const AttentionBackwardArgs &g, cudaStream_t stream) {
    const AttentionArgs &a = g.f;
    int64_t n = (int64_t)a.B * a.T * a.H;
    dispatch_width(channel_width(a.D), [&](auto W) {
        attention_delta_kernel<W.value><<<ceil_div(n * DELTA_LANES, 128), 128, 0, stream>>>(g.D, g.dout, a.out, n, a.T, a.H, a.D);
    });
    launchCheck();
}
template<int F = MOST_LANES, class X> inline void attention_forward_exact(const AttentionArgs &a, const AttentionKeys<X> &keys, cudaStream_t stream) {
    constexpr int S = std::min(F, EXACT_ROWS);
    int bytes = forward_shared<F, S>(padded_head(a.D));
    if constexpr (F > 16 && F > LANES) if (bytes > EXACT_SHARED) return attention_forward_exact<F / 2>(a, keys, stream);
    allow_shared(attention_forward_exact_kernel<F, S, X>, bytes, a.D);
    attention_forward_exact_kernel<F, S, X><<<ceil_div(a.T, F) * a.B * a.H, loop_threads(EXACT_THREADS), bytes, stream>>>(a, keys);
}
template<int F = MOST_LANES> inline void attention_backward_exact(const AttentionBackwardArgs &g, cudaStream_t stream) {
    constexpr int S = std::min(F, EXACT_ROWS);
    const AttentionArgs &a = g.f;
    int bytes = backward_shared<F, S>(padded_head(a.D)), blocks = ceil_div(a.T, F) * a.B * a.H;
    if constexpr (F > 16 && F > LANES) if (bytes > EXACT_SHARED) return attention_backward_exact<F / 2>(g, stream);
    allow_shared(attention_backward_exact_kernel<F, S, true>, bytes, a.D), allow_shared(attention_backward_exact_kernel<F, S, false>, bytes, a.D);
    attention_backward_exact_kernel<F, S, true><<<blocks, loop_threads(EXACT_THREADS), bytes, stream>>>(g);
    attention_backward_exact_kernel<F, S, false><<<blocks, loop_threads(EXACT_THREADS), bytes, stream>>>(g);
}

#if defined(PRECISION_BF16) || defined(PRECISION_FP16)
// Calls f with the head size in registers: 32, 64 or 128
template<int P = 128, class F> inline void dispatch_head_size(int D, F f) {
    if constexpr (P > 32) if (D <= P / 2) return dispatch_head_size<P / 2>(D, f);
    f(std::integral_constant<int, P>());
}
inline bool attention_aligned(const AttentionArgs &a, std::initializer_list<const floatX *> views) {
    bool aligned = a.D % 8 == 0 && a.row % 8 == 0;
    for (const floatX *p : views) aligned = aligned && (uintptr_t)p % 16 == 0;
    return aligned;
}
template<int P, bool DROPOUT> inline void attention_forward_mma(const AttentionArgs &a, cudaStream_t stream) {
    allow_shared(attention_forward_mma_kernel<P, DROPOUT>, MmaShape<P, DROPOUT>::FORWARD_BYTES, a.D);
    int blocks = ceil_div(a.T, MmaShape<P, DROPOUT>::ROWS) * a.B * a.H;
    attention_forward_mma_kernel<P, DROPOUT><<<blocks, MMA_THREADS, MmaShape<P, DROPOUT>::FORWARD_BYTES, stream>>>(a, attention_aligned(a, {a.q, a.k, a.v}));
}
template<int P, bool KEYS, bool DROPOUT> inline void attention_backward_mma(const AttentionBackwardArgs &g, cudaStream_t stream) {
    allow_shared(attention_backward_mma_kernel<P, KEYS, DROPOUT>, MmaShape<P, DROPOUT>::BACKWARD_BYTES, g.f.D);
    int blocks = ceil_div(g.f.T, MmaShape<P, DROPOUT>::ROWS) * g.f.B * g.f.H;
    attention_backward_mma_kernel<P, KEYS, DROPOUT><<<blocks, MMA_THREADS, MmaShape<P, DROPOUT>::BACKWARD_BYTES, stream>>>(g, attention_aligned(g.f, {g.f.q, g.f.k, g.f.v, g.dout}));
}
inline void attention_forward_tensor(const AttentionArgs &a, cudaStream_t stream) {
    dispatch_head_size(a.D, [&](auto P) { a.dropout ? attention_forward_mma<P.value, true>(a, stream) : attention_forward_mma<P.value, false>(a, stream); });
}
inline void attention_backward_tensor(const AttentionBackwardArgs &g, cudaStream_t stream) {
    dispatch_head_size(g.f.D, [&](auto P) {
        if (g.f.dropout) attention_backward_mma<P.value, true, true>(g, stream), attention_backward_mma<P.value, false, true>(g, stream);
        else attention_backward_mma<P.value, true, false>(g, stream), attention_backward_mma<P.value, false, false>(g, stream);
    });
}
#endif
#if (defined(PRECISION_BF16) || defined(PRECISION_FP16)) && !defined(CPU_SHAPES)  // the CPU has no tensor cores: there they are a test
#define ATTENTION_TENSOR
#endif

inline void attention_forward(const AttentionArgs &a, cudaStream_t stream) {
    attention_check(a);
#ifdef ATTENTION_TENSOR
    attention_forward_tensor(a, stream);
#else
    attention_forward_exact(a, AttentionKeys<floatX>{a.k, a.v, a.row, a.T * a.row, nullptr}, stream);
#endif
    launchCheck();
}
inline int64_t attention_scratch(int B, int T, int H) { return (int64_t)B * T * H; }  // numbers that backward needs
inline void attention_backward(const AttentionArgs &a, const floatX *dout, floatX *dq, floatX *dk, floatX *dv, real *scratch, cudaStream_t stream) {
    attention_check(a);
    AttentionBackwardArgs g = {a, dout, scratch, dq, dk, dv};
    attention_delta(g, stream);
#ifdef ATTENTION_TENSOR
    attention_backward_tensor(g, stream);
#else
    attention_backward_exact(g, stream);
#endif
    launchCheck();
}

inline int64_t attention_cached_scratch(int B, int T, int H, int D, int positions) {  // numbers, for up to T queries at a time
    return (int64_t)B * std::min(T, CACHE_QUERIES) * H * ceil_div(positions, CACHE_CHUNK) * (D + 2);
}
// Appends k and v of T new tokens to the cache; then their queries see all of it. No dropout, no lse. A prompt into an empty
// cache is faster with attention_append and attention_forward.
inline void attention_append(const AttentionArgs &a, const AttentionCache &cache, cudaStream_t stream) {
    attention_append_kernel<<<dim3(a.T, a.B), loop_threads(256), 0, stream>>>(a, cache);
    launchCheck();
}
inline void attention_cached(const AttentionArgs &a, const AttentionCache &cache, real *scratch, cudaStream_t stream) {
    attention_check(a);
    attention_append(a, cache, stream);
    int64_t C = (int64_t)a.H * a.D;
    if (a.T > CACHE_QUERIES) attention_forward_exact(a, AttentionKeys<real>{cache.k, cache.v, C, cache.positions * C, cache.past}, stream);
    else {
        int chunks = ceil_div(cache.positions, CACHE_CHUNK), queries = a.B * a.H * a.T;
        dispatch_width(channel_width(a.D), [&](auto W) {
            attention_chunk_kernel<W.value><<<queries * chunks, loop_threads(EXACT_THREADS), 0, stream>>>(a, cache, scratch, chunks);
        });
        attention_join_kernel<<<queries, loop_threads(128), 0, stream>>>(a, cache, scratch, chunks);
    }
    launchCheck();
}

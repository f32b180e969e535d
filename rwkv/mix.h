/* rwkv/mix.h: LayerNorm, token shift and mixes in one kernel, and relu^2: what the layers of RWKV-4 and RWKV-7 share.

       n_t = LayerNorm(x_t)    out_j,t = mu_j n_t + (1 - mu_j) n_{t-1}    j < M mixes; M = 0: out_0,t = n_t (ln_out)

   RWKV-4 stores mu_j, RWKV-7 stores 1 - mu_j, the weight of the token before (`of_previous`).
   One block walks rows t of one sequence, thread i holds W channels, n_{t-1} stays in registers; the row before
   its first is normalised again (a "halo" of one row in `rows`). The residual of the feed-forward layer below can be
   added on the way in: x + sigmoid(r) kv, so that it costs no pass of its own (RWKV-4).
   n_{-1} is the state (0 at the start of a sequence); a document's first token (reset) sees 0.
   defines: ATT_SHIFT, FFN_SHIFT, WKV_STATE, MixArgs, mix_forward, mix_backward, mix_blocks_most, relu2_forward, relu2_backward */
#pragma once
#include "norm.h"

constexpr int MAX_MIXES = 6;
enum { ATT_SHIFT, FFN_SHIFT, WKV_STATE };  // parts of a layer's state, in this order: (B,C) last n of att, of ffn; what wkv carries
struct MixArgs {
    const floatX *x;                  // (B,T,C) residual stream
    const floatX *r, *kv;             // (B,T,C) or null: the norm sees x + sigmoid(r) kv
    floatX *x_out;                    // (B,T,C) where that sum goes, another buffer than x: halos read x
    floatX *out[MAX_MIXES];           // (B,T,C) each
    const real *mu[MAX_MIXES];        // (C)
    const real *w, *b;                // (C) of the LayerNorm
    real *mean, *rstd;                // (B,T) kept for backward
    const real *state_in;             // (B,C) n of the token before, or null
    real *state_out;                  // (B,C) n of the last token, or null
    const uint8_t *reset;             // (B,T) nonzero: a document starts here; or null
    int T, C, rows;                   // rows: how many t a block walks
    bool of_previous;                 // mu holds 1 - mu_j
};
// mu_j of W channels
template<int W> __device__ inline Vec<W> mix_weight(const real *mu, bool of_previous) { return of_previous ? real(1) - load<W>(mu) : load<W>(mu); }
template<int W> struct MixRow { Vec<W> x, n; Stats s; };
template<int W> __device__ inline MixRow<W> mix_row(const MixArgs &a, int64_t row, int c, bool inside, BlockRoom &room, int &turn) {
    MixRow<W> m;
    m.x = 0;
    if (inside) {
        const int64_t i = row * a.C + c;
        Pack<floatX, W> x = load_pack<W>(a.x + i);
        if (a.kv) {
            Pack<floatX, W> r = load_pack<W>(a.r + i), kv = load_pack<W>(a.kv + i);  // all three under way before the first is used
            m.x = round_to_floatX(load<W>(x.x) + sigmoid(load<W>(r.x)) * load<W>(kv.x));
        } else m.x = load<W>(x.x);
    }
    m.s = row_stats(m.x, inside, a.C, room, turn);
    if (inside) m.n = (m.x - m.s.mean) * m.s.rstd * load<W>(a.w + c) + load<W>(a.b + c);
    return m;
}
template<int W, int M> __global__ void mix_forward_kernel(MixArgs a) {
    __shared__ BlockRoom room;
    int turn = 0, c = threadIdx.x * W, b = blockIdx.y, start = blockIdx.x * a.rows, end = min(start + a.rows, a.T);
    bool inside = c < a.C;
    Vec<W> before = 0;
    if (M && start) before = mix_row<W>(a, (int64_t)b * a.T + start - 1, c, inside, room, turn).n;
    else if (M && inside && a.state_in) before = load<W>(a.state_in + (int64_t)b * a.C + c);
    for (int t = start; t < end; t++) {
        int64_t row = (int64_t)b * a.T + t;
        MixRow<W> m = mix_row<W>(a, row, c, inside, room, turn);
        if (threadIdx.x == 0) a.mean[row] = m.s.mean, a.rstd[row] = m.s.rstd;
        if (!inside) continue;
        if (a.kv) store(a.x_out + row * a.C + c, m.x);
        if (M && a.reset && a.reset[row]) before = 0;
        if (M == 0) store(a.out[0] + row * a.C + c, m.n);
#pragma unroll
        for (int j = 0; j < M; j++) store(a.out[j] + row * a.C + c, before + mix_weight<W>(a.mu[j] + c, a.of_previous) * (m.n - before));
        before = m.n;
    }
    if (end == a.T && inside && a.state_out) store(a.state_out + (int64_t)b * a.C + c, before);
}

// Backward, from the last row of a block to its first, so that what n_t gives to row t+1 arrives in registers:
//
//   dn_t = sum_j mu_j dout_j,t + sum_j (1 - mu_j) dout_j,t+1      dmu_j += dout_j,t (n_t - n_{t-1})
//   dx_t += LayerNorm backward of dn_t
//
// n is made again from x and the kept statistics. dmu, dw, db leave as one partial row per block.
struct MixBackwardArgs {
    floatX *dx;                       // (B,T,C): dx = (add ? dx : 0) + ...
    bool add;
    const floatX *dout[MAX_MIXES], *x;
    const real *mu[MAX_MIXES], *w, *b, *mean, *rstd;
    const real *state_in, *dstate_out;   // (B,C) or null
    real *dstate_in;                     // (B,C) or null
    const uint8_t *reset;
    real *partial;                    // (blocks, M + 2, C): dmu_0 .., dw, db
    int T, C, rows;
    bool of_previous;
};
// The largest block of mix_backward, and with it its registers: 168 a thread for 384 threads (C = 3072), which three mixes
// of 8 channels need and six nearly. Beyond, a second instance has to do with 96 and spills up to 700 bytes; it reaches
// C = 5120, the widest official model's.
#ifdef CPU_SHAPES
constexpr int mix_threads(int, bool) { return 1024; }
#else
constexpr int mix_threads(int W, bool many) { return W < 4 ? 1024 : many ? 640 : 384; }
#endif
template<int W, int M, int THREADS> __global__ void __launch_bounds__(THREADS) mix_backward_kernel(MixBackwardArgs a) {
    __shared__ BlockRoom room;
    int turn = 0, c = threadIdx.x * W, b = blockIdx.y, start = blockIdx.x * a.rows, end = min(start + a.rows, a.T);
    bool inside = c < a.C;
    constexpr bool AHEAD = THREADS <= 384;            // registers for all dout of a row
    constexpr bool KEEP = M * W <= (AHEAD ? 16 : 24);  // mu in registers
    Vec<W> kept[KEEP ? M + 1 : 1], dmu[M + 1], dw = 0, db = 0, weight = 0, bias = 0, later = 0;
    auto read_mu = [&](int j) { return inside ? mix_weight<W>(a.mu[j] + c, a.of_previous) : Vec<W>(0); };
    auto mu = [&](int j) { return KEEP ? kept[KEEP ? j : 0] : read_mu(j); };
#pragma unroll
    for (int j = 0; j < M; j++) {
        dmu[j] = 0;
        if (KEEP) kept[KEEP ? j : 0] = read_mu(j);
    }
    if (inside) weight = load<W>(a.w + c), bias = load<W>(a.b + c);
    auto normed = [&](int64_t row) { return inside ? (load<W>(a.x + row * a.C + c) - a.mean[row]) * a.rstd[row] : Vec<W>(0); };
    int64_t row = (int64_t)b * a.T + end;  // later: what row `end` sends back to row end - 1
    if (M && inside && end == a.T && a.dstate_out) later = load<W>(a.dstate_out + (int64_t)b * a.C + c);
    if (M && inside && end < a.T && !(a.reset && a.reset[row]))
#pragma unroll
        for (int j = 0; j < M; j++) later += (real(1) - mu(j)) * load<W>(a.dout[j] + row * a.C + c);
    Vec<W> xh = normed(row - 1);
    for (int t = end - 1; t >= start; t--) {
        row = (int64_t)b * a.T + t;
        const bool first = a.reset && a.reset[row];
        // All that a row reads is under way before the first of it is used: one by one they are M + 2 trips to memory
        const int column = inside ? c : 0;  // an address for all: a branch would wait for its load
        const int64_t at = row * a.C + column, prior = t ? row - 1 : row;
        Pack<floatX, W> pd[AHEAD && M ? M : 1], px = load_pack<W>(a.x + prior * a.C + column), pdx;
        if (AHEAD)
#pragma unroll
            for (int j = 0; j < M; j++) pd[j] = load_pack<W>(a.dout[j] + at);
        if (a.add) pdx = load_pack<W>(a.dx + at);
        const real mean = a.mean[prior], rstd = a.rstd[prior], own_rstd = a.rstd[row];
        auto dout = [&](int j) { return !inside ? Vec<W>(0) : AHEAD ? load<W>(pd[AHEAD ? j : 0].x) : load<W>(a.dout[j] + at); };
        Vec<W> xh_before = inside && t ? (load<W>(px.x) - mean) * rstd : Vec<W>(0), before = 0, dn = later;
        if (inside && !first) {
            if (t) before = xh_before * weight + bias;
            else if (a.state_in) before = load<W>(a.state_in + (int64_t)b * a.C + c);
        }
        later = 0;
        if (M == 0 && inside) dn = load<W>(a.dout[0] + at);
#pragma unroll
        for (int j = 0; j < M; j++) {
            Vec<W> d = dout(j);
            Vec<W> m = mu(j);
            dn += m * d;
            if (!first) later += (real(1) - m) * d;
            dmu[j] += d * (xh * weight + bias - before);
        }
        dw += dn * xh, db += dn;
        Vec<W> dx = norm_backward_row(dn * weight, xh, own_rstd, inside, a.C, room, turn);
        if (inside) store(a.dx + row * a.C + c, a.add ? load<W>(pdx.x) + dx : dx);
        xh = xh_before;
    }
    if (!inside) return;
    if (M && start == 0 && a.dstate_in) store(a.dstate_in + (int64_t)b * a.C + c, later);
    real *p = a.partial + ((int64_t)b * gridDim.x + blockIdx.x) * (M + 2) * a.C + c;
#pragma unroll
    for (int j = 0; j < M; j++) store(p + j * a.C, a.of_previous ? real(-1) * dmu[j] : dmu[j]);
    store(p + M * a.C, dw), store(p + (M + 1) * a.C, db);
}

// Rows per block: enough blocks to fill the device, at least 8 rows so that the halo stays small.
inline int mix_rows(int B, int T) { return std::min(T, std::max(8, ceil_div((int64_t)B * T, busy_blocks()))); }
inline int mix_blocks(int B, int T) { return B * ceil_div(T, mix_rows(B, T)); }
// The most that (B, 1) ... (B, T) take: a last chunk that is shorter can need more blocks than a whole one.
inline int mix_blocks_most(int B, int T) { return std::min(B * ceil_div(T, 8), busy_blocks() + B); }

template<int M> void mix_forward(MixArgs a, int B, cudaStream_t stream) {
    int width = channel_width(a.C), threads = row_threads(a.C, width);
    a.rows = mix_rows(B, a.T);
    dispatch_width(width, [&](auto W) {
        mix_forward_kernel<W.value, M><<<dim3(ceil_div(a.T, a.rows), B), threads, 0, stream>>>(a);
    });
    launchCheck();
}
template<int M> void mix_backward(MixBackwardArgs a, int B, const SumTargets &grads, cudaStream_t stream) {
    int width = channel_width(a.C), threads = row_threads(a.C, width);
    a.rows = mix_rows(B, a.T);
    dim3 grid(ceil_div(a.T, a.rows), B);
    dispatch_width(width, [&](auto W) {
        constexpr int few = mix_threads(W, false), many = mix_threads(W, true);
        if (threads > many) fail("%d channels need blocks of %d threads, and backward has registers for %d: --dim must be at most 5120, and divisible by 8 above 1024", a.C, threads, many);
        if (threads <= few) mix_backward_kernel<W.value, M, few><<<grid, threads, 0, stream>>>(a);
        else mix_backward_kernel<W.value, M, many><<<grid, threads, 0, stream>>>(a);
    });
    launchCheck();
    column_sums(grads, a.partial, mix_blocks(B, a.T), M + 2, a.C, stream);
}

// ------------------------------------------------------------------------------------------------
// relu^2

// s = relu(k)^2 in place: only s is kept, because relu(k) = sqrt(s) is all that backward needs
template<int W> __global__ void relu2_forward_kernel(floatX *k, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= n) return;
    Vec<W> x = relu(load<W>(k + i));
    store(k + i, x * x);
}
// dk = ds * 2 sqrt(s), over ds
template<int W> __global__ void relu2_backward_kernel(floatX *ds, const floatX *s, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i < n) store(ds + i, load<W>(ds + i) * real(2) * sqrtv(load<W>(s + i)));
}
inline void relu2_forward(floatX *k, int64_t n, cudaStream_t stream) {
    elementwise(n, [&](auto W, int blocks, int threads) { relu2_forward_kernel<W.value><<<blocks, threads, 0, stream>>>(k, n); });
}
inline void relu2_backward(floatX *ds, const floatX *s, int64_t n, cudaStream_t stream) {
    elementwise(n, [&](auto W, int blocks, int threads) { relu2_backward_kernel<W.value><<<blocks, threads, 0, stream>>>(ds, s, n); });
}

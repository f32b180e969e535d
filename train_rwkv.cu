/* train_rwkv.cu: RWKV-4 (arXiv 2305.13048), trained from scratch or from an official checkpoint.

       make && ./prepare book.txt --tokenizer byte --out data/book && ./train_rwkv --train data/book_train.bin ...
       ./train_rwkv --help

   The model, for tokens x_t, with C channels and L layers (all sums per channel unless a matrix is named):

       x = ln0(emb[token])
       L times:  x += att(ln1(x));  x += ffn(ln2(x))
       logits = head ln_out(x)

       att:  xk = mix(n, k)  xv = mix(n, v)  xr = mix(n, r)      n_t = ln1(x_t), mix(n, j)_t = mu_j n_t + (1 - mu_j) n_{t-1}
             k = Wk xk   v = Wv xv   r = Wr xr                   "token shift": every channel sees one token back
             wkv_t = (sum_{i<t} e^{(t-1-i)w + k_i} v_i + e^{u + k_t} v_t) / (the same sum without v)
             att_t = Wo (sigmoid(r_t) wkv_t)                     w = -e^time_decay < 0, u = time_first
       ffn:  ffn_t = sigmoid(Wr xr) * (Wv relu(Wk xk)^2)         mixes of its own, n = ln2(x)

   wkv is a weighted mean of the past whose weights fade by e^w per step: it trains in parallel over B and C (and T,
   in segments), and generates from a state of five vectors per layer: the last n of att and of ffn, and the sums
   of wkv. doc/wkv.md derives it.

   Order of this file: the tensors; token shift and norm; wkv; the two small feed-forward kernels; the model
   (memory, forward, backward); main. What all models share is in rwkv/ (see rwkv.h). */
#include "rwkv.h"

// ------------------------------------------------------------------------------------------------
// The tensors: official names, and the official initialisation of v4neo. l = layer, i = channel.

static void init_ones(double *w, const InitContext &c) { std::fill_n(w, c.rows * c.cols, 1.0); }
static void init_zeros(double *w, const InitContext &c) { std::fill_n(w, c.rows * c.cols, 0.0); }
static void init_orthogonal(double *w, const InitContext &c) {  // gain sqrt(rows/cols) for wide outputs: ffn.key 2
    orthogonal(w, c.rows, c.cols, c.rows > c.cols ? sqrt((double)c.rows / c.cols) : 1.0, c.rng);
}
static void init_head(double *w, const InitContext &c) {
    orthogonal(w, c.rows, c.cols, c.rows > c.cols ? 0.5 * sqrt((double)c.rows / c.cols) : 0.5, c.rng);
}
static void init_embedding(double *w, const InitContext &c) {  // tiny: ln0 brings it to size 1
    for (int64_t i = 0; i < c.rows * c.cols; i++) w[i] = (2 * c.rng.uniform() - 1) * 1e-4;
}
static double depth(const InitContext &c) { return c.s.L > 1 ? (double)c.layer / (c.s.L - 1) : 0; }  // 0 .. 1
static double to_zero(const InitContext &c) { return 1 - (double)c.layer / c.s.L; }                  // 1 .. 1/L
static double place(const InitContext &c, int64_t i) { return (double)i / c.s.C; }
static void init_decay(double *w, const InitContext &c) {  // from e^-5 per step (a memory of 150 tokens) to e^3 (none)
    for (int64_t i = 0; i < c.cols; i++) w[i] = -5 + 8 * pow(c.cols > 1 ? (double)i / (c.cols - 1) : 0, 0.7 + 1.3 * depth(c));
}
static void init_first(double *w, const InitContext &c) {
    for (int64_t i = 0; i < c.cols; i++) w[i] = log(0.3) + 0.5 * ((i + 1) % 3 - 1);
}
static void init_mix(double *w, const InitContext &c) {
    for (int64_t i = 0; i < c.cols; i++) w[i] = pow(place(c, i), to_zero(c));
}
static void init_mix_v(double *w, const InitContext &c) {
    for (int64_t i = 0; i < c.cols; i++) w[i] = pow(place(c, i), to_zero(c)) + 0.3 * depth(c);
}
static void init_mix_r(double *w, const InitContext &c) {
    for (int64_t i = 0; i < c.cols; i++) w[i] = pow(place(c, i), 0.5 * to_zero(c));
}

static const std::vector<TensorRow> rwkv4_rows = {
    // name                          shape            init             lr decay
    {"emb.weight",                   {'V', 'C'},      init_embedding,  1, true},
    {"blocks.*.ln1.weight",          {'C'},           init_ones,       1, false},
    {"blocks.*.ln1.bias",            {'C'},           init_zeros,      1, false},
    {"blocks.*.ln2.weight",          {'C'},           init_ones,       1, false},
    {"blocks.*.ln2.bias",            {'C'},           init_zeros,      1, false},
    {"blocks.0.ln0.weight",          {'C'},           init_ones,       1, false},
    {"blocks.0.ln0.bias",            {'C'},           init_zeros,      1, false},
    {"blocks.*.att.time_decay",      {'C'},           init_decay,      2, false},
    {"blocks.*.att.time_first",      {'C'},           init_first,      3, false},
    {"blocks.*.att.time_mix_k",      {'1', '1', 'C'}, init_mix,        1, false},
    {"blocks.*.att.time_mix_v",      {'1', '1', 'C'}, init_mix_v,      1, false},
    {"blocks.*.att.time_mix_r",      {'1', '1', 'C'}, init_mix_r,      1, false},
    {"blocks.*.att.key.weight",      {'C', 'C'},      init_zeros,      1, true},   // key, value, receptance are
    {"blocks.*.att.value.weight",    {'C', 'C'},      init_orthogonal, 1, true},   // neighbours in this order:
    {"blocks.*.att.receptance.weight", {'C', 'C'},    init_zeros,      1, true},   // one batched product
    {"blocks.*.att.output.weight",   {'C', 'C'},      init_zeros,      1, true},
    {"blocks.*.ffn.time_mix_k",      {'1', '1', 'C'}, init_mix,        1, false},
    {"blocks.*.ffn.time_mix_r",      {'1', '1', 'C'}, init_mix,        1, false},
    {"blocks.*.ffn.key.weight",      {'F', 'C'},      init_orthogonal, 1, true},
    {"blocks.*.ffn.receptance.weight", {'C', 'C'},    init_zeros,      1, true},
    {"blocks.*.ffn.value.weight",    {'C', 'F'},      init_zeros,      1, true},
    {"ln_out.weight",                {'C'},           init_ones,       1, false},
    {"ln_out.bias",                  {'C'},           init_zeros,      1, false},
    {"head.weight",                  {'V', 'C'},      init_head,       1, true},
};

// ------------------------------------------------------------------------------------------------
// Norm, token shift and mixes in one kernel.
//
//   n_t = LayerNorm(x_t)    out_j,t = mu_j n_t + (1 - mu_j) n_{t-1}    j < M mixes; M = 0: out_0,t = n_t (ln_out)
//
// One block walks rows t of one sequence, thread i holds W channels, n_{t-1} stays in registers; the row before
// its first is normalised again (a "halo" of one row in ROWS). The residual of the feed-forward layer below is
// added on the way in: x + sigmoid(r) kv, so that it costs no pass of its own.
// n_{-1} is the state (0 at the start of a sequence); a document's first token (reset) sees 0.

constexpr int MAX_MIXES = 3;
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
};
template<int W> struct MixRow { Vec<W> x, n; Stats s; };
template<int W> __device__ inline MixRow<W> mix_row(const MixArgs &a, int64_t row, int c, bool inside, BlockRoom &room, int &turn) {
    MixRow<W> m;
    m.x = 0;
    if (inside) {
        m.x = load<W>(a.x + row * a.C + c);
        if (a.kv) m.x = round_to_floatX(m.x + sigmoid(load<W>(a.r + row * a.C + c)) * load<W>(a.kv + row * a.C + c));
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
        for (int j = 0; j < M; j++) store(a.out[j] + row * a.C + c, before + load<W>(a.mu[j] + c) * (m.n - before));
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
};
template<int W, int M> __global__ void mix_backward_kernel(MixBackwardArgs a) {
    __shared__ BlockRoom room;
    int turn = 0, c = threadIdx.x * W, b = blockIdx.y, start = blockIdx.x * a.rows, end = min(start + a.rows, a.T);
    bool inside = c < a.C;
    Vec<W> mu[M + 1], dmu[M + 1], dw = 0, db = 0, weight = 0, bias = 0, later = 0;
#pragma unroll
    for (int j = 0; j < M; j++) dmu[j] = 0, mu[j] = inside ? load<W>(a.mu[j] + c) : Vec<W>(0);
    if (inside) weight = load<W>(a.w + c), bias = load<W>(a.b + c);
    auto normed = [&](int64_t row) { return inside ? (load<W>(a.x + row * a.C + c) - a.mean[row]) * a.rstd[row] : Vec<W>(0); };
    int64_t row = (int64_t)b * a.T + end;  // later: what row `end` sends back to row end - 1
    if (M && inside && end == a.T && a.dstate_out) later = load<W>(a.dstate_out + (int64_t)b * a.C + c);
    if (M && inside && end < a.T && !(a.reset && a.reset[row]))
#pragma unroll
        for (int j = 0; j < M; j++) later += (real(1) - mu[j]) * load<W>(a.dout[j] + row * a.C + c);
    Vec<W> xh = normed(row - 1);
    for (int t = end - 1; t >= start; t--) {
        row = (int64_t)b * a.T + t;
        bool first = a.reset && a.reset[row];
        Vec<W> xh_before = t ? normed(row - 1) : Vec<W>(0), before = 0, dn = later;
        if (inside && !first) {
            if (t) before = xh_before * weight + bias;
            else if (a.state_in) before = load<W>(a.state_in + (int64_t)b * a.C + c);
        }
        later = 0;
        if (M == 0 && inside) dn = load<W>(a.dout[0] + row * a.C + c);
#pragma unroll
        for (int j = 0; j < M; j++) {
            Vec<W> d = inside ? load<W>(a.dout[j] + row * a.C + c) : Vec<W>(0);
            dn += mu[j] * d;
            if (!first) later += (real(1) - mu[j]) * d;
            dmu[j] += d * (xh * weight + bias - before);
        }
        dw += dn * xh, db += dn;
        Vec<W> dx = norm_backward_row(dn * weight, xh, a.rstd[row], inside, a.C, room, turn);
        if (inside) store(a.dx + row * a.C + c, a.add ? load<W>(a.dx + row * a.C + c) + dx : dx);
        xh = xh_before;
    }
    if (!inside) return;
    if (M && start == 0 && a.dstate_in) store(a.dstate_in + (int64_t)b * a.C + c, later);
    real *p = a.partial + ((int64_t)b * gridDim.x + blockIdx.x) * (M + 2) * a.C + c;
#pragma unroll
    for (int j = 0; j < M; j++) store(p + j * a.C, dmu[j]);
    store(p + M * a.C, dw), store(p + (M + 1) * a.C, db);
}

// Rows per block: enough blocks to fill the device, at least 8 rows so that the halo stays small.
inline int mix_rows(int B, int T) { return std::min(T, std::max(8, ceil_div((int64_t)B * T, busy_blocks()))); }
inline int mix_blocks(int B, int T) { return B * ceil_div(T, mix_rows(B, T)); }

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
    dispatch_width(width, [&](auto W) {
        mix_backward_kernel<W.value, M><<<dim3(ceil_div(a.T, a.rows), B), threads, 0, stream>>>(a);
    });
    launchCheck();
    column_sums(grads, a.partial, mix_blocks(B, a.T), M + 2, a.C, stream);
}

// ------------------------------------------------------------------------------------------------
// wkv with its receptance gate: y = sigmoid(r) wkv.   doc/wkv.md
//
// State per channel: A, B = the sums over the past of e^k v and of e^k, decayed, relative to a reference o in base 2
// (the true sums are A 2^o, B 2^o). Every step is y = (c1 A + c2 v)/(c1 B + c2), A' = d1 A + d2 v, B' = d1 B + d2.
// While nothing gets large or small, o stays and the step costs one exponential and one FMA in the chain of the
// recurrence. Otherwise the slow step moves o: exact for any k, without clamps. 2^40 leaves fp32 e^38 of headroom
// in c2 v and A B products of the backward.

constexpr real WKV_LO = real(1) / (1ll << 40), WKV_HI = real(1ll << 40);
constexpr int WKV_CHUNK = 16;  // steps between kept states; backward recomputes a chunk in registers
#ifdef CUDA_CPU
constexpr int WKV_WIDTH = NATIVE;
#else
constexpr int WKV_WIDTH = sizeof(floatX) == 2 ? 2 : 1;  // 4-byte loads: 96 registers of states in backward leave no room for more
#endif

template<int W> struct WkvChannel { Vec<W> w, w2, u2, ew, eu; };  // constants of W channels
template<int W> struct WkvState { Vec<W> A, B, o; };
template<int W> struct WkvStep { Vec<W> c1, c2, d1, d2, o; };

template<int W> __device__ inline WkvChannel<W> wkv_channel(const real *decay, const real *first, int c) {
    WkvChannel<W> p;
    Vec<W> d = load<W>(decay + c);
    p.w = each<W>([&](int i) { return -fmin(real(exp(d[i])), real(1e30)); });  // finite: 0 * w must be 0 in the gradient
    p.w2 = p.w * LOG2E, p.u2 = load<W>(first + c) * LOG2E;
    p.ew = exp2v(p.w2), p.eu = exp2v(p.u2);
    for (int i = 0; i < W; i++) if (p.u2[i] > 40) p.eu.set(i, INFINITY);  // a lost ek would matter: always the slow step
    return p;
}
__device__ inline bool within(real x, real lo, real hi) { return x >= lo && x <= hi; }  // false for NaN
// Channel i of a step that needs a new reference: the two-reference log-sum-exp update of the official kernel.
template<int W> __device__ inline void wkv_slow_step(WkvStep<W> &s, int i, const WkvState<W> &z, real k2, const WkvChannel<W> &p) {
    bool empty = !(z.B[i] > 0);
    real n = empty ? real(0) : 1 / z.B[i], o = empty ? real(-INFINITY) : z.o[i] + real(log2(z.B[i])), uk = p.u2[i] + k2;
    real m = fmax(o, uk), next = fmax(o + p.w2[i], k2);
    s.c1.set(i, n * real(exp2(o - m))), s.c2.set(i, exp2(uk - m));
    s.d1.set(i, n * real(exp2(o + p.w2[i] - next))), s.d2.set(i, exp2(k2 - next)), s.o.set(i, next);
}
template<int W> __device__ inline WkvStep<W> wkv_step(const WkvState<W> &z, Vec<W> k, const WkvChannel<W> &p) {
    Vec<W> k2 = k * LOG2E, ek = exp2v(k2 - z.o), c2 = p.eu * ek, next = p.ew * z.B + ek;
    WkvStep<W> s = {real(1), c2, p.ew, ek, z.o};
    if (all_within(z.B, WKV_LO, WKV_HI) && all_within(next, WKV_LO, WKV_HI) && all_within(c2, 0, WKV_HI)) return s;
    for (int i = 0; i < W; i++)
        if (!(within(z.B[i], WKV_LO, WKV_HI) && within(next[i], WKV_LO, WKV_HI) && within(c2[i], 0, WKV_HI))) wkv_slow_step(s, i, z, k2[i], p);
    return s;
}
template<int W> __device__ inline void wkv_advance(WkvState<W> &z, const WkvStep<W> &s, Vec<W> v) {
    z.A = s.d1 * z.A + s.d2 * v, z.B = s.d1 * z.B + s.d2, z.o = s.o;
}
template<int W> __device__ inline WkvState<W> load_state(const real *p, int64_t stride) { return {load<W>(p), load<W>(p + stride), load<W>(p + 2 * stride)}; }
template<int W> __device__ inline void store_state(real *p, int64_t stride, const WkvState<W> &z) { store(p, z.A), store(p + stride, z.B), store(p + 2 * stride, z.o); }

struct WkvArgs {
    floatX *y;                        // (B,T,C)
    const floatX *k, *v, *r;          // (B,T,C)
    const real *decay, *first;        // (C) time_decay, time_first
    real *states;                     // (B,chunks,3,C) A, B, o before step 16 i
    const real *state_in;             // (3,B,C) or null: empty
    real *state_out;                  // (3,B,C) or null
    const uint8_t *reset;             // (B,T) or null: the state is emptied before such a step
    int B, T, C;
    int segment;                      // steps per block, a multiple of WKV_CHUNK; B C small: T is split
    __device__ int chunks() const { return (T + WKV_CHUNK - 1) / WKV_CHUNK; }
    __device__ real *state(int b, int t, int c) const { return states + (((int64_t)b * chunks() + t / WKV_CHUNK) * 3) * C + c; }
    template<int W> __device__ WkvState<W> initial(int b, int c) const {
        return state_in ? load_state<W>(state_in + (int64_t)b * C + c, (int64_t)B * C) : WkvState<W>{0, 0, 0};
    }
};

// One thread per (b, W channels, segment of T). With more than one segment the first chunk state of each is there already.
template<int W> __global__ void wkv_forward_kernel(WkvArgs a) {
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * W, b = blockIdx.y, start = blockIdx.z * a.segment, end = min(start + a.segment, a.T);
    if (c >= a.C) return;
    WkvChannel<W> p = wkv_channel<W>(a.decay, a.first, c);
    WkvState<W> z = start ? load_state<W>(a.state(b, start, c), a.C) : a.template initial<W>(b, c);
    for (int t = start; t < end; t += WKV_CHUNK) {
        store_state(a.state(b, t, c), a.C, z);
        int64_t at = ((int64_t)b * a.T + t) * a.C + c;
        Pack<floatX, W> k[WKV_CHUNK], v[WKV_CHUNK], r[WKV_CHUNK];
#pragma unroll
        for (int s = 0; s < WKV_CHUNK; s++)  // all loads of a chunk are under way before the first is used
            if (t + s < end) k[s] = load_pack<W>(a.k + at + s * a.C), v[s] = load_pack<W>(a.v + at + s * a.C), r[s] = load_pack<W>(a.r + at + s * a.C);
#pragma unroll
        for (int s = 0; s < WKV_CHUNK; s++) {
            if (t + s >= end) break;
            if (a.reset && a.reset[(int64_t)b * a.T + t + s]) z.A = 0, z.B = 0;
            Vec<W> vs = load<W>(v[s].x);
            WkvStep<W> q = wkv_step(z, load<W>(k[s].x), p);
            store(a.y + at + s * a.C, sigmoid(load<W>(r[s].x)) * (q.c1 * z.A + q.c2 * vs) * reciprocal(q.c1 * z.B + q.c2));
            wkv_advance(z, q, vs);
        }
    }
    if (a.state_out && end == a.T) store_state(a.state_out + (int64_t)b * a.C + c, (int64_t)a.B * a.C, z);
}
// The state that a segment alone leaves, starting empty, in the place of the next segment's first state.
template<int W> __global__ void wkv_segment_kernel(WkvArgs a) {
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * W, b = blockIdx.y, start = blockIdx.z * a.segment, end = start + a.segment;
    if (c >= a.C) return;
    WkvChannel<W> p = wkv_channel<W>(a.decay, a.first, c);
    WkvState<W> z = {0, 0, 0};
    for (int t = start; t < end; t++) {
        int64_t at = ((int64_t)b * a.T + t) * a.C + c;
        wkv_advance(z, wkv_step(z, load<W>(a.k + at), p), load<W>(a.v + at));
    }
    store_state(a.state(b, end, c), a.C, z);
}
// state = state e^(w len) + what the segment left, segment by segment: an associative scan, short enough to run serially.
template<int W> __global__ void wkv_join_kernel(WkvArgs a) {
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * W, b = blockIdx.y;
    if (c >= a.C) return;
    WkvChannel<W> p = wkv_channel<W>(a.decay, a.first, c);
    WkvState<W> z = a.template initial<W>(b, c);
    for (int t = a.segment; t < a.T; t += a.segment) {
        WkvState<W> local = load_state<W>(a.state(b, t, c), a.C);
        Vec<W> faded = z.o + p.w2 * real(a.segment);
        Vec<W> o = each<W>([&](int i) { return z.B[i] > 0 ? fmax(faded[i], local.o[i]) : local.o[i]; });
        Vec<W> f = each<W>([&](int i) { return z.B[i] > 0 ? real(exp2(faded[i] - o[i])) : real(0); }), g = exp2v(local.o - o);
        z = {f * z.A + g * local.A, f * z.B + g * local.B, o};
        store_state(a.state(b, t, c), a.C, z);
    }
}

// Backward. With q = dwkv/(c1 B + c2) and al, be the adjoints of A', B':
//
//   dv = c2 q + d2 al       e = c2 q (v - wkv)      dk = e + d2 (al v + be)
//   du += e                 dw += d1 (al A + be B)  al <- d1 al + c1 q   be <- d1 be - c1 q wkv
//
// Each chunk is run forward again from its kept state, then backward.
struct WkvBackwardArgs {
    WkvArgs f;                        // the forward's arguments (y is not used)
    floatX *dk, *dv, *dr;             // (B,T,C)
    const floatX *dy;                 // (B,T,C)
    const real *dstate_out;           // (2,B,C) gradients of A, B of state_out, or null: zero
    real *dstate_in;                  // (2,B,C) or null
    real *adjoint;                    // (B,segments,3,C) al, be and their reference o at the end of each segment
    real *partial;                    // (B * segments, 2, C): gradients of time_decay and time_first
};
template<int W> struct WkvAdjoint { Vec<W> al, be; };

// OUTPUT = false: only the adjoint that a segment alone sends to its left, for the scan over segments.
template<int W, bool OUTPUT> __global__ void wkv_backward_kernel(WkvBackwardArgs a) {
    const WkvArgs &f = a.f;
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * W, b = blockIdx.y, seg = blockIdx.z, segments = gridDim.z, C = f.C;
    if (!OUTPUT) seg++, segments++;  // nobody is left of segment 0
    int start = seg * f.segment, end = min(start + f.segment, f.T);
    if (c >= C) return;
    WkvChannel<W> p = wkv_channel<W>(f.decay, f.first, c);
    Vec<W> al = 0, be = 0, dw = 0, du = 0;
    real *adjoint = a.adjoint + ((int64_t)b * segments + seg) * 3 * C + c;
    bool given = OUTPUT && (segments > 1 || a.dstate_out);  // the end's adjoint is not zero
    if (given) al = load<W>(adjoint), be = load<W>(adjoint + C);
    for (int t = start + (end - 1 - start) / WKV_CHUNK * WKV_CHUNK; t >= start; t -= WKV_CHUNK) {
        int64_t at = ((int64_t)b * f.T + t) * C + c;
        Pack<floatX, W> k[WKV_CHUNK], v[WKV_CHUNK], r[WKV_CHUNK], dy[WKV_CHUNK];
        WkvState<W> z = load_state<W>(f.state(b, t, c), C), before[WKV_CHUNK];
#pragma unroll
        for (int s = 0; s < WKV_CHUNK; s++)
            if (t + s < end) k[s] = load_pack<W>(f.k + at + s * C), v[s] = load_pack<W>(f.v + at + s * C), r[s] = load_pack<W>(f.r + at + s * C), dy[s] = load_pack<W>(a.dy + at + s * C);
#pragma unroll
        for (int s = 0; s < WKV_CHUNK; s++) {
            if (t + s >= end) break;
            if (f.reset && f.reset[(int64_t)b * f.T + t + s]) z.A = 0, z.B = 0;
            before[s] = z;
            wkv_advance(z, wkv_step(z, load<W>(k[s].x), p), load<W>(v[s].x));
        }
        if (given && t + WKV_CHUNK >= end) {  // the adjoint at the end is relative to another reference
            Vec<W> scale = exp2v(z.o - load<W>(adjoint + 2 * C));
            al = al * scale, be = be * scale;
        }
#pragma unroll
        for (int s = WKV_CHUNK - 1; s >= 0; s--) {
            if (t + s >= end) continue;
            z = before[s];
            Vec<W> vs = load<W>(v[s].x), gate = sigmoid(load<W>(r[s].x)), dys = load<W>(dy[s].x);
            WkvStep<W> q = wkv_step(z, load<W>(k[s].x), p);
            Vec<W> inverse = reciprocal(q.c1 * z.B + q.c2), wkv = (q.c1 * z.A + q.c2 * vs) * inverse, g = dys * gate * inverse;
            Vec<W> e = q.c2 * g * (vs - wkv);
            if (OUTPUT) {
                store(a.dr + at + s * C, dys * wkv * gate * (real(1) - gate));
                store(a.dv + at + s * C, q.c2 * g + q.d2 * al);
                store(a.dk + at + s * C, e + q.d2 * (al * vs + be));
                du += e, dw += q.d1 * (al * z.A + be * z.B);
            }
            al = q.d1 * al + q.c1 * g, be = q.d1 * be - q.c1 * g * wkv;
            if (f.reset && f.reset[(int64_t)b * f.T + t + s]) al = 0, be = 0;
        }
    }
    if (!OUTPUT) {
        store(adjoint, al), store(adjoint + C, be);
        return;
    }
    if (start == 0 && a.dstate_in) store(a.dstate_in + (int64_t)b * C + c, al), store(a.dstate_in + ((int64_t)f.B + b) * C + c, be);
    real *partial = a.partial + ((int64_t)b * segments + seg) * 2 * C + c;
    store(partial, dw * p.w), store(partial + C, du);  // d w / d time_decay = w
}
// Adjoints at the right end of every segment, from the last to the first: al_left = local + (product of d1) al_right,
// where the product of d1 over a segment is e^(w len) 2^(o at its start - o at its end).
template<int W> __global__ void wkv_backward_join_kernel(WkvBackwardArgs a) {
    const WkvArgs &f = a.f;
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * W, b = blockIdx.y, C = f.C, segments = (f.T + f.segment - 1) / f.segment;
    if (c >= C) return;
    WkvChannel<W> p = wkv_channel<W>(f.decay, f.first, c);
    Vec<W> al = 0, be = 0, o = 0;
    if (a.dstate_out) {
        al = load<W>(a.dstate_out + (int64_t)b * C + c), be = load<W>(a.dstate_out + ((int64_t)f.B + b) * C + c);
        o = load<W>(f.state_out + (2 * (int64_t)f.B + b) * C + c);
    }
    for (int seg = segments - 1; seg >= 0; seg--) {
        real *adjoint = a.adjoint + ((int64_t)b * segments + seg) * 3 * C + c;
        WkvAdjoint<W> local = {load<W>(adjoint), load<W>(adjoint + C)};  // segment 0 has none, and needs none
        store(adjoint, al), store(adjoint + C, be), store(adjoint + 2 * C, o);
        if (seg == 0) return;
        int start = seg * f.segment, end = min(start + f.segment, f.T);
        Vec<W> o_start = load<W>(f.state(b, start, c) + 2 * C);
        Vec<W> d = seg == segments - 1 && !a.dstate_out ? Vec<W>(0) : exp2v(p.w2 * real(end - start) + o_start - o);
        al = local.al + d * al, be = local.be + d * be, o = o_start;
    }
}

// Steps per segment. One segment when B C alone fills the device, or documents are reset inside the sequence.
inline int wkv_segment(int B, int T, int C, bool reset) {
    int64_t threads = (int64_t)B * C / WKV_WIDTH, wanted = (int64_t)device().multiProcessorCount * 256;
#ifdef CUDA_CPU
    wanted = 0;  // no need: every thread is a SIMD register of work
#endif
    int segments = reset || threads >= wanted ? 1 : (int)std::min<int64_t>(wanted / threads, ceil_div(T, 4 * WKV_CHUNK));
    return ceil_div(ceil_div(T, std::max(segments, 1)), WKV_CHUNK) * WKV_CHUNK;
}
inline void wkv_forward(const WkvArgs &a, cudaStream_t stream) {
    int width = channel_width(a.C, WKV_WIDTH), threads = std::min(64, a.C / width), segments = ceil_div(a.T, a.segment);
    dim3 grid(ceil_div(a.C, threads * width), a.B, segments);
    dispatch_width<WKV_WIDTH>(width, [&](auto W) {
        if (segments > 1) {
            wkv_segment_kernel<W.value><<<dim3(grid.x, grid.y, segments - 1), threads, 0, stream>>>(a);
            wkv_join_kernel<W.value><<<dim3(grid.x, grid.y), threads, 0, stream>>>(a);
        }
        wkv_forward_kernel<W.value><<<grid, threads, 0, stream>>>(a);
    });
    launchCheck();
}
inline void wkv_backward(const WkvBackwardArgs &a, real *ddecay, real *dfirst, cudaStream_t stream) {
    const WkvArgs &f = a.f;
    int width = channel_width(f.C, WKV_WIDTH), threads = std::min(64, f.C / width), segments = ceil_div(f.T, f.segment);
    dim3 grid(ceil_div(f.C, threads * width), f.B, segments);
    dispatch_width<WKV_WIDTH>(width, [&](auto W) {
        if (segments > 1) wkv_backward_kernel<W.value, false><<<dim3(grid.x, grid.y, segments - 1), threads, 0, stream>>>(a);
        if (segments > 1 || a.dstate_out) wkv_backward_join_kernel<W.value><<<dim3(grid.x, grid.y), threads, 0, stream>>>(a);
        wkv_backward_kernel<W.value, true><<<grid, threads, 0, stream>>>(a);
    });
    launchCheck();
    column_sums({{ddecay, dfirst}}, a.partial, f.B * segments, 2, f.C, stream);
}

// ------------------------------------------------------------------------------------------------
// The two small kernels of the feed-forward layer

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
// of sigmoid(r) kv: dkv = dx sigmoid(r), dr = dx kv sigmoid(r) (1 - sigmoid(r))
template<int W> __global__ void gate_backward_kernel(floatX *dkv, floatX *dr, const floatX *dx, const floatX *r, const floatX *kv, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= n) return;
    Vec<W> d = load<W>(dx + i), gate = sigmoid(load<W>(r + i));
    store(dkv + i, d * gate), store(dr + i, d * load<W>(kv + i) * gate * (real(1) - gate));
}
// Calls launch(W, blocks, threads) for a kernel with W elements per thread
template<class F> inline void elementwise(int64_t n, F launch) {
    int width = channel_width(n, ELEMENT_WIDTH);
    dispatch_width<ELEMENT_WIDTH>(width, [&](auto W) { launch(W, ceil_div(n, 256 * (int64_t)width), 256); });
    launchCheck();
}

// ------------------------------------------------------------------------------------------------
// The model

// What one layer keeps, (B,T,C) floatX unless said. Offsets point into the parameter and gradient buffers.
struct Layer {
    int64_t ln1_w, ln1_b, ln2_w, ln2_b, decay, first, mix_k, mix_v, mix_r, key, value, receptance, output;
    int64_t ffn_mix_k, ffn_mix_r, ffn_key, ffn_receptance, ffn_value;
    floatX *x, *x2;            // residual stream entering att, entering ffn
    floatX *mixed, *kvr, *y;   // 3 mixes, 3 products, gated wkv
    floatX *ffn_mixed, *s;     // 2 mixes; relu(k)^2 (B,T,F)
    floatX *ffn_r, *ffn_kv;
    real *stats;               // (4,B,T): mean, rstd of ln1, then of ln2
    real *states;              // wkv states before every 16th step
};

struct RWKV4 {
    static constexpr const char *kind = "RWKV-4", *program = "train_rwkv";
    static constexpr const char *purpose = "trains RWKV-4 on token shards written by ./prepare";
    static constexpr int STATE = 5;  // vectors of C per layer: last n of att, of ffn, and A, B, o of wkv
    static const std::vector<TensorRow> &rows() { return rwkv4_rows; }
    static int default_ffn(int C) { return 4 * C; }
    static Shape shape_of(const TensorFile &file);

    Parameters &p;
    Shape s;
    int B, T, recompute;                       // the largest batch; what backward makes again (0, 1, 2)
    std::vector<Layer> layers;
    int64_t emb, ln0_w, ln0_b, ln_out_w, ln_out_b, head_w;
    floatX *x_last, *x_out;                    // after the last layer, after ln_out
    real *out_stats;
    Head head;
    floatX *dx, *d_small, *d_wide, *d_mixed;   // gradients: residual stream, 2 of C, F or 3C, 3 of C
    real *sums, *partial, *adjoint;            // partial sums of the embedding, of vectors; adjoints of wkv segments
    floatX *shared_mixed, *shared_ffn_mixed, *shared_kvr, *shared_s;  // one for all layers, with recompute
    cudaStream_t stream = 0;

    RWKV4(Parameters &p, int B, int T, int recompute) : p(p), s(p.table.s), B(B), T(T), recompute(recompute), layers(s.L) {
        auto at = [&](const char *name, int l = -1) { return p.table.offset(name, l); };
        emb = at("emb.weight"), ln0_w = at("ln0.weight", 0), ln0_b = at("ln0.bias", 0);
        ln_out_w = at("ln_out.weight"), ln_out_b = at("ln_out.bias"), head_w = at("head.weight");
        for (int l = 0; l < s.L; l++) {
            Layer &a = layers[l];
            a.ln1_w = at("ln1.weight", l), a.ln1_b = at("ln1.bias", l), a.ln2_w = at("ln2.weight", l), a.ln2_b = at("ln2.bias", l);
            a.decay = at("att.time_decay", l), a.first = at("att.time_first", l);
            a.mix_k = at("att.time_mix_k", l), a.mix_v = at("att.time_mix_v", l), a.mix_r = at("att.time_mix_r", l);
            a.key = at("att.key.weight", l), a.value = at("att.value.weight", l);
            a.receptance = at("att.receptance.weight", l), a.output = at("att.output.weight", l);
            a.ffn_mix_k = at("ffn.time_mix_k", l), a.ffn_mix_r = at("ffn.time_mix_r", l);
            a.ffn_key = at("ffn.key.weight", l), a.ffn_receptance = at("ffn.receptance.weight", l), a.ffn_value = at("ffn.value.weight", l);
        }
    }
    int64_t state_count(int B) const { return (int64_t)s.L * STATE * B * s.C; }

    // Lists every buffer. Level 1 makes the mixes again in backward, level 2 also k, v, r and s: 17 -> 12 -> 5 (B,T,C) a layer.
    void plan(Arena &arena) {
        int64_t N = (int64_t)B * T, C = s.C, F = s.F, segments = ceil_div(T, wkv_segment(B, T, s.C, false));
        auto keep = [&](floatX **own, floatX **shared, int level, int64_t count, bool first_layer) {
            if (recompute < level) arena.plan("activations", own, count);
            else if (first_layer) arena.plan("activations", shared, count);
        };
        for (int l = 0; l < s.L; l++) {
            Layer &a = layers[l];
            for (floatX **x : {&a.x, &a.x2, &a.y, &a.ffn_r, &a.ffn_kv}) arena.plan("activations", x, N * C);
            keep(&a.mixed, &shared_mixed, 1, 3 * N * C, l == 0), keep(&a.ffn_mixed, &shared_ffn_mixed, 1, 2 * N * C, l == 0);
            keep(&a.kvr, &shared_kvr, 2, 3 * N * C, l == 0), keep(&a.s, &shared_s, 2, N * F, l == 0);
            arena.plan("activations", &a.stats, 4 * N);
            arena.plan("activations", &a.states, (int64_t)B * ceil_div(T, WKV_CHUNK) * 3 * C);
        }
        arena.plan("activations", &x_last, N * C), arena.plan("activations", &x_out, N * C), arena.plan("activations", &out_stats, 2 * N);
        head.plan(arena, N, s.V, C);
        arena.plan("backward", &dx, N * C), arena.plan("backward", &d_small, 2 * N * C);
        arena.plan("backward", &d_wide, N * std::max(F, 3 * C)), arena.plan("backward", &d_mixed, 3 * N * C);
        arena.plan("backward", &sums, embedding_pieces(N, s.V) * C), arena.plan("backward", &adjoint, B * segments * 3 * C);
        arena.plan("backward", &partial, C * std::max<int64_t>({mix_blocks(B, T) * 5ll, B * segments * 2ll, busy_blocks() * 2ll}));
    }
    void link() {  // after the arena is allocated
        for (Layer &a : layers) {
            if (recompute >= 1) a.mixed = shared_mixed, a.ffn_mixed = shared_ffn_mixed;
            if (recompute >= 2) a.kvr = shared_kvr, a.s = shared_s;
        }
    }

    // One sequence chunk. States are (L, 5, B, C) real: null in = start of sequence, null out = not wanted.
    struct Input {
        const int *tokens;           // (B,T) device
        int B, T;
        const real *state_in;
        real *state_out;
        const uint8_t *reset;        // (B,T) or null
        int64_t N() const { return (int64_t)B * T; }
    };
    const floatX *weight(int64_t offset) const { return p.params + offset; }  // matrices: floatX
    const real *vector(int64_t offset) const { return p.master + offset; }    // vectors: real
    template<class R> R *state(R *base, const Input &in, int l, int i) const { return base ? base + ((int64_t)l * STATE + i) * in.B * s.C : nullptr; }

    MixArgs mix_args(const Input &in, int l, bool ffn) const {
        const Layer &a = layers[l];
        int64_t N = in.N(), NC = N * s.C;
        real *stats = a.stats + (ffn ? 2 * N : 0);
        MixArgs m = {};
        m.x = ffn ? a.x2 : a.x, m.w = vector(ffn ? a.ln2_w : a.ln1_w), m.b = vector(ffn ? a.ln2_b : a.ln1_b);
        m.mean = stats, m.rstd = stats + N, m.state_in = state(in.state_in, in, l, ffn), m.state_out = state(in.state_out, in, l, ffn);
        m.reset = in.reset, m.T = in.T, m.C = s.C;
        for (int j = 0; j < (ffn ? 2 : 3); j++) {
            m.out[j] = (ffn ? a.ffn_mixed : a.mixed) + j * NC;
            m.mu[j] = vector(ffn ? (j ? a.ffn_mix_r : a.ffn_mix_k) : j == 0 ? a.mix_k : j == 1 ? a.mix_v : a.mix_r);
        }
        return m;
    }
    Batched kvr_batch(const Layer &a, const Input &in) const { return {3, in.N() * s.C, in.N() * s.C, a.value - a.key}; }
    WkvArgs wkv_args(const Input &in, int l) const {
        const Layer &a = layers[l];
        int64_t NC = in.N() * s.C;
        return {a.y, a.kvr, a.kvr + NC, a.kvr + 2 * NC, vector(a.decay), vector(a.first), a.states, state(in.state_in, in, l, 2), state(in.state_out, in, l, 2),
                in.reset, in.B, in.T, s.C, wkv_segment(in.B, in.T, s.C, in.reset != nullptr)};
    }
    void kvr_forward(const Layer &a, const Input &in) { matmul_forward(a.kvr, a.mixed, weight(a.key), nullptr, in.N(), s.C, s.C, stream, kvr_batch(a, in)); }
    void relu2_forward(const Layer &a, const Input &in) {  // s = relu(Wk xk)^2
        int64_t n = in.N() * s.F;
        matmul_forward(a.s, a.ffn_mixed, weight(a.ffn_key), nullptr, in.N(), s.F, s.C, stream);
        elementwise(n, [&](auto W, int blocks, int threads) { relu2_forward_kernel<W.value><<<blocks, threads, 0, stream>>>(a.s, n); });
    }

    // x_out (B,T,C) = ln_out of the last layer; logits are made by the head, as many as are wanted
    void forward(const Input &in) {
        int N = in.N(), C = s.C;
        embedding_forward(layers[0].x, in.tokens, weight(emb), vector(ln0_w), vector(ln0_b), N, C, stream);
        for (int l = 0; l < s.L; l++) {
            const Layer &a = layers[l];
            MixArgs m = mix_args(in, l, false);
            if (l) m.x = layers[l - 1].x2, m.r = layers[l - 1].ffn_r, m.kv = layers[l - 1].ffn_kv, m.x_out = a.x;
            mix_forward<3>(m, in.B, stream);
            kvr_forward(a, in);
            wkv_forward(wkv_args(in, l), stream);
            matmul_forward(a.x2, a.y, weight(a.output), a.x, N, C, C, stream);
            mix_forward<2>(mix_args(in, l, true), in.B, stream);
            relu2_forward(a, in);
            matmul_forward(a.ffn_r, a.ffn_mixed + (int64_t)N * C, weight(a.ffn_receptance), nullptr, N, C, C, stream);
            matmul_forward(a.ffn_kv, a.s, weight(a.ffn_value), nullptr, N, C, s.F, stream);
        }
        const Layer &a = layers[s.L - 1];
        MixArgs m = {};
        m.x = a.x2, m.r = a.ffn_r, m.kv = a.ffn_kv, m.x_out = x_last, m.out[0] = x_out, m.w = vector(ln_out_w), m.b = vector(ln_out_b);
        m.mean = out_stats, m.rstd = out_stats + N, m.T = in.T, m.C = C;
        mix_forward<0>(m, in.B, stream);
    }

    // losses (head.losses) of targets (B,T); with `backward` set also dx_out, in d_small
    void loss(const Input &in, const int *targets, const real *scale, real l2wrap, bool backward) {
        head.loss(x_out, weight(head_w), targets, scale, l2wrap, in.N(), backward ? d_small : nullptr, p.grads + head_w, stream);
    }

    MixBackwardArgs mix_backward_args(const MixArgs &m, const Input &in, int l, bool ffn, const real *dstate_out, real *dstate_in) const {
        MixBackwardArgs a = {};
        a.dx = dx, a.add = true, a.x = m.x, a.w = m.w, a.b = m.b, a.mean = m.mean, a.rstd = m.rstd, a.state_in = m.state_in;
        a.dstate_out = state(dstate_out, in, l, ffn), a.dstate_in = state(dstate_in, in, l, ffn), a.reset = in.reset;
        a.partial = partial, a.T = in.T, a.C = s.C;
        for (int j = 0; j < MAX_MIXES; j++) a.mu[j] = m.mu[j], a.dout[j] = d_mixed + j * in.N() * s.C;
        return a;
    }
    void ffn_backward(const Input &in, int l, const real *dstate_out, real *dstate_in) {
        const Layer &a = layers[l];
        int64_t N = in.N(), C = s.C, F = s.F, NC = N * C;
        real *g = p.grads;
        MixArgs m = mix_args(in, l, true);
        m.state_out = nullptr;
        if (recompute >= 1) mix_forward<2>(m, in.B, stream);
        if (recompute >= 2) relu2_forward(a, in);
        floatX *dkv = d_small, *dr = d_small + NC, *ds = d_wide;
        elementwise(NC, [&](auto W, int blocks, int threads) { gate_backward_kernel<W.value><<<blocks, threads, 0, stream>>>(dkv, dr, dx, a.ffn_r, a.ffn_kv, NC); });
        matmul_backward_weight(g + a.ffn_value, dkv, a.s, N, C, F, stream);
        matmul_backward_input(ds, dkv, weight(a.ffn_value), N, C, F, stream);
        elementwise(N * F, [&](auto W, int blocks, int threads) { relu2_backward_kernel<W.value><<<blocks, threads, 0, stream>>>(ds, a.s, N * F); });
        matmul_backward_weight(g + a.ffn_key, ds, a.ffn_mixed, N, F, C, stream);
        matmul_backward_input(d_mixed, ds, weight(a.ffn_key), N, F, C, stream);
        matmul_backward_weight(g + a.ffn_receptance, dr, a.ffn_mixed + NC, N, C, C, stream);
        matmul_backward_input(d_mixed + NC, dr, weight(a.ffn_receptance), N, C, C, stream);
        mix_backward<2>(mix_backward_args(m, in, l, true, dstate_out, dstate_in), in.B, {{g + a.ffn_mix_k, g + a.ffn_mix_r, g + a.ln2_w, g + a.ln2_b}}, stream);
    }
    void att_backward(const Input &in, int l, const real *dstate_out, real *dstate_in) {
        const Layer &a = layers[l];
        int64_t N = in.N(), C = s.C, NC = N * C;
        real *g = p.grads;
        MixArgs m = mix_args(in, l, false);
        m.state_out = nullptr;
        if (recompute >= 1) mix_forward<3>(m, in.B, stream);
        if (recompute >= 2) kvr_forward(a, in);
        floatX *dy = d_small, *dkvr = d_wide;
        matmul_backward_weight(g + a.output, dx, a.y, N, C, C, stream);
        matmul_backward_input(dy, dx, weight(a.output), N, C, C, stream);
        WkvBackwardArgs w = {wkv_args(in, l), dkvr, dkvr + NC, dkvr + 2 * NC, dy, state(dstate_out, in, l, 2), state(dstate_in, in, l, 2), adjoint, partial};
        wkv_backward(w, g + a.decay, g + a.first, stream);
        matmul_backward_weight(g + a.key, dkvr, a.mixed, N, C, C, stream, kvr_batch(a, in));
        matmul_backward_input(d_mixed, dkvr, weight(a.key), N, C, C, stream, kvr_batch(a, in));
        mix_backward<3>(mix_backward_args(m, in, l, false, dstate_out, dstate_in), in.B, {{g + a.mix_k, g + a.mix_v, g + a.mix_r, g + a.ln1_w, g + a.ln1_b}}, stream);
    }
    // After forward and loss on the same input: gradients += . dstate_out, dstate_in: gradients of the states, laid
    // out like them (those of o are not used: o is a reference), null in = zero, null out = not wanted.
    void backward(const Input &in, const TokenIndex &index, const real *dstate_out, real *dstate_in) {
        int N = in.N();
        real *g = p.grads;
        MixBackwardArgs m = {};
        m.dx = dx, m.dout[0] = d_small, m.x = x_last, m.w = vector(ln_out_w), m.b = vector(ln_out_b), m.mean = out_stats, m.rstd = out_stats + N;
        m.partial = partial, m.T = in.T, m.C = s.C;
        mix_backward<0>(m, in.B, {{g + ln_out_w, g + ln_out_b}}, stream);
        for (int l = s.L - 1; l >= 0; l--) {
            ffn_backward(in, l, dstate_out, dstate_in);
            att_backward(in, l, dstate_out, dstate_in);
        }
        embedding_backward(g + emb, g + ln0_w, g + ln0_b, sums, partial, dx, weight(emb), vector(ln0_w), index, N, s.V, s.C, stream);
    }
};

// The shape of a weight file, from names and shapes; other models are refused by name.
Shape RWKV4::shape_of(const TensorFile &file) {
    struct { const char *tensor, *is; } others[] = {
        {"blocks.0.att.qq.weight", "an RWKV-4b model (tiny attention in every layer)"}, {"blocks.0.att.r_k", "an RWKV-7 model"},
        {"blocks.0.att.time_maa_x", "an RWKV-6 model"}, {"blocks.0.att.ln_x.weight", "an RWKV-5 model"},
        {"transformer.wte.weight", "a GPT-2 model"}, {"wte.weight", "a GPT-2 model"}};
    for (auto &o : others) if (file.find(o.tensor)) fail("%s is %s; this program trains RWKV-4", file.path.c_str(), o.is);
    for (const TensorView &t : file.tensors)
        if (t.name.find("tiny_q") != std::string::npos) fail("%s is an RWKV-4a model (tiny attention); this program trains plain RWKV-4", file.path.c_str());
    const TensorView *emb = file.find("emb.weight"), *key = file.find("blocks.0.ffn.key.weight");
    if (!emb || !key || !file.find("blocks.0.att.time_decay")) fail("%s is not an RWKV-4 model: it has no %s", file.path.c_str(), !emb ? "emb.weight" : !key ? "blocks.0.ffn.key.weight" : "blocks.0.att.time_decay");
    if (emb->shape.size() != 2 || key->shape.size() != 2) fail("%s: emb.weight and ffn.key.weight must be matrices", file.path.c_str());
    Shape s = {(int)emb->shape[0], (int)emb->shape[1], (int)key->shape[0], 0};
    while (file.find(format("blocks.%d.att.time_decay", s.L))) s.L++;
    return s;
}

#ifndef TESTING  // tests and the kernel ladder include this file
int main(int argc, char **argv) { return train_main<RWKV4>(argc, argv); }
#endif

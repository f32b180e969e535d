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
   16 steps a warp), and generates from a state of five vectors per layer: the last n of att and of ffn, and the sums
   of wkv. doc/wkv.md derives it.

   Order of this file: the tensors; wkv; the gate of the feed-forward layer; the model (memory, forward, backward); main.
   Norm, token shift and mixes are in rwkv/mix.h; what all models share is in rwkv/ (see rwkv.h). */
#include "rwkv.h"

// ------------------------------------------------------------------------------------------------
// The tensors: official names, and the official initialisation of v4neo. l = layer, i = channel.

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
// wkv with its receptance gate: y = sigmoid(r) wkv.   doc/wkv.md
//
// State per channel: A, B = the sums over the past of e^k v and of e^k, decayed, relative to a reference o in base 2
// (the true sums are A 2^o, B 2^o). Every step is wkv = (c1 A + c2 v)/(c1 B + c2), A' = d1 A + d2 v, B' = d1 B + d2.
// While nothing gets large or small, o stays and the step costs one exponential and one FMA in the chain of the
// recurrence. Otherwise the slow step moves o: exact for any k, without clamps. Why small and large are 2^-40 and 2^40:
// doc/wkv.md, section 4.
//
// Time is dealt to the warps of a block, 16 steps each, which stay in registers: every warp finds out what its steps
// do to the state (backward: to the adjoint) alone, the warps tell each other through shared memory, and each goes on
// from the right state. So a block reads its channels once, and has as many loads under way as it has warps.

constexpr real WKV_LO = real(1) / (1ll << 40), WKV_HI = real(1ll << 40);
constexpr int WKV_CHUNK = 16;  // steps of a warp at a time, and between kept states
#ifdef CPU_SHAPES
constexpr int WKV_WIDTH = ELEMENT_WIDTH, WKV_WARPS = 4;  // the model uses 1: a thread is a SIMD register of work; tests use more
#else
constexpr int WKV_WIDTH = 1, WKV_WARPS = 12;  // an SM has room for 12 warps of 168 registers, which is what backward takes
#endif
constexpr int WKV_LANES = 32;  // threads side by side; their channels are two sectors of 32 bytes in 16 bits, four in fp32

template<int W> struct WkvChannel { Vec<W> w2, u2, ew, eu; };  // of W channels: w and u in base 2, e^w, e^u
template<int W> struct WkvState { Vec<W> A, B, o; };
template<int W> struct WkvStep { Vec<W> c1, c2, d1, d2, o; };

template<int W> __device__ inline WkvChannel<W> wkv_channel(const real *decay, const real *first, int c) {
    WkvChannel<W> p;
    Vec<W> d = load<W>(decay + c);
    p.w2 = each<W>([&](int i) { return -fmin(real(exp(d[i])), real(1e30)) * LOG2E; });  // finite: 0 * w must be 0 in the gradient
    p.u2 = load<W>(first + c) * LOG2E;
    p.ew = exp2v(p.w2), p.eu = exp2v(p.u2);
    // e^u > 2^40: c2 = eu ek can count where ek has underflowed. Infinity fails doc/wkv.md (10), so every step is slow.
    for (int i = 0; i < W; i++) if (p.u2[i] > 40) p.eu.set(i, INFINITY);
    return p;
}
__device__ inline bool within(real x, real lo, real hi) { return x >= lo && x <= hi; }  // false for NaN
__device__ inline real exp2s(real x) { return exp2v(Vec<1>(x))[0]; }
__device__ inline real log2s(real x) {
#if defined(__CUDA_ARCH__) && !defined(PRECISION_FP64)
    return __log2f(x);
#else
    return real(log2(x));
#endif
}
// Channel i of a step that needs a new reference: the two-reference log-sum-exp update of the official kernel, from a
// state brought to about B = 1 by a power of two.
template<int W> __device__ inline void wkv_slow_step(WkvStep<W> &s, int i, const WkvState<W> &z, real k2, const WkvChannel<W> &p) {
    bool empty = !(z.B[i] > 0);
    real e = empty ? real(0) : real(rint(log2s(z.B[i]))), f = empty ? real(0) : exp2s(-e);
    real on = empty ? real(-INFINITY) : z.o[i] + e, uk = p.u2[i] + k2, m = fmax(on, uk), next = fmax(on + p.w2[i], k2);
    s.c1.set(i, f * exp2s(on - m)), s.c2.set(i, exp2s(uk - m));
    s.d1.set(i, f * exp2s(on + p.w2[i] - next)), s.d2.set(i, exp2s(k2 - next)), s.o.set(i, next);
}
// The step that leaves o where it is, from ek = 2^(k2 - o)
template<int W> __device__ inline WkvStep<W> wkv_near_step(const WkvState<W> &z, Vec<W> ek, const WkvChannel<W> &p) {
    return {real(1), p.eu * ek, p.ew, ek, z.o};
}
template<int W> __device__ inline WkvStep<W> wkv_step(const WkvState<W> &z, Vec<W> k2, const WkvChannel<W> &p) {
    WkvStep<W> s = wkv_near_step(z, exp2v(k2 - z.o), p);
    Vec<W> D = z.B + s.c2, next = p.ew * z.B + s.d2;
    if (all_within(D, WKV_LO, WKV_HI) && all_within(next, WKV_LO, WKV_HI)) return s;
    for (int i = 0; i < W; i++)
        if (W == 1 || !(within(D[i], WKV_LO, WKV_HI) && within(next[i], WKV_LO, WKV_HI))) wkv_slow_step(s, i, z, k2[i], p);
    return s;
}
template<int W> __device__ inline void wkv_advance(WkvState<W> &z, const WkvStep<W> &s, Vec<W> v) {
    z.A = s.d1 * z.A + s.d2 * v, z.B = s.d1 * z.B + s.d2, z.o = s.o;
}
// k2 and ek = 2^(k2 - o) of a chunk. True if no step of it can move o, whatever state it starts from with B <= HI/2: as
// 0 <= ew <= 1, every B' is at least its ek and at most B plus the sum of the ek, and every D is at least its c2 and at most
// that plus c2. Such a chunk runs its 16 steps without a branch, in half the instructions; a check at every step costs as
// much as the step. Stricter than need be: a key that weighs 2^-40 of the largest one makes a chunk slow, not wrong.
// Not on the CPU, whose forward took twice the time with it (5.6 ms for 2.7 at B 4 T 256 C 768).
template<int W> __device__ inline bool wkv_near(Vec<W> (&k2)[WKV_CHUNK], Vec<W> (&ek)[WKV_CHUNK], const Pack<floatX, W> (&k)[WKV_CHUNK], Vec<W> o, const WkvChannel<W> &p) {
#pragma unroll
    for (int s = 0; s < WKV_CHUNK; s++) k2[s] = load<W>(k[s].x) * LOG2E;
#ifdef CPU_SHAPES
    return false;
#endif
    Vec<W> least = WKV_HI, sum = 0;
#pragma unroll
    for (int s = 0; s < WKV_CHUNK; s++) {
        ek[s] = exp2v(k2[s] - o), sum += ek[s];  // NaN and infinity stay in the sum
        least = each<W>([&](int i) { return fmin(least[i], ek[s][i]); });
    }
    return all_within(least, WKV_LO, WKV_HI) && all_within(p.eu * least, WKV_LO, WKV_HI) && all_within(sum + p.eu * sum, 0, WKV_HI / 2);
}
// State z, then a chunk that alone, from an empty state, leaves `own`: an associative scan.
template<int W> __device__ inline WkvState<W> wkv_join(const WkvState<W> &z, const WkvState<W> &own, const WkvChannel<W> &p) {
    Vec<W> faded = z.o + p.w2 * real(WKV_CHUNK);
    Vec<W> o = each<W>([&](int i) { return z.B[i] > 0 ? fmax(faded[i], own.o[i]) : own.o[i]; });
    Vec<W> f = each<W>([&](int i) { return z.B[i] > 0 ? exp2s(faded[i] - o[i]) : real(0); }), g = exp2v(own.o - o);
    return {f * z.A + g * own.A, f * z.B + g * own.B, o};
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
    int warps;                        // of a block, up to WKV_WARPS: wkv_warps()
    __device__ int chunks() const { return (T + WKV_CHUNK - 1) / WKV_CHUNK; }
    __device__ real *state(int b, int t, int c) const { return states + (((int64_t)b * chunks() + t / WKV_CHUNK) * 3) * C + c; }
    __device__ int64_t at(int b, int t, int c) const { return ((int64_t)b * T + t) * C + c; }
    __device__ unsigned resets(int b, int t, int n) const {  // bit s: step t + s is reset
        unsigned bits = 0;
        if (reset)
#pragma unroll 1
            for (int s = 0; s < n; s++) bits |= (reset[(int64_t)b * T + t + s] != 0) << s;
        return bits;
    }
    template<int W> __device__ WkvState<W> initial(int b, int c) const {
        return state_in ? load_state<W>(state_in + (int64_t)b * C + c, (int64_t)B * C) : WkvState<W>{0, 0, 0};
    }
};

// One thread per (b, W channels, every warps-th chunk of T). The bound is 128 registers, 16 warps an SM; it would take 150.
template<int W> __global__ void __launch_bounds__(WKV_LANES * 16) wkv_forward_kernel(WkvArgs a) {
    __shared__ WkvState<W> left[2][WKV_WARPS][WKV_LANES];  // what each warp's chunk leaves; two, so that the next tile
    __shared__ bool emptied[2][WKV_WARPS];                 // may be written while slow warps still read this one
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * W, b = blockIdx.y, warp = threadIdx.y, warps = blockDim.y, turn = 0;
    WkvChannel<W> p = wkv_channel<W>(a.decay, a.first, c);
    WkvState<W> start = a.template initial<W>(b, c);       // before the tile
    for (int tile = 0; tile < a.T; tile += warps * WKV_CHUNK) {
        int t = tile + warp * WKV_CHUNK, n = min(WKV_CHUNK, a.T - t);
        int64_t at = a.at(b, min(t, a.T - 1), c);
        unsigned resets = a.resets(b, t, n);
        Pack<floatX, W> k[WKV_CHUNK], v[WKV_CHUNK], r[WKV_CHUNK];
#pragma unroll
        for (int s = 0; s < WKV_CHUNK; s++, at += s < n ? a.C : 0)  // all under way before the first is used; past the end: the last again
            k[s] = load_pack<W>(a.k + at), v[s] = load_pack<W>(a.v + at), r[s] = load_pack<W>(a.r + at);
        at = a.at(b, t, c);
        Vec<W> k2[WKV_CHUNK], ek[WKV_CHUNK], o = start.o;
        bool near = wkv_near(k2, ek, k, o, p) && n == WKV_CHUNK && !resets;
        WkvState<W> z = start;
        if (warps > 1) {
            WkvState<W> own = {0, 0, o};
            if (near) {
#pragma unroll
                for (int s = 0; s < WKV_CHUNK; s++) wkv_advance(own, wkv_near_step(own, ek[s], p), load<W>(v[s].x));
            } else {
#pragma unroll
                for (int s = 0; s < WKV_CHUNK; s++) {
                    if (s >= n) break;
                    Vec<W> vs = load<W>(v[s].x);
                    if (s == 0 || resets >> s & 1) own = {vs, real(1), k2[s]};
                    else wkv_advance(own, wkv_step(own, k2[s], p), vs);
                }
            }
            left[turn][warp][threadIdx.x] = own;
            if (threadIdx.x == 0) emptied[turn][warp] = resets;
            __syncthreads();  // every warp has told what its chunk leaves
            for (int i = 0; i < warps; i++) {
                if (i == warp) z = start;
                if (emptied[turn][i]) start = {0, 0, 0};
                start = wkv_join(start, left[turn][i][threadIdx.x], p);
            }
            turn ^= 1;
        }
        near = near && all_within(z.o - o, 0, 0) && all_within(z.B, 0, WKV_HI / 2);  // a warp before this one may have moved o
        if (n > 0) store_state(a.state(b, t, c), a.C, z);
        auto steps = [&](auto constant) {
            constexpr bool near = decltype(constant)::value;
#pragma unroll
            for (int s = 0; s < WKV_CHUNK; s++) {
                if (!near && s >= n) break;
                if (!near && (resets >> s & 1)) z.A = 0, z.B = 0;
                Vec<W> vs = load<W>(v[s].x);
                WkvStep<W> q = near ? wkv_near_step(z, ek[s], p) : wkv_step(z, k2[s], p);
                store(a.y + at, sigmoid(load<W>(r[s].x)) * (q.c2 * vs + q.c1 * z.A) * reciprocal(q.c1 * z.B + q.c2));
                wkv_advance(z, q, vs), at += a.C;
            }
        };
        if (near) steps(std::true_type());
        else steps(std::false_type());
        if (warps == 1) start = z;
        if (a.state_out && n > 0 && t + n == a.T) store_state(a.state_out + (int64_t)b * a.C + c, (int64_t)a.B * a.C, z);
    }
}

// Backward. With q = dwkv/(c1 B + c2) and al, be the adjoints of A', B':
//
//   dv = c2 q + d2 al       e = c2 q (v - wkv)      dk = e + d2 (al v + be)
//   du += e                 dw += d1 (al A + be B)  al <- d1 al + c1 q   be <- d1 be - c1 q wkv
//
// A chunk is run forward again from its kept state, which gives dr and what the chunk sends to its left when nothing
// comes from its right: al = sum of P c1 q, be = - sum of P c1 q wkv, where P is the product of d1 so far. Then backward.
struct WkvBackwardArgs {
    WkvArgs f;                        // the forward's arguments (y is not used)
    floatX *dk, *dv, *dr;             // (B,T,C)
    const floatX *dy;                 // (B,T,C)
    const real *dstate_out;           // (2,B,C) gradients of A, B of state_out, or null: zero
    real *dstate_in;                  // (2,B,C) or null
    real *partial;                    // (B * warps, 2, C): gradients of time_decay and time_first
};
// Adjoints al, be at the start of a chunk and their reference o; P of the whole chunk, and the reference at its end
template<int W> struct WkvAdjoint { Vec<W> al, be, o, P, end; };

template<int W> __global__ void __launch_bounds__(WKV_LANES * WKV_WARPS) wkv_backward_kernel(WkvBackwardArgs a) {
    __shared__ WkvAdjoint<W> sent[2][WKV_WARPS][WKV_LANES];
    const WkvArgs &f = a.f;
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * W, b = blockIdx.y, warp = threadIdx.y, warps = blockDim.y, turn = 0, C = f.C;
    int64_t BC = (int64_t)f.B * C, bc = (int64_t)b * C + c;
    WkvChannel<W> p = wkv_channel<W>(f.decay, f.first, c);
    Vec<W> al = 0, be = 0, o = 0, dw = 0, du = 0;  // al, be relative to o: what comes from the right of the tile
    bool any = a.dstate_out;                       // otherwise nothing comes yet, and o says nothing
    if (any) al = load<W>(a.dstate_out + bc), be = load<W>(a.dstate_out + BC + bc), o = load<W>(f.state_out + 2 * BC + bc);
    for (int tile = (f.T - 1) / (warps * WKV_CHUNK) * (warps * WKV_CHUNK); tile >= 0; tile -= warps * WKV_CHUNK) {
        int t = tile + warp * WKV_CHUNK, n = min(WKV_CHUNK, f.T - t), active = min(warps, (f.T - tile + WKV_CHUNK - 1) / WKV_CHUNK);
        int64_t at = f.at(b, min(t, f.T - 1), c);
        unsigned resets = f.resets(b, t, n);
        Pack<floatX, W> k[WKV_CHUNK], v[WKV_CHUNK], r[WKV_CHUNK], dy[WKV_CHUNK];
        WkvState<W> z = {0, 0, 0};
        struct { Vec<W> A, B, q, wkv; } kept[WKV_CHUNK];  // before each step; in a chunk that is not near o and dwkv for q and wkv:
                                                          // to keep all six would take 32 registers that are not there
        if (n > 0) z = load_state<W>(f.state(b, t, c), C);
#pragma unroll
        for (int s = 0; s < WKV_CHUNK; s++, at += s < n ? C : 0)  // as in forward
            k[s] = load_pack<W>(f.k + at), v[s] = load_pack<W>(f.v + at), r[s] = load_pack<W>(f.r + at), dy[s] = load_pack<W>(a.dy + at);
        at = f.at(b, t, c);
        WkvAdjoint<W> own = {0, 0, z.o, 1, 0};
        Vec<W> k2[WKV_CHUNK], ek[WKV_CHUNK];
        bool near = wkv_near(k2, ek, k, z.o, p) && all_within(z.B, 0, WKV_HI / 2) && n == WKV_CHUNK && !resets;
        auto replay = [&](auto constant) {
            constexpr bool near = decltype(constant)::value;
#pragma unroll
            for (int s = 0; s < WKV_CHUNK; s++) {
                if (!near && (resets >> s & 1)) z.A = 0, z.B = 0, own.P = 0;
                Vec<W> vs = load<W>(v[s].x), gate = sigmoid(load<W>(r[s].x)), g = load<W>(dy[s].x) * gate;
                kept[s] = {z.A, z.B, z.o, g};  // past the end too: what is not written keeps its registers from the tile before
                if (!near && s >= n) continue;
                WkvStep<W> x = near ? wkv_near_step(z, ek[s], p) : wkv_step(z, k2[s], p);
                Vec<W> inverse = reciprocal(x.c1 * z.B + x.c2), wkv = (x.c2 * vs + x.c1 * z.A) * inverse, q = g * inverse;
                if (near) kept[s].q = q, kept[s].wkv = wkv, k2[s] = ek[s];  // which is all that is needed of k
                store(a.dr + at, g * wkv * (real(1) - gate));
                Vec<W> d = own.P * x.c1 * q;
                own.al += d, own.be += real(-1) * d * wkv, own.P = own.P * x.d1;
                wkv_advance(z, x, vs), at += C;
            }
        };
        if (near) replay(std::true_type());
        else replay(std::false_type());
        own.end = z.o;
        if (warps > 1) {
            sent[turn][warp][threadIdx.x] = own;
            __syncthreads();  // every warp has told what its chunk sends to its left
        }
        Vec<W> right_al = 0, right_be = 0;  // at the end of this warp's chunk
        for (int i = active - 1; i >= 0; i--) {
            const WkvAdjoint<W> &x = warps > 1 ? sent[turn][i][threadIdx.x] : own;
            Vec<W> scale = any ? exp2v(x.end - o) : Vec<W>(0);  // the references left and right of a border may differ
            if (i == warp) right_al = al * scale, right_be = be * scale;
            al = x.al + x.P * scale * al, be = x.be + x.P * scale * be, o = x.o, any = true;
        }
        turn ^= 1;
        auto adjoint = [&](auto constant) {
            constexpr bool near = decltype(constant)::value;
#pragma unroll
            for (int s = WKV_CHUNK - 1; s >= 0; s--) {
                if (!near && s >= n) continue;
                Vec<W> vs = load<W>(v[s].x), q = kept[s].q, wkv = kept[s].wkv;
                z = {kept[s].A, kept[s].B, near ? z.o : q};
                WkvStep<W> x = near ? wkv_near_step(z, k2[s], p) : wkv_step(z, k2[s], p);
                if (!near) {
                    Vec<W> inverse = reciprocal(x.c1 * z.B + x.c2);
                    q = wkv * inverse, wkv = (x.c2 * vs + x.c1 * z.A) * inverse;
                }
                Vec<W> e = x.c2 * q * (vs - wkv);
                at -= C;
                store(a.dv + at, x.c2 * q + x.d2 * right_al);
                store(a.dk + at, e + x.d2 * (right_al * vs + right_be));
                du += e, dw += x.d1 * (right_al * z.A + right_be * z.B);
                right_al = x.d1 * right_al + x.c1 * q, right_be = x.d1 * right_be - x.c1 * q * wkv;
                if (!near && (resets >> s & 1)) right_al = 0, right_be = 0;
            }
        };
        if (near) adjoint(std::true_type());
        else adjoint(std::false_type());
        if (t == 0 && a.dstate_in) store(a.dstate_in + bc, right_al), store(a.dstate_in + BC + bc, right_be);
    }
    real *partial = a.partial + ((int64_t)b * warps + warp) * 2 * C + c;
    store(partial, dw * p.w2 * LN2), store(partial + C, du);  // d w / d time_decay = w
}

inline int wkv_lanes(int C, int width) {  // the channels of a block divide C, so that no thread is idle
    int lanes = WKV_LANES;
    while (C / width % lanes) lanes /= 2;
    return lanes;
}
// As many warps as let all blocks run at once: with large B C one each, and T is not split.
inline int wkv_warps(int B, int T, int C) {
#ifdef CPU_SHAPES
    return 1;
#endif
    int64_t blocks = (int64_t)B * C / (WKV_LANES * WKV_WIDTH);
    return std::min(std::max(1, WKV_WARPS / std::max(1, ceil_div(blocks, device().multiProcessorCount))), ceil_div(T, WKV_CHUNK));
}
inline void wkv_forward(const WkvArgs &a, cudaStream_t stream) {
    int width = channel_width(a.C, WKV_WIDTH), lanes = wkv_lanes(a.C, width);
    dispatch_width<WKV_WIDTH>(width, [&](auto W) {
        wkv_forward_kernel<W.value><<<dim3(a.C / (lanes * width), a.B), dim3(lanes, a.warps), 0, stream>>>(a);
    });
    launchCheck();
}
inline void wkv_backward(const WkvBackwardArgs &a, real *ddecay, real *dfirst, cudaStream_t stream) {
    const WkvArgs &f = a.f;
    int width = channel_width(f.C, WKV_WIDTH), lanes = wkv_lanes(f.C, width);
    dispatch_width<WKV_WIDTH>(width, [&](auto W) {
        wkv_backward_kernel<W.value><<<dim3(f.C / (lanes * width), f.B), dim3(lanes, f.warps), 0, stream>>>(a);
    });
    launchCheck();
    column_sums({{ddecay, dfirst}}, a.partial, f.B * f.warps, 2, f.C, stream);
}

// ------------------------------------------------------------------------------------------------
// Backward of the receptance gate of the feed-forward layer, which the next layer's norm applies

// of sigmoid(r) kv: dkv = dx sigmoid(r), dr = dx kv sigmoid(r) (1 - sigmoid(r))
template<int W> __global__ void gate_backward_kernel(floatX *dkv, floatX *dr, const floatX *dx, const floatX *r, const floatX *kv, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= n) return;
    Vec<W> d = load<W>(dx + i), gate = sigmoid(load<W>(r + i));
    store(dkv + i, d * gate), store(dr + i, d * load<W>(kv + i) * gate * (real(1) - gate));
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
    static constexpr bool recurrent = true;
    static constexpr int STATE = 5;  // vectors of C per layer: last n of att, of ffn, and A, B, o of wkv
    static TrainDefaults defaults() {
        TrainDefaults d;
        d.recompute = "less memory, more time, the same bits: 1 makes mixes again, 2 also k v r and relu^2";
        return d;
    }
    struct Config { std::vector<Option> table() { return {}; } };  // no options of its own
    static std::vector<TensorRow> rows(const Config &) { return rwkv4_rows; }
    static Shape shape_of(const TensorFile &file, Config &);
    static void complete(Shape &s, Config &, int) { if (!s.F) s.F = 4 * s.C; }
    static TunedState tuned_state(const Shape &) { return {}; }  // sums over the past are no place to learn in
    static std::vector<TensorRow> state_rows() { return {}; }

    Parameters &p;
    Shape s;
    int B, T, recompute;                       // the largest batch; what backward makes again (0, 1, 2)
    std::vector<Layer> layers;
    int64_t emb, ln0_w, ln0_b, ln_out_w, ln_out_b, head_w;
    floatX *x_last, *x_out;                    // after the last layer, after ln_out
    real *out_stats;
    Head head;
    floatX *dx, *d_small, *d_wide, *d_mixed;   // gradients: residual stream, 2 of C, F or 3C, 3 of C
    real *sums, *partial;                      // partial sums of the embedding, of vectors
    floatX *shared_mixed, *shared_ffn_mixed, *shared_kvr, *shared_s;  // one for all layers, with recompute
    cudaStream_t stream = 0;

    RWKV4(Parameters &p, const Config &, int B, int T, int recompute) : p(p), s(p.table.s), B(B), T(T), recompute(recompute), layers(s.L) {
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
    int max_past() const { return INT_MAX; }

    // Lists every buffer. Level 1 makes the mixes again in backward, level 2 also k, v, r and s: 17 -> 12 -> 5 (B,T,C) a layer.
    void plan(Arena &arena) {
        int64_t BT = (int64_t)B * T, C = s.C, F = s.F;
        auto keep = [&](floatX **own, floatX **shared, int level, int64_t count, bool first_layer) {
            if (recompute < level) arena.plan("activations", own, count);
            else if (first_layer) arena.plan("activations", shared, count);
        };
        for (int l = 0; l < s.L; l++) {
            Layer &a = layers[l];
            for (floatX **x : {&a.x, &a.x2, &a.y, &a.ffn_r, &a.ffn_kv}) arena.plan("activations", x, BT * C);
            keep(&a.mixed, &shared_mixed, 1, 3 * BT * C, l == 0), keep(&a.ffn_mixed, &shared_ffn_mixed, 1, 2 * BT * C, l == 0);
            keep(&a.kvr, &shared_kvr, 2, 3 * BT * C, l == 0), keep(&a.s, &shared_s, 2, BT * F, l == 0);
            arena.plan("activations", &a.stats, 4 * BT);
            arena.plan("activations", &a.states, (int64_t)B * ceil_div(T, WKV_CHUNK) * 3 * C);
        }
        arena.plan("activations", &x_last, BT * C), arena.plan("activations", &x_out, BT * C), arena.plan("activations", &out_stats, 2 * BT);
        head.plan(arena, BT, s.V, C);
        arena.plan("backward", &dx, BT * C), arena.plan("backward", &d_small, 2 * BT * C);
        arena.plan("backward", &d_wide, BT * std::max(F, 3 * C)), arena.plan("backward", &d_mixed, 3 * BT * C);
        arena.plan("backward", &sums, embedding_pieces(BT, s.V) * C);
        arena.plan("backward", &partial, C * std::max<int64_t>({mix_blocks_most(B, T) * 5ll, B * wkv_warps(B, T, C) * 2ll, busy_blocks() * 2ll}));
    }
    void link() {  // after the arena is allocated
        for (Layer &a : layers) {
            if (recompute >= 1) a.mixed = shared_mixed, a.ffn_mixed = shared_ffn_mixed;
            if (recompute >= 2) a.kvr = shared_kvr, a.s = shared_s;
        }
    }

    // States are (L, 5, B, C): of each layer ATT_SHIFT, FFN_SHIFT, and WKV_STATE with A, B, o
    const floatX *weight(int64_t offset) const { return p.params + offset; }  // matrices: floatX
    const real *vector(int64_t offset) const { return p.master + offset; }    // vectors: real
    template<class R> R *state(R *base, const ModelInput &in, int l, int part) const { return base ? base + ((int64_t)l * STATE + part) * in.B * s.C : nullptr; }

    MixArgs mix_args(const ModelInput &in, int l, bool ffn) const {
        const Layer &a = layers[l];
        int64_t BT = in.BT(), BTC = BT * s.C;
        const int shift = ffn ? FFN_SHIFT : ATT_SHIFT;
        real *stats = a.stats + (ffn ? 2 * BT : 0);
        MixArgs m = {};
        m.x = ffn ? a.x2 : a.x, m.w = vector(ffn ? a.ln2_w : a.ln1_w), m.b = vector(ffn ? a.ln2_b : a.ln1_b);
        m.mean = stats, m.rstd = stats + BT, m.state_in = state(in.state_in, in, l, shift), m.state_out = state(in.state_out, in, l, shift);
        m.reset = in.reset, m.T = in.T, m.C = s.C;
        for (int j = 0; j < (ffn ? 2 : 3); j++) {
            m.out[j] = (ffn ? a.ffn_mixed : a.mixed) + j * BTC;
            m.mu[j] = vector(ffn ? (j ? a.ffn_mix_r : a.ffn_mix_k) : j == 0 ? a.mix_k : j == 1 ? a.mix_v : a.mix_r);
        }
        return m;
    }
    Batched kvr_batch(const Layer &a, const ModelInput &in) const { return {3, in.BT() * s.C, in.BT() * s.C, a.value - a.key}; }
    WkvArgs wkv_args(const ModelInput &in, int l) const {
        const Layer &a = layers[l];
        int64_t BTC = in.BT() * s.C;
        return {a.y, a.kvr, a.kvr + BTC, a.kvr + 2 * BTC, vector(a.decay), vector(a.first), a.states, state(in.state_in, in, l, WKV_STATE), state(in.state_out, in, l, WKV_STATE),
                in.reset, in.B, in.T, s.C, wkv_warps(in.B, in.T, s.C)};
    }
    void kvr_forward(const Layer &a, const ModelInput &in) { matmul_forward(a.kvr, a.mixed, weight(a.key), nullptr, in.BT(), s.C, s.C, stream, kvr_batch(a, in)); }
    void relu2(const Layer &a, const ModelInput &in) {  // s = relu(Wk xk)^2
        matmul_forward(a.s, a.ffn_mixed, weight(a.ffn_key), nullptr, in.BT(), s.F, s.C, stream);
        relu2_forward(a.s, in.BT() * s.F, stream);
    }

    // x_out (B,T,C) = ln_out of the last layer; logits are made by the head, as many as are wanted
    void forward(const ModelInput &in) {
        int BT = in.BT(), C = s.C;
        embedding_forward(layers[0].x, in.tokens, weight(emb), vector(ln0_w), vector(ln0_b), BT, C, stream);  // x = ln0(emb[token])
        for (int l = 0; l < s.L; l++) {
            const Layer &a = layers[l];
            MixArgs m = mix_args(in, l, false);
            // x = x2 + sigmoid(ffn_r) ffn_kv of the layer below, added on the way in
            if (l) m.x = layers[l - 1].x2, m.r = layers[l - 1].ffn_r, m.kv = layers[l - 1].ffn_kv, m.x_out = a.x;
            mix_forward<3>(m, in.B, stream);                                      // xk, xv, xr of n = ln1(x)
            kvr_forward(a, in);                                                   // k = Wk xk, v = Wv xv, r = Wr xr
            wkv_forward(wkv_args(in, l), stream);                                 // y = sigmoid(r) wkv
            matmul_forward(a.x2, a.y, weight(a.output), a.x, BT, C, C, stream);   // x2 = x + Wo y
            mix_forward<2>(mix_args(in, l, true), in.B, stream);                  // xk, xr of ffn, of n = ln2(x2)
            relu2(a, in);                                                         // s = relu(Wk xk)^2
            matmul_forward(a.ffn_r, a.ffn_mixed + (int64_t)BT * C, weight(a.ffn_receptance), nullptr, BT, C, C, stream);  // ffn_r = Wr xr
            matmul_forward(a.ffn_kv, a.s, weight(a.ffn_value), nullptr, BT, C, s.F, stream);  // ffn_kv = Wv s
        }
        const Layer &a = layers[s.L - 1];
        MixArgs m = {};
        // x_last = x2 + sigmoid(ffn_r) ffn_kv, likewise
        m.x = a.x2, m.r = a.ffn_r, m.kv = a.ffn_kv, m.x_out = x_last, m.out[0] = x_out, m.w = vector(ln_out_w), m.b = vector(ln_out_b);
        m.mean = out_stats, m.rstd = out_stats + BT, m.T = in.T, m.C = C;
        mix_forward<0>(m, in.B, stream);  // x_out = ln_out(x_last)
    }

    // losses (head.losses) of targets (B,T); with `backward` set also dx_out, in d_small
    void loss(const ModelInput &in, const int *targets, const real *scale, real l2wrap, bool backward) {
        head.loss(x_out, weight(head_w), targets, scale, l2wrap, in.BT(), backward ? d_small : nullptr, p.grads + head_w, stream);
    }

    MixBackwardArgs mix_backward_args(const MixArgs &m, const ModelInput &in, int l, bool ffn, const real *dstate_out, real *dstate_in) const {
        const int shift = ffn ? FFN_SHIFT : ATT_SHIFT;
        MixBackwardArgs a = {};
        a.dx = dx, a.add = true, a.x = m.x, a.w = m.w, a.b = m.b, a.mean = m.mean, a.rstd = m.rstd, a.state_in = m.state_in;
        a.dstate_out = state(dstate_out, in, l, shift), a.dstate_in = state(dstate_in, in, l, shift), a.reset = in.reset;
        a.partial = partial, a.T = in.T, a.C = s.C;
        for (int j = 0; j < MAX_MIXES; j++) a.mu[j] = m.mu[j], a.dout[j] = d_mixed + j * in.BT() * s.C;
        return a;
    }
    // Backward. At the end of a line: what it differentiates
    void ffn_backward(const ModelInput &in, int l, const real *dstate_out, real *dstate_in) {
        const Layer &a = layers[l];
        int64_t BT = in.BT(), C = s.C, F = s.F, BTC = BT * C;
        real *g = p.grads;
        MixArgs m = mix_args(in, l, true);
        m.state_out = nullptr;
        if (recompute >= 1) mix_forward<2>(m, in.B, stream);
        if (recompute >= 2) relu2(a, in);
        floatX *dkv = d_small, *dr = d_small + BTC, *ds = d_wide;
        // next x = x2 + sigmoid(ffn_r) ffn_kv: dx, as it is, also goes on to x2
        elementwise(BTC, [&](auto W, int blocks, int threads) { gate_backward_kernel<W.value><<<blocks, threads, 0, stream>>>(dkv, dr, dx, a.ffn_r, a.ffn_kv, BTC); });
        matmul_backward_weight(g + a.ffn_value, dkv, a.s, BT, C, F, stream);  // ffn_kv = Wv s
        matmul_backward_input(ds, dkv, weight(a.ffn_value), BT, C, F, stream);
        relu2_backward(ds, a.s, BT * F, stream);  // s = relu(Wk xk)^2
        matmul_backward_weight(g + a.ffn_key, ds, a.ffn_mixed, BT, F, C, stream);
        matmul_backward_input(d_mixed, ds, weight(a.ffn_key), BT, F, C, stream);
        matmul_backward_weight(g + a.ffn_receptance, dr, a.ffn_mixed + BTC, BT, C, C, stream);  // ffn_r = Wr xr
        matmul_backward_input(d_mixed + BTC, dr, weight(a.ffn_receptance), BT, C, C, stream);
        mix_backward<2>(mix_backward_args(m, in, l, true, dstate_out, dstate_in), in.B, {{g + a.ffn_mix_k, g + a.ffn_mix_r, g + a.ln2_w, g + a.ln2_b}}, stream);
    }
    void att_backward(const ModelInput &in, int l, const real *dstate_out, real *dstate_in) {
        const Layer &a = layers[l];
        int64_t BT = in.BT(), C = s.C, BTC = BT * C;
        real *g = p.grads;
        MixArgs m = mix_args(in, l, false);
        m.state_out = nullptr;
        if (recompute >= 1) mix_forward<3>(m, in.B, stream);
        if (recompute >= 2) kvr_forward(a, in);
        floatX *dy = d_small, *dkvr = d_wide;
        matmul_backward_weight(g + a.output, dx, a.y, BT, C, C, stream);  // x2 = x + Wo y
        matmul_backward_input(dy, dx, weight(a.output), BT, C, C, stream);
        WkvBackwardArgs w = {wkv_args(in, l), dkvr, dkvr + BTC, dkvr + 2 * BTC, dy, state(dstate_out, in, l, WKV_STATE), state(dstate_in, in, l, WKV_STATE), partial};
        wkv_backward(w, g + a.decay, g + a.first, stream);  // y = sigmoid(r) wkv
        matmul_backward_weight(g + a.key, dkvr, a.mixed, BT, C, C, stream, kvr_batch(a, in));  // k = Wk xk, v = Wv xv, r = Wr xr
        matmul_backward_input(d_mixed, dkvr, weight(a.key), BT, C, C, stream, kvr_batch(a, in));
        mix_backward<3>(mix_backward_args(m, in, l, false, dstate_out, dstate_in), in.B, {{g + a.mix_k, g + a.mix_v, g + a.mix_r, g + a.ln1_w, g + a.ln1_b}}, stream);
    }
    // After forward and loss on the same input: gradients += . dstate_out, dstate_in: gradients of the states, laid
    // out like them (those of o are not used: o is a reference), null in = zero, null out = not wanted.
    void backward(const ModelInput &in, const TokenIndex &index, const real *dstate_out, real *dstate_in) {
        int BT = in.BT();
        real *g = p.grads;
        MixBackwardArgs m = {};
        m.dx = dx, m.dout[0] = d_small, m.x = x_last, m.w = vector(ln_out_w), m.b = vector(ln_out_b), m.mean = out_stats, m.rstd = out_stats + BT;
        m.partial = partial, m.T = in.T, m.C = s.C;
        mix_backward<0>(m, in.B, {{g + ln_out_w, g + ln_out_b}}, stream);
        for (int l = s.L - 1; l >= 0; l--) {
            ffn_backward(in, l, dstate_out, dstate_in);
            att_backward(in, l, dstate_out, dstate_in);
        }
        embedding_backward(g + emb, g + ln0_w, g + ln0_b, sums, partial, dx, weight(emb), vector(ln0_w), index, BT, s.V, s.C, stream);
    }
};

// The shape of a weight file, from names and shapes; other models are refused by name.
Shape RWKV4::shape_of(const TensorFile &file, Config &) {
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

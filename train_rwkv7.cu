/* train_rwkv7.cu: RWKV-7 "Goose" (x070, arXiv 2503.14456), trained from scratch or from an official checkpoint.

       make && ./prepare book.txt --tokenizer byte --out data/book && ./train_rwkv7 --train data/book_train.bin ...
       ./train_rwkv7 --help

   The model, for tokens x_t, with C channels in H heads of N, and L layers (per channel unless a matrix is named):

       x = ln0(emb[token])
       L times:  x += att(ln1(x));  x += ffn(ln2(x))
       logits = head ln_out(x)

       att:  xj = n_t + (n_{t-1} - n_t) x_j       j = r k v w a g, n = ln1(x): six "token shifts"
             r = Wr xr   k = Wk xk   v = Wv xv    the matrices of w a v g are of low rank ("LoRA"): C -> D -> C
             w = w0 + tanh(xw w1) w2              the decay of a step is e^l, l = -e^{-1/2} sigmoid(w)
             a = sigmoid(a0 + xa a1 a2)           how much of a key is replaced (its "learning rate")
             g = sigmoid(xg g1) g2                output gate
             v = v + (v_first - v) sigmoid(v0 + xv v1 v2)    v_first: v of layer 0 (there v stays)
             kk = k k_k / |k k_k|  per head       k' = k (1 + (a - 1) k_a)
             S_t = S_{t-1} (diag(e^l) - kk^T (kk a)) + v^T k'    (N,N) per head, row = value, column = key channel
             y = GroupNorm(S_t r) + (sum over the head of r k' r_k) v
             att = Wo (y g)
       ffn:  ffn = Wv relu(Wk xk)^2               a mix of its own, n = ln2(x)

   These LoRAs are part of the model; --tune lora (rwkv/finetune.h) is another thing.

   S is a linear memory of value for key that each token rewrites by a step of gradient descent. It generates from a
   state of C (N + 2) numbers per layer: the last n of att and of ffn, and S.

   Order of this file: the tensors; what happens between the matrix products and the recurrence ("prepare"); what
   happens behind it ("out"); the LoRAs' activations; the model (memory, forward, backward); main. The recurrence is
   in rwkv/wkv7.h, norm, token shift and mixes in rwkv/mix.h; what all models share is in rwkv/ (see rwkv.h). */
#include "rwkv.h"
#include "rwkv/wkv7.h"

// ------------------------------------------------------------------------------------------------
// The tensors: official names, and the initialisation of the official trainer. l = layer, i = channel.

static double depth(const InitContext &c) { return c.s.L > 1 ? (double)c.layer / (c.s.L - 1) : 0; }      // 0 .. 1
static double to_zero(const InitContext &c) { return 1 - (double)c.layer / c.s.L; }                      // 1 .. 1/L
static double across(const InitContext &c, int64_t i) { return c.s.C > 1 ? (double)i / (c.s.C - 1) : 0; }  // 0 .. 1
static double zigzag(const InitContext &c, int64_t i) {                                                  // -1 .. 1 in each head
    int N = c.s['n'];
    double z = (i % N - (N - 1) / 2.0) / ((N - 1) / 2.0);
    return z * fabs(z);
}
template<class F> static void each_channel(double *w, const InitContext &c, F f) { for (int64_t i = 0; i < c.rows * c.cols; i++) w[i] = f(i); }
static void init_mix(double *w, const InitContext &c, double power) { each_channel(w, c, [&](int64_t i) { return 1 - pow((double)i / c.s.C, power); }); }
static void init_mix_rg(double *w, const InitContext &c) { init_mix(w, c, 0.2 * to_zero(c)); }
static void init_mix_wa(double *w, const InitContext &c) { init_mix(w, c, 0.9 * to_zero(c)); }
static void init_mix_kv(double *w, const InitContext &c) { init_mix(w, c, 0.7 * to_zero(c)); }
static void init_mix_ffn(double *w, const InitContext &c) { init_mix(w, c, pow(to_zero(c), 4)); }
static void init_w0(double *w, const InitContext &c) {  // decays from e^-0.0015 (a memory of 670 tokens) to e^-0.58 per step
    each_channel(w, c, [&](int64_t i) { return -5.5 + 6 * pow(across(c, i), 1 + pow(depth(c), 0.3)) + 2.5 * zigzag(c, i); });
}
static void init_a0(double *w, const InitContext &c) { each_channel(w, c, [&](int64_t i) { return -0.19 + 0.3 * zigzag(c, i) + 0.4 * (across(c, i) - 0.5); }); }
static void init_v0(double *w, const InitContext &c) { each_channel(w, c, [&](int64_t i) { return 0.73 - 0.4 * (across(c, i) - 0.5); }); }
static void init_k_k(double *w, const InitContext &c) { each_channel(w, c, [&](int64_t i) { return 0.71 - 0.1 * (across(c, i) - 0.5); }); }
static void init_k_a(double *w, const InitContext &c) { each_channel(w, c, [&](int64_t) { return 1.02; }); }
static void init_r_k(double *w, const InitContext &c) { each_channel(w, c, [&](int64_t) { return -0.04; }); }
static void init_ln_x(double *w, const InitContext &c) { each_channel(w, c, [&](int64_t) { return pow((1.0 + c.layer) / c.s.L, 0.7); }); }
static void init_embedding(double *w, const InitContext &c) { each_channel(w, c, [&](int64_t) { return (2 * c.rng.uniform() - 1) * 1e-4; }); }  // ln0 brings it to size 1
static void init_orthogonal(double *w, const InitContext &c) { orthogonal(w, c.rows, c.cols, 1, c.rng); }
static void init_key(double *w, const InitContext &c) { orthogonal(w, c.rows, c.cols, 0.1, c.rng); }
static void init_lora(double *w, const InitContext &c) {  // (C,D) here, (D,C) in files
    orthogonal(w, c.rows, c.cols, c.cols > c.rows ? 0.1 * sqrt((double)c.cols / c.rows) : 0.1, c.rng);
}
static void init_head(double *w, const InitContext &c) { orthogonal(w, c.rows, c.cols, c.rows > c.cols ? 0.5 * sqrt((double)c.rows / c.cols) : 0.5, c.rng); }

// w a v g: widths of the LoRAs; h heads, n their size. Files hold the LoRAs' matrices as (in, out): transposed.
static const std::vector<TensorRow> rwkv7_rows = {
    // name                          shape            init             lr decay  transposed
    {"emb.weight",                   {'V', 'C'},      init_embedding,  1, true},
    {"blocks.0.ln0.weight",          {'C'},           init_ones,       1, false},
    {"blocks.0.ln0.bias",            {'C'},           init_zeros,      1, false},
    {"blocks.*.ln1.weight",          {'C'},           init_ones,       1, false},
    {"blocks.*.ln1.bias",            {'C'},           init_zeros,      1, false},
    {"blocks.*.ln2.weight",          {'C'},           init_ones,       1, false},
    {"blocks.*.ln2.bias",            {'C'},           init_zeros,      1, false},
    {"blocks.*.att.x_r",             {'1', '1', 'C'}, init_mix_rg,     1, false},
    {"blocks.*.att.x_w",             {'1', '1', 'C'}, init_mix_wa,     1, false},
    {"blocks.*.att.x_k",             {'1', '1', 'C'}, init_mix_kv,     1, false},
    {"blocks.*.att.x_v",             {'1', '1', 'C'}, init_mix_kv,     1, false},
    {"blocks.*.att.x_a",             {'1', '1', 'C'}, init_mix_wa,     1, false},
    {"blocks.*.att.x_g",             {'1', '1', 'C'}, init_mix_rg,     1, false},
    {"blocks.*.att.w0",              {'1', '1', 'C'}, init_w0,         2, false},
    {"blocks.*.att.w1",              {'w', 'C'},      init_zeros,      1, false, true},
    {"blocks.*.att.w2",              {'C', 'w'},      init_lora,       1, false, true},
    {"blocks.*.att.a0",              {'1', '1', 'C'}, init_a0,         1, false},
    {"blocks.*.att.a1",              {'a', 'C'},      init_zeros,      1, false, true},
    {"blocks.*.att.a2",              {'C', 'a'},      init_lora,       1, false, true},
    {"blocks.+.att.v0",              {'1', '1', 'C'}, init_v0,         1, false},  // layer 0 has no use for v0, v1, v2:
    {"blocks.+.att.v1",              {'v', 'C'},      init_zeros,      1, false, true},  // files may hold them there
    {"blocks.+.att.v2",              {'C', 'v'},      init_lora,       1, false, true},
    {"blocks.*.att.g1",              {'g', 'C'},      init_zeros,      1, false, true},
    {"blocks.*.att.g2",              {'C', 'g'},      init_lora,       1, false, true},
    {"blocks.*.att.k_k",             {'1', '1', 'C'}, init_k_k,        1, false},
    {"blocks.*.att.k_a",             {'1', '1', 'C'}, init_k_a,        1, false},
    {"blocks.*.att.r_k",             {'h', 'n'},      init_r_k,        1, false},
    {"blocks.*.att.receptance.weight", {'C', 'C'},    init_orthogonal, 1, true},   // receptance, key, value are
    {"blocks.*.att.key.weight",      {'C', 'C'},      init_key,        1, true},   // neighbours in this order:
    {"blocks.*.att.value.weight",    {'C', 'C'},      init_orthogonal, 1, true},   // one batched product
    {"blocks.*.att.output.weight",   {'C', 'C'},      init_zeros,      1, true},
    {"blocks.*.att.ln_x.weight",     {'C'},           init_ln_x,       1, false},
    {"blocks.*.att.ln_x.bias",       {'C'},           init_zeros,      1, false},
    {"blocks.*.ffn.x_k",             {'1', '1', 'C'}, init_mix_ffn,    1, false},
    {"blocks.*.ffn.key.weight",      {'F', 'C'},      init_orthogonal, 1, true},
    {"blocks.*.ffn.value.weight",    {'C', 'F'},      init_zeros,      1, true},
    {"ln_out.weight",                {'C'},           init_ones,       1, false},
    {"ln_out.bias",                  {'C'},           init_zeros,      1, false},
    {"head.weight",                  {'V', 'C'},      init_head,       1, true},
};

// ------------------------------------------------------------------------------------------------
// Heads. A warp holds one head of one token, W of its N channels a lane: HeadLane. On the CPU one thread holds all N
// channels where it can: nothing is waited for.

template<int W> struct HeadLane {
    int c;                             // this lane's first channel, within the row of C
    bool inside;                       // lanes past N only take part in sums; they read the head's last channels, to no effect
    __device__ HeadLane(int head, int lane, int N) : c(head * N + min(lane * W, N - W)), inside(lane * W < N) {}
    __device__ Vec<W> keep(Vec<W> x) const { return inside ? x : Vec<W>(0); }
    __device__ real sum(Vec<W> x) const { return warp_sum(inside ? ::sum(x) : real(0)); }
    __device__ Vec<W> get(const floatX *p, int64_t at) const { return keep(load<W>(p + at)); }
    __device__ Vec<W> get(const real *p) const { return keep(load<W>(p + c)); }
    __device__ void put(floatX *p, int64_t at, Vec<W> x) const { if (inside) store(p + at, x); }
    // vector k of K of `part` of the partial sums, (part, K, C)
    __device__ void put_sum(real *partial, int part, int k, int K, int C, Vec<W> x) const { if (inside) store(partial + ((int64_t)part * K + k) * C + c, x); }
};
// The walk of a warp over tokens: the gradients of vectors are sums over them.
struct HeadShape { int rows, H, N; };  // rows: B T tokens
struct Walk {
    int part = blockIdx.y * blockDim.y + threadIdx.y, step = gridDim.y * blockDim.y;
    int64_t row = part;
};
#ifdef CPU_SHAPES
constexpr int HEAD_WARPS = 1;
template<class F> inline void dispatch_head(int N, F f) {  // f(W, lanes)
    bool check = cuda_cpu::opt.check;  // whole warps, as on a GPU
    if (N == 64 && !check) f(std::integral_constant<int, 64>(), 1);
    else if (N == 128 && !check) f(std::integral_constant<int, 128>(), 1);
    else f(std::integral_constant<int, 16>(), check ? 32 : N / 16);
}
#else
constexpr int HEAD_WARPS = 4;
template<class F> inline void dispatch_head(int N, F f) {
    if (N <= 32) f(std::integral_constant<int, 1>(), 32);
    else if (N <= 64) f(std::integral_constant<int, 2>(), 32);
    else f(std::integral_constant<int, 4>(), 32);
}
#endif
// Blocks along the tokens: enough to fill the device, and at least 4 tokens for a warp.
inline int head_groups(const HeadShape &s) { return std::max(1, std::min(ceil_div(s.rows, 4 * HEAD_WARPS), ceil_div(2 * busy_blocks(), s.H))); }
inline int head_parts(const HeadShape &s) { return head_groups(s) * HEAD_WARPS; }  // rows of partial sums
// launch(W, grid, block)
template<class F> inline void head_launch(const HeadShape &s, F launch) {
    dispatch_head(s.N, [&](auto W, int lanes) { launch(W, dim3(s.H, head_groups(s)), dim3(lanes, HEAD_WARPS)); });
    launchCheck();
}

// ------------------------------------------------------------------------------------------------
// Prepare: from the products to what the recurrence takes.
//
//   w = w0 + wl   a = sigmoid(a0 + al)   u = k k_k   kk = u / max(|u|, 1e-12)   k' = k (1 + (a - 1) k_a)
//   v' = v + (v_first - v) sigmoid(v0 + vl)          minus_kk = -kk   kka = kk a
//
// wl, al, vl: what the LoRAs of w, a, v give. Layer 0 has no vl: v' is v.

constexpr real KK_LEAST = real(1e-12);
struct PrepareArgs {
    floatX *w, *kp, *vp, *minus_kk, *kka;                 // (B,T,C)
    const floatX *k, *v, *wl, *al, *vl, *v_first;         // (B,T,C); vl null in layer 0
    const real *w0, *a0, *v0, *k_k, *k_a;                 // (C)
    HeadShape s;
};
template<int W> struct PrepareVectors {
    Vec<W> w0, a0, v0, k_k, k_a;
    __device__ PrepareVectors(const HeadLane<W> &h, const PrepareArgs &p) : w0(h.get(p.w0)), a0(h.get(p.a0)), v0(p.vl ? h.get(p.v0) : Vec<W>(0)), k_k(h.get(p.k_k)), k_a(h.get(p.k_a)) {}
};
// A token's numbers and what is made of them are apart, so that a kernel can have those of many tokens under way.
template<int W> struct KeyInputs {
    Vec<W> k, al;
    __device__ KeyInputs() {}
    __device__ KeyInputs(const HeadLane<W> &h, const PrepareArgs &p, int64_t at) : k(h.get(p.k, at)), al(h.get(p.al, at)) {}
};
template<int W> struct PreparedKey {
    Vec<W> a, factor, kp, kk;
    real length, inverse;                                 // of u
    __device__ PreparedKey(const HeadLane<W> &h, const PrepareVectors<W> &c, const KeyInputs<W> &in) {
        a = sigmoid(c.a0 + in.al), factor = real(1) + (a - real(1)) * c.k_a, kp = in.k * factor;
        Vec<W> u = in.k * c.k_k;
        length = real(sqrt(h.sum(u * u))), inverse = real(1) / fmax(length, KK_LEAST), kk = u * inverse;
    }
};
template<int W> struct ValueInputs {
    Vec<W> v, vl, v_first;                                // layer 0: three times v
    __device__ ValueInputs() {}
    __device__ ValueInputs(const HeadLane<W> &h, const PrepareArgs &p, int64_t at) : v(h.get(p.v, at)), vl(p.vl ? h.get(p.vl, at) : v), v_first(p.vl ? h.get(p.v_first, at) : v) {}
};
template<int W> struct PreparedValue {
    Vec<W> z, from_first, vp;
    __device__ PreparedValue(const PrepareVectors<W> &c, const ValueInputs<W> &in) : z(sigmoid(c.v0 + in.vl)), from_first(in.v_first - in.v), vp(in.v + from_first * z) {}
};
template<int W> __global__ void prepare_forward_kernel(PrepareArgs p) {
    const HeadLane<W> h(blockIdx.x, threadIdx.x, p.s.N);
    const PrepareVectors<W> c(h, p);
    for (Walk i; i.row < p.s.rows; i.row += i.step) {
        int64_t at = i.row * p.s.H * p.s.N + h.c;
        PreparedKey<W> x(h, c, {h, p, at});
        h.put(p.w, at, c.w0 + h.get(p.wl, at)), h.put(p.kp, at, x.kp);
        h.put(p.minus_kk, at, x.kk * real(-1)), h.put(p.kka, at, x.kk * x.a);
        if (p.vl) h.put(p.vp, at, PreparedValue<W>(c, {h, p, at}).vp);
    }
}

// Backward of prepare, and of the bonus s v' with s = sum over the head of r k' r_k, whose gradient dbonus = dout g
// belongs to the same tensors:
//
//   q = sum of dbonus v'     dr += q k' r_k     dk' += q r r_k     dv' += s dbonus     dr_k += q r k'
//   dkk = dkka a - dminus_kk     du = (dkk - kk sum(dkk kk)) / |u|     (below 1e-12: du = dkk / 1e-12)
//   dk = dk' (1 + (a - 1) k_a) + du k_k     da = dk' k k_a + dkka kk     dk_k += du k     dk_a += dk' k (a - 1)
//   dv = dv' (1 - z)     dv_first += dv' z     dvl = dv' (v_first - v) z (1 - z)     z = sigmoid(v0 + vl)
//
// and dw0, da0, dv0 are sums of dw, dal, dvl. v_first is v of layer 0: there dv = dv' + dv_first.
struct PrepareBackwardArgs {
    PrepareArgs f;
    floatX *dr, *dk, *dv;             // (B,T,C) of r, k', v' on entry, of r, k, v on return
    floatX *dkka, *dminus_kk;         // (B,T,C) dal, dvl on return
    floatX *dw;                       // (B,T,C)
    real *dv_first;                   // (B,T,C) summed over the layers, in fp32
    bool last_layer;                  // writes dv_first, those below add, layer 0 reads
    const floatX *dout, *g, *r;       // (B,T,C)
    const real *r_k;                  // (C)
    real *partial;                    // (head_parts, sums, C): w0, a0, k_k, k_a, r_k, and but for layer 0 v0
    int sums;
};
template<int W> struct PrepareSums { Vec<W> w0 = 0, a0 = 0, k_k = 0, k_a = 0, r_k = 0, v0 = 0; };
template<int W> struct PrepareBackwardInputs {
    KeyInputs<W> key;
    ValueInputs<W> value;
    Vec<W> r, dout, g, dv_first;      // dv_first of the layers above
    __device__ PrepareBackwardInputs() {}
    __device__ PrepareBackwardInputs(const HeadLane<W> &h, const PrepareBackwardArgs &b, int64_t at)
        : key(h, b.f, at), value(h, b.f, at), r(h.get(b.r, at)), dout(h.get(b.dout, at)), g(h.get(b.g, at)), dv_first(b.last_layer ? Vec<W>(0) : load<W>(b.dv_first + at)) {}
};
template<int W> struct FromRecurrence { Vec<W> dr, dw, dk, dv, dminus_kk, dkka; };  // gradients of r w k' v' -kk kka
// One token: from the gradients of what the recurrence took to those of what prepare took, and the sums
template<int W> __device__ inline void prepare_backward(const PrepareBackwardArgs &b, const HeadLane<W> &h, const PrepareVectors<W> &c, Vec<W> r_k, int64_t at,
                                                        const PrepareBackwardInputs<W> &in, const FromRecurrence<W> &d, PrepareSums<W> &sums) {
    PreparedKey<W> x(h, c, in.key);
    PreparedValue<W> y(c, in.value);
    Vec<W> k = in.key.k, r = in.r, dbonus = in.dout * in.g;
    real q = h.sum(dbonus * y.vp), s = h.sum(r * x.kp * r_k);
    h.put(b.dr, at, d.dr + x.kp * r_k * q);
    sums.r_k += r * x.kp * q;
    Vec<W> dkp = d.dk + r * r_k * q, dvp = d.dv + dbonus * s;

    Vec<W> dkk = d.dkka * x.a - d.dminus_kk;
    real along = h.sum(dkk * x.kk);
    Vec<W> du = (x.length > KK_LEAST ? dkk - x.kk * along : dkk) * x.inverse;
    h.put(b.dk, at, dkp * x.factor + du * c.k_k);
    sums.k_k += du * k, sums.k_a += dkp * k * (x.a - real(1));
    Vec<W> dal = (dkp * k * c.k_a + d.dkka * x.kk) * x.a * (real(1) - x.a);
    h.put(b.dkka, at, dal);
    sums.a0 += dal, sums.w0 += d.dw;

    if (b.f.vl) {
        Vec<W> dvl = dvp * y.from_first * y.z * (real(1) - y.z);
        if (h.inside) store(b.dv_first + at, in.dv_first + dvp * y.z);
        h.put(b.dminus_kk, at, dvl), sums.v0 += dvl;
        dvp = dvp * (real(1) - y.z);
    } else dvp += in.dv_first;
    h.put(b.dv, at, dvp);
}
template<int W> __global__ void prepare_backward_kernel(PrepareBackwardArgs b) {
    const PrepareArgs &p = b.f;
    const HeadLane<W> h(blockIdx.x, threadIdx.x, p.s.N);
    const PrepareVectors<W> c(h, p);
    const Vec<W> r_k = h.get(b.r_k);
    const int C = p.s.H * p.s.N, K = b.sums;
    PrepareSums<W> sums;
    Walk i;
    for (; i.row < p.s.rows; i.row += i.step) {
        int64_t at = i.row * C + h.c;
        prepare_backward(b, h, c, r_k, at, {h, b, at}, {h.get(b.dr, at), h.get(b.dw, at), h.get(b.dk, at), h.get(b.dv, at), h.get(b.dminus_kk, at), h.get(b.dkka, at)}, sums);
    }
    const Vec<W> all[] = {sums.w0, sums.a0, sums.k_k, sums.k_a, sums.r_k, sums.v0};
#pragma unroll
    for (int k = 0; k < 6; k++) if (k < K) h.put_sum(b.partial, i.part, k, K, C, all[k]);
}

// ------------------------------------------------------------------------------------------------
// Out: what happens to y before the matrix Wo.
//
//   out = (GroupNorm(y) + s v') g      GroupNorm: over the N channels of a head, then weight and bias per channel

constexpr real GROUP_EPS = real(64e-5);
struct OutArgs {
    floatX *out;                                // (B,T,C)
    const floatX *y, *r, *kp, *vp, *g;          // (B,T,C)
    const real *w, *b, *r_k;                    // (C)
    HeadShape s;
};
template<int W> struct Normed {
    Vec<W> xh;
    real rstd;
    __device__ Normed(const HeadLane<W> &h, Vec<W> y, int N) {
        real mean = h.sum(y) / N;
        Vec<W> d = h.keep(y - mean);
        rstd = real(1) / real(sqrt(h.sum(d * d) / N + GROUP_EPS)), xh = d * rstd;
    }
    __device__ Vec<W> backward(const HeadLane<W> &h, Vec<W> dxh, int N) const {  // dy
        real mean = h.sum(dxh) / N, along = h.sum(dxh * xh) / N;
        return (dxh - mean - xh * along) * rstd;
    }
};
template<int W> __global__ void out_forward_kernel(OutArgs a) {
    const HeadLane<W> h(blockIdx.x, threadIdx.x, a.s.N);
    Vec<W> w = h.get(a.w), b = h.get(a.b), r_k = h.get(a.r_k);
    for (Walk i; i.row < a.s.rows; i.row += i.step) {
        int64_t at = i.row * a.s.H * a.s.N + h.c;
        const Vec<W> y = h.get(a.y, at), r = h.get(a.r, at), kp = h.get(a.kp, at), vp = h.get(a.vp, at), g = h.get(a.g, at);  // under way before the first sum
        Normed<W> n(h, y, a.s.N);
        real s = h.sum(r * kp * r_k);
        h.put(a.out, at, (n.xh * w + b + vp * s) * g);
    }
}
// dg = dout (GroupNorm(y) + s v'), dy through the norm; the bonus is left to prepare_backward
struct OutBackwardArgs {
    OutArgs f;
    floatX *dy, *dg;                            // (B,T,C)
    const floatX *dout;                         // (B,T,C)
    real *partial;                              // (head_parts, 2, C): weight, bias
};
template<int W> __global__ void out_backward_kernel(OutBackwardArgs x) {
    const OutArgs &a = x.f;
    const HeadLane<W> h(blockIdx.x, threadIdx.x, a.s.N);
    const int C = a.s.H * a.s.N;
    Vec<W> w = h.get(a.w), b = h.get(a.b), r_k = h.get(a.r_k), dw = 0, db = 0;
    Walk i;
    for (; i.row < a.s.rows; i.row += i.step) {
        int64_t at = i.row * C + h.c;
        const Vec<W> y = h.get(a.y, at), r = h.get(a.r, at), kp = h.get(a.kp, at), vp = h.get(a.vp, at), dout = h.get(x.dout, at), g = h.get(a.g, at);
        Normed<W> n(h, y, a.s.N);
        real s = h.sum(r * kp * r_k);
        const Vec<W> d = dout * g;
        h.put(x.dg, at, dout * (n.xh * w + b + vp * s));
        dw += d * n.xh, db += d;
        h.put(x.dy, at, n.backward(h, d * w, a.s.N));
    }
    h.put_sum(x.partial, i.part, 0, 2, C, dw), h.put_sum(x.partial, i.part, 1, 2, C, db);
}

// ------------------------------------------------------------------------------------------------
// Activations between the two matrices of a LoRA, in place: z -> tanh(z) or sigmoid(z), and back from the result

enum Activation { TANH, SIGMOID };
template<int W, Activation A> __global__ void activate_kernel(floatX *z, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= n) return;
    Vec<W> x = load<W>(z + i);
    store(z + i, A == SIGMOID ? sigmoid(x) : each<W>([&](int j) { return real(tanh(x[j])); }));
}
template<int W, Activation A> __global__ void activate_backward_kernel(floatX *dz, const floatX *y, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= n) return;
    Vec<W> x = load<W>(y + i);
    store(dz + i, load<W>(dz + i) * (A == SIGMOID ? x * (real(1) - x) : real(1) - x * x));
}
template<Activation A> void activate(floatX *z, int64_t n, cudaStream_t stream) {
    elementwise(n, [&](auto W, int blocks, int threads) { activate_kernel<W.value, A><<<blocks, threads, 0, stream>>>(z, n); });
}
template<Activation A> void activate_backward(floatX *dz, const floatX *y, int64_t n, cudaStream_t stream) {
    elementwise(n, [&](auto W, int blocks, int threads) { activate_backward_kernel<W.value, A><<<blocks, threads, 0, stream>>>(dz, y, n); });
}

// ------------------------------------------------------------------------------------------------
// The model

// What one layer keeps, (B,T,C) floatX unless said. Offsets point into the parameter and gradient buffers.
struct Lora { int64_t down, up; };       // offsets of its matrices (D,C) and (C,D)
struct Layer {
    int64_t ln1_w, ln1_b, ln2_w, ln2_b, mix[6], w0, a0, v0, k_k, k_a, r_k, receptance, key, value, output, ln_x_w, ln_x_b;
    int64_t ffn_mix, ffn_key, ffn_value;
    Lora lora[4];                        // w, a, g, v
    floatX *x, *x2;                      // residual stream entering att, entering ffn
    floatX *mixed, *rkv, *low, *up;      // 6 mixes r k v w a g; 3 products; inside the LoRAs; wl, al, g, vl
    floatX *ready, *vp, *y, *out;        // w, k', -kk, kk a; v' (layer 0: v); wkv; gated: what Wo takes
    floatX *ffn_mixed, *s;               // the mix; relu(k)^2 (B,T,F)
    real *stats;                         // (4,B,T): mean, rstd of ln1, then of ln2
    real *states;                        // wkv states before every 16th step
};
enum { LORA_W, LORA_A, LORA_G, LORA_V };

struct RWKV7 {
    static constexpr const char *kind = "RWKV-7", *program = "train_rwkv7";
    static constexpr const char *purpose = "trains RWKV-7 on token shards written by ./prepare";
    static constexpr bool recurrent = true;
    static TrainDefaults defaults() {
        TrainDefaults d;
        d.lr = 6e-4, d.lr_final = 6e-5, d.eps = 1e-18, d.weight_decay = 1e-3;
        d.recompute = "less memory, more time, the same bits: 1 makes what is cheap again, 2 whole layers";
        return d;
    }
    struct Config {
        int64_t head_size = 0, lora_w = 0, lora_a = 0, lora_v = 0, lora_g = 0;
        std::vector<Option> table() {
            return {
                {"head-size", &head_size, 0, 0, 128, "channels of a head (N), a multiple of 16; 0: 64"},
                {"lora-w", &lora_w, 0, 0, 65536, "width of the decay's LoRA; 0: 2.5 sqrt(C), rounded to 32"},
                {"lora-a", &lora_a, 0, 0, 65536, "width of the replacement rate's LoRA; 0: 2.5 sqrt(C)"},
                {"lora-v", &lora_v, 0, 0, 65536, "width of the value residual's LoRA; 0: 1.7 sqrt(C)"},
                {"lora-g", &lora_g, 0, 0, 65536, "width of the gate's LoRA; 0: 5 sqrt(C)"},
            };
        }
        // letter of the tensor table, option, its value, the official factor of sqrt(C)
        struct Width { char letter; const char *option; int64_t *value; double factor; };
        std::vector<Width> widths() { return {{'w', "lora-w", &lora_w, 2.5}, {'a', "lora-a", &lora_a, 2.5}, {'v', "lora-v", &lora_v, 1.7}, {'g', "lora-g", &lora_g, 5}}; }
    };
    static std::vector<TensorRow> rows(const Config &) { return rwkv7_rows; }
    static Shape shape_of(const TensorFile &file, Config &);
    static void complete(Shape &s, Config &config, int);
    static TunedState tuned_state(const Shape &s) { return {2 * s.C, s.C * s['n'], s.C * (2 + s['n']), s['n']}; }
    static std::vector<TensorRow> state_rows() { return {{"blocks.*.att.time_state", {'h', 'n', 'n'}, init_zeros, 1, false}}; }

    Parameters &p;
    Shape s;
    int B, T, H, N, recompute;                 // the largest batch; heads and their size; what backward makes again (0, 1, 2)
    std::vector<Layer> layers;
    Layer shared = {};                         // with recompute: one buffer for all layers
    int64_t emb, ln0_w, ln0_b, ln_out_w, ln_out_b, head_w;
    floatX *x_last, *x_out;                    // after the last layer, after ln_out
    real *out_stats;
    Head head;
    floatX *dx, *d_att, *d_low, *d_mixed;      // gradients: residual stream, 9 of C or one of F, inside a LoRA, 6 mixes
    real *dv_first, *scratch;
    real *sums, *partial;                      // partial sums of the embedding, of vectors
    cudaStream_t stream = 0;

    RWKV7(Parameters &p, const Config &, int B, int T, int recompute) : p(p), s(p.table.s), B(B), T(T), H(s['h']), N(s['n']), recompute(recompute), layers(s.L) {
        auto at = [&](const char *name, int l = -1) { return p.table.offset(name, l); };
        emb = at("emb.weight"), ln0_w = at("ln0.weight", 0), ln0_b = at("ln0.bias", 0);
        ln_out_w = at("ln_out.weight"), ln_out_b = at("ln_out.bias"), head_w = at("head.weight");
        for (int l = 0; l < s.L; l++) {
            Layer &a = layers[l];
            a = {};
            a.ln1_w = at("ln1.weight", l), a.ln1_b = at("ln1.bias", l), a.ln2_w = at("ln2.weight", l), a.ln2_b = at("ln2.bias", l);
            const char *mixes[] = {"att.x_r", "att.x_k", "att.x_v", "att.x_w", "att.x_a", "att.x_g"};
            for (int j = 0; j < 6; j++) a.mix[j] = at(mixes[j], l);
            a.w0 = at("att.w0", l), a.a0 = at("att.a0", l), a.k_k = at("att.k_k", l), a.k_a = at("att.k_a", l), a.r_k = at("att.r_k", l);
            a.lora[LORA_W] = {at("att.w1", l), at("att.w2", l)}, a.lora[LORA_A] = {at("att.a1", l), at("att.a2", l)}, a.lora[LORA_G] = {at("att.g1", l), at("att.g2", l)};
            if (l) a.v0 = at("att.v0", l), a.lora[LORA_V] = {at("att.v1", l), at("att.v2", l)};
            a.receptance = at("att.receptance.weight", l), a.key = at("att.key.weight", l), a.value = at("att.value.weight", l);
            a.output = at("att.output.weight", l), a.ln_x_w = at("att.ln_x.weight", l), a.ln_x_b = at("att.ln_x.bias", l);
            a.ffn_mix = at("ffn.x_k", l), a.ffn_key = at("ffn.key.weight", l), a.ffn_value = at("ffn.value.weight", l);
        }
    }
    int64_t layer_state(int B) const { return (int64_t)B * s.C * (2 + N); }
    int64_t state_count(int B) const { return s.L * layer_state(B); }
    int max_past() const { return INT_MAX; }

    // The buffers of a layer, and from which level of recompute on they are made again in backward. Kept at level 0: 27 (B,T,C)
    // and the states of wkv (N / 16 of them in fp32); at 1: 14 and the states; at 2: x and x2.
    struct Kept { floatX *Layer::*buffer; int level; int64_t count; };
    std::vector<Kept> kept() const {
        int64_t BTC = (int64_t)B * T * s.C;
        return {{&Layer::x, 3, BTC}, {&Layer::x2, 3, BTC}, {&Layer::mixed, 1, 6 * BTC}, {&Layer::rkv, 2, 3 * BTC}, {&Layer::low, 2, low_at((int64_t)B * T, 4)}, {&Layer::up, 2, 4 * BTC},
                {&Layer::ready, 1, 4 * BTC}, {&Layer::vp, 1, BTC}, {&Layer::y, 2, BTC}, {&Layer::out, 1, BTC}, {&Layer::ffn_mixed, 1, BTC}, {&Layer::s, 2, (int64_t)B * T * s.F}};
    }
    void plan(Arena &arena) {
        int64_t BT = (int64_t)B * T, C = s.C;
        for (const Kept &k : kept()) {
            bool own = recompute < k.level, values = k.buffer == &Layer::rkv;  // layer 0 keeps its v for the others
            for (int l = 0; l < s.L; l++)
                if (k.buffer == &Layer::vp && l == 0) continue;                 // v itself
                else if (own || (values && l == 0)) arena.plan("activations", &(layers[l].*k.buffer), k.count);
            if (!own) arena.plan("activations", &(shared.*k.buffer), k.count);
        }
        for (Layer &a : layers) {
            arena.plan("activations", &a.stats, 4 * BT);
            if (recompute < 2) arena.plan("states in time", &a.states, wkv7_kept_count(B, T, H, N));
        }
        if (recompute >= 2) arena.plan("states in time", &shared.states, wkv7_kept_count(B, T, H, N));
        arena.plan("activations", &x_last, BT * C), arena.plan("activations", &x_out, BT * C), arena.plan("activations", &out_stats, 2 * BT);
        head.plan(arena, BT, s.V, C);
        arena.plan("backward", &dx, BT * C), arena.plan("backward", &d_att, BT * std::max<int64_t>(s.F, 9 * C));
        arena.plan("backward", &d_low, BT * std::max({s['w'], s['a'], s['v'], s['g']})), arena.plan("backward", &d_mixed, 6 * BT * C);
        arena.plan("backward", &dv_first, BT * C), arena.plan("backward", &scratch, wkv7_scratch_count(B, T, H, N));
        arena.plan("backward", &sums, embedding_pieces(BT, s.V) * C);
        arena.plan("backward", &partial, C * std::max<int64_t>({mix_blocks_most(B, T) * 8ll, head_parts({(int)BT, H, N}) * 6ll, busy_blocks() * 2ll}));
    }
    void link() {  // after the arena is allocated
        for (Layer &a : layers) {
            for (const Kept &k : kept()) if (!(a.*k.buffer)) a.*k.buffer = shared.*k.buffer;
            if (recompute >= 2) a.states = shared.states;
        }
    }

    // States are per layer: ATT_SHIFT and FFN_SHIFT (B,C), WKV_STATE (B,H,N,N): S, [value][key]
    const floatX *weight(int64_t offset) const { return p.params + offset; }  // matrices: floatX
    const real *vector(int64_t offset) const { return p.master + offset; }    // vectors: real
    template<class R> R *state(R *base, const ModelInput &in, int l, int part) const { return base ? base + l * layer_state(in.B) + (int64_t)part * in.B * s.C : nullptr; }
    int width(int lora) const { return s["wagv"[lora]]; }
    int64_t low_at(int64_t BT, int lora) const {  // where in Layer::low it begins, aligned for vectors; lora = 4: the size of all
        int64_t at = 0;
        for (int i = 0; i < lora; i++) at += (BT * width(i) + 63) / 64 * 64;
        return at;
    }
    floatX *low(const Layer &a, const ModelInput &in, int lora) const { return a.low + low_at(in.BT(), lora); }  // (B,T,D) inside a LoRA
    floatX *up(const Layer &a, const ModelInput &in, int lora) const { return a.up + lora * in.BT() * s.C; }
    const floatX *lora_input(const Layer &a, const ModelInput &in, int lora) const {  // w a g have mixes of their own, v's is that of Wv
        const int mix[] = {3, 4, 5, 2};
        return a.mixed + mix[lora] * in.BT() * s.C;
    }

    MixArgs mix_args(const ModelInput &in, int l, bool ffn) const {
        const Layer &a = layers[l];
        int64_t BT = in.BT();
        const int shift = ffn ? FFN_SHIFT : ATT_SHIFT;
        real *stats = a.stats + (ffn ? 2 * BT : 0);
        MixArgs m = {};
        m.x = ffn ? a.x2 : a.x, m.w = vector(ffn ? a.ln2_w : a.ln1_w), m.b = vector(ffn ? a.ln2_b : a.ln1_b);
        m.mean = stats, m.rstd = stats + BT, m.state_in = state(in.state_in, in, l, shift), m.state_out = state(in.state_out, in, l, shift);
        m.reset = in.reset, m.T = in.T, m.C = s.C, m.of_previous = true;
        for (int j = 0; j < (ffn ? 1 : 6); j++) m.out[j] = ffn ? a.ffn_mixed : a.mixed + j * BT * s.C, m.mu[j] = vector(ffn ? a.ffn_mix : a.mix[j]);
        return m;
    }
    Batched rkv_batch(const Layer &a, const ModelInput &in) const { return {3, in.BT() * s.C, in.BT() * s.C, a.key - a.receptance}; }
    PrepareArgs prepare_args(const ModelInput &in, int l) const {
        const Layer &a = layers[l];
        int64_t BTC = in.BT() * s.C;
        return {a.ready, a.ready + BTC, a.vp, a.ready + 2 * BTC, a.ready + 3 * BTC, a.rkv + BTC, a.rkv + 2 * BTC, up(a, in, LORA_W), up(a, in, LORA_A),
                l ? up(a, in, LORA_V) : nullptr, layers[0].rkv + 2 * BTC, vector(a.w0), vector(a.a0), vector(a.v0), vector(a.k_k), vector(a.k_a), {(int)in.BT(), H, N}};
    }
    const floatX *value(const ModelInput &in, int l) const { return l ? layers[l].vp : layers[0].rkv + 2 * in.BT() * s.C; }
    Wkv7Args wkv_args(const ModelInput &in, int l) const {
        const Layer &a = layers[l];
        int64_t BTC = in.BT() * s.C;
        return {a.y, a.rkv, a.ready, a.ready + BTC, value(in, l), a.ready + 2 * BTC, a.ready + 3 * BTC, a.states, scratch,
                state(in.state_in, in, l, WKV_STATE), state(in.state_out, in, l, WKV_STATE), in.reset, in.B, in.T, H, N};
    }
    OutArgs out_args(const ModelInput &in, int l) const {
        const Layer &a = layers[l];
        return {a.out, a.y, a.rkv, a.ready + in.BT() * s.C, value(in, l), up(a, in, LORA_G), vector(a.ln_x_w), vector(a.ln_x_b), vector(a.r_k), {(int)in.BT(), H, N}};
    }
    // The parts of a layer, in forward and, as far as `recompute` asks for them, again in backward
    void products(const ModelInput &in, int l) const {
        const Layer &a = layers[l];
        int BT = in.BT(), C = s.C;
        matmul_forward(a.rkv, a.mixed, weight(a.receptance), nullptr, BT, C, C, stream, rkv_batch(a, in));
        for (int i = 0; i < (l ? 4 : 3); i++) {
            floatX *z = low(a, in, i);
            matmul_forward(z, lora_input(a, in, i), weight(a.lora[i].down), nullptr, BT, width(i), C, stream);
            if (i == LORA_W) activate<TANH>(z, (int64_t)BT * width(i), stream);
            if (i == LORA_G) activate<SIGMOID>(z, (int64_t)BT * width(i), stream);
            matmul_forward(up(a, in, i), z, weight(a.lora[i].up), nullptr, BT, C, width(i), stream);
        }
    }
    void prepare(const ModelInput &in, int l) const {
        PrepareArgs a = prepare_args(in, l);
        head_launch(a.s, [&](auto W, dim3 grid, dim3 block) { prepare_forward_kernel<W.value><<<grid, block, 0, stream>>>(a); });
    }
    void out(const ModelInput &in, int l) const {
        OutArgs a = out_args(in, l);
        head_launch(a.s, [&](auto W, dim3 grid, dim3 block) { out_forward_kernel<W.value><<<grid, block, 0, stream>>>(a); });
    }
    void relu2(const ModelInput &in, int l) const {  // s = relu(Wk xk)^2
        const Layer &a = layers[l];
        matmul_forward(a.s, a.ffn_mixed, weight(a.ffn_key), nullptr, in.BT(), s.F, s.C, stream);
        relu2_forward(a.s, in.BT() * s.F, stream);
    }

    // x_out (B,T,C) = ln_out of the last layer; logits are made by the head, as many as are wanted
    void forward(const ModelInput &in) {
        int BT = in.BT(), C = s.C;
        embedding_forward(layers[0].x, in.tokens, weight(emb), vector(ln0_w), vector(ln0_b), BT, C, stream);  // x = ln0(emb[token])
        for (int l = 0; l < s.L; l++) {
            const Layer &a = layers[l];
            mix_forward<6>(mix_args(in, l, false), in.B, stream);                  // xr, xk, xv, xw, xa, xg of n = ln1(x)
            products(in, l);                                                       // r, k, v; wl, al, g, vl of the LoRAs
            prepare(in, l);                                                        // w, k', v', -kk, kk a
            wkv7_forward(wkv_args(in, l), stream);                                 // y = S_t r_t
            out(in, l);                                                            // out = (GroupNorm(y) + (sum of r k' r_k) v') g
            matmul_forward(a.x2, a.out, weight(a.output), a.x, BT, C, C, stream);  // x2 = x + Wo out
            mix_forward<1>(mix_args(in, l, true), in.B, stream);                   // xk of ffn, of n = ln2(x2)
            relu2(in, l);                                                          // s = relu(Wk xk)^2
            matmul_forward(l + 1 < s.L ? layers[l + 1].x : x_last, a.s, weight(a.ffn_value), a.x2, BT, C, s.F, stream);  // next x = x2 + Wv s
        }
        MixArgs m = {};
        m.x = x_last, m.out[0] = x_out, m.w = vector(ln_out_w), m.b = vector(ln_out_b), m.mean = out_stats, m.rstd = out_stats + BT, m.T = in.T, m.C = C;
        mix_forward<0>(m, in.B, stream);  // x_out = ln_out(x_last)
    }

    // losses (head.losses) of targets (B,T); with `backward` set also dx_out, in d_att
    void loss(const ModelInput &in, const int *targets, const real *scale, real l2wrap, bool backward) {
        head.loss(x_out, weight(head_w), targets, scale, l2wrap, in.BT(), backward ? d_att : nullptr, p.grads + head_w, stream);
    }

    MixBackwardArgs mix_backward_args(const MixArgs &m, const ModelInput &in, int l, bool ffn, const real *dstate_out, real *dstate_in) const {
        const int shift = ffn ? FFN_SHIFT : ATT_SHIFT;
        MixBackwardArgs a = {};
        a.dx = dx, a.add = true, a.x = m.x, a.w = m.w, a.b = m.b, a.mean = m.mean, a.rstd = m.rstd, a.state_in = m.state_in;
        a.dstate_out = state(dstate_out, in, l, shift), a.dstate_in = state(dstate_in, in, l, shift), a.reset = in.reset;
        a.partial = partial, a.T = in.T, a.C = s.C, a.of_previous = true;
        for (int j = 0; j < (ffn ? 1 : 6); j++) a.mu[j] = m.mu[j], a.dout[j] = d_mixed + j * in.BT() * s.C;
        return a;
    }
    // Backward. At the end of a line: what it differentiates
    void ffn_backward(const ModelInput &in, int l, const real *dstate_out, real *dstate_in) {
        const Layer &a = layers[l];
        int64_t BT = in.BT(), C = s.C, F = s.F;
        real *g = p.grads;
        floatX *ds = d_att;
        MixArgs m = mix_args(in, l, true);
        m.state_out = nullptr;
        if (recompute >= 1) mix_forward<1>(m, in.B, stream);
        if (recompute >= 2) relu2(in, l);
        matmul_backward_weight(g + a.ffn_value, dx, a.s, BT, C, F, stream);  // next x = x2 + Wv s
        matmul_backward_input(ds, dx, weight(a.ffn_value), BT, C, F, stream);
        relu2_backward(ds, a.s, BT * F, stream);  // s = relu(Wk xk)^2
        matmul_backward_weight(g + a.ffn_key, ds, a.ffn_mixed, BT, F, C, stream);
        matmul_backward_input(d_mixed, ds, weight(a.ffn_key), BT, F, C, stream);
        mix_backward<1>(mix_backward_args(m, in, l, true, dstate_out, dstate_in), in.B, {{g + a.ffn_mix, g + a.ln2_w, g + a.ln2_b}}, stream);
    }
    // From d of a LoRA's result to its matrices and the mix it reads, which for v also Wv reads: there it is added
    void lora_backward(const ModelInput &in, int l, int i, const floatX *d) {
        const Layer &a = layers[l];
        const floatX *z = low(a, in, i), *x = lora_input(a, in, i);
        int BT = in.BT(), C = s.C, D = width(i);
        matmul_backward_weight(p.grads + a.lora[i].up, d, z, BT, C, D, stream);
        matmul_backward_input(d_low, d, weight(a.lora[i].up), BT, C, D, stream);
        if (i == LORA_W) activate_backward<TANH>(d_low, z, (int64_t)BT * D, stream);
        if (i == LORA_G) activate_backward<SIGMOID>(d_low, z, (int64_t)BT * D, stream);
        matmul_backward_weight(p.grads + a.lora[i].down, d_low, x, BT, D, C, stream);
        floatX *dx = d_mixed + (x - a.mixed);
        matmul({C, BT, D, 1, false, false, 0, 0, 0, i == LORA_V, data_type<floatX>()}, weight(a.lora[i].down), d_low, dx, dx, stream);
    }
    void att_backward(const ModelInput &in, int l, const real *dstate_out, real *dstate_in) {
        const Layer &a = layers[l];
        int64_t BT = in.BT(), C = s.C, BTC = BT * C;
        real *g = p.grads;
        MixArgs m = mix_args(in, l, false);
        Wkv7Args w = wkv_args(in, l);
        m.state_out = nullptr;
        if (recompute >= 1) mix_forward<6>(m, in.B, stream);
        if (recompute >= 2) products(in, l);
        if (recompute >= 1) prepare(in, l);
        if (recompute >= 2) { Wkv7Args again = w; again.state_out = nullptr; wkv7_forward(again, stream); }
        if (recompute >= 1) out(in, l);
        floatX *dr = d_att, *dk = dr + BTC, *dv = dk + BTC, *dw = dv + BTC, *dminus_kk = dw + BTC, *dkka = dminus_kk + BTC, *dy = dkka + BTC, *dg = dy + BTC, *dout = dg + BTC;
        matmul_backward_weight(g + a.output, dx, a.out, BT, C, C, stream);  // x2 = x + Wo out
        matmul_backward_input(dout, dx, weight(a.output), BT, C, C, stream);
        // out = (GroupNorm(y) + (sum of r k' r_k) v') g
        OutBackwardArgs o = {out_args(in, l), dy, dg, dout, partial};
        head_launch(o.f.s, [&](auto W, dim3 grid, dim3 block) { out_backward_kernel<W.value><<<grid, block, 0, stream>>>(o); });
        column_sums({{g + a.ln_x_w, g + a.ln_x_b}}, partial, head_parts(o.f.s), 2, C, stream);
        wkv7_backward({w, dy, dr, dw, dk, dv, dminus_kk, dkka, state(dstate_out, in, l, WKV_STATE), state(dstate_in, in, l, WKV_STATE)}, stream);  // y = S_t r_t
        // w, k', v', -kk, kk a, and the bonus (sum of r k' r_k) v'
        PrepareBackwardArgs b = {prepare_args(in, l), dr, dk, dv, dkka, dminus_kk, dw, dv_first, l == s.L - 1, dout, o.f.g, a.rkv, vector(a.r_k), partial, l ? 6 : 5};
        head_launch(b.f.s, [&](auto W, dim3 grid, dim3 block) { prepare_backward_kernel<W.value><<<grid, block, 0, stream>>>(b); });
        column_sums({{g + a.w0, g + a.a0, g + a.k_k, g + a.k_a, g + a.r_k, g + a.v0}}, partial, head_parts(b.f.s), b.sums, C, stream);
        matmul_backward_weight(g + a.receptance, dr, a.mixed, BT, C, C, stream, rkv_batch(a, in));  // r = Wr xr, k = Wk xk, v = Wv xv
        matmul_backward_input(d_mixed, dr, weight(a.receptance), BT, C, C, stream, rkv_batch(a, in));
        const floatX *d_lora[] = {dw, dkka, dg, dminus_kk};
        for (int i = 0; i < (l ? 4 : 3); i++) lora_backward(in, l, i, d_lora[i]);  // wl, al, g, vl
        mix_backward<6>(mix_backward_args(m, in, l, false, dstate_out, dstate_in), in.B,
                        {{g + a.mix[0], g + a.mix[1], g + a.mix[2], g + a.mix[3], g + a.mix[4], g + a.mix[5], g + a.ln1_w, g + a.ln1_b}}, stream);
    }
    // After forward and loss on the same input: gradients += . dstate_out, dstate_in: gradients of the states, laid
    // out like them, null in = zero, null out = not wanted.
    void backward(const ModelInput &in, const TokenIndex &index, const real *dstate_out, real *dstate_in) {
        int BT = in.BT();
        real *g = p.grads;
        MixBackwardArgs m = {};
        m.dx = dx, m.dout[0] = d_att, m.x = x_last, m.w = vector(ln_out_w), m.b = vector(ln_out_b), m.mean = out_stats, m.rstd = out_stats + BT;
        m.partial = partial, m.T = in.T, m.C = s.C;
        mix_backward<0>(m, in.B, {{g + ln_out_w, g + ln_out_b}}, stream);
        for (int l = s.L - 1; l >= 0; l--) {
            ffn_backward(in, l, dstate_out, dstate_in);
            att_backward(in, l, dstate_out, dstate_in);
        }
        embedding_backward(g + emb, g + ln0_w, g + ln0_b, sums, partial, dx, weight(emb), vector(ln0_w), index, BT, s.V, s.C, stream);
    }
};

// What the options leave open, by the official rules; for a loaded model only the checks are left to do.
void RWKV7::complete(Shape &s, Config &config, int) {
    if (!s.F) s.F = 4 * s.C;
    if (!config.head_size) config.head_size = 64;
    int N = config.head_size;
    if (!wkv7_head_size_ok(N)) usage_fail("--head-size is %d, but must be a multiple of 16 up to 128", N);
    if (s.C % N) usage_fail("--dim is %d, which is not a multiple of the head size, %d; change --dim or pass --head-size", s.C, N);
    s['n'] = N, s['h'] = s.C / N;
    for (Config::Width w : config.widths()) {
        if (!*w.value) *w.value = std::max(32.0, nearbyint(w.factor * sqrt((double)s.C) / 32) * 32);  // halves to even
        s[w.letter] = *w.value;
    }
}
// The shape of a weight file, from names and shapes; other models are refused by name.
Shape RWKV7::shape_of(const TensorFile &file, Config &config) {
    struct { const char *tensor, *is; } others[] = {
        {"blocks.0.ffn.s_emb.weight", "an RWKV-7a model (DeepEmbed)"}, {"blocks.0.qkv.k1", "an RWKV-7b model"}, {"blocks.0.ffn.enn.weight", "an RWKV-8 model"},
        {"blocks.0.att.time_maa_x", "an RWKV-6 model"}, {"blocks.0.att.time_faaaa", "an RWKV-5 model"}, {"blocks.0.att.qq.weight", "an RWKV-4b model"},
        {"blocks.0.att.time_first", "an RWKV-4 model; train_rwkv trains it"}, {"blocks.0.ffn.receptance.weight", "an older RWKV model"},
        {"transformer.wte.weight", "a GPT-2 model"}, {"wte.weight", "a GPT-2 model"}};
    const char *path = file.path.c_str();
    auto is_older = [&](const char *t) { return !strcmp(t, "blocks.0.att.time_first") && file.find("blocks.0.att.ln_x.weight"); };
    for (auto &o : others) if (file.find(o.tensor)) fail("%s is %s; this program trains RWKV-7", path, is_older(o.tensor) ? "an RWKV-5 model" : o.is);
    auto matrix = [&](const char *name) {
        const TensorView *t = file.find(name);
        if (!t) fail("%s is not an RWKV-7 model: it has no %s", path, name);
        if (t->shape.size() != 2) fail("%s: %s must be a matrix, but has %d dimensions", path, name, (int)t->shape.size());
        return t;
    };
    const TensorView *emb = matrix("emb.weight"), *r_k = matrix("blocks.0.att.r_k"), *key = matrix("blocks.0.ffn.key.weight");
    Shape s = {(int)emb->shape[0], (int)emb->shape[1], (int)key->shape[0], 0};
    while (file.find(format("blocks.%d.att.r_k", s.L))) s.L++;
    if (r_k->shape[0] * r_k->shape[1] != s.C)
        fail("%s: r_k is %lld heads of %lld channels, but the model has %d channels", path, (long long)r_k->shape[0], (long long)r_k->shape[1], s.C);
    auto take = [&](const char *option, int64_t &value, int64_t has, const char *what) {
        if (value && value != has) fail("%s has %s %lld, but --%s says %lld; leave the option away", path, what, (long long)has, option, (long long)value);
        value = has;
    };
    take("head-size", config.head_size, r_k->shape[1], "heads of");
    if (!wkv7_head_size_ok(config.head_size)) fail("%s has heads of %lld channels; this program takes multiples of 16 up to 128", path, (long long)config.head_size);
    for (Config::Width w : config.widths()) {
        std::string layer = w.letter == 'v' ? "blocks.1.att." : "blocks.0.att.", down = layer + w.letter + "1", up = layer + w.letter + "2";
        if (w.letter == 'v' && s.L == 1) continue;  // no value residual
        const TensorView *d = matrix(down.c_str()), *u = matrix(up.c_str());
        if (d->shape[1] != u->shape[0])
            fail("%s: %s has a width of %lld, but %s of %lld", path, down.c_str(), (long long)d->shape[1], up.c_str(), (long long)u->shape[0]);
        take(w.option, *w.value, d->shape[1], (std::string(w.option) + " of").c_str());
    }
    return s;
}

#ifndef TESTING  // tests include this file
int main(int argc, char **argv) { return train_main<RWKV7>(argc, argv); }
#endif

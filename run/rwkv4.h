/* run/rwkv4.h: RWKV-4 (train_rwkv.cu has the equations, doc/wkv.md their derivation).

   State of a layer: the two shifts, then aa, bb, pp (C each): the sums of wkv over the past are aa e^pp and bb e^pp.
   That is the official state; here bb = 0 is an empty past whatever pp is, so that a state starts as zeros.

       y_t = sigmoid(r_t) (aa e^pp + e^{u+k} v) / (bb e^pp + e^{u+k})     then aa e^pp <- e^w (aa e^pp) + e^k v, bb likewise

   As in training, pp stays where it is while nothing gets large or small (one exponential a step), and moves by the
   official formula otherwise.   defines: Rwkv4 */
#pragma once
#include "layers.h"

struct Wkv4 {
    floatX *y;                      // (rows,C)
    const real *k, *v, *r, *w, *u;  // (rows,C) three times; w < 0 and u (C)
    States states;
    int64_t offset;                 // of aa in a state
    int T, C;
};
struct Wkv4Scalars { real aa, bb, pp, y; };  // y: before the gate
__device__ inline real exp1(real x) { return exp2v(Vec<1>(x * LOG2E))[0]; }
__device__ inline Wkv4Scalars wkv4_slow_step(Wkv4Scalars s, real k, real v, real w, real u) {
    bool empty = !(s.bb > 0);
    if (!empty) {  // bb near 1: pp then says how large the sums are
        real e = real(rint(log2(s.bb))), f = exp2v(Vec<1>(-e))[0];
        s.aa *= f, s.bb *= f, s.pp += e * LN2;
    }
    real q = empty ? u + k : fmax(s.pp, u + k), e1 = empty ? real(0) : exp1(s.pp - q), e2 = exp1(u + k - q);
    s.y = (e1 * s.aa + e2 * v) / (e1 * s.bb + e2);
    q = empty ? k : fmax(s.pp + w, k), e1 = empty ? real(0) : exp1(s.pp + w - q), e2 = exp1(k - q);
    s.aa = e1 * s.aa + e2 * v, s.bb = e1 * s.bb + e2, s.pp = q;
    return s;
}
// One thread per sequence and W channels, from token to token
template<int W> __global__ void wkv4_kernel(Wkv4 a) {
    constexpr real LO = real(1) / (1ll << 40), HI = real(1ll << 40);  // 2^88 from there to overflow
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * W, b = blockIdx.y;
    if (c >= a.C) return;
    real *state = a.states.at(b, a.offset) + c;
    Vec<W> w = load<W>(a.w + c), u = load<W>(a.u + c), ew = exp2v(w * LOG2E), eu = exp2v(u * LOG2E);
    Vec<W> aa = load<W>(state), bb = load<W>(state + a.C), pp = load<W>(state + 2 * a.C);
    int64_t at = (int64_t)b * a.T * a.C + c;
#pragma unroll 4
    for (int t = 0; t < a.T; t++, at += a.C) {
        Vec<W> k = load<W>(a.k + at), v = load<W>(a.v + at), gate = sigmoid(load<W>(a.r + at)), y;
        Vec<W> ek = exp2v((k - pp) * LOG2E), now = eu * ek, D = bb + now, next = ew * bb + ek;
        if (all_within(D, LO, HI) && all_within(next, LO, HI)) {
            y = (aa + now * v) / D;
            aa = ew * aa + ek * v, bb = next;
        } else {
#pragma unroll
            for (int i = 0; i < W; i++) {
                Wkv4Scalars s = wkv4_slow_step({aa[i], bb[i], pp[i], 0}, k[i], v[i], w[i], u[i]);
                aa.set(i, s.aa), bb.set(i, s.bb), pp.set(i, s.pp), y.set(i, s.y);
            }
        }
        store(a.y + at, gate * y);
    }
    store(state, aa), store(state + a.C, bb), store(state + 2 * a.C, pp);
}

struct Rwkv4 : Network {
    struct Layer { const real *ln_w, *ln_b, *mix_k, *mix_v, *mix_r, *decay, *first; Matrix key, value, receptance, output; };
    std::vector<Layer> layers;

    int64_t state_size() const override { return 5 * m.C; }
    void link() override {
        for (int l = 0; l < m.L; l++) {
            auto vector = [&](const char *name) { return weights.vector(name, l); };
            auto matrix = [&](const char *name) { return weights.matrix(name, l); };
            layers.push_back({vector("ln1.weight"), vector("ln1.bias"), vector("att.time_mix_k"), vector("att.time_mix_v"), vector("att.time_mix_r"), vector("att.time_decay"),
                              vector("att.time_first"), matrix("att.key.weight"), matrix("att.value.weight"), matrix("att.receptance.weight"), matrix("att.output.weight")});
        }
        link_ffn("ffn.time_mix_k", "ffn.time_mix_r");
    }
    void attention(int l, const Pass &p) override {
        const Layer &a = layers[l];
        shift(l, p, 0, a.ln_w, a.ln_b, {a.mix_k, a.mix_v, a.mix_r}, false);
        products({{k, mixed[0], a.key}, {v, mixed[1], a.value}, {r, mixed[2], a.receptance}}, p);
        Wkv4 w = {gated, k, v, r, a.decay, a.first, p.states, layer_offset(l) + 2 * m.C, p.T, m.C};
        dispatch_width<HEAD_WIDTH>(channel_width(m.C, HEAD_WIDTH), [&](auto W) {
            wkv4_kernel<W.value><<<dim3(ceil_div(m.C, 32 * W.value), p.B), 32, 0, stream>>>(w);
        });
        launchCheck();
        products({{x, gated, a.output, ADD}}, p);
    }
};

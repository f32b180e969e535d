/* run/rwkv6.h: RWKV-6 ("Finch"): the recurrence of RWKV-5 (run/rwkv5.h) with mixes and decays that depend on the token.

       d_t = n_{t-1} - n_t         h = tanh(W1 (n + d maa_x)), five parts of width m
       x_i = n + d (maa_i + W2_i h_i)          for i = w, k, v, r, g
       w   = exp(-exp(time_decay + D2 tanh(D1 x_w)))

   State of a layer as in RWKV-5.   defines: Rwkv6 */
#pragma once
#include "rwkv5.h"

struct DynamicMix {
    floatX *out[5];               // (rows,C)
    const real *n, *dx, *by[5];   // (rows,C)
    const real *maa[5];           // (C)
    int64_t count;                // rows * C
    int C;
};
template<int W> __global__ void dynamic_mix_kernel(DynamicMix a) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= a.count) return;
    int c = i % a.C;
    Vec<W> n = load<W>(a.n + i), d = load<W>(a.dx + i);
#pragma unroll
    for (int j = 0; j < 5; j++) store(a.out[j] + i, n + d * (load<W>(a.maa[j] + c) + load<W>(a.by[j] + i)));
}
// w = exp(-exp(decay + w)) in place
template<int W> __global__ void decay6_kernel(real *w, const real *decay, int64_t count, int C) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= count) return;
    Vec<W> e = exp2v((load<W>(w + i) + load<W>(decay + i % C)) * LOG2E);
    store(w + i, exp2v(e * -LOG2E));
}

struct Rwkv6 : Network {
    struct Layer {
        const real *ln_w, *ln_b, *maa_x, *maa[5], *decay, *bonus, *norm_w, *norm_b;
        Matrix maa_w1, maa_w2[5], decay_w1, decay_w2, receptance, key, value, gate, output;
    };
    std::vector<Layer> layers;
    floatX *h, *decay_h;          // (5, most, m), (most, d)
    real *by[5], *w;              // (most, C) each

    int64_t state_size() const override { return 2 * m.C + (int64_t)m.C * m.N; }
    void plan(Arena &arena) override {
        Network::plan(arena);
        int64_t NC = (int64_t)most * m.C;
        arena.plan("activations", &h, (int64_t)most * m.dim('M')), arena.plan("activations", &decay_h, (int64_t)most * m.dim('d')), arena.plan("activations", &w, NC);
        for (real *&p : by) arena.plan("activations", &p, NC);
    }
    void link() override {
        for (int l = 0; l < m.L; l++) {
            auto vector = [&](const char *name) { return weights.vector(name, l); };
            auto matrix = [&](const char *name, int part = 0) { return weights.matrix(name, l, part); };
            Layer a = {vector("ln1.weight"), vector("ln1.bias"), vector("att.time_maa_x"),
                       {vector("att.time_maa_w"), vector("att.time_maa_k"), vector("att.time_maa_v"), vector("att.time_maa_r"), vector("att.time_maa_g")},
                       vector("att.time_decay"), vector("att.time_faaaa"), vector("att.ln_x.weight"), vector("att.ln_x.bias"), matrix("att.time_maa_w1"), {},
                       matrix("att.time_decay_w1"), matrix("att.time_decay_w2"), matrix("att.receptance.weight"), matrix("att.key.weight"), matrix("att.value.weight"),
                       matrix("att.gate.weight"), matrix("att.output.weight")};
            for (int i = 0; i < 5; i++) a.maa_w2[i] = matrix("att.time_maa_w2", i);
            layers.push_back(a);
        }
        link_ffn("ffn.time_maa_k", "ffn.time_maa_r");
    }
    void attention(int l, const Pass &p) override {
        const Layer &a = layers[l];
        int64_t count = (int64_t)p.N() * m.C;
        int width = m.dim('m');
        shift(l, p, 0, a.ln_w, a.ln_b, {a.maa_x}, true);
        Linear first[5], second[5];
        for (int i = 0; i < 5; i++) {  // each part of h on its own, so that its rows are contiguous
            floatX *part = h + (int64_t)i * most * width;
            first[i] = {part, mixed[0], {a.maa_w1.w + (int64_t)i * width * m.C, nullptr, nullptr, width, m.C}, TANH};
            second[i] = {by[i], part, a.maa_w2[i]};
        }
        products({first[0], first[1], first[2], first[3], first[4]}, p);
        products({second[0], second[1], second[2], second[3], second[4]}, p);
        DynamicMix mix = {{mixed[0], mixed[1], mixed[2], mixed[3], mixed[4]}, n, dx, {by[0], by[1], by[2], by[3], by[4]},
                          {a.maa[0], a.maa[1], a.maa[2], a.maa[3], a.maa[4]}, count, m.C};
        dispatch_width<ELEMENT_WIDTH>(channel_width(m.C, ELEMENT_WIDTH), [&](auto W) {
            dynamic_mix_kernel<W.value><<<ceil_div(count, 256 * W.value), 256, 0, stream>>>(mix);
        });
        products({{decay_h, mixed[0], a.decay_w1, TANH}, {k, mixed[1], a.key}, {v, mixed[2], a.value}, {r, mixed[3], a.receptance}, {g, mixed[4], a.gate}}, p);
        products({{w, decay_h, a.decay_w2}}, p);
        dispatch_width<ELEMENT_WIDTH>(channel_width(m.C, ELEMENT_WIDTH), [&](auto W) {
            decay6_kernel<W.value><<<ceil_div(count, 256 * W.value), 256, 0, stream>>>(w, a.decay, count, m.C);
        });
        launchCheck();
        linear_attention({y, r, k, v, w, a.bonus, m.C, p.states, layer_offset(l) + 2 * m.C, p.T, m.C, m.N}, p.B, stream);
        normalise_heads(a.norm_w, a.norm_b, p);
        products({{x, gated, a.output, ADD}}, p);
    }
};

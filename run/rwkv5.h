/* run/rwkv5.h: RWKV-5.1 and 5.2 ("Eagle"), and the recurrence they share with RWKV-6.

   H heads of N channels. S is a matrix N x N per head, i counts keys and j values:

       y_j = sum_i r_i (u_i k_i v_j + S_ij)        S_ij <- w_i S_ij + k_i v_j        y is read before S changes
       att = Wo (GroupNorm(y) silu(Wg xg))

   5.1 has one w = exp(-exp(time_decay)) and one u = time_faaaa per head (repeated over its channels on loading), 5.2 one
   per channel, 6 one w per channel and token.
   State of a layer: the two shifts, then S as [H][i][j].   defines: LinearAttention, linear_attention, Rwkv5 */
#pragma once
#include "layers.h"

struct LinearAttention {
    real *y;                     // (rows,C)
    const real *r, *k, *v, *w;   // (rows,C) each; w: see w_step
    const real *u;               // (C)
    int64_t w_step;              // from the w of a token to the next: 0 in version 5, C in 6
    States states;
    int64_t offset;              // of S in a state
    int T, C, N;
};
// One thread per sequence, head and W values: it holds their columns of S, so threads never wait for each other.
// HEAD = N at compile time: S is in registers; 0: any N, S stays in memory.
template<int W, int HEAD> __global__ void linear_attention_kernel(LinearAttention a) {
    int N = HEAD ? HEAD : a.N, c = (blockIdx.x * blockDim.x + threadIdx.x) * W, b = blockIdx.y;
    if (c >= a.C) return;
    int first = c / N * N, j = c - first;  // the head's first channel, the value
    real *state = a.states.at(b, a.offset) + (int64_t)first * N + j;
    Vec<W> S[HEAD ? HEAD : 1];
    if constexpr (HEAD > 0)
#pragma unroll
        for (int i = 0; i < HEAD; i++) S[i] = load<W>(state + i * HEAD);
    for (int t = 0; t < a.T; t++) {
        int64_t row = ((int64_t)b * a.T + t) * a.C, at = row + first;
        const real *w = a.w + ((int64_t)b * a.T + t) * a.w_step + first;
        Vec<W> v = load<W>(a.v + row + c), y = 0;
        if constexpr (HEAD > 0) {
#pragma unroll
            for (int i = 0; i < HEAD; i += 4) {
                Pack<real, 4> r4 = load_pack<4>(a.r + at + i), k4 = load_pack<4>(a.k + at + i), w4 = load_pack<4>(w + i), u4 = load_pack<4>(a.u + first + i);
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    Vec<W> kv = v * k4.x[n];
                    y = y + (kv * u4.x[n] + S[i + n]) * r4.x[n];
                    S[i + n] = S[i + n] * w4.x[n] + kv;
                }
            }
        } else {
            for (int i = 0; i < N; i++) {
                Vec<W> kv = v * a.k[at + i], s = load<W>(state + (int64_t)i * N);
                y = y + (kv * a.u[first + i] + s) * a.r[at + i];
                store(state + (int64_t)i * N, s * w[i] + kv);
            }
        }
        store(a.y + row + c, y);
    }
    if constexpr (HEAD > 0)
#pragma unroll
        for (int i = 0; i < HEAD; i++) store(state + i * HEAD, S[i]);
}
inline void linear_attention(const LinearAttention &a, int B, cudaStream_t stream) {
    dispatch_width<HEAD_WIDTH>(channel_width(a.N, HEAD_WIDTH), [&](auto W) {
        dim3 blocks(ceil_div(a.C, 64 * W.value), B);
        if (a.N == 64) linear_attention_kernel<W.value, 64><<<blocks, 64, 0, stream>>>(a);
        else linear_attention_kernel<W.value, 0><<<blocks, 64, 0, stream>>>(a);
    });
    launchCheck();
}

struct Rwkv5 : Network {
    struct Layer { const real *ln_w, *ln_b, *mix_k, *mix_v, *mix_r, *mix_g, *decay, *bonus, *norm_w, *norm_b; Matrix receptance, key, value, gate, output; };
    std::vector<Layer> layers;

    int64_t state_size() const override { return 2 * m.C + (int64_t)m.C * m.N; }
    void link() override {
        for (int l = 0; l < m.L; l++) {
            auto vector = [&](const char *name) { return weights.vector(name, l); };
            auto matrix = [&](const char *name) { return weights.matrix(name, l); };
            layers.push_back({vector("ln1.weight"), vector("ln1.bias"), vector("att.time_mix_k"), vector("att.time_mix_v"), vector("att.time_mix_r"), vector("att.time_mix_g"),
                              vector("att.time_decay"), vector("att.time_faaaa"), vector("att.ln_x.weight"), vector("att.ln_x.bias"),
                              matrix("att.receptance.weight"), matrix("att.key.weight"), matrix("att.value.weight"), matrix("att.gate.weight"), matrix("att.output.weight")});
        }
        link_ffn("ffn.time_mix_k", "ffn.time_mix_r");
    }
    void attention(int l, const Pass &p) override {
        const Layer &a = layers[l];
        shift(l, p, 0, a.ln_w, a.ln_b, {a.mix_k, a.mix_v, a.mix_r, a.mix_g}, false);
        products({{k, mixed[0], a.key}, {v, mixed[1], a.value}, {r, mixed[2], a.receptance}, {g, mixed[3], a.gate}}, p);
        linear_attention({y, r, k, v, a.decay, a.bonus, 0, p.states, layer_offset(l) + 2 * m.C, p.T, m.C, m.N}, p.B, stream);
        normalise_heads(a.norm_w, a.norm_b, p);
        products({{x, gated, a.output, ADD}}, p);
    }
};

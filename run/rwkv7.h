/* run/rwkv7.h: RWKV-7 ("Goose").

   x_c = n + (n_{t-1} - n) m_c for c = r, w, k, v, a, g;  r, k, v = their matrices;  LoRAs:

       w  = exp(-e^{-1/2} sigmoid(w0 + W2 tanh(W1 x_w)))     decay, in (0.545, 1)
       a  = sigmoid(a0 + A2 A1 x_a)                          rate at which the state learns
       g  = G2 sigmoid(G1 x_g)
       v <- v + (v_first - v) sigmoid(v0 + V2 V1 x_v)        v_first: v of layer 0, which has no V1, V2
       kk = k k_k / max(|k k_k|, 1e-12) per head,            k <- k (1 + (a - 1) k_a)

   S is a matrix per head, i counts values and j keys; y is read after S has changed:

       s_i = -sum_j S_ij kk_j      S_ij <- w_j S_ij + s_i kk_j a_j + v_i k_j      y_i = sum_j S_ij r_j
       att = Wo (GroupNorm(y) + (sum over the head of r k r_k) v) g

   State of a layer: the two shifts, then S as [H][j][i], that is [key][value] as in the other versions; official
   states are [value][key].

   On a GPU a prompt goes through the chunked kernel of training (rwkv/wkv7.h), whose inputs are floatX: a kernel that
   walks from token to token has only H warps of work. On the CPU, where the bits of a state shall not depend on how the
   prompt is cut, everything is from token to token.   defines: Rwkv7 */
#pragma once
#include "../rwkv/wkv7.h"
#include "layers.h"

struct Prepare7 {
    real *w, *k, *v, *a, *kk;             // (rows,C): LoRA of w -> decay, k -> k', v -> v mixed, LoRA of a -> kk a, -> -kk
    real *v_first;                        // (rows,C): written in layer 0
    const real *vr;                       // (rows,C) LoRA of v; null in layer 0
    const real *w0, *a0, *v0, *k_k, *k_a; // (C)
    int64_t heads;                        // rows * H
    int H, N;
    const real *r;                        // for the chunked kernel: r w k v -kk kk*a as floatX, w raw; or out[0] null
    floatX *out[6];
};
template<int W> __global__ void prepare7_kernel(Prepare7 p) {
    int64_t head = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (head >= p.heads) return;
    int64_t at = head * p.N;
    int channel = head % p.H * p.N, first = threadIdx.x * W, step = blockDim.x * W;
    real square = 0;
    for (int i = first; i < p.N; i += step) {
        Vec<W> q = load<W>(p.k + at + i) * load<W>(p.k_k + channel + i);
        square += sum(q * q);
    }
    real inverse = real(1) / fmax(real(sqrt(warp_sum(square))), real(1e-12));
    for (int i = first; i < p.N; i += step) {
        int c = channel + i;
        Vec<W> k = load<W>(p.k + at + i), v = load<W>(p.v + at + i), a = sigmoid(load<W>(p.a0 + c) + load<W>(p.a + at + i));
        Vec<W> kk = k * load<W>(p.k_k + c) * inverse, w = load<W>(p.w0 + c) + load<W>(p.w + at + i);
        k = k * (real(1) + (a - real(1)) * load<W>(p.k_a + c));
        if (!p.vr) store(p.v_first + at + i, v);
        else v = v + (load<W>(p.v_first + at + i) - v) * sigmoid(load<W>(p.v0 + c) + load<W>(p.vr + at + i));
        store(p.k + at + i, k), store(p.v + at + i, v);
        if (p.out[0]) {
            store(p.out[0] + at + i, load<W>(p.r + at + i)), store(p.out[1] + at + i, w), store(p.out[2] + at + i, k);
            store(p.out[3] + at + i, v), store(p.out[4] + at + i, kk * real(-1)), store(p.out[5] + at + i, kk * a);
            continue;
        }
        store(p.kk + at + i, kk * real(-1)), store(p.a + at + i, kk * a);
        store(p.w + at + i, exp2v(sigmoid(w) * (-WKV7_DECAY * LOG2E)));
    }
}

struct Wkv7 {
    real *y;                              // (rows,C)
    const real *r, *w, *k, *v, *a, *b;    // (rows,C): a = -kk, b = kk times the rate
    States states;
    int64_t offset;
    int T, C, N;
};
// One thread per sequence, head and W values, as in run/rwkv5.h
template<int W, int HEAD> __global__ void wkv7_decode_kernel(Wkv7 q) {
    int N = HEAD ? HEAD : q.N, c = (blockIdx.x * blockDim.x + threadIdx.x) * W, b = blockIdx.y;
    if (c >= q.C) return;
    int first = c / N * N, i = c - first;
    real *state = q.states.at(b, q.offset) + (int64_t)first * N + i;
    Vec<W> S[HEAD ? HEAD : 1];
    if constexpr (HEAD > 0)
#pragma unroll
        for (int j = 0; j < HEAD; j++) S[j] = load<W>(state + j * HEAD);
    for (int t = 0; t < q.T; t++) {
        int64_t row = ((int64_t)b * q.T + t) * q.C, at = row + first;
        Vec<W> v = load<W>(q.v + row + c), s = 0, y = 0;
        if constexpr (HEAD > 0) {
#pragma unroll
            for (int j = 0; j < HEAD; j += 4) {
                Pack<real, 4> a = load_pack<4>(q.a + at + j);
#pragma unroll
                for (int n = 0; n < 4; n++) s = s + S[j + n] * a.x[n];
            }
#pragma unroll
            for (int j = 0; j < HEAD; j += 4) {
                Pack<real, 4> r = load_pack<4>(q.r + at + j), w = load_pack<4>(q.w + at + j), k = load_pack<4>(q.k + at + j), bb = load_pack<4>(q.b + at + j);
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    S[j + n] = S[j + n] * w.x[n] + s * bb.x[n] + v * k.x[n];
                    y = y + S[j + n] * r.x[n];
                }
            }
        } else {
            for (int j = 0; j < N; j++) s = s + load<W>(state + (int64_t)j * N) * q.a[at + j];
            for (int j = 0; j < N; j++) {
                Vec<W> z = load<W>(state + (int64_t)j * N) * q.w[at + j] + s * q.b[at + j] + v * q.k[at + j];
                store(state + (int64_t)j * N, z);
                y = y + z * q.r[at + j];
            }
        }
        store(q.y + row + c, y);
    }
    if constexpr (HEAD > 0)
#pragma unroll
        for (int j = 0; j < HEAD; j++) store(state + j * HEAD, S[j]);
}

// to[h][i][j] = from[h][j][i]
__global__ void transpose_state_kernel(real *to, const real *from, int N, int64_t count) {
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) to[at] = from[at / (N * N) * (N * N) + at % N * N + at / N % N];
}

struct Rwkv7 : Network {
#ifdef CPU_SHAPES
    bool chunked = false;
#else
    bool chunked = true;                       // prompts of 16 tokens or more
#endif
    real *turned;                              // (2, C, N) state before and after, [value][key]
    struct Layer {
        const real *ln_w, *ln_b, *x_r, *x_w, *x_k, *x_v, *x_a, *x_g, *w0, *a0, *v0, *k_k, *k_a, *r_k, *norm_w, *norm_b;
        Matrix w1, w2, a1, a2, v1, v2, g1, g2, receptance, key, value, output;
    };
    std::vector<Layer> layers;
    floatX *wh, *ah, *vh, *gh;                 // (most, LoRA width)
    real *w, *a, *vr, *kk, *v_first;           // (most, C)

    int64_t state_size() const override { return 2 * m.C + (int64_t)m.C * m.N; }
    void plan(Arena &arena) override {
        Network::plan(arena);
        for (auto [p, letter] : {std::pair<floatX **, char>{&wh, 'w'}, {&ah, 'a'}, {&vh, 'v'}, {&gh, 'g'}}) arena.plan("activations", p, (int64_t)most * m.dim(letter));
        for (real **p : {&w, &a, &vr, &kk, &v_first}) arena.plan("activations", p, (int64_t)most * m.C);
        arena.plan("activations", &turned, 2ll * m.C * m.N);
    }
    void link() override {
        for (int l = 0; l < m.L; l++) {
            auto vector = [&](const char *name) { return weights.vector(name, l); };
            auto matrix = [&](const char *name) { return weights.matrix(name, l); };
            bool residual = l > 0;  // of v
            layers.push_back({vector("ln1.weight"), vector("ln1.bias"), vector("att.x_r"), vector("att.x_w"), vector("att.x_k"),
                              vector("att.x_v"), vector("att.x_a"), vector("att.x_g"), vector("att.w0"), vector("att.a0"),
                              residual ? vector("att.v0") : nullptr, vector("att.k_k"), vector("att.k_a"), vector("att.r_k"),
                              vector("att.ln_x.weight"), vector("att.ln_x.bias"), matrix("att.w1"), matrix("att.w2"), matrix("att.a1"), matrix("att.a2"),
                              residual ? matrix("att.v1") : Matrix{}, residual ? matrix("att.v2") : Matrix{}, matrix("att.g1"), matrix("att.g2"),
                              matrix("att.receptance.weight"), matrix("att.key.weight"), matrix("att.value.weight"), matrix("att.output.weight")});
        }
        link_ffn("ffn.x_k", nullptr);
    }
    void attention(int l, const Pass &p) override {
        const Layer &q = layers[l];
        shift(l, p, 0, q.ln_w, q.ln_b, {q.x_r, q.x_w, q.x_k, q.x_v, q.x_a, q.x_g}, false);
        Linear lr = {r, mixed[0], q.receptance}, lk = {k, mixed[2], q.key}, lv = {v, mixed[3], q.value};
        Linear w1 = {wh, mixed[1], q.w1, TANH}, a1 = {ah, mixed[4], q.a1, ROUND}, g1 = {gh, mixed[5], q.g1, SIGMOID}, v1 = {vh, mixed[3], q.v1, ROUND};
        Linear w2 = {w, wh, q.w2}, a2 = {a, ah, q.a2}, g2 = {g, gh, q.g2}, v2 = {vr, vh, q.v2};
        if (l) products({lr, lk, lv, w1, a1, g1, v1}, p), products({w2, a2, g2, v2}, p);
        else products({lr, lk, lv, w1, a1, g1}, p), products({w2, a2, g2}, p);
        bool chunks = chunked && p.T >= WKV7_CHUNK && wkv7_head_size_ok(m.N);
        Prepare7 prepare = {w, k, v, a, kk, v_first, l ? vr : nullptr, q.w0, q.a0, q.v0, q.k_k, q.k_a, (int64_t)p.N() * m.H, m.H, m.N, r, {}};
        for (int i = 0; chunks && i < 6; i++) prepare.out[i] = mixed[i];  // what was in them has been used
        each_head(prepare.heads, m.N, [&](auto W, int blocks, dim3 threads) { prepare7_kernel<W.value><<<blocks, threads, 0, stream>>>(prepare); });
        if (chunks) wkv_chunked(l, p);
        else wkv_by_token(l, p);
        normalise_heads(q.norm_w, q.norm_b, p, q.r_k, chunks ? wide : nullptr);
        products({{x, gated, q.output, ADD}}, p);
    }
    void wkv_by_token(int l, const Pass &p) {
        Wkv7 wkv = {y, r, w, k, v, kk, a, p.states, layer_offset(l) + 2 * m.C, p.T, m.C, m.N};
        dispatch_width<HEAD_WIDTH>(channel_width(m.N, HEAD_WIDTH), [&](auto W) {
            dim3 blocks(ceil_div(m.C, 64 * W.value), p.B);
            if (m.N == 64) wkv7_decode_kernel<W.value, 64><<<blocks, 64, 0, stream>>>(wkv);
            else wkv7_decode_kernel<W.value, 0><<<blocks, 64, 0, stream>>>(wkv);
        });
        launchCheck();
    }
    void wkv_chunked(int l, const Pass &p) {  // one sequence; y as floatX into `wide`
        int64_t count = (int64_t)m.C * m.N;
        real *state = p.states.base + layer_offset(l) + 2 * m.C;
        transpose_state_kernel<<<ceil_div(count, 256), 256, 0, stream>>>(turned, state, m.N, count);
        Wkv7Args f = {};
        f.y = wide, f.r = mixed[0], f.w = mixed[1], f.k = mixed[2], f.v = mixed[3], f.a = mixed[4], f.b = mixed[5];
        f.state_in = turned, f.state_out = turned + count, f.B = 1, f.T = p.T, f.H = m.H, f.N = m.N;
        wkv7_forward(f, stream);
        transpose_state_kernel<<<ceil_div(count, 256), 256, 0, stream>>>(state, turned + count, m.N, count);
        launchCheck();
    }
    void feed_forward(int l, const Pass &p) override {  // x += Wv relu(Wk xk)^2
        const FeedForward &f = ffn[l];
        shift(l, p, m.C, f.ln_w, f.ln_b, {f.mix_k}, false);
        products({{wide, mixed[0], f.key, RELU2}}, p);
        products({{x, wide, f.value, ADD}}, p);
    }
};

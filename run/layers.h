/* run/layers.h: what the versions of RWKV have in common: LayerNorm with token shift, the norm over heads, the
   feed-forward layer of versions 4 to 6, and the frame (Network) that a version fills in. (The embedding with the first
   LayerNorm, and the last one, are those of training: rwkv/embedding.h.)

   The residual stream, the state and everything between matrix products are `real`; what goes into a product is floatX.
   The same kernels serve prefill (B = 1, T tokens) and decode (B sequences, T = 1), so both do the same arithmetic.

   A state is one piece of memory per sequence, zero at its start; sequence b has slot[b] of an array of states.
   defines: States, Pass, norm_and_shift, each_head, head_norm, Network */
#pragma once
#include "linear.h"

struct States {
    real *base;              // states, one after the other
    const int *slot;         // (B) device: which one; null: b
    int64_t size;            // reals of one
    __device__ real *at(int b, int64_t offset) const { return base + (slot ? slot[b] : b) * size + offset; }
};
struct Pass {
    int B, T;                // B = 1 or T = 1
    States states;
    bool decode;
    int N() const { return B * T; }
};

// LayerNorm and token shift:  n_t = LayerNorm(x_t)   out_j,t = n_t + (n_{t-1} - n_t) m_j   n_{-1} from the state,
// which becomes n of the last token. m = 1 - mu of versions 4 and 5, x_* and maa of 6 and 7.
constexpr int MAX_SHIFTS = 6;
struct Shift {
    const real *x, *w, *b;                // (N,C) residual stream; (C) of the norm
    real *n;                              // (N,C) its output
    real *dx;                             // (N,C) n_{t-1} - n_t, or null
    floatX *out[MAX_SHIFTS];              // (N,C) each
    const real *m[MAX_SHIFTS];            // (C)
    States states;
    int64_t offset;                       // of n_{-1} in a state
    int M, T, C;                          // M: how many outputs
};
template<int W> __device__ inline void shift_row(const Shift &a, int64_t row, int c, Vec<W> n, Vec<W> before) {
    int64_t at = row * a.C + c;
    Vec<W> d = before - n;
    if (a.dx) store(a.dx + at, d);
#pragma unroll
    for (int j = 0; j < MAX_SHIFTS; j++)
        if (j < a.M) store(a.out[j] + at, n + d * load<W>(a.m[j] + c));
}
// One block per row. T = 1: the shift too, since the row before is the state.
template<int W> __global__ void norm_shift_kernel(Shift a) {
    __shared__ BlockRoom room;
    int turn = 0, row = blockIdx.x, c = threadIdx.x * W;
    bool inside = c < a.C;
    Vec<W> x = inside ? load<W>(a.x + (int64_t)row * a.C + c) : Vec<W>(0);
    Stats s = row_stats(x, inside, a.C, room, turn);
    if (!inside) return;
    Vec<W> n = (x - s.mean) * s.rstd * load<W>(a.w + c) + load<W>(a.b + c);
    store(a.n + (int64_t)row * a.C + c, n);
    if (a.T > 1) return;
    real *state = a.states.at(row, a.offset) + c;
    shift_row<W>(a, row, c, n, load<W>(state));
    store(state, n);
}
// T > 1, one sequence: one thread per row and W channels. That of row 0 reads the state and then replaces it.
template<int W> __global__ void shift_kernel(Shift a) {
    int c = (blockIdx.y * blockDim.x + threadIdx.x) * W;
    if (c >= a.C) return;
    int64_t row = blockIdx.x;
    real *state = a.states.at(0, a.offset) + c;
    shift_row<W>(a, row, c, load<W>(a.n + row * a.C + c), row ? load<W>(a.n + (row - 1) * a.C + c) : load<W>(state));
    if (row == 0) store(state, load<W>(a.n + (int64_t)(a.T - 1) * a.C + c));
}
inline void norm_and_shift(const Shift &a, int N, cudaStream_t stream) {
    int width = channel_width(a.C), threads = row_threads(a.C, width), element = channel_width(a.C, ELEMENT_WIDTH);
    dispatch_width(width, [&](auto W) { norm_shift_kernel<W.value><<<N, threads, 0, stream>>>(a); });
    launchCheck();
    if (a.T == 1) return;
    dispatch_width<ELEMENT_WIDTH>(element, [&](auto W) {
        shift_kernel<W.value><<<dim3(N, ceil_div(a.C, 256 * W.value)), std::min(256, a.C / W.value), 0, stream>>>(a);
    });
    launchCheck();
}

// ------------------------------------------------------------------------------------------------
// Kernels that work on one head of a token: a warp, whose threads hold every 32nd group of W channels

#ifdef CPU_SHAPES
constexpr int HEAD_WIDTH = ELEMENT_WIDTH, HEADS_PER_BLOCK = 1;
#else
constexpr int HEAD_WIDTH = 1, HEADS_PER_BLOCK = 4;
#endif
// f(W, blocks, threads) for `heads` heads of size N
template<class F> inline void each_head(int64_t heads, int N, F f) {
    dispatch_width<HEAD_WIDTH>(channel_width(N, HEAD_WIDTH), [&](auto W) { f(W, ceil_div(heads, HEADS_PER_BLOCK), dim3(warp_threads(), HEADS_PER_BLOCK)); });
    launchCheck();
}

// out = (GroupNorm(y) + s v) gate,  s = sum over the head of r k r_k (version 7; otherwise 0)
// gate: silu(g) in versions 5 and 6, g in 7. eps = 64e-5: version 5 was trained as GroupNorm(y/8) with 1e-5, the same.
struct HeadNorm {
    floatX *out;                    // (rows,C)
    const floatX *yx;               // (rows,C), or null: y is read
    const real *y, *g, *w, *b;      // (rows,C) (rows,C) (C) (C)
    const real *r, *k, *v, *r_k;    // (rows,C) three times, (C); or null
    real eps;
    int64_t heads;                  // rows * H
    int H, N;
};
template<int W> __global__ void head_norm_kernel(HeadNorm a) {
    int64_t head = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (head >= a.heads) return;
    int64_t at = head * a.N;
    int channel = head % a.H * a.N, first = threadIdx.x * W, step = blockDim.x * W;
    real total = 0, square = 0, bonus = 0;
    auto y = [&](int i) { return a.yx ? load<W>(a.yx + at + i) : load<W>(a.y + at + i); };
    for (int i = first; i < a.N; i += step) total += sum(y(i));
    real mean = warp_sum(total) / a.N;
    for (int i = first; i < a.N; i += step) {
        Vec<W> d = y(i) - mean;
        square += sum(d * d);
        if (a.r) bonus += sum(load<W>(a.r + at + i) * load<W>(a.k + at + i) * load<W>(a.r_k + channel + i));
    }
    real rstd = real(1) / real(sqrt(warp_sum(square) / a.N + a.eps));
    bonus = a.r ? warp_sum(bonus) : real(0);
    for (int i = first; i < a.N; i += step) {
        Vec<W> z = (y(i) - mean) * rstd * load<W>(a.w + channel + i) + load<W>(a.b + channel + i), g = load<W>(a.g + at + i);
        store(a.out + at + i, (a.r ? z + bonus * load<W>(a.v + at + i) : z) * (a.r ? g : g * sigmoid(g)));
    }
}
inline void head_norm(const HeadNorm &a, cudaStream_t stream) {
    each_head(a.heads, a.N, [&](auto W, int blocks, dim3 threads) { head_norm_kernel<W.value><<<blocks, threads, 0, stream>>>(a); });
}

// ------------------------------------------------------------------------------------------------
// One version of RWKV. Buffers are for `most` tokens at a time.

struct FeedForward { const real *ln_w, *ln_b, *mix_k, *mix_r; Matrix key, receptance, value; };

struct Network {
    ModelInfo m;
    Weights weights;
    int most = 0;                           // tokens of one pass
    real group_norm_eps = real(64e-5);
    cudaStream_t stream = 0;
    LinearScratch scratch;
    real *x, *n, *dx;                       // (most,C)
    real *r, *k, *v, *g, *y;                // (most,C)
    floatX *mixed[MAX_SHIFTS], *gated, *wide;  // (most,C) each, (most,C), (most, F or C)
    std::vector<FeedForward> ffn;

    virtual ~Network() {}
    virtual int64_t state_size() const = 0;  // of one layer: [0, C) the shift of att, [C, 2C) that of ffn, then the version's own
    virtual void plan(Arena &arena) {
        int64_t NC = (int64_t)most * m.C;
        for (real **p : {&x, &n, &dx, &r, &k, &v, &g, &y}) arena.plan("activations", p, NC);
        for (floatX *&p : mixed) arena.plan("activations", &p, NC);
        arena.plan("activations", &gated, NC), arena.plan("activations", &wide, (int64_t)most * std::max(m.F, m.C));
        arena.plan("activations", &scratch.y, (int64_t)most * std::max(m.F, m.C));
    }
    virtual void link() = 0;                 // looks up the weights
    virtual void attention(int l, const Pass &p) = 0;
    virtual void feed_forward(int l, const Pass &p) {  // x += sigmoid(Wr xr) (Wv relu(Wk xk)^2)
        const FeedForward &f = ffn[l];
        shift(l, p, m.C, f.ln_w, f.ln_b, {f.mix_k, f.mix_r}, false);
        products({{wide, mixed[0], f.key, RELU2}, {r, mixed[1], f.receptance}}, p);
        products({{x, wide, f.value, ADD_GATED, r}}, p);
    }

    // helpers
    void products(std::initializer_list<Linear> list, const Pass &p) { linear(list, p.N(), p.decode, scratch, stream); }
    int64_t layer_offset(int l) const { return l * state_size(); }
    void shift(int l, const Pass &p, int64_t offset, const real *w, const real *b, std::initializer_list<const real *> mixes, bool difference) {
        Shift a = {x, w, b, n, difference ? dx : nullptr, {}, {}, p.states, layer_offset(l) + offset, 0, p.T, m.C};
        for (const real *mix : mixes) a.out[a.M] = mixed[a.M], a.m[a.M++] = mix;
        norm_and_shift(a, p.N(), stream);
    }
    void link_ffn(const char *mix_k, const char *mix_r) {
        for (int l = 0; l < m.L; l++)
            ffn.push_back({weights.vector("ln2.weight", l), weights.vector("ln2.bias", l), weights.vector(mix_k, l), mix_r ? weights.vector(mix_r, l) : nullptr,
                           weights.matrix("ffn.key.weight", l), mix_r ? weights.matrix("ffn.receptance.weight", l) : Matrix{}, weights.matrix("ffn.value.weight", l)});
    }
    void normalise_heads(const real *w, const real *b, const Pass &p, const real *r_k = nullptr, const floatX *yx = nullptr) {  // y, g -> gated
        HeadNorm a = {gated, yx, y, g, w, b, r_k ? r : nullptr, k, v, r_k, group_norm_eps, (int64_t)p.N() * m.H, m.H, m.N};
        head_norm(a, stream);
    }
};

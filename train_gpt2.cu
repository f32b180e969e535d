/* train_gpt2.cu: GPT-2 (Radford et al. 2019), trained from scratch or from OpenAI's weights: what RWKV is compared with.

       make && ./prepare book.txt --tokenizer byte --out data/book && ./train_gpt2 --train data/book_train.bin ...
       ./train_gpt2 --help

   The model, for tokens x_t, with C channels, H heads of N = C/H channels, and L layers:

       x_t = wte[token_t] + wpe[t]
       L times:  x += att(ln_1(x));  x += mlp(ln_2(x))
       logits = wte ln_f(x)                                       the embedding again: "tied"

       att:  q, k, v = Wqkv n + b                                 each C channels = H heads
             y_t = sum_{i<=t} p_ti v_i,  p_t = softmax_{i<=t}(q_t . k_i / sqrt(N))      in every head
             att = Wproj y + b
       mlp:  mlp = Wout gelu(Wfc n + b) + b                       gelu(h) = h sigmoid(2c (h + 0.044715 h^3)), c = sqrt(2/pi)

   where RWKV carries a state of fixed size, attention looks at every token before: training costs T per token, and
   generation keeps all k and v (the KV cache, which is this model's state).

   Options make of it the transformers that RWKV was compared with: a head of its own with or without bias, fewer biases,
   ReLU, GeGLU (gelu(Wa n) * (Wb n)), rotary positions, dropout, RWKV-v1's factor per position.

   Order of this file: options and tensors; dropout; embedding; norm; activations; rotary positions; the factor per
   position; the model (memory, forward, backward); main. Attention is rwkv/attention.h; what all models share is in
   rwkv/ (see rwkv.h). */
#include "rwkv.h"
#include "rwkv/attention.h"

// ------------------------------------------------------------------------------------------------
// The options of the model and the tensors that follow from them: names and layout of Hugging Face's GPT-2, where the
// matrices of linear layers are stored as [in, out].

struct GPT2Config {
    int64_t heads = 0;
    std::string positions = "learned", activation = "gelu", head = "tied", bias = "on", time_out = "off";
    double dropout = 0;
    bool prefix = false;  // names begin with "transformer.", as in the file that was loaded

    std::vector<Option> table() {
        return {
            {"heads", &heads, 0, 0, 65536, "attention heads (H); 0: one for every 64 channels, as GPT-2 has"},
            {"positions", &positions, "learned", "learned|rotary", "how a token knows its place: a vector added, or half of each query and key rotated"},
            {"activation", &activation, "gelu", "gelu|relu|geglu", "of the feed-forward layer"},
            {"head", &head, "tied", "tied|untied|untied-bias", "the matrix of the logits: the embedding's or its own"},
            {"bias", &bias, "on", "on|off|not-qkv", "biases of norms and linear layers; not-qkv: all but those of q, k and v"},
            {"time-out", &time_out, "off", "off|on", "a learned factor per position before the head, as RWKV-v1 has"},
            {"dropout", &dropout, 0, 0, 0.9, "share of the embedding, attention weights and layer outputs that training leaves out"},
        };
    }
    bool rotary() const { return positions == "rotary"; }
    bool gated() const { return activation == "geglu"; }
};

static void init_normal(double *w, const InitContext &c) { for (int64_t i = 0; i < c.rows * c.cols; i++) w[i] = 0.02 * c.rng.normal(); }
static void init_residual(double *w, const InitContext &c) {  // 2L of them are summed up in the residual stream
    for (int64_t i = 0; i < c.rows * c.cols; i++) w[i] = 0.02 / sqrt(2.0 * c.s.L) * c.rng.normal();
}

// p: positions, q = 3C, f = rows of c_fc: F, or 2F with a gate
static std::vector<TensorRow> gpt2_rows(const GPT2Config &c) {
    const bool bias = c.bias != "off", always = true, decayed = true, transposed = true;
    struct { bool exists; TensorRow row; } all[] = {
        // exists             name                                   shape       init           lr decay
        {always,             {"transformer.wte.weight",              {'V', 'C'}, init_normal,   1, decayed}},
        {!c.rotary(),        {"transformer.wpe.weight",              {'p', 'C'}, init_normal,   1, decayed}},
        {always,             {"transformer.h.*.ln_1.weight",         {'C'},      init_ones,     1, false}},
        {bias,               {"transformer.h.*.ln_1.bias",           {'C'},      init_zeros,    1, false}},
        {always,             {"transformer.h.*.attn.c_attn.weight",  {'q', 'C'}, init_normal,   1, decayed, transposed}},
        {c.bias == "on",     {"transformer.h.*.attn.c_attn.bias",    {'q'},      init_zeros,    1, false}},
        {always,             {"transformer.h.*.attn.c_proj.weight",  {'C', 'C'}, init_residual, 1, decayed, transposed}},
        {bias,               {"transformer.h.*.attn.c_proj.bias",    {'C'},      init_zeros,    1, false}},
        {always,             {"transformer.h.*.ln_2.weight",         {'C'},      init_ones,     1, false}},
        {bias,               {"transformer.h.*.ln_2.bias",           {'C'},      init_zeros,    1, false}},
        {always,             {"transformer.h.*.mlp.c_fc.weight",     {'f', 'C'}, init_normal,   1, decayed, transposed}},
        {bias,               {"transformer.h.*.mlp.c_fc.bias",       {'f'},      init_zeros,    1, false}},
        {always,             {"transformer.h.*.mlp.c_proj.weight",   {'C', 'F'}, init_residual, 1, decayed, transposed}},
        {bias,               {"transformer.h.*.mlp.c_proj.bias",     {'C'},      init_zeros,    1, false}},
        {always,             {"transformer.ln_f.weight",             {'C'},      init_ones,     1, false}},
        {bias,               {"transformer.ln_f.bias",               {'C'},      init_zeros,    1, false}},
        {c.time_out == "on", {"transformer.time_out",                {'p'},      init_ones,     1, false}},
        {c.head != "tied",   {"lm_head.weight",                      {'V', 'C'}, init_normal,   1, decayed}},
        {c.head == "untied-bias", {"lm_head.bias",                   {'V'},      init_zeros,    1, false}},
    };
    std::vector<TensorRow> rows;
    for (auto &t : all) {
        if (!t.exists) continue;
        if (!c.prefix && !strncmp(t.row.name, "transformer.", 12)) t.row.name += 12;
        rows.push_back(t.row);
    }
    return rows;
}

// Calls launch(W, blocks, threads) for a kernel with W elements of one of `rows` rows of C per thread
template<class F> inline void row_elements(int64_t rows, int C, F launch) {
    int width = channel_width(C, ELEMENT_WIDTH);
    dispatch_width<ELEMENT_WIDTH>(width, [&](auto W) { launch(W, ceil_div(rows * C, 256 * (int64_t)width), 256); });
    launchCheck();
}

// ------------------------------------------------------------------------------------------------
// Dropout. A mask is a function of (draw, site, element): it is made again wherever it is needed, never stored.
// 16 random bits decide an element, eight elements share a Philox block; kept ones are scaled to keep the mean.

struct Dropout {
    const uint64_t *draw;  // device: a number of its own for every micro-step; null: nothing is dropped
    uint64_t site;         // where in the model
    uint32_t below;        // p 2^16: elements whose bits are below are dropped
    real scale;            // 1/(1 - p)
    Dropout(double p, const uint64_t *draw, uint64_t site) : draw(draw), site(site), below((uint32_t)lrint(p * 65536)), scale(65536.0 / (65536 - below)) {}
};
template<int W> __device__ inline Vec<W> dropout_mask(Dropout d, int64_t i) {  // 0 or 1 for elements [i, i + W)
    Vec<W> keep = 0;
#pragma unroll
    for (int j = 0; j < W; j += 8) {
        Random128 r = philox(*d.draw, (i + j) / 8, d.site);
#pragma unroll
        for (int k = 0; k < 8 && j + k < W; k++) {
            int at = W < 8 ? (i + k) % 8 : k, word = at / 2;  // chosen, not indexed: that would put r into memory
            uint32_t bits = (word == 0 ? r.x[0] : word == 1 ? r.x[1] : word == 2 ? r.x[2] : r.x[3]) >> at % 2 * 16 & 0xffff;
            keep.set(j + k, bits >= d.below ? real(1) : real(0));
        }
    }
    return keep;
}
// y = mask x scale; x and y may be the same
template<int W> __global__ void dropout_kernel(floatX *y, const floatX *x, Dropout d, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i < n) store(y + i, dropout_mask<W>(d, i) * load<W>(x + i) * d.scale);
}
// y = x + mask y scale: a layer's output, dropped and added to the residual stream
template<int W> __global__ void dropout_add_kernel(floatX *y, const floatX *x, Dropout d, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i < n) store(y + i, load<W>(x + i) + dropout_mask<W>(d, i) * load<W>(y + i) * d.scale);
}

// ------------------------------------------------------------------------------------------------
// Embedding: x = wte[token] (+ wpe[past + t])

template<int W> __global__ void embed_kernel(floatX *x, const int *tokens, const floatX *wte, const floatX *wpe, int past, int64_t BT, int T, int C) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= BT * C) return;
    int row = (int)(i / C), c = (int)(i % C);
    Vec<W> e = load<W>(wte + (int64_t)tokens[row] * C + c);
    if (wpe) e += load<W>(wpe + (int64_t)(past + row % T) * C + c);
    store(x + i, e);
}
// dwpe[t] += sum over b of dx[b,t]
template<int W> __global__ void position_backward_kernel(real *dwpe, const floatX *dx, int B, int64_t TC) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= TC) return;
    Vec<W> s = load<W>(dwpe + i);
    for (int b = 0; b < B; b++) s += load<W>(dx + b * TC + i);
    store(dwpe + i, s);
}

// ------------------------------------------------------------------------------------------------
// LayerNorm: y = (x - mean) rstd w (+ b). A block walks over rows, thread i holds W channels.

struct NormArgs {
    floatX *y;               // (BT,C)
    const floatX *x;         // (BT,C)
    const real *w, *b;       // (C), b may be null
    real *mean, *rstd;       // (BT), kept for backward
};
template<int W> __global__ void norm_forward_kernel(NormArgs a, int BT, int C) {
    __shared__ BlockRoom room;
    int turn = 0, c = threadIdx.x * W;
    bool inside = c < C;
    Vec<W> w = inside ? load<W>(a.w + c) : Vec<W>(0), b = inside && a.b ? load<W>(a.b + c) : Vec<W>(0);
    for (int row = blockIdx.x; row < BT; row += gridDim.x) {
        Vec<W> x = inside ? load<W>(a.x + (int64_t)row * C + c) : Vec<W>(0);
        Stats s = row_stats(x, inside, C, room, turn);
        if (threadIdx.x == 0) a.mean[row] = s.mean, a.rstd[row] = s.rstd;
        if (inside) store(a.y + (int64_t)row * C + c, (x - s.mean) * s.rstd * w + b);
    }
}
// dx = (add ? dx : 0) + the norm's backward of dy. Partial rows per block: dw, db, and the sum of the dx that leaves:
// the gradient of the bias that was added to the residual stream just before this norm.
struct NormBackwardArgs {
    floatX *dx;
    bool add;
    const floatX *dy, *x;
    const real *w, *mean, *rstd;
    real *partial;           // (blocks,3,C)
};
template<int W> __global__ void norm_backward_kernel(NormBackwardArgs a, int BT, int C) {
    __shared__ BlockRoom room;
    int turn = 0, c = threadIdx.x * W;
    bool inside = c < C;
    Vec<W> w = inside ? load<W>(a.w + c) : Vec<W>(0), dw = 0, db = 0, sum_dx = 0;
    for (int row = blockIdx.x; row < BT; row += gridDim.x) {
        int64_t at = (int64_t)row * C + c;
        Vec<W> xh = 0, dy = 0, before = 0;  // all loads before the sum over the row, which waits for the slowest
        if (inside && a.add) before = load<W>(a.dx + at);
        if (inside) xh = (load<W>(a.x + at) - a.mean[row]) * a.rstd[row], dy = load<W>(a.dy + at);
        dw += dy * xh, db += dy;
        Vec<W> dx = norm_backward_row(dy * w, xh, a.rstd[row], inside, C, room, turn);
        if (!inside) continue;
        dx += before;
        store(a.dx + at, dx), sum_dx += dx;
    }
    real *p = a.partial + (int64_t)blockIdx.x * 3 * C + c;
    if (inside) store(p, dw), store(p + C, db), store(p + 2 * C, sum_dx);
}
inline int norm_blocks(int BT) { return std::min(BT, busy_blocks()); }
inline void norm_forward(const NormArgs &a, int BT, int C, cudaStream_t stream) {
    int width = channel_width(C), threads = row_threads(C, width);
    dispatch_width(width, [&](auto W) { norm_forward_kernel<W.value><<<std::min(BT, 4 * busy_blocks()), threads, 0, stream>>>(a, BT, C); });
    launchCheck();
}
inline void norm_backward(const NormBackwardArgs &a, const SumTargets &grads, int BT, int C, cudaStream_t stream) {
    int width = channel_width(C), threads = row_threads(C, width);
    dispatch_width(width, [&](auto W) { norm_backward_kernel<W.value><<<norm_blocks(BT), threads, 0, stream>>>(a, BT, C); });
    launchCheck();
    column_sums(grads, a.partial, norm_blocks(BT), 3, C, stream);
}

// ------------------------------------------------------------------------------------------------
// Activations of the feed-forward layer
//
//   gelu(h) = h s, s = sigmoid(2z), z = c (h + a h^3)      gelu'(h) = s + 2 h s (1 - s) c (1 + 3 a h^2)

constexpr real GELU_C = real(0.7978845608028654), GELU_A = real(0.044715);  // c = sqrt(2/pi)
template<int W> __device__ inline Vec<W> gelu_gate(Vec<W> h) { return sigmoid(h * (real(1) + GELU_A * h * h) * (2 * GELU_C)); }
template<int W> __device__ inline Vec<W> gelu_slope(Vec<W> h, Vec<W> s) {
    return s + h * s * (real(1) - s) * (real(1) + 3 * GELU_A * h * h) * (2 * GELU_C);
}
template<int W> __global__ void gelu_forward_kernel(floatX *a, const floatX *h, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= n) return;
    Vec<W> x = load<W>(h + i);
    store(a + i, x * gelu_gate(x));
}
template<int W> __global__ void gelu_backward_kernel(floatX *d, const floatX *h, int64_t n) {  // d: da, becomes dh
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= n) return;
    Vec<W> x = load<W>(h + i);
    store(d + i, load<W>(d + i) * gelu_slope(x, gelu_gate(x)));
}
// relu works in place: its slope can be read off its result
template<int W> __global__ void relu_forward_kernel(floatX *h, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i < n) store(h + i, relu(load<W>(h + i)));
}
template<int W> __global__ void relu_backward_kernel(floatX *d, const floatX *a, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= n) return;
    Vec<W> x = load<W>(a + i), g = load<W>(d + i);
    store(d + i, each<W>([&](int j) { return x[j] > 0 ? g[j] : real(0); }));
}
// GeGLU: a row of h (2F) is the gate g and the value v, a = gelu(g) v (F)
template<int W> __global__ void geglu_forward_kernel(floatX *a, const floatX *h, int64_t n, int F) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= n) return;
    const floatX *row = h + i / F * 2 * F + i % F;
    Vec<W> g = load<W>(row);
    store(a + i, g * gelu_gate(g) * load<W>(row + F));
}
template<int W> __global__ void geglu_backward_kernel(floatX *dh, const floatX *da, const floatX *h, int64_t n, int F) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= n) return;
    int64_t at = i / F * 2 * F + i % F;
    Vec<W> g = load<W>(h + at), s = gelu_gate(g), d = load<W>(da + i);
    store(dh + at, d * load<W>(h + at + F) * gelu_slope(g, s)), store(dh + at + F, d * g * s);
}

// ------------------------------------------------------------------------------------------------
// Rotary positions: the first half of every head of q and k is n = N/4 pairs of channels (i, n + i), turned by the angle
// t 10000^(-i/n): q_t . k_i then depends on t - i. Backward turns the gradients back.

template<int W> __global__ void rotary_kernel(floatX *qkv, const real *table, int past, real sign, int64_t threads, int T, int C, int N) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= threads) return;  // threads: B T, 2C/N heads of q and k, N/4/W
    int n = N / 4, per_head = n / W, per_row = 2 * C / N * per_head, row = (int)(i / per_row), in_row = (int)(i % per_row), pair = in_row % per_head * W;
    floatX *x = qkv + (int64_t)row * 3 * C + in_row / per_head * N + pair;
    const real *turn = table + (int64_t)(past + row % T) * 2 * n + pair;
    Vec<W> a = load<W>(x), b = load<W>(x + n), cosine = load<W>(turn), sine = load<W>(turn + n) * sign;
    store(x, a * cosine - b * sine), store(x + n, b * cosine + a * sine);
}
// table (P,2,N/4): cosines and sines of each position, made on the host in double
inline std::vector<real> rotary_table(int P, int N) {
    int n = N / 4;
    std::vector<real> table((size_t)P * 2 * n);
    for (int t = 0; t < P; t++)
        for (int i = 0; i < n; i++) {
            double angle = t * pow(10000.0, -(double)i / n);
            table[(t * 2ll) * n + i] = cos(angle), table[(t * 2ll + 1) * n + i] = sin(angle);
        }
    return table;
}
inline void rotary(floatX *qkv, const real *table, int past, bool back, int64_t rows, int T, int C, int N, cudaStream_t stream) {
    int width = ELEMENT_WIDTH;
    while (N / 4 % width || N % width) width = narrower(width);  // every vector is aligned
    int64_t threads = rows * (2 * C / N) * (N / 4 / width);
    dispatch_width<ELEMENT_WIDTH>(width, [&](auto W) {
        rotary_kernel<W.value><<<ceil_div(threads, 256), 256, 0, stream>>>(qkv, table, past, back ? real(-1) : real(1), threads, T, C, N);
    });
    launchCheck();
}

// ------------------------------------------------------------------------------------------------
// The factor per position: y = x f[t]. Backward: dx = dy f[t], over dy, and df[t] += sum of dy x.

template<int W> __global__ void time_out_forward_kernel(floatX *y, const floatX *x, const real *f, int past, int64_t n, int T, int C) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i < n) store(y + i, load<W>(x + i) * f[past + i / C % T]);
}
__global__ void time_out_backward_kernel(floatX *d, real *df, const floatX *x, const real *f, int B, int T, int C) {
    __shared__ BlockRoom room;
    int turn = 0, t = blockIdx.x;
    real s[1] = {0};
    for (int b = 0; b < B; b++)
        for (int c = threadIdx.x; c < C; c += blockDim.x) {
            int64_t i = ((int64_t)b * T + t) * C + c;
            real dy = d[i];
            s[0] += dy * (real)x[i];
            d[i] = (floatX)(dy * f[t]);
        }
    block_sum(s, room, turn);
    if (threadIdx.x == 0) df[t] += s[0];
}
__global__ void set_kernel(int *to, int value) { *to = value; }

// ------------------------------------------------------------------------------------------------
// The model

// What one layer keeps, (B,T,C) floatX unless said. Offsets point into the parameter and gradient buffers; -1: not there.
struct Layer {
    int64_t ln_1_w, ln_1_b, qkv_w, qkv_b, proj_w, proj_b, ln_2_w, ln_2_b, fc_w, fc_b, out_w, out_b;
    floatX *x, *n1, *qkv, *y;  // residual stream entering att, its norm, q k v (B,T,3C), what attention makes of them
    floatX *x2, *n2, *h, *a;   // residual stream entering mlp, its norm, before and after the activation (B,T,F; GeGLU: h 2F)
    real *stats;               // (4,B,T): mean, rstd of ln_1, then of ln_2
    real *lse;                 // (B,H,T) of attention
};

struct GPT2 {
    static constexpr const char *kind = "GPT-2", *program = "train_gpt2";
    static constexpr const char *purpose = "trains GPT-2 on token shards written by ./prepare";
    static constexpr bool recurrent = false;
    typedef GPT2Config Config;
    static TrainDefaults defaults() {
        TrainDefaults d;
        d.lr_final = 6e-5, d.beta2 = 0.95, d.weight_decay = 0.1, d.l2wrap = 0;
        d.recompute = "less memory, more time, the same bits: 1 makes norms and activations again, 2 also q k v and what enters the activation";
        return d;
    }
    static std::vector<TensorRow> rows(const Config &c) { return gpt2_rows(c); }
    static Shape shape_of(const TensorFile &file, Config &c);
    static void complete(Shape &s, Config &c, int T);
    static TunedState tuned_state(const Shape &) { return {}; }  // a cache of keys and values, nothing to begin with
    static std::vector<TensorRow> state_rows() { return {}; }

    Parameters &p;
    Config config;
    Shape s;
    int B, T, H, recompute;                  // the largest batch; heads; what backward makes again (0, 1, 2)
    std::vector<Layer> layers;
    int64_t wte, wpe, ln_f_w, ln_f_b, time_out, head_w, head_b;
    floatX *x_last, *x_norm, *x_out;         // after the last layer, after ln_f, and what the head sees
    real *out_stats;
    Head head;
    floatX *dx, *d_small, *d_wide, *d_act;   // gradients: residual stream, 2 of C, q k v or h, a (where it is smaller than h)
    real *scratch, *sums, *partial;          // of attention; partial sums of the embedding, of vectors
    floatX *shared_n, *shared_qkv, *shared_h, *shared_a;  // one for all layers, with recompute
    real *turns = nullptr;                   // rotary_table
    int *past;                               // ModelInput::past, for attention
    cudaStream_t stream = 0;

    GPT2(Parameters &p, const Config &c, int B, int T, int recompute) : p(p), config(c), s(p.table.s), B(B), T(T), H((int)c.heads), recompute(recompute), layers(s.L) {
        auto at = [&](const std::string &name) { const Tensor *t = p.table.find(name); return t ? t->offset : -1; };
        std::string prefix = c.prefix ? "transformer." : "";
        wte = at(prefix + "wte.weight"), wpe = at(prefix + "wpe.weight"), ln_f_w = at(prefix + "ln_f.weight"), ln_f_b = at(prefix + "ln_f.bias");
        time_out = at(prefix + "time_out"), head_w = c.head == "tied" ? wte : at("lm_head.weight"), head_b = at("lm_head.bias");
        for (int l = 0; l < s.L; l++) {
            Layer &a = layers[l];
            auto pair = [&](const char *name, int64_t &w, int64_t &b) { w = at(p.table.blocks + std::to_string(l) + name + ".weight"), b = at(p.table.blocks + std::to_string(l) + name + ".bias"); };
            pair(".ln_1", a.ln_1_w, a.ln_1_b), pair(".attn.c_attn", a.qkv_w, a.qkv_b), pair(".attn.c_proj", a.proj_w, a.proj_b);
            pair(".ln_2", a.ln_2_w, a.ln_2_b), pair(".mlp.c_fc", a.fc_w, a.fc_b), pair(".mlp.c_proj", a.out_w, a.out_b);
        }
    }
    int max_past() const { return s['p']; }
    // The KV cache of B sequences: of every layer k (B,P,C), then v, for P positions
    int64_t state_count(int B) const { return (int64_t)s.L * 2 * B * s['p'] * s.C; }

    // Lists every buffer. Level 1 makes norms and activations again in backward, level 2 also q k v and h: 16 -> 10 -> 3
    // (B,T,C) a layer.
    void plan(Arena &arena) {
        int64_t BT = (int64_t)B * T, C = s.C, F = s.F, f = s['f'];
        auto keep = [&](floatX **own, floatX **shared, int level, int64_t count) {
            if (recompute < level) arena.plan("activations", own, count);
            else if (own == &layers[0].n1 || own == &layers[0].qkv || own == &layers[0].h || own == &layers[0].a) arena.plan("activations", shared, count);
        };
        for (Layer &a : layers) {
            for (floatX **x : {&a.x, &a.y, &a.x2}) arena.plan("activations", x, BT * C);
            keep(&a.n1, &shared_n, 1, BT * C), keep(&a.n2, &shared_n, 1, BT * C);
            keep(&a.qkv, &shared_qkv, 2, 3 * BT * C), keep(&a.h, &shared_h, 2, BT * f);
            if (config.activation != "relu") keep(&a.a, &shared_a, 1, BT * F);
            arena.plan("activations", &a.stats, 4 * BT), arena.plan("activations", &a.lse, BT * H);
        }
        arena.plan("activations", &x_last, BT * C), arena.plan("activations", &x_out, BT * C), arena.plan("activations", &out_stats, 2 * BT);
        if (time_out >= 0) arena.plan("activations", &x_norm, BT * C);
        if (config.rotary()) arena.plan("activations", &turns, (int64_t)s['p'] * 2 * (C / H / 4));
        arena.plan("activations", &past, 1);
        head.plan(arena, BT, s.V, C, head_b >= 0);
        arena.plan("backward", &dx, BT * C), arena.plan("backward", &d_small, 2 * BT * C), arena.plan("backward", &d_wide, BT * std::max(f, 3 * C));
        if (config.gated()) arena.plan("backward", &d_act, BT * F);
        arena.plan("backward", &scratch, std::max(attention_scratch(B, T, H), attention_cached_scratch(B, T, H, C / H, s['p'])));
        arena.plan("backward", &sums, embedding_pieces(BT, s.V) * C);
        int64_t most = norm_blocks(BT) * 3 * C;
        for (int64_t n : {C, 3 * C, f}) most = std::max(most, bias_parts(BT, n) * n);
        arena.plan("backward", &partial, most);
    }
    void link() {  // after the arena is allocated
        for (Layer &a : layers) {
            if (recompute >= 1) a.n1 = a.n2 = shared_n, a.a = shared_a;
            if (recompute >= 2) a.qkv = shared_qkv, a.h = shared_h;
            if (config.activation == "relu") a.a = a.h;
        }
        if (time_out < 0) x_norm = x_out;
        if (!config.gated()) d_act = d_wide;
        if (head_b >= 0) head.bias = weight(head_b), head.dbias = p.grads + head_b;
        if (!turns) return;
        std::vector<real> table = rotary_table(s['p'], s.C / H);
        cudaCheck(cudaMemcpy(turns, table.data(), table.size() * sizeof(real), cudaMemcpyHostToDevice));
    }

    const floatX *weight(int64_t offset) const { return p.params + offset; }  // matrices, and biases of linear layers: floatX
    const real *vector(int64_t offset) const { return offset < 0 ? nullptr : p.master + offset; }  // other vectors: real
    real *grad(int64_t offset) const { return offset < 0 ? nullptr : p.grads + offset; }
    floatX *after(int l) const { return l + 1 < s.L ? layers[l + 1].x : x_last; }

    // y = x W^T + b (+ residual)
    void linear(floatX *y, const floatX *x, int64_t w, int64_t b, const floatX *residual, int BT, int out, int in) {
        matmul_forward(y, x, weight(w), residual, BT, out, in, stream, {}, b < 0 ? nullptr : weight(b));
    }
    // The weights' gradient and dx (BT,in) of dy (BT,out); sum_b: also the bias's
    void linear_backward(floatX *dx, const floatX *dy, const floatX *x, int64_t w, int64_t b, bool sum_b, int BT, int out, int in) {
        if (b >= 0 && sum_b) bias_backward(grad(b), partial, dy, BT, out, stream);
        matmul_backward_weight(grad(w), dy, x, BT, out, in, stream);
        matmul_backward_input(dx, dy, weight(w), BT, out, in, stream);
    }

    enum Site { PROJ, OUT, EMBEDDING };  // where dropout works, besides in attention
    bool drops(const ModelInput &in) const { return in.draw && config.dropout > 0; }
    Dropout dropout(const ModelInput &in, int l, Site site) const { return {config.dropout, in.draw, (uint64_t)l * 4 + site}; }
    void drop(floatX *y, const floatX *x, const Dropout &d, int64_t n) {
        elementwise(n, [&](auto W, int blocks, int threads) { dropout_kernel<W.value><<<blocks, threads, 0, stream>>>(y, x, d, n); });
    }
    // What a layer adds: x_next = x + drop(W z + b), and its backward: dz from the gradient dx of x_next. Without dropout the
    // gradient of b is the sum of dx, which the norm behind x_next has made.
    void add_output(const ModelInput &in, floatX *x_next, const floatX *x, const floatX *z, int64_t w, int64_t b, int width, const Dropout &d) {
        int64_t n = in.BT() * s.C;
        linear(x_next, z, w, b, drops(in) ? nullptr : x, in.BT(), s.C, width);
        if (drops(in)) elementwise(n, [&](auto W, int blocks, int threads) { dropout_add_kernel<W.value><<<blocks, threads, 0, stream>>>(x_next, x, d, n); });
    }
    void add_output_backward(const ModelInput &in, floatX *dz, const floatX *z, int64_t w, int64_t b, int width, const Dropout &d) {
        if (drops(in)) drop(d_small, dx, d, in.BT() * s.C);
        linear_backward(dz, drops(in) ? d_small : dx, z, w, b, drops(in), in.BT(), s.C, width);
    }

    NormArgs norm_args(const ModelInput &in, int l, bool second) const {
        const Layer &a = layers[l];
        real *stats = a.stats + (second ? 2 * in.BT() : 0);
        return {second ? a.n2 : a.n1, second ? a.x2 : a.x, vector(second ? a.ln_2_w : a.ln_1_w), vector(second ? a.ln_2_b : a.ln_1_b), stats, stats + in.BT()};
    }
    NormArgs out_norm_args(const ModelInput &in) const { return {x_norm, x_last, vector(ln_f_w), vector(ln_f_b), out_stats, out_stats + in.BT()}; }
    // adds to dx; bias: of the linear layer whose output was added to the residual stream before the norm
    void norm_backward(const ModelInput &in, const NormArgs &f, const floatX *dy, bool add, int64_t w, int64_t b, int64_t bias) {
        ::norm_backward({dx, add, dy, f.x, f.w, f.mean, f.rstd, partial}, {{grad(w), grad(b), drops(in) ? nullptr : grad(bias)}}, in.BT(), s.C, stream);
    }

    AttentionArgs attention_args(const ModelInput &in, int l) const {
        const Layer &a = layers[l];
        AttentionArgs x = {a.qkv, a.qkv + s.C, a.qkv + 2 * s.C, 3ll * s.C, a.y, a.lse, in.B, in.T, H, s.C / H, real(1 / sqrt((double)s.C / H))};
        if (drops(in)) x.dropout = config.dropout, x.draw = in.draw, x.layer = l;
        return x;
    }
    void qkv_forward(const ModelInput &in, int l) {
        const Layer &a = layers[l];
        linear(a.qkv, a.n1, a.qkv_w, a.qkv_b, nullptr, in.BT(), 3 * s.C, s.C);
        if (turns) rotary(a.qkv, turns, in.past, false, in.BT(), in.T, s.C, s.C / H, stream);
    }
    void attention(const ModelInput &in, int l) {
        AttentionArgs a = attention_args(in, l);
        if (!in.state_out) return attention_forward(a, stream);
        int64_t half = (int64_t)in.B * s['p'] * s.C;
        AttentionCache cache = {in.state_out + 2 * l * half, in.state_out + (2 * l + 1) * half, s['p'], past};
        if (in.past) return attention_cached(a, cache, scratch, stream);
        attention_append(a, cache, stream), attention_forward(a, stream);
    }
    void activation_forward(const Layer &a, const ModelInput &in) {
        int64_t n = in.BT() * s.F;
        if (config.gated()) row_elements(in.BT(), s.F, [&](auto W, int blocks, int threads) { geglu_forward_kernel<W.value><<<blocks, threads, 0, stream>>>(a.a, a.h, n, s.F); });
        else elementwise(n, [&](auto W, int blocks, int threads) {
            if (a.a == a.h) relu_forward_kernel<W.value><<<blocks, threads, 0, stream>>>(a.h, n);
            else gelu_forward_kernel<W.value><<<blocks, threads, 0, stream>>>(a.a, a.h, n);
        });
    }
    void activation_backward(const Layer &a, const ModelInput &in) {  // d_act -> d_wide
        int64_t n = in.BT() * s.F;
        if (config.gated()) row_elements(in.BT(), s.F, [&](auto W, int blocks, int threads) { geglu_backward_kernel<W.value><<<blocks, threads, 0, stream>>>(d_wide, d_act, a.h, n, s.F); });
        else elementwise(n, [&](auto W, int blocks, int threads) {
            if (a.a == a.h) relu_backward_kernel<W.value><<<blocks, threads, 0, stream>>>(d_wide, a.a, n);
            else gelu_backward_kernel<W.value><<<blocks, threads, 0, stream>>>(d_wide, a.h, n);
        });
    }

    // x_out (B,T,C) = what the head sees. With state_out, the keys and values of these tokens enter the cache.
    void forward(const ModelInput &in) {
        int BT = in.BT(), C = s.C;
        set_kernel<<<1, 1, 0, stream>>>(past, in.past);
        row_elements(BT, C, [&](auto W, int blocks, int threads) {
            embed_kernel<W.value><<<blocks, threads, 0, stream>>>(layers[0].x, in.tokens, weight(wte), wpe < 0 ? nullptr : weight(wpe), in.past, BT, in.T, C);
        });
        if (drops(in)) drop(layers[0].x, layers[0].x, dropout(in, 0, EMBEDDING), (int64_t)BT * C);
        for (int l = 0; l < s.L; l++) {
            const Layer &a = layers[l];
            norm_forward(norm_args(in, l, false), BT, C, stream);                         // n1 = ln_1(x)
            qkv_forward(in, l);                                                           // q, k, v = Wqkv n1 + b, and the turns of rotary positions
            attention(in, l);                                                             // y_t = sum_{i<=t} p_ti v_i
            add_output(in, a.x2, a.x, a.y, a.proj_w, a.proj_b, C, dropout(in, l, PROJ));  // x2 = x + drop(Wproj y + b)
            norm_forward(norm_args(in, l, true), BT, C, stream);                          // n2 = ln_2(x2)
            linear(a.h, a.n2, a.fc_w, a.fc_b, nullptr, BT, s['f'], C);                    // h = Wfc n2 + b
            activation_forward(a, in);                                                    // a = gelu(h), relu(h) or, where h is g and v, gelu(g) v
            add_output(in, after(l), a.x2, a.a, a.out_w, a.out_b, s.F, dropout(in, l, OUT));  // next x = x2 + drop(Wout a + b)
        }
        norm_forward(out_norm_args(in), BT, C, stream);  // x_norm = ln_f(x_last)
        if (time_out >= 0) row_elements(BT, C, [&](auto W, int blocks, int threads) {
            time_out_forward_kernel<W.value><<<blocks, threads, 0, stream>>>(x_out, x_norm, vector(time_out), in.past, (int64_t)BT * C, in.T, C);
        });
    }

    // losses (head.losses) of targets (B,T); with `backward` set also dx_out, in d_small
    void loss(const ModelInput &in, const int *targets, const real *scale, real l2wrap, bool backward) {
        head.loss(x_out, weight(head_w), targets, scale, l2wrap, in.BT(), backward ? d_small : nullptr, p.grads + head_w, stream);
    }

    // Backward. At the end of a line: what it differentiates
    void mlp_backward(const ModelInput &in, int l) {
        const Layer &a = layers[l];
        int BT = in.BT(), C = s.C;
        floatX *dn = d_small + (int64_t)BT * C;
        NormArgs norm = norm_args(in, l, true);
        if (recompute >= 1) norm_forward(norm, BT, C, stream);
        if (recompute >= 2) linear(a.h, a.n2, a.fc_w, a.fc_b, nullptr, BT, s['f'], C);
        if (recompute >= 1) activation_forward(a, in);
        add_output_backward(in, d_act, a.a, a.out_w, a.out_b, s.F, dropout(in, l, OUT));  // next x = x2 + drop(Wout a + b)
        activation_backward(a, in);  // a = gelu(h), ...
        linear_backward(dn, d_wide, a.n2, a.fc_w, a.fc_b, true, BT, s['f'], C);  // h = Wfc n2 + b
        norm_backward(in, norm, dn, true, a.ln_2_w, a.ln_2_b, a.proj_b);  // n2 = ln_2(x2)
    }
    void att_backward(const ModelInput &in, int l) {
        const Layer &a = layers[l];
        int BT = in.BT(), C = s.C;
        floatX *dn = d_small + (int64_t)BT * C, *dqkv = d_wide;
        NormArgs norm = norm_args(in, l, false);
        if (recompute >= 1) norm_forward(norm, BT, C, stream);
        if (recompute >= 2) qkv_forward(in, l);
        add_output_backward(in, dn, a.y, a.proj_w, a.proj_b, C, dropout(in, l, PROJ));  // x2 = x + drop(Wproj y + b)
        attention_backward(attention_args(in, l), dn, dqkv, dqkv + C, dqkv + 2 * C, scratch, stream);  // y_t = sum_{i<=t} p_ti v_i
        if (turns) rotary(dqkv, turns, 0, true, BT, in.T, C, C / H, stream);
        linear_backward(dn, dqkv, a.n1, a.qkv_w, a.qkv_b, true, BT, 3 * C, C);  // q, k, v = Wqkv n1 + b
        norm_backward(in, norm, dn, true, a.ln_1_w, a.ln_1_b, l ? layers[l - 1].out_b : -1);  // n1 = ln_1(x)
    }
    // After forward (of whole sequences) and loss on the same input: gradients += . A cache has no gradient.
    void backward(const ModelInput &in, const TokenIndex &index, const real *, real *) {
        int BT = in.BT(), C = s.C;
        int64_t TC = (int64_t)in.T * C;
        if (time_out >= 0) time_out_backward_kernel<<<in.T, loop_threads(128), 0, stream>>>(d_small, grad(time_out), x_norm, vector(time_out), in.B, in.T, C);
        norm_backward(in, out_norm_args(in), d_small, false, ln_f_w, ln_f_b, layers[s.L - 1].out_b);
        for (int l = s.L - 1; l >= 0; l--) mlp_backward(in, l), att_backward(in, l);
        if (drops(in)) drop(dx, dx, dropout(in, 0, EMBEDDING), (int64_t)BT * C);
        embedding_backward(grad(wte), sums, dx, index, BT, s.V, C, stream);
        if (wpe >= 0) elementwise(TC, [&](auto W, int blocks, int threads) { position_backward_kernel<W.value><<<blocks, threads, 0, stream>>>(grad(wpe), dx, in.B, TC); });
    }
};

// What the options leave open, and whether they fit together; T: tokens of a sequence.
void GPT2::complete(Shape &s, Config &c, int T) {
    if (!c.heads && s.C > 64 && s.C % 64) usage_fail("--dim %d is not a multiple of 64, GPT-2's head size: pass --heads, a number that divides it", s.C);
    if (!c.heads) c.heads = std::max(1, s.C / 64);
    if (c.heads < 1 || s.C % c.heads) usage_fail("--heads %lld does not divide --dim %d", (long long)c.heads, s.C);
    int N = s.C / (int)c.heads;
    if (N % 2 || N > 128) usage_fail("--heads %lld makes heads of %d channels of --dim %d, but they must be even and at most 128", (long long)c.heads, N, s.C);
    if (c.rotary() && N < 4) usage_fail("--heads %lld makes heads of %d channels of --dim %d, but --positions rotary needs 4 or more", (long long)c.heads, N, s.C);
    if (!s.F) s.F = c.gated() ? 3 * s.C : 4 * s.C;
    s['q'] = 3 * s.C, s['f'] = c.gated() ? 2 * s.F : s.F;
    if (s['p'] && T > s['p']) usage_fail("--ctx %d is more than the %d positions that this model was trained with: pass --ctx %d or less", T, s['p'], s['p']);
    if (!s['p']) s['p'] = T;
}
// The shape and options of a weight file, from names and shapes; what they cannot say (heads, which activation) from the
// metadata of our checkpoints, else from the command line. Other models are refused by name.
Shape GPT2::shape_of(const TensorFile &file, Config &c) {
    struct { const char *tensor, *is; } others[] = {
        {"blocks.0.att.r_k", "an RWKV-7 model; ./train_rwkv7 trains those"}, {"blocks.0.att.time_maa_x", "an RWKV-6 model"}, {"blocks.0.att.ln_x.weight", "an RWKV-5 model"},
        {"blocks.0.att.time_decay", "an RWKV-4 model; ./train_rwkv trains those"}, {"rwkv.embeddings.weight", "an RWKV model of Hugging Face"},
        {"model.embed_tokens.weight", "a model of the Llama kind"}, {"gpt_neox.embed_in.weight", "a GPT-NeoX model"}};
    for (auto &o : others) if (file.find(o.tensor)) fail("%s is not a GPT-2 model but %s", file.path.c_str(), o.is);
    c.prefix = file.find("transformer.wte.weight");
    auto find = [&](const std::string &name) { return file.find((c.prefix ? "transformer." : "") + name); };
    auto matrix = [&](const char *name) {
        const TensorView *t = find(name);
        if (!t) fail("%s is not a GPT-2 model: it has no %s", file.path.c_str(), name);
        if (t->shape.size() != 2) fail("%s: %s must be a matrix, but has shape %s", file.path.c_str(), name, t->shape_text().c_str());
        return t;
    };
    auto saved = [&](const char *key) { auto i = file.metadata.find(key); return i == file.metadata.end() ? "" : i->second; };
    const TensorView *embedding = matrix("wte.weight"), *fc = matrix("h.0.mlp.c_fc.weight"), *out = matrix("h.0.mlp.c_proj.weight"), *own = file.find("lm_head.weight");
    Shape s = {(int)embedding->shape[0], (int)embedding->shape[1], (int)out->shape[0], 0};
    while (find(format("h.%d.ln_1.weight", s.L))) s.L++;
    c.positions = find("wpe.weight") ? "learned" : "rotary", c.time_out = find("time_out") ? "on" : "off";
    if (!c.rotary()) s['p'] = (int)matrix("wpe.weight")->shape[0];
    else if (c.time_out == "on") s['p'] = (int)find("time_out")->count();
    c.bias = !find("h.0.ln_1.bias") ? "off" : find("h.0.attn.c_attn.bias") ? "on" : "not-qkv";
    bool copy = own && own->shape == embedding->shape && own->dtype == embedding->dtype && own->contiguous() && embedding->contiguous() &&
                !memcmp(own->data, embedding->data, own->count() * dtype_size(own->dtype));  // torch.save writes a tied head twice
    c.head = !own || copy ? "tied" : file.find("lm_head.bias") ? "untied-bias" : "untied";
    if (fc->shape[1] == 2 * out->shape[0]) c.activation = "geglu";
    else if (saved("activation") == "relu" || saved("activation") == "gelu") c.activation = saved("activation");
    else if (c.gated()) c.activation = "gelu";
    if (!saved("heads").empty()) c.heads = atoll(saved("heads").c_str());
    return s;
}

#ifndef TESTING  // tests include this file
int main(int argc, char **argv) { return train_main<GPT2>(argc, argv); }
#endif

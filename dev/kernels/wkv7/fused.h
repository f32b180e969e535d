/* dev/kernels/wkv7/fused.h: one kernel a direction for everything between the products of a layer of RWKV-7 and its matrix
   Wo: gates, kk, the recurrence, GroupNorm, bonus, output gate. The formulas are those of train_rwkv7.cu, called from inside
   the chunks of rwkv/wkv7.h: a warp takes a token of the chunk after the other, W = N / 32 channels a lane.

   Why: with kernels of their own, gates and norm, 24 tensors of (B,T,C) move forward (prepare reads 6 and writes 5, the
   recurrence reads 6 and writes y, out reads 5 and writes 1) and 40 backward; here 10 and 17. w, k', -kk, kk a, v', dy and the
   gradients of all these never leave the chip. In both cases the kept states come on top, in bf16 as much as 8 tensors each way.
   At B 8, T 4096 and 64 heads of 64 that is 12 GB instead of 22.

   defines: Wkv7Gates, Wkv7GatesBackward, wkv7_fused_fits, wkv7_fused_forward, wkv7_fused_backward */
#pragma once
#include "../../../rwkv/wkv7.h"

template<int W> struct StageInputs {           // what a token's a, r, b, k, w, v are made of
    KeyInputs<W> key;
    ValueInputs<W> value;
    Vec<W> wl, r;
    __device__ StageInputs() {}
    __device__ StageInputs(const HeadLane<W> &h, const PrepareArgs &p, const floatX *r, int64_t at) : key(h, p, at), value(h, p, at), wl(h.get(p.wl, at)), r(h.get(r, at)) {}
};
// The tokens that a warp has of a chunk. All that they read is under way before the first is used: else a chunk would wait for
// memory a dozen times. Steps past the end, like lanes past the head, read what is there and count as zeros.
template<int N, int L> struct WarpTokens {
    static constexpr int W = N / 32, COUNT = L * 16 / N;
    const Wkv7Args &f;
    int seq, h, t0, n;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    __device__ WarpTokens(const Wkv7Args &f, int seq, int h, int t0, int n) : f(f), seq(seq), h(h), t0(t0), n(n) {}
    __device__ int step(int i) const { return warp + i * (N / 16); }
    __device__ HeadLane<W> head() const { return {h, lane, f.N}; }
    __device__ HeadLane<W> head(int i) const {  // of token i
        HeadLane<W> x = head();
        x.inside = x.inside && step(i) < n;
        return x;
    }
    __device__ int64_t at(int i) const { return f.at(seq, t0 + min(step(i), n - 1), 0) + head().c; }
    template<class Tile> __device__ Vec<W> get(const Tile &x, int i) const { return head(i).keep(load<W>(&x(step(i), lane * W))); }
    template<class Tile> __device__ void put(const Tile &x, int i, Vec<W> v) const { store(&x(step(i), lane * W), v); }
    // a, r, b, k, w of token i; returns the sum of its bonus
    __device__ real stage(const Wkv7Staged<N, L> &s, int i, const PrepareVectors<W> &vectors, Vec<W> r_k, const StageInputs<W> &in) const {
        const PreparedKey<W> key(head(i), vectors, in.key);
        put(s.a, i, key.kk * real(-1)), put(s.b, i, key.kk * key.a), put(s.k, i, key.kp), put(s.r, i, in.r), put(s.w, i, vectors.w0 + in.wl);
        return head().sum(in.r * key.kp * r_k);
    }
    template<Wkv7Mode MODE> static __device__ Vec<W> rounded(Vec<W> x) { return each<W>([&](int i) { return wkv7_round<MODE>(x[i]); }); }
};

// The forward of a layer: p, o as for prepare_forward_kernel and out_forward_kernel; of their buffers only p's inputs, o.r,
// o.g and o.out are used. Wkv7Args: only y (null: not wanted), states, state_in, state_out, reset and the shape.
struct Wkv7Gates {
    static constexpr bool inside = true;
    template<int N, int L> static constexpr int forward_room = L;  // the bonus' sum of every token
    PrepareArgs p;
    OutArgs o;

    template<Wkv7Mode MODE, int N, int L> __device__ void enter(const Wkv7Staged<N, L> &s, const Wkv7Args &f, int seq, int h, int t0, int n) const {
        typedef WarpTokens<N, L> Tokens;
        constexpr int W = Tokens::W;
        const Tokens tokens(f, seq, h, t0, n);
        StageInputs<W> in[Tokens::COUNT];
#pragma unroll
        for (int i = 0; i < Tokens::COUNT; i++) in[i] = {tokens.head(i), p, o.r, tokens.at(i)};
        const PrepareVectors<W> vectors(tokens.head(), p);
        const Vec<W> r_k = tokens.head().get(o.r_k);
#pragma unroll
        for (int i = 0; i < Tokens::COUNT; i++) tokens.put(s.v, i, Tokens::template rounded<MODE>(PreparedValue<W>(vectors, in[i].value).vp));
#pragma unroll
        for (int i = 0; i < Tokens::COUNT; i++) {
            const real sum = tokens.stage(s, i, vectors, r_k, in[i]);
            if (tokens.lane == 0) s.own[tokens.step(i)] = sum;
        }
    }
    template<int N, int L> __device__ void leave(const Wkv7Staged<N, L> &s, const Wkv7Args &f, int seq, int h, int t0, int n) const {
        typedef WarpTokens<N, L> Tokens;
        constexpr int W = Tokens::W;
        const Tokens tokens(f, seq, h, t0, n);
        const Vec<W> w = tokens.head().get(o.w), b = tokens.head().get(o.b);
        Vec<W> g[Tokens::COUNT];
#pragma unroll
        for (int i = 0; i < Tokens::COUNT; i++) g[i] = tokens.head(i).get(o.g, tokens.at(i));
#pragma unroll
        for (int i = 0; i < Tokens::COUNT; i++) {
            const HeadLane<W> head = tokens.head(i);
            const Vec<W> y = tokens.get(s.y, i);
            const Normed<W> normed(tokens.head(), y, f.N);
            head.put(o.out, tokens.at(i), (normed.xh * w + b + tokens.get(s.v, i) * s.own[tokens.step(i)]) * g[i]);
            if (f.y) head.put(f.y, tokens.at(i), y);
        }
    }
};

// Backward: from dout to the gradients of r k v wl al vl g and, in `partial`, of the vectors. b: as for prepare_backward_kernel; its
// dr dk dv dw dkka dminus_kk are written, not read: gradients of r k v wl al vl.
struct Wkv7GatesBackward {
    static constexpr bool inside = true;
    enum { W0, A0, K_K, K_A, R_K, LN_W, LN_B, V0, SUMS };
    template<int N, int L> static constexpr int backward_room = N / 16 * SUMS * N;  // (warp, sum, channel)
    PrepareBackwardArgs b;
    OutArgs o;                        // y, w, b; out is not written
    floatX *dg;
    real *partial;                    // (B, SUMS or without V0, C): w0 a0 k_k k_a r_k ln_x.weight ln_x.bias v0

    template<int N, int L> __device__ static real *mine(const Wkv7Staged<N, L> &s, int sum) { return s.own + (threadIdx.x / 32 * SUMS + sum) * N + threadIdx.x % 32 * (N / 32); }
    template<int W, int N, int L> __device__ static void add(const Wkv7Staged<N, L> &s, int sum, Vec<W> x) { store(mine(s, sum), load<W>(mine(s, sum)) + x); }
    template<int N, int L> __device__ void begin(const Wkv7Staged<N, L> &s) const {
        for (int i = 0; i < SUMS; i++) store(mine(s, i), Vec<N / 32>(0));
    }
    template<Wkv7Mode MODE, int N, int L> __device__ void enter(const Wkv7Staged<N, L> &s, const Wkv7Args &f, int seq, int h, int t0, int n) const {
        typedef WarpTokens<N, L> Tokens;
        constexpr int W = Tokens::W;
        const Tokens tokens(f, seq, h, t0, n);
        StageInputs<W> in[Tokens::COUNT];
        Vec<W> y[Tokens::COUNT], dout[Tokens::COUNT], g[Tokens::COUNT];
#pragma unroll
        for (int i = 0; i < Tokens::COUNT; i++) {
            const HeadLane<W> head = tokens.head(i);
            const int64_t at = tokens.at(i);
            in[i] = {head, b.f, b.r, at};
            y[i] = head.get(o.y, at), dout[i] = head.get(b.dout, at), g[i] = head.get(b.g, at);
        }
        const PrepareVectors<W> vectors(tokens.head(), b.f);
        const Vec<W> r_k = tokens.head().get(b.r_k), ln_w = tokens.head().get(o.w), ln_b = tokens.head().get(o.b);
        Vec<W> dln_w = 0, dln_b = 0;
#pragma unroll
        for (int i = 0; i < Tokens::COUNT; i++) {
            const HeadLane<W> head = tokens.head(i);
            const Vec<W> vp = PreparedValue<W>(vectors, in[i].value).vp;
            tokens.put(s.v, i, Tokens::template rounded<MODE>(vp));
            const real bonus = tokens.stage(s, i, vectors, r_k, in[i]);
            const Normed<W> normed(tokens.head(), y[i], f.N);
            const Vec<W> d = dout[i] * g[i];
            head.put(dg, tokens.at(i), dout[i] * (normed.xh * ln_w + ln_b + vp * bonus));
            dln_w += d * normed.xh, dln_b += d;
            tokens.put(s.y, i, Tokens::template rounded<MODE>(normed.backward(tokens.head(), d * ln_w, f.N)));
        }
        add(s, LN_W, dln_w), add(s, LN_B, dln_b);
    }
    template<int N, int L> __device__ void leave(const Wkv7Staged<N, L> &s, const Wkv7Args &f, int seq, int h, int t0, int n) const {
        typedef WarpTokens<N, L> Tokens;
        constexpr int W = Tokens::W;
        const Tokens tokens(f, seq, h, t0, n);
        PrepareBackwardInputs<W> in[Tokens::COUNT];
#pragma unroll
        for (int i = 0; i < Tokens::COUNT; i++) in[i] = {tokens.head(i), b, tokens.at(i)};
        const PrepareVectors<W> vectors(tokens.head(), b.f);
        const Vec<W> r_k = tokens.head().get(b.r_k);
        PrepareSums<W> sums;
#pragma unroll
        for (int i = 0; i < Tokens::COUNT; i++) {
            const HeadLane<W> head = tokens.head(i);
            const Vec<W> dw = head.keep(load<W>(s.dw + tokens.step(i) * WKV7_PITCH<N> + tokens.lane * W));
            head.put(b.dw, tokens.at(i), dw);
            prepare_backward(b, head, vectors, r_k, tokens.at(i), in[i], {tokens.get(s.r, i), dw, tokens.get(s.k, i), tokens.get(s.dv, i), tokens.get(s.a, i), tokens.get(s.b, i)}, sums);
        }
        add(s, W0, sums.w0), add(s, A0, sums.a0), add(s, K_K, sums.k_k), add(s, K_A, sums.k_a), add(s, R_K, sums.r_k), add(s, V0, sums.v0);
    }
    template<int N, int L> __device__ void finish(const Wkv7Staged<N, L> &s, const Wkv7Args &f, int seq, int h) const {
        const int K = b.f.vl ? SUMS : SUMS - 1;
        __syncthreads();              // all warps have added their last chunk
        for (int x = threadIdx.x; x < K * f.N; x += blockDim.x) {
            const int k = x / f.N, j = x % f.N;
            real sum = 0;
            for (int warp = 0; warp < N / 16; warp++) sum += s.own[(warp * SUMS + k) * N + j];
            partial[((int64_t)seq * K + k) * f.H * f.N + h * f.N + j] = sum;
        }
    }
};

// For heads of up to 64 channels (with more, the registers of a warp do not hold its part of dL/dS), where a block may have the
// shared memory of the backward: 72 KB for 64 channels, which sm_75 does not have.
inline bool wkv7_fused_fits(int N) {
    return N <= 64 && device().sharedMemPerBlockOptin >= (N <= 32 ? Wkv7Backward<32, WKV7_CHUNK, 32, Wkv7GatesBackward>::bytes : Wkv7Backward<64, WKV7_CHUNK, 64, Wkv7GatesBackward>::bytes);
}
inline void wkv7_fused_forward(const Wkv7Args &f, const Wkv7Gates &gates, cudaStream_t stream) {
    if (f.N <= 32) wkv7_chunk_forward<WKV7_MODE, 32, WKV7_CHUNK>(f, 1, stream, gates);
    else wkv7_chunk_forward<WKV7_MODE, 64, WKV7_CHUNK>(f, 1, stream, gates);
}
inline void wkv7_fused_backward(const Wkv7BackwardArgs &g, const Wkv7GatesBackward &gates, cudaStream_t stream) {
    if (g.f.N <= 32) wkv7_chunk_backward<WKV7_MODE, 32, WKV7_CHUNK, 32>(g, stream, gates);
    else wkv7_chunk_backward<WKV7_MODE, 64, WKV7_CHUNK, 64>(g, stream, gates);
}

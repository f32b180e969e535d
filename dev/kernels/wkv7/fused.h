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

// The forward of a layer: p, o as for prepare_forward_kernel and out_forward_kernel; of their buffers only p's inputs, o.r,
// o.g and o.out are used. Wkv7Args: only y (null: not wanted), states, state_in, state_out, reset and the shape.
struct Wkv7Gates {
    static constexpr bool inside = true;
    template<int N, int L> static constexpr int forward_room = L;  // the bonus' sum of every token
    PrepareArgs p;
    OutArgs o;

    template<int W, class Tile> static __device__ Vec<W> get(const Tile &x, int t, int c) { return load<W>(&x(t, c)); }
    template<int W, class Tile> static __device__ void put(const Tile &x, int t, int c, Vec<W> v) { store(&x(t, c), v); }
    template<Wkv7Mode MODE, int W> static __device__ Vec<W> rounded(Vec<W> x) { return each<W>([&](int i) { return wkv7_round<MODE>(x[i]); }); }

    template<Wkv7Mode MODE, int N, int L> __device__ void enter(const Wkv7Staged<N, L> &s, const Wkv7Args &f, int seq, int h, int t0, int n) const {
        constexpr int W = N / 32, WARPS = N / 16;
        const int lane = threadIdx.x % 32, c = lane * W;
        const Head7<W> head(h, lane, f.N);
        const PrepareVectors<W> vectors(head, p);
        const Vec<W> r_k = head.get(o.r_k);
#pragma unroll
        for (int t = threadIdx.x / 32; t < L; t += WARPS) {
            if (t >= n) { put(s.v, t, c, Vec<W>(0)); continue; }
            const int64_t at = f.at(seq, t0 + t, h) + c;
            const PreparedKey<W> x(head, p, vectors, at);
            const Vec<W> r = head.get(o.r, at);
            put(s.a, t, c, x.kk * real(-1)), put(s.b, t, c, x.kk * x.a), put(s.k, t, c, x.kp), put(s.r, t, c, r);
            put(s.w, t, c, vectors.w0 + head.get(p.wl, at)), put(s.v, t, c, rounded<MODE>(PreparedValue<W>(head, p, vectors, at).vp));
            const real sum = head.sum(r * x.kp * r_k);
            if (lane == 0) s.own[t] = sum;
        }
    }
    template<int N, int L> __device__ void leave(const Wkv7Staged<N, L> &s, const Wkv7Args &f, int seq, int h, int t0, int n) const {
        constexpr int W = N / 32, WARPS = N / 16;
        const int lane = threadIdx.x % 32, c = lane * W;
        const Head7<W> head(h, lane, f.N);
        const Vec<W> w = head.get(o.w), b = head.get(o.b);
#pragma unroll
        for (int t = threadIdx.x / 32; t < L; t += WARPS) {
            if (t >= n) continue;
            const int64_t at = f.at(seq, t0 + t, h) + c;
            const Vec<W> y = get<W>(s.y, t, c);
            const Normed<W> normed(head, y, f.N);
            head.put(o.out, at, (normed.xh * w + b + get<W>(s.v, t, c) * s.own[t]) * head.get(o.g, at));
            if (f.y) head.put(f.y, at, y);
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
        constexpr int W = N / 32, WARPS = N / 16;
        const int lane = threadIdx.x % 32, c = lane * W;
        const Head7<W> head(h, lane, f.N);
        const PrepareVectors<W> vectors(head, b.f);
        const Vec<W> r_k = head.get(b.r_k), ln_w = head.get(o.w), ln_b = head.get(o.b);
        Vec<W> dln_w = 0, dln_b = 0;
#pragma unroll
        for (int t = threadIdx.x / 32; t < L; t += WARPS) {
            if (t >= n) { Wkv7Gates::put(s.v, t, c, Vec<W>(0)), Wkv7Gates::put(s.y, t, c, Vec<W>(0)); continue; }
            const int64_t at = f.at(seq, t0 + t, h) + c;
            const PreparedKey<W> x(head, b.f, vectors, at);
            const Vec<W> r = head.get(b.r, at), vp = PreparedValue<W>(head, b.f, vectors, at).vp;
            Wkv7Gates::put(s.a, t, c, x.kk * real(-1)), Wkv7Gates::put(s.b, t, c, x.kk * x.a), Wkv7Gates::put(s.k, t, c, x.kp), Wkv7Gates::put(s.r, t, c, r);
            Wkv7Gates::put(s.w, t, c, vectors.w0 + head.get(b.f.wl, at)), Wkv7Gates::put(s.v, t, c, Wkv7Gates::rounded<MODE>(vp));
            const Normed<W> normed(head, head.get(o.y, at), f.N);
            const Vec<W> dout = head.get(b.dout, at), d = dout * head.get(b.g, at), dy = normed.backward(head, d * ln_w, f.N);
            head.put(dg, at, dout * (normed.xh * ln_w + ln_b + vp * head.sum(r * x.kp * r_k)));
            dln_w += d * normed.xh, dln_b += d;
            Wkv7Gates::put(s.y, t, c, Wkv7Gates::rounded<MODE>(dy));
        }
        add(s, LN_W, dln_w), add(s, LN_B, dln_b);
    }
    template<int N, int L> __device__ void leave(const Wkv7Staged<N, L> &s, const Wkv7Args &f, int seq, int h, int t0, int n) const {
        constexpr int W = N / 32, WARPS = N / 16;
        const int lane = threadIdx.x % 32, c = lane * W;
        const Head7<W> head(h, lane, f.N);
        const PrepareVectors<W> vectors(head, b.f);
        const Vec<W> r_k = head.get(b.r_k);
        PrepareSums<W> sums;
#pragma unroll
        for (int t = threadIdx.x / 32; t < L; t += WARPS) {
            if (t >= n) continue;
            const int64_t at = f.at(seq, t0 + t, h) + c;
            const Vec<W> dw = load<W>(s.dw + t * WKV7_PITCH<N> + c);
            head.put(b.dw, at, dw);
            prepare_backward(b, head, vectors, r_k, at, {Wkv7Gates::get<W>(s.r, t, c), dw, Wkv7Gates::get<W>(s.k, t, c), Wkv7Gates::get<W>(s.dv, t, c), Wkv7Gates::get<W>(s.a, t, c), Wkv7Gates::get<W>(s.b, t, c)}, sums);
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

/* dev/kernels/wkv7/gated.h: a problem for everything between the products of a layer and Wo, run by the kernels of the model
   (prepare, recurrence, out) or by the fused ones. To be included after train_rwkv7.cu.   defines: GatedProblem */
#pragma once
#include "../ladder.h"
#include "fused.h"
#include "reference.h"

struct GatedProblem : DeviceBuffers {
    GatedCase c;                                // what the kernels see, in fp64
    int64_t n, states;
    floatX *in[GATED_INPUTS], *din[GATED_INPUTS], *out, *dout, *y, *dy, *ready, *vp, *dr, *dw, *dk, *dv, *da, *db;
    real *vector, *dvector, *partial, *dv_first;  // (GATED_VECTORS,C)
    Wkv7Args f = {};
    real *dstate_out, *dstate_in;

    GatedProblem(int B, int T, int H, int N, bool first_layer, uint64_t seed) : c{B, T, H, N, first_layer, {}, {}, {}, {}, {}}, n((int64_t)B * T * H * N), states(wkv7_state_count(B, H, N)) {
        const int64_t C = H * N;
        Rng rng{seed, 0, 0};
        auto normal = [&](int64_t count, double mean, double scale) { return random_numbers(count, [&] { return mean + scale * rng.normal(); }); };
        for (auto &x : c.in) x = normal(n, 0, 1);
        const double mean[GATED_VECTORS] = {-3, 0, 0.7, 1, 0.2, 1, 0, 0.5};
        std::vector<double> all;
        for (int i = 0; i < GATED_VECTORS; i++) c.vector[i] = normal(C, mean[i], 0.5), all.insert(all.end(), c.vector[i].begin(), c.vector[i].end());
        c.dout = normal(n, 0, 1), c.state_in = normal(states, 0, 1), c.dstate_out = normal(states, 0, 1);
        for (int i = 0; i < GATED_INPUTS; i++) in[i] = upload<floatX>(c.in[i]), din[i] = room<floatX>(n);
        vector = upload<real>(all), dvector = room<real>(GATED_VECTORS * C);
        for (int64_t i = 0; i < GATED_VECTORS * C; i++) c.vector[i / C][i % C] = all[i];
        dout = upload<floatX>(c.dout), out = room<floatX>(n), y = room<floatX>(n), dy = room<floatX>(n), ready = room<floatX>(4 * n), vp = room<floatX>(n);
        dr = room<floatX>(n), dw = room<floatX>(n), dk = room<floatX>(n), dv = room<floatX>(n), da = room<floatX>(n), db = room<floatX>(n);
        partial = room<real>(C * std::max<int64_t>(8 * B, 6 * head_parts(shape()))), dv_first = room<real>(n);
        f = {y, in[GATED_R], ready, ready + n, first_layer ? in[GATED_V] : vp, ready + 2 * n, ready + 3 * n, room<real>(wkv7_kept_count(B, T, H, N)),
             room<real>(wkv7_scratch_count(B, T, H, N)), upload<real>(c.state_in), room<real>(states), nullptr, B, T, H, N};
        dstate_out = upload<real>(c.dstate_out), dstate_in = room<real>(states);
    }

    HeadShape shape() const { return {c.B * c.T, c.H, c.N}; }
    const real *vec(int i) const { return vector + (int64_t)i * c.H * c.N; }
    PrepareArgs prepare() const {
        return {ready, ready + n, vp, ready + 2 * n, ready + 3 * n, in[GATED_K], in[GATED_V], in[GATED_WL], in[GATED_AL], c.first_layer ? nullptr : in[GATED_VL], in[GATED_FIRST],
                vec(GATED_W0), vec(GATED_A0), vec(GATED_V0), vec(GATED_KK), vec(GATED_KA), shape()};
    }
    OutArgs output() const { return {out, y, in[GATED_R], ready + n, f.v, in[GATED_G], vec(GATED_LNW), vec(GATED_LNB), vec(GATED_RK), shape()}; }
    Wkv7BackwardArgs backward_args() const { return {f, dy, dr, dw, dk, dv, da, db, dstate_out, dstate_in}; }
    // As a layer that is its model's last but one of three, or its first and only one, would: dv_first is written, or not used
    PrepareBackwardArgs prepare_backward_args() const { return {prepare(), dr, dk, dv, db, da, dw, dv_first, true, dout, in[GATED_G], in[GATED_R], vec(GATED_RK), partial, c.first_layer ? 5 : 6}; }

    void forward(bool fused) const {
        if (fused) { wkv7_fused_forward(f, {prepare(), output()}, 0); return; }
        head_launch(shape(), [&](auto W, dim3 grid, dim3 block) { prepare_forward_kernel<W.value><<<grid, block>>>(prepare()); });
        wkv7_forward(f, 0);
        head_launch(shape(), [&](auto W, dim3 grid, dim3 block) { out_forward_kernel<W.value><<<grid, block>>>(output()); });
    }
    void backward(bool fused) const {           // dvector += ; the rest is written
        const int64_t C = c.H * c.N;
        auto to = [&](int i) { return dvector + i * C; };
        if (fused) {
            wkv7_fused_backward(backward_args(), {prepare_backward_args(), output(), din[GATED_G], partial}, 0);
            column_sums({{to(GATED_W0), to(GATED_A0), to(GATED_KK), to(GATED_KA), to(GATED_RK), to(GATED_LNW), to(GATED_LNB), to(GATED_V0)}}, partial, c.B, c.first_layer ? 7 : 8, C, 0);
            return;
        }
        OutBackwardArgs o = {output(), dy, din[GATED_G], dout, partial};
        head_launch(shape(), [&](auto W, dim3 grid, dim3 block) { out_backward_kernel<W.value><<<grid, block>>>(o); });
        column_sums({{to(GATED_LNW), to(GATED_LNB)}}, partial, head_parts(shape()), 2, C, 0);
        wkv7_backward(backward_args(), 0);
        PrepareBackwardArgs b = prepare_backward_args();
        head_launch(shape(), [&](auto W, dim3 grid, dim3 block) { prepare_backward_kernel<W.value><<<grid, block>>>(b); });
        column_sums({{to(GATED_W0), to(GATED_A0), to(GATED_KK), to(GATED_KA), to(GATED_RK), to(GATED_V0)}}, partial, head_parts(shape()), b.sums, C, 0);
    }
    GatedResults run(bool fused) const {
        const int64_t C = c.H * c.N;
        cudaCheck(cudaMemset(dvector, 0, GATED_VECTORS * C * sizeof(real)));
        for (floatX *p : {out, y, dr, dw, dk, dv, da, db, din[GATED_G]}) cudaCheck(cudaMemset(p, 0xff, n * sizeof(floatX)));
        forward(fused), backward(fused);
        GatedResults r;
        r.out = get(out, n), r.state_out = get(f.state_out, states), r.dstate_in = get(dstate_in, states);
        const floatX *from[GATED_INPUTS] = {dr, dk, dv, dw, db, c.first_layer ? nullptr : da, nullptr, din[GATED_G]};
        for (int i = 0; i < GATED_INPUTS; i++) r.din[i] = from[i] ? get(from[i], n) : std::vector<double>(n);
        if (!c.first_layer) r.din[GATED_FIRST] = get(dv_first, n);
        for (int i = 0; i < GATED_VECTORS; i++) r.dvector[i] = get(dvector + i * C, C);
        return r;
    }
};

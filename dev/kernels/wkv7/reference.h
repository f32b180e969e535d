/* dev/kernels/wkv7/reference.h: WKV-7, the time mixing of RWKV-7, in plain C++ and as simply as it can be said.
   The ladder and the tests hold their kernels against it (in double).   doc/wkv7.md (1)-(9)

   Each head of each sequence is on its own. Its state S (N x N, row = value channel i, column = key channel j) is a
   linear map from keys to values. A token lets every column fade by its decay w_j, replaces what the state answers to
   the key a (by b), and adds the value v under the key k; then it is read with r:
       u_i = sum_j S_ij a_j     S_ij <- S_ij w_j + u_i b_j + v_i k_j     y_i = sum_j S_ij r_j
       w_j = exp(-e^(-1/2) sigmoid(x_j))     x: the input called w in the kernels, so e^-0.6065 = 0.545 < w_j < 1
   defines: Wkv7Case, Wkv7Gradients, wkv7_forward_reference, wkv7_backward_reference */
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

template<class real> struct Wkv7Case {
    int B, T, H, N;
    std::vector<real> r, w, k, v, a, b;         // (B,T,H,N)
    std::vector<real> state_in;                 // (B,H,N,N) or empty: zero
    std::vector<uint8_t> reset;                 // (B,T) or empty; nonzero: the state is emptied before this token
    size_t at(int s, int t, int h) const { return (((size_t)s * T + t) * H + h) * N; }
    size_t state(int s, int h) const { return ((size_t)s * H + h) * N * N; }
    bool first(int s, int t) const { return !reset.empty() && reset[(size_t)s * T + t]; }
};
constexpr double WKV7_DECAY_REFERENCE = 0.60653065971263342;  // e^(-1/2)
template<class real> real wkv7_decay_reference(real x) { return std::exp(-real(WKV7_DECAY_REFERENCE) / (1 + std::exp(-x))); }

// S: state before the step -> after it; u (N) is left for the backward
template<class real> void wkv7_step_reference(const Wkv7Case<real> &c, int s, int t, int h, std::vector<real> &S, std::vector<real> &u) {
    const int N = c.N;
    const size_t at = c.at(s, t, h);
    for (int i = 0; i < N; i++) {
        u[i] = 0;
        for (int j = 0; j < N; j++) u[i] += S[i * N + j] * c.a[at + j];
        for (int j = 0; j < N; j++) S[i * N + j] = S[i * N + j] * wkv7_decay_reference(c.w[at + j]) + u[i] * c.b[at + j] + c.v[at + i] * c.k[at + j];
    }
}
// -> y (B,T,H,N), state_out (B,H,N,N)
template<class real> void wkv7_forward_reference(std::vector<real> &y, std::vector<real> &state_out, const Wkv7Case<real> &c) {
    const int N = c.N;
    y.assign(c.r.size(), 0), state_out.assign((size_t)c.B * c.H * N * N, 0);
    std::vector<real> S(N * N), u(N);
    for (int s = 0; s < c.B; s++) for (int h = 0; h < c.H; h++) {
        for (int i = 0; i < N * N; i++) S[i] = c.state_in.empty() ? 0 : c.state_in[c.state(s, h) + i];
        for (int t = 0; t < c.T; t++) {
            if (c.first(s, t)) S.assign(N * N, 0);
            wkv7_step_reference(c, s, t, h, S, u);
            for (int i = 0; i < N; i++) for (int j = 0; j < N; j++) y[c.at(s, t, h) + i] += S[i * N + j] * c.r[c.at(s, t, h) + j];
        }
        for (int i = 0; i < N * N; i++) state_out[c.state(s, h) + i] = S[i];
    }
}

// D = dL/dS, walked from the last token to the first; all states are kept.
template<class real> struct Wkv7Gradients { std::vector<real> dr, dw, dk, dv, da, db, dstate_in; };
template<class real> void wkv7_backward_reference(Wkv7Gradients<real> &g, const std::vector<real> &dy, const std::vector<real> &dstate_out, const Wkv7Case<real> &c) {
    const int N = c.N;
    for (std::vector<real> *x : {&g.dr, &g.dw, &g.dk, &g.dv, &g.da, &g.db}) x->assign(c.r.size(), 0);
    g.dstate_in.assign((size_t)c.B * c.H * N * N, 0);
    std::vector<std::vector<real>> S(c.T + 1, std::vector<real>(N * N)), u(c.T, std::vector<real>(N));  // S[t] before step t, a reset done
    for (int s = 0; s < c.B; s++) for (int h = 0; h < c.H; h++) {
        for (int i = 0; i < N * N; i++) S[0][i] = c.state_in.empty() ? 0 : c.state_in[c.state(s, h) + i];
        for (int t = 0; t < c.T; t++) {
            if (c.first(s, t)) S[t].assign(N * N, 0);
            S[t + 1] = S[t];
            wkv7_step_reference(c, s, t, h, S[t + 1], u[t]);
        }
        std::vector<real> D(N * N);
        for (int i = 0; i < N * N; i++) D[i] = dstate_out.empty() ? 0 : dstate_out[c.state(s, h) + i];
        for (int t = c.T - 1; t >= 0; t--) {
            const size_t at = c.at(s, t, h);
            std::vector<real> after = S[t];  // S[t + 1] may have been emptied by the reset of the next token
            wkv7_step_reference(c, s, t, h, after, u[t]);
            for (int i = 0; i < N; i++) {
                real du = 0;
                for (int j = 0; j < N; j++) {
                    real &d = D[i * N + j], x = c.w[at + j], w = wkv7_decay_reference(x);
                    g.dr[at + j] += after[i * N + j] * dy[at + i];
                    d += dy[at + i] * c.r[at + j];
                    g.dw[at + j] += d * S[t][i * N + j] * -real(WKV7_DECAY_REFERENCE) / ((1 + std::exp(x)) * (1 + std::exp(-x))) * w;
                    g.dk[at + j] += d * c.v[at + i], g.dv[at + i] += d * c.k[at + j], g.db[at + j] += d * u[t][i];
                    du += d * c.b[at + j];
                    d *= w;
                }
                for (int j = 0; j < N; j++) g.da[at + j] += S[t][i * N + j] * du, D[i * N + j] += du * c.a[at + j];
            }
            if (c.first(s, t)) D.assign(N * N, 0);
        }
        for (int i = 0; i < N * N; i++) g.dstate_in[c.state(s, h) + i] = D[i];
    }
}

// ------------------------------------------------------------------------------------------------
// The same with what surrounds it in a layer: gates before, GroupNorm, bonus and output gate behind. train_rwkv7.cu

enum { GATED_R, GATED_K, GATED_V, GATED_WL, GATED_AL, GATED_VL, GATED_FIRST, GATED_G, GATED_INPUTS };                     // (B,T,H N)
enum { GATED_W0, GATED_A0, GATED_KK, GATED_KA, GATED_RK, GATED_LNW, GATED_LNB, GATED_V0, GATED_VECTORS };               // (H N)
struct GatedCase {
    int B, T, H, N;
    bool first_layer;                           // v' is v: vl, v_first, v0 are not used
    std::vector<double> in[GATED_INPUTS], vector[GATED_VECTORS], state_in, dout, dstate_out;
};
struct GatedResults { std::vector<double> out, state_out, din[GATED_INPUTS], dvector[GATED_VECTORS], dstate_in; };
inline double logistic_reference(double x) { return 1 / (1 + std::exp(-x)); }
inline GatedResults gated_reference(const GatedCase &c) {
    const int N = c.N, C = c.H * N;
    const size_t n = c.in[0].size();
    auto in = [&](int i, size_t at) { return c.in[i][at]; };
    auto vec = [&](int i, size_t at) { return c.vector[i][at % C]; };
    Wkv7Case<double> k{c.B, c.T, c.H, N, c.in[GATED_R], {}, {}, {}, {}, {}, c.state_in, {}};
    for (auto *x : {&k.w, &k.k, &k.v, &k.a, &k.b}) x->resize(n);
    std::vector<double> a(n), z(n), length(n / N), bonus(n / N), xh(n), rstd(n / N), y;
    for (size_t at = 0; at < n; at += N) {
        double square = 0;
        for (size_t i = at; i < at + N; i++) square += pow(in(GATED_K, i) * vec(GATED_KK, i), 2);
        length[at / N] = std::max(sqrt(square), 1e-12);
        for (size_t i = at; i < at + N; i++) {
            double u = in(GATED_K, i) * vec(GATED_KK, i) / length[at / N];
            a[i] = logistic_reference(vec(GATED_A0, i) + in(GATED_AL, i)), z[i] = c.first_layer ? 0 : logistic_reference(vec(GATED_V0, i) + in(GATED_VL, i));
            k.w[i] = vec(GATED_W0, i) + in(GATED_WL, i), k.k[i] = in(GATED_K, i) * (1 + (a[i] - 1) * vec(GATED_KA, i));
            k.v[i] = in(GATED_V, i) + (in(GATED_FIRST, i) - in(GATED_V, i)) * z[i], k.a[i] = -u, k.b[i] = u * a[i];
            bonus[at / N] += in(GATED_R, i) * k.k[i] * vec(GATED_RK, i);
        }
    }
    GatedResults r;
    for (auto &x : r.din) x.resize(n);
    for (auto &x : r.dvector) x.resize(C);
    r.out.resize(n);
    wkv7_forward_reference(y, r.state_out, k);
    std::vector<double> dy(n), norm(n);
    for (size_t at = 0; at < n; at += N) {
        double mean = 0, square = 0, dmean = 0, along = 0;
        for (size_t i = at; i < at + N; i++) mean += y[i] / N;
        for (size_t i = at; i < at + N; i++) square += pow(y[i] - mean, 2) / N;
        for (size_t i = at; i < at + N; i++) {
            xh[i] = (y[i] - mean) / sqrt(square + 64e-5), norm[i] = xh[i] * vec(GATED_LNW, i) + vec(GATED_LNB, i) + bonus[at / N] * k.v[i];
            r.out[i] = norm[i] * in(GATED_G, i), r.din[GATED_G][i] = c.dout[i] * norm[i];
            double d = c.dout[i] * in(GATED_G, i);
            r.dvector[GATED_LNW][i % C] += d * xh[i], r.dvector[GATED_LNB][i % C] += d;
            dmean += d * vec(GATED_LNW, i) / N, along += d * vec(GATED_LNW, i) * xh[i] / N;
        }
        for (size_t i = at; i < at + N; i++) dy[i] = (c.dout[i] * in(GATED_G, i) * vec(GATED_LNW, i) - dmean - xh[i] * along) / sqrt(square + 64e-5);
    }
    Wkv7Gradients<double> g;
    wkv7_backward_reference(g, dy, c.dstate_out, k);
    r.dstate_in = g.dstate_in, r.din[GATED_R] = g.dr, r.din[GATED_WL] = g.dw;
    for (size_t at = 0; at < n; at += N) {
        double dbonus = 0, along = 0;
        for (size_t i = at; i < at + N; i++) dbonus += c.dout[i] * in(GATED_G, i) * k.v[i], along += (g.db[i] * a[i] - g.da[i]) * -k.a[i];
        for (size_t i = at; i < at + N; i++) {
            double kk = -k.a[i], x = in(GATED_K, i), dk = g.dk[i] + dbonus * in(GATED_R, i) * vec(GATED_RK, i), dv = g.dv[i] + bonus[at / N] * c.dout[i] * in(GATED_G, i);
            double du = (g.db[i] * a[i] - g.da[i] - kk * along) / length[at / N], da = (dk * x * vec(GATED_KA, i) + g.db[i] * kk) * a[i] * (1 - a[i]);
            r.din[GATED_R][i] += dbonus * k.k[i] * vec(GATED_RK, i), r.din[GATED_AL][i] = da;
            r.din[GATED_K][i] = dk * (1 + (a[i] - 1) * vec(GATED_KA, i)) + du * vec(GATED_KK, i);
            r.din[GATED_V][i] = dv * (1 - z[i]), r.din[GATED_FIRST][i] = dv * z[i];
            r.din[GATED_VL][i] = dv * (in(GATED_FIRST, i) - in(GATED_V, i)) * z[i] * (1 - z[i]) * !c.first_layer;
            double to[GATED_VECTORS] = {g.dw[i], da, du * x, dk * x * (a[i] - 1), dbonus * in(GATED_R, i) * k.k[i], 0, 0, r.din[GATED_VL][i]};
            for (int v = 0; v < GATED_VECTORS; v++) r.dvector[v][i % C] += to[v];
        }
    }
    return r;
}

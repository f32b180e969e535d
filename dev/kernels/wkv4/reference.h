/* dev/kernels/wkv4/reference.h: WKV, the time mixing of RWKV-4, in plain C++ and as simply as it can be said.
   The ladder and the tests hold their kernels against it (in double).   doc/wkv.md (1)-(5), (22)-(26)

   Each channel of each sequence is on its own: a key k_t, a value v_t and a result y_t per token, a decay
   w < 0 and a bonus u per channel. y_t is a weighted average of the values so far; a value weighs e^k, and
   e^w times less with every token that follows it; the present token weighs e^(u+k_t):
       y_t = (a_t + e^(u+k_t) v_t) / (b_t + e^(u+k_t))
       a_t+1 = e^w a_t + e^k_t v_t,   b_t+1 = e^w b_t + e^k_t          from a_0 = b_0 = 0
   So the past is two numbers, however long it is. But e^k overflows (float: k > 88), hence every sum is kept
   relative to a running maximum pp: a = aa e^pp, b = bb e^pp. That is what makes the lines below look long.
   defines: Wkv4Case, wkv4_forward_reference, wkv4_backward_reference */
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

template<class real> struct Wkv4Case {
    int B, T, C;
    const real *k, *v;                  // (B,T,C)
    const real *w, *u;                  // (C)      w = -exp(time_decay), u = time_first
    const real *aa, *bb, *pp;           // (B,C)    initial state; all three null: empty
    const uint8_t *reset;             // (B,T)    1: a document starts here, the past is forgotten; null: none
};

// -> y (B,T,C); the state after the last token in aa, bb, pp (B,C), all three null: not wanted
template<class real> void wkv4_forward_reference(real *y, real *aa_out, real *bb_out, real *pp_out, const Wkv4Case<real> &x) {
    for (int b = 0; b < x.B; b++) for (int c = 0; c < x.C; c++) {
        const real w = x.w[c], u = x.u[c];
        const size_t bc = (size_t)b * x.C + c;
        real aa = x.aa ? x.aa[bc] : 0, bb = x.aa ? x.bb[bc] : 0, pp = x.aa ? x.pp[bc] : real(-1e38);  // e^-1e38 = 0
        for (int t = 0; t < x.T; t++) {
            const size_t i = ((size_t)b * x.T + t) * x.C + c;
            const real k = x.k[i], v = x.v[i];
            if (x.reset && x.reset[(size_t)b * x.T + t]) aa = bb = 0, pp = real(-1e38);
            real m = std::max(pp, u + k), e1 = std::exp(pp - m), e2 = std::exp(u + k - m);  // one of them is 1
            y[i] = (e1 * aa + e2 * v) / (e1 * bb + e2);
            m = std::max(pp + w, k), e1 = std::exp(pp + w - m), e2 = std::exp(k - m);
            aa = e1 * aa + e2 * v, bb = e1 * bb + e2, pp = m;
        }
        if (aa_out) aa_out[bc] = aa, bb_out[bc] = bb, pp_out[bc] = pp;
    }
}

// gy (B,T,C) and, unless both null, gaa_out, gbb_out (B,C), the gradient of the final aa and bb at the final pp
// -> gk, gv (B,T,C); gw, gu (C), summed over B (the gradient of time_decay is gw * w);
//    gaa, gbb (B,C), the gradient of the initial aa and bb at the initial pp, both null: not wanted
// Forwards: the states again, and how they change with w: a_t+1 = e^w a_t + .. gives a'_t+1 = e^w (a'_t + a_t).
// Backwards: P_t, Q_t, the adjoints of a and -b:  P_t = e^w P_t+1 + q_t,  Q_t = e^w Q_t+1 + q_t y_t,  q_t = gy_t / denominator_t.
template<class real> void wkv4_backward_reference(real *gk, real *gv, real *gw, real *gu, real *gaa, real *gbb,
                                                  const real *gy, const real *gaa_out, const real *gbb_out, const Wkv4Case<real> &x) {
    std::fill(gw, gw + x.C, real(0)), std::fill(gu, gu + x.C, real(0));
    std::vector<real> y(x.T), q(x.T), r(x.T);  // q_t = q[t] e^-m_t, r[t] = u + k_t - m_t: neither overflows
    for (int b = 0; b < x.B; b++) for (int c = 0; c < x.C; c++) {
        const real w = x.w[c], u = x.u[c];
        const size_t bc = (size_t)b * x.C + c;
        real aa = x.aa ? x.aa[bc] : 0, bb = x.aa ? x.bb[bc] : 0, pp = x.aa ? x.pp[bc] : real(-1e38);
        const real pp_in = pp;
        real da = 0, db = 0;  // d aa / dw, d bb / dw, relative to the same e^pp
        for (int t = 0; t < x.T; t++) {
            const size_t i = ((size_t)b * x.T + t) * x.C + c;
            const real k = x.k[i], v = x.v[i];
            if (x.reset && x.reset[(size_t)b * x.T + t]) aa = bb = da = db = 0, pp = real(-1e38);
            real m = std::max(pp, u + k), e1 = std::exp(pp - m), e2 = std::exp(u + k - m);
            y[t] = (e1 * aa + e2 * v) / (e1 * bb + e2), q[t] = gy[i] / (e1 * bb + e2), r[t] = u + k - m;
            gw[c] += q[t] * e1 * (da - y[t] * db);
            gu[c] += q[t] * e2 * (v - y[t]);
            m = std::max(pp + w, k), e1 = std::exp(pp + w - m), e2 = std::exp(k - m);
            da = e1 * (da + aa), db = e1 * (db + bb), aa = e1 * aa + e2 * v, bb = e1 * bb + e2, pp = m;
        }
        real P = 0, Q = 0, p = real(-1e38);  // true adjoints: P e^p, Q e^p
        if (gaa_out) {
            gw[c] += gaa_out[bc] * da + gbb_out[bc] * db;
            P = gaa_out[bc], Q = -gbb_out[bc], p = -pp;  // aa = a e^-pp
        }
        for (int t = x.T - 1; t >= 0; t--) {
            const size_t i = ((size_t)b * x.T + t) * x.C + c;
            const real k = x.k[i], v = x.v[i];
            const real now = q[t] * std::exp(r[t]), later = std::exp(k + p);
            gk[i] = now * (v - y[t]) + later * (P * v - Q);
            gv[i] = now + later * P;
            const real n = r[t] - u - k, m = std::max(p + w, n), e1 = std::exp(p + w - m), e2 = q[t] * std::exp(n - m);
            P = e1 * P + e2, Q = e1 * Q + e2 * y[t], p = m;
            if (x.reset && x.reset[(size_t)b * x.T + t]) P = Q = 0, p = real(-1e38);
        }
        if (gaa) gaa[bc] = P * std::exp(p + pp_in), gbb[bc] = -Q * std::exp(p + pp_in);
    }
}

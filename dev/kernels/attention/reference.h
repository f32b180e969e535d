/* dev/kernels/attention/reference.h: causal self-attention and its gradients as defined, in double, row by row.
   The ladder and the tests hold their kernels against it. The symbols are those of rwkv/attention.h.
   defines: AttentionCase, AttentionResult, attention_reference */
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

struct AttentionCase {
    int B, T, H, D;
    bool packed;                              // q, k, v side by side in (B,T,3C), or three buffers (B,T,C)
    double dropout = 0;
    int64_t C() const { return (int64_t)H * D; }
    int64_t row() const { return packed ? 3 * C() : C(); }
    int64_t at(int which, int b, int t, int h, int d) const { return (packed ? which * C() : which * (int64_t)B * T * C()) + ((int64_t)b * T + t) * row() + h * D + d; }
};

// The definition, in double. qkv as the case lays it out, dout (B,T,C); kept[((b H + h) T + i) T + j] or empty.
struct AttentionResult { std::vector<double> out, lse, dqkv; };
inline AttentionResult attention_reference(const AttentionCase &c, const std::vector<double> &qkv, const std::vector<double> &dout, const std::vector<uint8_t> &kept = {}) {
    int T = c.T, D = c.D;
    double scale = 1 / sqrt((double)D);
    AttentionResult r = {std::vector<double>(c.B * T * c.C()), std::vector<double>((size_t)c.B * c.H * T), std::vector<double>(qkv.size())};
    std::vector<double> p(T), m(T), dp(T);
    for (int b = 0; b < c.B; b++) for (int h = 0; h < c.H; h++) for (int i = 0; i < T; i++) {
        double most = -INFINITY, total = 0, delta = 0;
        for (int j = 0; j <= i; j++) {
            p[j] = 0, m[j] = kept.empty() ? 1 : kept[(((size_t)b * c.H + h) * T + i) * T + j] / (1 - c.dropout);
            for (int d = 0; d < D; d++) p[j] += scale * qkv[c.at(0, b, i, h, d)] * qkv[c.at(1, b, j, h, d)];
            most = std::max(most, p[j]);
        }
        for (int j = 0; j <= i; j++) total += p[j] = exp(p[j] - most);
        r.lse[((size_t)b * c.H + h) * T + i] = (most + log(total)) / log(2.0);
        size_t o = ((size_t)b * T + i) * c.C() + h * D;
        for (int j = 0; j <= i; j++) {
            p[j] /= total, dp[j] = 0;
            for (int d = 0; d < D; d++) r.out[o + d] += p[j] * m[j] * qkv[c.at(2, b, j, h, d)], dp[j] += m[j] * dout[o + d] * qkv[c.at(2, b, j, h, d)];
            delta += p[j] * dp[j];
        }
        for (int j = 0; j <= i; j++) for (int d = 0; d < D; d++) {
            double ds = scale * p[j] * (dp[j] - delta);
            r.dqkv[c.at(0, b, i, h, d)] += ds * qkv[c.at(1, b, j, h, d)];
            r.dqkv[c.at(1, b, j, h, d)] += ds * qkv[c.at(0, b, i, h, d)];
            r.dqkv[c.at(2, b, j, h, d)] += p[j] * m[j] * dout[o + d];
        }
    }
    return r;
}

/* rwkv/sampler.h: from logits to the next token.

   p = softmax(logits). A token stays if it passes every filter, each of them judged on p itself:
       top_p   p >= p of the token at which the sum, in falling order, reaches top_p   (ties with it stay;
               0 leaves the likeliest, 1 or more filters nothing)
       top_k   it is one of the k likeliest; of equal ones the lower token stays       (0 filters nothing)
       min_p   p >= min_p max(p)
       top_a   p >= top_a max(p)^2    (RWKV-1's rule, there with 0.02)
   The temperature comes last, as in ChatRWKV: those left are drawn in proportion to p^(1/temperature).
   temperature 0 takes the likeliest token, of equal ones the lowest.
   defines: Sampler, Candidate, candidates, sample_token */
#pragma once
#include "check.h"
#include "rng.h"
#include <algorithm>

struct Sampler {
    double temperature = 1, top_p = 1;
    int64_t top_k = 0;
    double min_p = 0, top_a = 0;
};
struct Candidate { int64_t token; double p; };  // p: first the model's probability, in the end the one it is drawn with

// The likeliest token, the lowest of equal ones; an Error if the logits are no distribution.
inline int64_t likeliest_token(const float *logits, int64_t V) {
    int64_t best = 0;
    for (int64_t i = 0; i < V; i++) {
        if (std::isnan(logits[i]) || logits[i] == INFINITY)
            fail("the logit of token %lld is %g, so there is nothing to sample from; the model's parameters or its state are broken", (long long)i, logits[i]);
        if (logits[i] > logits[best]) best = i;
    }
    if (!(logits[best] > -INFINITY)) fail("every one of the %lld logits is -inf: all tokens are forbidden", (long long)V);
    return best;
}

// The tokens that may be drawn and the probability of each.
inline std::vector<Candidate> candidates(const Sampler &s, const float *logits, int64_t V) {
    int64_t best = likeliest_token(logits, V);
    if (s.temperature <= 0) return {{best, 1.0}};
    double max = logits[best], total = 0;
    std::vector<double> p(V);
    for (int64_t i = 0; i < V; i++) total += p[i] = exp(logits[i] - max);

    // The tokens from the top_p cutoff on hold more than 1 - top_p, and none of them exceeds the cutoff, so the
    // cutoff is above (1 - top_p)/V. That spares the sort all but a few hundred of 65,536 tokens.
    double pmax = 1 / total, floor = std::max({s.min_p * pmax, s.top_a * pmax * pmax, (1 - s.top_p) / V});
    std::vector<Candidate> c;
    for (int64_t i = 0; i < V; i++)
        if (p[i] / total >= std::min(floor, pmax) && p[i] > 0) c.push_back({i, p[i] / total});

    if (s.top_p < 1 || s.top_k > 0) {
        std::sort(c.begin(), c.end(), [](const Candidate &a, const Candidate &b) { return a.p > b.p || (a.p == b.p && a.token < b.token); });
        size_t keep = c.size();
        double sum = 0;
        for (size_t i = 0; i < c.size() && s.top_p < 1; i++)
            if ((sum += c[i].p) >= s.top_p) {
                for (keep = i + 1; keep < c.size() && c[keep].p == c[i].p;) keep++;
                break;
            }
        c.resize(s.top_k > 0 ? std::min<size_t>(keep, s.top_k) : keep);
    }
    total = 0;
    for (Candidate &a : c) total += a.p = s.temperature == 1 ? a.p : exp((logits[a.token] - max) / s.temperature);
    for (Candidate &a : c) a.p /= total;
    return c;
}

inline int64_t sample_token(const Sampler &s, const float *logits, int64_t V, Rng &rng) {
    std::vector<Candidate> c = candidates(s, logits, V);
    double u = rng.uniform(), sum = 0;
    for (const Candidate &a : c) if (u < (sum += a.p)) return a.token;
    return c.back().token;  // u above the rounded sum, 1 - 1e-16 or so
}

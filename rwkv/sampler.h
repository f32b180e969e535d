/* rwkv/sampler.h: from logits to the next token. A step, in this order, which is ChatRWKV's:

   1. Tokens that were generated before are penalised:  logit -= presence + frequency count   (Occurrences)
   2. p = softmax(logits). A token stays if it passes every filter, each of them judged on this p:
          top_p   p >= p of the token at which the sum, in falling order, reaches top_p   (ties with it stay;
                  0 leaves the likeliest, 1 or more filters nothing)
          top_k   it is one of the k likeliest; of equal ones the lower token stays       (0 filters nothing)
          min_p   p >= min_p max(p)
          top_a   p >= top_a max(p)^2    (RWKV-1's rule, there with 0.02)
   3. The temperature comes last: those left are drawn in proportion to p^(1/temperature).
      temperature 0 takes the likeliest token, of equal ones the lowest, whatever the filters.
   4. All counts are multiplied by decay, then the drawn token's grows by 1 (blanks and digits: 0, they repeat by
      right; but they are remembered, and so pay `presence`).

   defines: Sampler, Candidate, candidates, sample_token, Occurrences */
#pragma once
#include "check.h"
#include "rng.h"
#include <algorithm>
#include <string_view>
#include <unordered_map>

struct Sampler {
    double temperature = 1, top_p = 1;
    int64_t top_k = 0;
    double min_p = 0, top_a = 0;
    double presence = 0, frequency = 0, decay = 1;
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

// The tokens of a text that is being generated, for the penalties
struct Occurrences {
    std::unordered_map<int64_t, double> counts;

    void penalise(const Sampler &s, float *logits, int64_t V) const {
        if (s.presence == 0 && s.frequency == 0) return;
        for (auto &[token, count] : counts) if (token < V) logits[token] -= (float)(s.presence + s.frequency * count);
    }
    // bytes: of the token
    void add(const Sampler &s, int64_t token, std::string_view bytes) {
        for (auto &[other, count] : counts) count *= s.decay;
        counts[token] += std::string_view(" \t0123456789").find(bytes) == std::string_view::npos;  // a part of it, or nothing: 0
    }
};

/* tests/sampler.h: random numbers, orthogonal matrices, and the choice of the next token. */
#pragma once
#include "../rwkv/sampler.h"
#include "test.h"

TEST("rng: Philox gives the published vectors") {
    struct { uint64_t key, low, high; uint32_t want[4]; } rows[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {~0ull, ~0ull, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (auto &r : rows) {
        Random128 got = philox(r.key, r.low, r.high);
        for (int i = 0; i < 4; i++) CHECK(got.x[i] == r.want[i], "key %llx word %d is %08x, not %08x", (unsigned long long)r.key, i, got.x[i], r.want[i]);
    }
}
TEST("rng: three integers are the whole state") {
    Rng a{7, 3, 0};
    for (int i = 0; i < 1001; i++) a.normal();
    Rng b{a.seed, a.stream, a.counter}, c{7, 4, a.counter};
    int differ = 0;
    for (int i = 0; i < 100; i++) {
        double x = a.uniform();
        CHECK(x == b.uniform(), "draw %d differs after the restart", i);
        differ += x != c.uniform();
    }
    CHECK(differ == 100, "streams 3 and 4 agree in %d of 100 draws", 100 - differ);
}
TEST("rng: uniform and normal have their moments, below() is even") {
    Rng rng{1, 0, 0};
    const int n = 1000000;  // 4 standard errors are allowed
    double u1 = 0, u2 = 0, n1 = 0, n2 = 0, n4 = 0;
    int count[7] = {}, tail = 0;
    for (int i = 0; i < n; i++) {
        double u = rng.uniform(), x = rng.normal();
        CHECK(u >= 0 && u < 1, "uniform gave %g", u);
        u1 += u, u2 += u * u, n1 += x, n2 += x * x, n4 += x * x * x * x, tail += fabs(x) > 1.959964;
        count[rng.below(7)]++;
    }
    CHECK(fabs(u1 / n - 0.5) < 4 * 0.2887 / sqrt(n), "mean %g", u1 / n);
    CHECK(fabs(u2 / n - 1 / 3.) < 4 * 0.2981 / sqrt(n), "second moment %g", u2 / n);
    CHECK(fabs(n1 / n) < 4 / sqrt(n), "mean %g", n1 / n);
    CHECK(fabs(n2 / n - 1) < 4 * sqrt(2. / n), "second moment %g", n2 / n);
    CHECK(fabs(n4 / n - 3) < 4 * sqrt(96. / n), "fourth moment %g", n4 / n);
    CHECK(fabs(tail / (double)n - 0.05) < 4 * sqrt(0.05 * 0.95 / n), "%d of %d beyond 1.96", tail, n);
    for (int i = 0; i < 7; i++) CHECK(fabs(count[i] - n / 7.) < 4 * sqrt(n / 7.), "%d came %d times of %d", i, count[i], n / 7);
}

// Largest difference of W^T W (or W W^T, whichever is smaller) from gain^2 I.
template<class T> double orthogonality_error(const std::vector<T> &W, int64_t rows, int64_t cols, double gain) {
    int64_t n = std::min(rows, cols), m = std::max(rows, cols);
    double worst = 0;
    for (int64_t a = 0; a < n; a++)
        for (int64_t b = a; b < n; b++) {
            double sum = 0;
            for (int64_t k = 0; k < m; k++) sum += rows >= cols ? (double)W[k * cols + a] * W[k * cols + b] : (double)W[a * cols + k] * W[b * cols + k];
            double err = fabs(sum - (a == b) * gain * gain);
            worst = err > worst || std::isnan(err) ? err : worst;
        }
    return worst;
}
TEST("orthogonal: every singular value is the gain, at any shape") {
    struct { int64_t rows, cols; double gain; } shapes[] = {{1, 1, 1}, {1, 5, 2}, {5, 1, 2}, {7, 7, 1}, {64, 64, 1}, {257, 256, 0.5}, {130, 129, 1},
        {63, 200, 1}, {1000, 65, 3}, {71, 8, 1}, {192, 192, 1}};
    Rng rng{5, 0, 0};
    for (auto &s : shapes) {
        std::vector<float> W(s.rows * s.cols);
        std::vector<double> D(s.rows * s.cols);
        orthogonal(W.data(), s.rows, s.cols, s.gain, rng);
        orthogonal(D.data(), s.rows, s.cols, s.gain, rng);
        double err = orthogonality_error(W, s.rows, s.cols, s.gain), err64 = orthogonality_error(D, s.rows, s.cols, s.gain);
        double tol = 1e-6 * s.gain * s.gain;  // fp32 rounding of m entries of size gain/sqrt(m): 6e-8 times a few
        CHECK(err <= tol, "%d x %d gain %g: off by %g", (int)s.rows, (int)s.cols, s.gain, err);
        CHECK(err64 <= 1e-12 * s.gain * s.gain, "fp64 %d x %d gain %g: off by %g", (int)s.rows, (int)s.cols, s.gain, err64);
    }
}
TEST("orthogonal: same seed same bits, and the distribution has no preferred sign") {
    std::vector<float> a(40 * 24), b(40 * 24);
    Rng r{9, 2, 0}, s{9, 2, 0};
    orthogonal(a.data(), 40, 24, 1, r), orthogonal(b.data(), 40, 24, 1, s);
    CHECK(a == b && r.counter == s.counter, "two calls differ");
    double trace = 0, corner = 0;  // E tr(Q) = 0 and E Q11^2 = 1/n hold only with the sign of diag(R) taken care of
    const int trials = 4000, n = 4;
    for (int t = 0; t < trials; t++) {
        double Q[n * n];
        orthogonal(Q, n, n, 1.0, r);
        for (int i = 0; i < n; i++) trace += Q[i * n + i];
        corner += Q[0] * Q[0];
    }
    CHECK(fabs(trace / trials) < 4 / sqrt(trials), "mean trace %g, not 0", trace / trials);
    CHECK(fabs(corner / trials - 1. / n) < 4 * 0.22 / sqrt(trials), "mean corner^2 %g, not 1/4", corner / trials);
}

static std::vector<float> logits_of(std::vector<double> p) {
    std::vector<float> l;
    for (double x : p) l.push_back(x > 0 ? (float)log(x) : -INFINITY);
    return l;
}
TEST("sampler: exactly the right tokens are kept") {
    const std::vector<double> p = {0.05, 0.40, 0.10, 0.20, 0.05, 0.20};
    struct { const char *what; Sampler s; std::vector<int> kept; } rows[] = {
        {"no filter", {1, 1, 0, 0, 0}, {0, 1, 2, 3, 4, 5}},
        {"top_p 0 keeps the likeliest", {1, 0, 0, 0, 0}, {1}},
        {"top_p 0.39", {1, 0.39, 0, 0, 0}, {1}},
        {"top_p 0.41 crosses in the first of two equals, the tie survives", {1, 0.41, 0, 0, 0}, {1, 3, 5}},
        {"top_p 0.79", {1, 0.79, 0, 0, 0}, {1, 3, 5}},
        {"top_p 0.81", {1, 0.81, 0, 0, 0}, {1, 2, 3, 5}},
        {"top_p 0.91, ties at the end", {1, 0.91, 0, 0, 0}, {0, 1, 2, 3, 4, 5}},
        {"top_p 2 is no filter", {1, 2, 0, 0, 0}, {0, 1, 2, 3, 4, 5}},
        {"top_k 1", {1, 1, 1, 0, 0}, {1}},
        {"top_k 2: of equals the lower token", {1, 1, 2, 0, 0}, {1, 3}},
        {"top_k 3", {1, 1, 3, 0, 0}, {1, 3, 5}},
        {"top_k beyond V", {1, 1, 100, 0, 0}, {0, 1, 2, 3, 4, 5}},
        {"top_k after top_p, whose sum counts every token", {1, 0.41, 2, 0, 0}, {1, 3}},
        {"min_p 0.3: p >= 0.12", {1, 1, 0, 0.3, 0}, {1, 3, 5}},
        {"min_p 1 keeps the likeliest", {1, 1, 0, 1, 0}, {1}},
        {"top_a 0.5: p >= 0.08", {1, 1, 0, 0, 0.5}, {1, 2, 3, 5}},
        {"top_a 0.02, RWKV-1: p >= 0.0032", {1, 1, 0, 0, 0.02}, {0, 1, 2, 3, 4, 5}},
        {"min_p before top_p does not change its sum", {1, 0.91, 0, 0.2, 0}, {1, 2, 3, 5}},
        {"the temperature does not change what is kept", {5, 0.41, 0, 0, 0}, {1, 3, 5}},
        {"temperature 0", {0, 1, 0, 0, 0}, {1}},
    };
    for (auto &r : rows) {
        std::vector<float> l = logits_of(p);
        std::vector<double> got(p.size(), 0), want(p.size(), 0);
        double sum = 0;
        for (const Candidate &c : candidates(r.s, l.data(), l.size())) got[c.token] = c.p;
        for (int i : r.kept) sum += want[i] = r.s.temperature > 0 ? pow(p[i], 1 / r.s.temperature) : 1;
        for (size_t i = 0; i < p.size(); i++)
            CHECK(fabs(got[i] - want[i] / sum) < 1e-6, "%s: token %d has %g, not %g", r.what, (int)i, got[i], want[i] / sum);
    }
}
TEST("sampler: the token that reaches top_p exactly is the last") {
    std::vector<float> l = logits_of({0.6, 0.3, 0.1});
    double p0 = candidates({1, 1, 0, 0, 0}, l.data(), 3)[0].p;
    size_t at = candidates({1, p0, 0, 0, 0}, l.data(), 3).size(), above = candidates({1, std::nextafter(p0, 1), 0, 0, 0}, l.data(), 3).size();
    CHECK(at == 1 && above == 2, "%zu tokens at the sum, %zu just above", at, above);
}
TEST("sampler: top_p over 65536 tokens is the plain rule") {
    const int V = 65536;
    std::vector<float> l(V);
    Rng rng{3, 0, 0};
    for (double top_p : {0.0, 0.01, 0.5, 0.9, 0.999, 0.9999999}) {
        for (float &x : l) x = (float)(3 * rng.normal());
        std::vector<double> p(V), sorted;
        double sum = 0, c = 0, cutoff = 0;
        for (int i = 0; i < V; i++) sum += p[i] = exp((double)l[i]);
        for (double &x : p) x /= sum;
        sorted = p;
        std::sort(sorted.rbegin(), sorted.rend());
        for (int i = 0; i < V; i++) if ((c += sorted[i]) >= top_p) { cutoff = sorted[i]; break; }
        size_t want = std::count_if(p.begin(), p.end(), [&](double x) { return x >= cutoff; });
        size_t got = candidates({1, top_p, 0, 0, 0}, l.data(), V).size();
        CHECK(got == want, "top_p %g keeps %zu, not %zu", top_p, got, want);
    }
}
TEST("sampler: 100,000 draws have the right frequencies") {
    const std::vector<double> p = {0.02, 0.30, 0.08, 0.25, 0.05, 0.10, 0.20};
    std::vector<float> l = logits_of(p);
    for (double T : {1.0, 0.5, 2.0}) {
        Sampler s{T, 1, 0, 0, 0};
        Rng rng{11, 0, 0};
        std::vector<double> want(p.size());
        std::vector<int> count(p.size());
        double sum = 0, chi2 = 0;
        for (size_t i = 0; i < p.size(); i++) sum += want[i] = pow(p[i], 1 / T);
        for (int n = 0; n < 100000; n++) count[sample_token(s, l.data(), l.size(), rng)]++;
        for (size_t i = 0; i < p.size(); i++) { double e = 100000 * want[i] / sum; chi2 += (count[i] - e) * (count[i] - e) / e; }
        CHECK(chi2 < 22.46, "temperature %g: chi^2 is %g, 6 degrees of freedom (p = 0.001)", T, chi2);
    }
}
TEST("sampler: same seed same text, another seed another") {
    std::vector<float> l(50, 0.f);
    std::string text[3];
    for (int run = 0; run < 3; run++) {
        Rng rng{run == 2 ? 43u : 42u, 1, 0};
        for (int i = 0; i < 64; i++) text[run] += (char)('0' + sample_token({0.8, 0.95, 40, 0, 0}, l.data(), 50, rng));
    }
    CHECK(text[0] == text[1], "%s is not %s", text[0].c_str(), text[1].c_str());
    CHECK(text[0] != text[2], "seeds 42 and 43 both say %s", text[0].c_str());
}
TEST("sampler: temperature 0 takes the lowest of equals, low temperatures and far logits stay finite") {
    Rng rng{1, 0, 0};
    float tie[] = {1, 3, 2, 3, 3}, far[] = {-3e38f, 88, 3e38f, 0}, banned[] = {-INFINITY, -INFINITY, 0.5f, -INFINITY};
    for (int i = 0; i < 10; i++) {
        CHECK(sample_token({0, 1, 0, 0, 0}, tie, 5, rng) == 1, "not the lowest");
        CHECK(sample_token({1e-3, 1, 0, 0, 0}, far, 4, rng) == 2, "not the likeliest");
        CHECK(sample_token({100, 0.5, 0, 0, 0}, banned, 4, rng) == 2, "a forbidden token");
        CHECK(sample_token({1, 0, 0, 0, 0}, tie, 1, rng) == 0, "a vocabulary of one");
    }
}
TEST("sampler: logits that are no distribution are refused") {
    Rng rng{1, 0, 0};
    float nan[] = {0, 1, NAN, 2}, inf[] = {0, INFINITY}, none[] = {-INFINITY, -INFINITY};
    for (double T : {0.0, 1.0}) {
        CHECK_ERROR(sample_token({T, 0.5, 0, 0, 0}, nan, 4, rng), "logit of token 2 is nan");
        CHECK_ERROR(sample_token({T, 1, 0, 0, 0}, inf, 2, rng), "logit of token 1 is inf");
        CHECK_ERROR(sample_token({T, 1, 0, 0, 0}, none, 2, rng), "forbidden");
    }
}
TEST("sampler: penalties count as documented: presence, frequency, decay; blanks and digits pay presence alone") {
    Sampler s;
    s.presence = 0.5, s.frequency = 0.25, s.decay = 0.5;
    Occurrences seen;
    seen.add(s, 2, "b"), seen.add(s, 2, "b"), seen.add(s, 3, " "), seen.add(s, 4, "12"), seen.add(s, 5, "");
    std::vector<float> z(6, 1);
    seen.penalise(s, z.data(), 6);
    // token 2: (1 * 0.5 + 1) halved three times
    const double want[] = {1, 1, 1 - 0.5 - 0.25 * 0.1875, 0.5, 0.5, 0.5};
    for (int i = 0; i < 6; i++) CHECK(fabs(z[i] - want[i]) < 1e-6, "token %d: %g, not %g", i, z[i], want[i]);
    z.assign(4, 1);
    seen.penalise(s, z.data(), 4);  // tokens beyond the vocabulary are not touched
    z.assign(6, 1), s.presence = s.frequency = 0;
    seen.penalise(s, z.data(), 6);
    CHECK(z == std::vector<float>(6, 1), "without penalties something changed");
}
TEST("sampler: 100,000 draws with penalties, top-p, top-a and a temperature have the right frequencies") {
    const int V = 12, draws = 100000;
    Sampler s;
    s.temperature = 0.7, s.top_p = 0.95, s.top_a = 0.3, s.presence = 0.4, s.frequency = 0.3, s.decay = 0.9;
    Occurrences seen;
    for (int t : {1, 1, 4, 7}) seen.add(s, t, "x");
    double z[V], p[V], sum = 0, most = 0, kept = 0;
    for (int i = 0; i < V; i++) z[i] = 2 - 0.45 * i;
    std::vector<float> logits(z, z + V);
    // by hand: counts after four additions with decay
    z[1] -= 0.4 + 0.3 * (0.9 + 1) * 0.81, z[4] -= 0.4 + 0.3 * 0.9, z[7] -= 0.4 + 0.3;
    for (int i = 0; i < V; i++) sum += p[i] = exp(z[i]);
    for (double &x : p) x /= sum, most = std::max(most, x);
    std::vector<double> sorted(p, p + V);
    std::sort(sorted.rbegin(), sorted.rend());
    double cut = 0, reached = 0;
    for (double x : sorted) { cut = x; if ((reached += x) >= s.top_p) break; }
    for (double &x : p) x = x >= cut && x >= s.top_a * most * most ? pow(x, 1 / s.temperature) : 0, kept += x;
    Rng rng = {42, 0, 0};
    std::vector<int64_t> count(V);
    for (int n = 0; n < draws; n++) {
        std::vector<float> now = logits;
        seen.penalise(s, now.data(), V);
        count[sample_token(s, now.data(), V, rng)]++;
    }
    double chi = 0;
    int cells = 0;
    for (int i = 0; i < V; i++) {
        double want = draws * p[i] / kept;
        if (want == 0) { CHECK(count[i] == 0, "token %d is filtered out, but drawn", i); continue; }
        chi += (count[i] - want) * (count[i] - want) / want, cells++;
    }
    CHECK(cells > 3 && cells < 7, "%d tokens are kept", cells);
    CHECK(chi < 23, "chi-square %g with %d degrees of freedom", chi, cells - 1);  // 6 degrees: 23 is one in a thousand
}
